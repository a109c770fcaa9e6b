"""Words and their numbers, decoding, and what a text model says as strings."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
