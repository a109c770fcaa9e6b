from .callables import as_pair as as_pair
from .data import load_data as load_data
from .diagnostics import collapse_report as collapse_report
from .model import VAE as VAE
from .runs import load_run as load_run
from .training import fit as fit
from .training import svi_step as svi_step
