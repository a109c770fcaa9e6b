from .mixture_of_normals import MixtureOfNormals as MixtureOfNormals
from .standard_normal import StandardNormal as StandardNormal
from .vamp_prior import VampPrior as VampPrior
