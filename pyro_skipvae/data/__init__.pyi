from .batches import Batches as Batches
from .binarisation import DynamicallyBinarised as DynamicallyBinarised
from .catalogue import (
    BINARISATIONS as BINARISATIONS,
)
from .catalogue import (
    DATASETS as DATASETS,
)
from .catalogue import (
    DatasetInfo as DatasetInfo,
)
from .catalogue import (
    load_data as load_data,
)
from .catalogue import (
    locate as locate,
)
from .dataset import Data as Data
from .folder import DataError as DataError
from .length_bucketed import LengthBucketed as LengthBucketed
