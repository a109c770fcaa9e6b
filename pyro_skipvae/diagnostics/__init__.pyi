from .estimates.active_units import active_units as active_units
from .estimates.calibration import Calibration as Calibration
from .estimates.calibration import calibration as calibration
from .estimates.codes import Codes as Codes
from .estimates.dimensions import dimension_losses as dimension_losses
from .estimates.inference_gap import InferenceGap as InferenceGap
from .estimates.inference_gap import inference_gap as inference_gap
from .estimates.layers import LayerSensitivity as LayerSensitivity
from .estimates.layers import layer_sensitivities as layer_sensitivities
from .estimates.log_likelihood import (
    log_likelihood as log_likelihood,
)
from .estimates.log_likelihood import (
    log_likelihood_per_point as log_likelihood_per_point,
)
from .estimates.model_mutual_information import model_mutual_information as model_mutual_information
from .estimates.mutual_information import (
    MutualInformation as MutualInformation,
)
from .estimates.mutual_information import (
    mutual_information as mutual_information,
)
from .estimates.rate import rate as rate
from .estimates.sites import SiteReport as SiteReport
from .pairs.interval import Interval as Interval
from .planning.effective_beta import EffectiveBeta as EffectiveBeta
from .planning.effective_beta import effective_beta as effective_beta
from .planning.prediction import CollapsePrediction as CollapsePrediction
from .planning.prediction import predict_collapse as predict_collapse
from .report.advice import Advice as Advice
from .report.inference_data import to_arviz as to_arviz
from .report.monitor import Monitor as Monitor
from .report.monitor import Record as Record
from .report.report import CollapseReport as CollapseReport
from .report.report import collapse_report as collapse_report
