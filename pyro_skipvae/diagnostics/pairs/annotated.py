"""AnnData, the tables of single-cell software: the counts that they hold."""

from typing import Any

import numpy as np

LARGEST = 2**28  # numbers of the dense matrix, 1 GiB as float32
COUNTS = "counts"


def is_annotated(item: Any) -> bool:
    """Whether an object is an AnnData; it is told by its module, so that anndata need not be there."""
    return type(item).__name__ == "AnnData" and type(item).__module__.partition(".")[0] == "anndata"


def counts_of(table: Any, layer: str | None = None) -> tuple[np.ndarray[Any, Any], str]:
    """(the matrix (cells, genes) of a layer, dense; a phrase that says which). None is the layer "counts", else X.

    Raises ValueError for a layer that is not there, and for a matrix that is too large when it is dense.
    """
    layers = list(table.layers)
    if layer is not None and layer not in layers:
        raise ValueError(f"expected a layer out of {', '.join(layers) or 'none'}, got {layer!r}")
    name = layer or (COUNTS if COUNTS in layers else None)
    matrix = table.X if name is None else table.layers[name]
    if matrix is None:
        raise ValueError(f"expected an AnnData with a layer {COUNTS!r} or with X, got one with neither")
    rows, columns = matrix.shape
    if rows * columns > LARGEST:
        raise ValueError(
            f"expected at most {LARGEST:,} numbers when they are dense, got {rows:,} cells x {columns:,} genes; keep the genes "
            "that vary: scanpy.pp.highly_variable_genes(adata, n_top_genes=2000, flavor='seurat_v3', subset=True)"
        )
    dense = np.asarray(matrix.toarray() if hasattr(matrix, "toarray") else matrix)
    return dense, f"the layer {name!r}" if name else "X, since there is no layer 'counts'"
