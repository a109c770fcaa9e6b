"""Data sets, looked for on disk, verified, split and binarised: the public names, imported when first used."""

from importlib import import_module

_WHERE = {
    "BINARISATIONS": "catalogue",
    "Batches": "batches",
    "DATASETS": "catalogue",
    "Data": "dataset",
    "DataError": "folder",
    "DatasetInfo": "catalogue",
    "DynamicallyBinarised": "binarisation",
    "LengthBucketed": "length_bucketed",
    "load_data": "catalogue",
    "locate": "catalogue",
}
__all__ = sorted(_WHERE)


def __getattr__(name):
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)


def __dir__():
    return __all__
