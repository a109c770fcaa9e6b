from .comparison import compare as compare
from .comparison import read_record as read_record
from .comparison_page import write_comparison as write_comparison
from .export import export_run as export_run
from .export import load_exported as load_exported
from .run_page import write_page as write_page
