"""`.h5ad` files of AnnData: the cells are the items, the counts of their genes the values."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np

from pyro_skipvae.diagnostics.pairs.annotated import counts_of

from .sparse import whole
from .values import Values

LABELS = ("cell_type", "celltype", "cell_types", "label", "labels", "louvain", "leiden")  # the first that is there


def read_h5ad(path: Path) -> Values:
    """Return the counts of an `.h5ad` file: its layer "counts", else X; with the names of its genes and the types of its cells.

    Raises ValueError with the command that installs anndata where it is absent, and for what anndata cannot read.
    """
    if find_spec("anndata") is None:
        raise ValueError(f"expected anndata to be installed to read {path}; install it: pip install anndata")
    import anndata

    try:
        table = anndata.read_h5ad(path)
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"expected an .h5ad file of AnnData, got {path}, which cannot be read: {reason[:200]}") from error
    try:
        dense, phrase = counts_of(table)
    except ValueError as error:
        raise ValueError(f"{error} (in {path})") from None
    column = next((name for name in LABELS if name in table.obs), None)
    labels = {} if column is None else {"train": np.asarray(table.obs[column].astype(str), dtype=str)}
    told = f"{phrase}: {dense.shape[0]:,} cells of {dense.shape[1]:,} genes" + (f", classes of {column!r}" if column else "")
    sources = {"train": column} if column else {}
    return Values({"train": whole(dense)}, labels, told, label_sources=sources, columns=tuple(map(str, table.var_names)))
