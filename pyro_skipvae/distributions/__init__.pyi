from .ar1 import AR1 as AR1
from .autoregressive import Autoregressive as Autoregressive
from .colours import ColourLogistics as ColourLogistics
from .grey_levels import DiscretisedLogistic as DiscretisedLogistic
from .grey_levels import GreyLevels as GreyLevels
from .multinomial import MultinomialGivenTotal as MultinomialGivenTotal
from .von_mises_fisher import SphereUniform as SphereUniform
from .von_mises_fisher import VonMisesFisher as VonMisesFisher
