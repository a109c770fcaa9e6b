"""Objectives: (model, guide, x, beta=1.0) -> loss in nats, summed over the batch, differentiable."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
