from .pair import as_pair as as_pair
