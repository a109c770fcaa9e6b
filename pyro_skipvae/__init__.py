"""Generative skip models and collapse diagnostics on Pyro: the public names, imported when first used."""

from importlib import import_module

_WHERE = {
    "VAE": "model",
    "collapse_report": "diagnostics",
    "fit": "train",
    "load_data": "data",
    "load_run": "run",
    "svi_step": "train",
}
__all__ = sorted(_WHERE)


def __getattr__(name):
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)


def __dir__():
    return __all__
