"""Is it collapsed? Rate, mutual information, active units, likelihood and decoder use of any Pyro model and guide."""

from .active_units import active_units
from .inference_gap import InferenceGap, inference_gap
from .interval import Interval
from .log_likelihood import log_likelihood, log_likelihood_per_point
from .model_mutual_information import model_mutual_information
from .mutual_information import MutualInformation, mutual_information
from .rate import rate
from .report import CollapseReport, collapse_report

__all__ = [
    "CollapseReport",
    "InferenceGap",
    "Interval",
    "MutualInformation",
    "active_units",
    "collapse_report",
    "inference_gap",
    "log_likelihood",
    "log_likelihood_per_point",
    "model_mutual_information",
    "mutual_information",
    "rate",
]
