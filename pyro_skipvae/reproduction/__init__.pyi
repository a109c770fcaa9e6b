from .tables import load_table as load_table
from .tables import read_results as read_results
from .theorem import (
    CounterExampleDecoder as CounterExampleDecoder,
)
from .theorem import (
    counter_example as counter_example,
)
from .theorem import (
    random_networks as random_networks,
)
