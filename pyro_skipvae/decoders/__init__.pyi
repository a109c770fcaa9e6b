from .codes import CodesDecoder as CodesDecoder
from .convolutional import ConvolutionalDecoder as ConvolutionalDecoder
from .dilated_cnn import DilatedCNNDecoder as DilatedCNNDecoder
from .lstm import LSTMDecoder as LSTMDecoder
from .mlp import MLPDecoder as MLPDecoder
from .pixelcnn import PixelCNNDecoder as PixelCNNDecoder
from .transformer import TransformerDecoder as TransformerDecoder
