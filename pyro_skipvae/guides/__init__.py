"""Families of posteriors q(z|x), and guides whose local parameters are refined at each datapoint."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
