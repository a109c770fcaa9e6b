"""Formats that are not read: for each the one command that writes a file that is, run by `sh` beside the file."""

import shlex
from pathlib import Path

_ARRAYS = (  # of more than four items each is one of the data
    "numpy.savez('{stem}.npz', **x) if isinstance(x, dict) else "
    "numpy.savez('{stem}.npz', *(x if isinstance(x, (tuple, list)) and len(x) < 5 else [x]))"
)
_HDF5 = (
    "import h5py, numpy; d = {{}}; h5py.File('{file}').visititems(lambda k, v: "
    "d.update({{k.replace('/', '_'): v[()]}}) if isinstance(v, h5py.Dataset) else None); numpy.savez('{stem}.npz', **d)"
)
_MATLAB = (  # version 7.3, which is HDF5 with its axes the other way round
    "import h5py, numpy; f = h5py.File('{file}'); "
    "numpy.savez('{stem}.npz', **{{k: v[()].T for k, v in f.items() if isinstance(v, h5py.Dataset)}})"
)
_EXCEL = "import pandas; pandas.read_excel('{file}').to_csv('{stem}.csv', index=False)"
_PICKLE = "import numpy, pickle; x = pickle.load(open('{file}', 'rb')); " + _ARRAYS
_TORCH = (
    "import numpy, torch; f = lambda v: {{k: f(w) for k, w in v.items()}} if isinstance(v, dict) else "
    "[f(w) for w in v] if isinstance(v, (tuple, list)) else v if not torch.is_tensor(v) else "
    "v.detach().float().numpy() if v.is_floating_point() else v.numpy(); "
    "x = f(torch.load('{file}', weights_only=True, map_location='cpu')); "
) + _ARRAYS
_JSON = "import pandas; pandas.read_json('{file}', lines={lines}).to_csv('{stem}.csv', index=False)"
_IDX = (
    "import gzip, numpy; from pyro_skipvae.data.mnist import idx; numpy.save('{stem}.npy', idx({open}('{file}', 'rb').read()))"
)
_FEATHER = "import pandas; pandas.read_feather('{file}').to_parquet('{stem}.parquet')"
_STREAM = (
    "import pyarrow, pyarrow.parquet; "
    "pyarrow.parquet.write_table(pyarrow.ipc.open_stream('{file}').read_all(), '{stem}.parquet')"
)
# ending -> (the Python line, what pip must have installed for it beyond our own needs)
PYTHON = {
    **dict.fromkeys((".h5", ".hdf5", ".hdf"), (_HDF5, "h5py")),
    ".mat": (
        "import numpy, scipy.io; x = scipy.io.loadmat('{file}'); "
        "numpy.savez('{stem}.npz', **{{k: v for k, v in x.items() if k[0] != '_'}})",
        "",
    ),
    **dict.fromkeys((".pt", ".pth"), (_TORCH, "")),
    **dict.fromkeys((".pkl", ".pickle"), (_PICKLE, "")),
    ".safetensors": (
        "import numpy; from safetensors.numpy import load_file; numpy.savez('{stem}.npz', **load_file('{file}'))",
        "",
    ),
    **dict.fromkeys((".xlsx", ".xls"), (_EXCEL, "pandas openpyxl")),
    **dict.fromkeys((".arrow", ".feather"), (_FEATHER, "pandas pyarrow")),
    ".json": (_JSON.replace("{lines}", "False"), "pandas"),
    **dict.fromkeys(("ubyte", ".idx"), (_IDX.replace("{open}", "open"), "")),
    **dict.fromkeys(("ubyte.gz", ".idx.gz"), (_IDX.replace("{open}", "gzip.open"), "")),
    ".npy.gz": ("import gzip, numpy; numpy.save('{stem}.npy', numpy.load(gzip.open('{file}')))", ""),
}
SHELL = {
    ".zip": "python -m zipfile -e {file} {stem}",
    **dict.fromkeys((".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz"), "mkdir {stem} && tar -xf {file} -C {stem}"),
    **dict.fromkeys((".bz2",), "bunzip2 -k {file}"),
    **dict.fromkeys((".xz",), "unxz -k {file}"),
}
LONGEST_LINE = 1 << 20  # bytes
PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".pgm", ".ppm")


def command(path: Path) -> str | None:
    """Return the command that converts a file into one that is read, or None where none is known; with what it needs."""
    ending = next((ending for ending in (*PYTHON, *SHELL) if path.name.lower().endswith(ending)), None)
    if ending is None:
        return None
    stem = path.name[: -len(ending)].rstrip(".-") or "data"
    if ending in SHELL:
        return SHELL[ending].format(file=shlex.quote(str(path)), stem=shlex.quote(stem))
    line, needs = PYTHON[ending]
    if ending == ".arrow" and _first_bytes(path) != b"ARROW1":  # as the datasets library writes it
        line, needs = _STREAM, "pyarrow"
    if ending == ".mat" and _first_bytes(path, 10) == b"MATLAB 7.3":
        line, needs = _MATLAB, "h5py"
    if ending == ".json" and _has_lines(path):
        line = _JSON.replace("{lines}", "True")
    said = line.format(file=_quoted(str(path)), stem=_quoted(stem))
    warning = " (it runs code that the file holds: only if you trust it)" if ending in (".pkl", ".pickle") else ""
    return python_command(said) + warning + (f" (needs: pip install {needs})" if needs else "")


def python_command(line: str) -> str:
    """Return the shell command that runs a line of Python."""
    plain = not any(mark in line for mark in '"$`\\!')
    return f'python -c "{line}"' if plain else f"python -c {shlex.quote(line)}"


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace("'", "\\'")


def _first_bytes(path: Path, count: int = 6) -> bytes:
    with open(path, "rb") as file:
        return file.read(count)


def _has_lines(path: Path) -> bool:
    """Whether each line of a file is an object of JSON: the first two are."""
    with open(path, "rb") as file:
        first, second = (file.readline(LONGEST_LINE).strip() for _ in range(2))
    return first.startswith(b"{") and first.endswith(b"}") and second.startswith(b"{")
