from .ar1 import AR1 as AR1
from .autoregressive import Autoregressive as Autoregressive
from .grey_levels import DiscretisedLogistic as DiscretisedLogistic
from .grey_levels import GreyLevels as GreyLevels
