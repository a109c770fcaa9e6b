from .ar1 import AR1 as AR1
from .ar1 import committed_rate as committed_rate
from .ar1 import correlation_for as correlation_for
from .auxiliary import AuxiliaryPrior as AuxiliaryPrior
from .auxiliary import fit_auxiliary as fit_auxiliary
from .mixture_of_normals import MixtureOfNormals as MixtureOfNormals
from .standard_normal import StandardNormal as StandardNormal
from .vamp_prior import VampPrior as VampPrior
