"""Data sets, looked for on disk, verified, split and binarised: the public names, imported when first used."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
