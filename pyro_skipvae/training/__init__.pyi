from .initialisation import data_dependent_ as data_dependent_
from .initialisation import he_normal_ as he_normal_
from .loop import Epoch as Epoch
from .loop import Progress as Progress
from .loop import evaluate_loss as evaluate_loss
from .loop import fit as fit
from .step import svi_step as svi_step
