"""Decoders: z -> p(x|z), each with and without skips."""

from pyro_skipvae.decoders.convolutional import ConvolutionalDecoder
from pyro_skipvae.decoders.dilated_cnn import DilatedCNNDecoder
from pyro_skipvae.decoders.lstm import LSTMDecoder
from pyro_skipvae.decoders.mlp import MLPDecoder
from pyro_skipvae.decoders.pixelcnn import PixelCNNDecoder

__all__ = ["ConvolutionalDecoder", "DilatedCNNDecoder", "LSTMDecoder", "MLPDecoder", "PixelCNNDecoder"]
