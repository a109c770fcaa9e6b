from .lstm import LSTMEncoder as LSTMEncoder
from .mlp import MLPEncoder as MLPEncoder
from .none import NoEncoder as NoEncoder
from .resnet import ResNetEncoder as ResNetEncoder
from .transformer import TransformerEncoder as TransformerEncoder
