"""The tables and claims of the papers as sets of runs, and what they show."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
