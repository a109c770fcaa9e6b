from .directions import DIRECTIONS as DIRECTIONS
from .lstm import LSTMEncoder as LSTMEncoder
from .lstm_sequence import LSTMSequenceEncoder as LSTMSequenceEncoder
from .mlp import MLPEncoder as MLPEncoder
from .none import NoEncoder as NoEncoder
from .pixelcnn import PixelCNNEncoder as PixelCNNEncoder
from .resnet import ResNetEncoder as ResNetEncoder
from .transformer import TransformerEncoder as TransformerEncoder
