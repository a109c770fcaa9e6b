from .families import (
    DiagonalNormal as DiagonalNormal,
)
from .families import (
    FullCovarianceNormal as FullCovarianceNormal,
)
from .families import (
    InverseAutoregressiveFlow as InverseAutoregressiveFlow,
)
from .families import (
    MinimumRateNormal as MinimumRateNormal,
)
from .families import (
    VonMisesFisherPosterior as VonMisesFisherPosterior,
)
from .gradient_check import compare_gradients as compare_gradients
from .semi_amortized import VARIANTS as VARIANTS
from .semi_amortized import SemiAmortized as SemiAmortized
