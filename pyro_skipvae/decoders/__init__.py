"""Decoders: z (..., D) -> p(x|z), batch (...), event of the data, with and without skips."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
