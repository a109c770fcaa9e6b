"""Encoders: x (B, ...) -> q(z|x), batch (B,), event (D,); the family of q is the argument `posterior`."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
