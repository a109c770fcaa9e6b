"""Tables: `.csv`, `.tsv`, `.dat` and `.data` text, `.parquet`. A row is an item, a column of numbers one of its values.

A column named `label`, `class`, `target`, `y` and the like holds the classes; `split` says which rows are train, valid and
test; a column `id` or `index`, or without a name, is left out. The first line may name the columns, after a `#`, too;
lines of `#` above it are passed over. Fields are separated by commas, semicolons, tabs or blanks, and may be quoted.
"""

import csv
import io
import re
import shlex
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from . import conversions, file_content
from .arrays import SPLIT_WORDS
from .values import LARGEST_COUNT, Array, Values

LABELS = ("label", "labels", "class", "classes", "target", "targets", "species", "category", "y")  # the first that is there
LEFT_OUT = ("", "id", "index", "unnamed: 0")
SPLIT = "split"
MISSING = {"", "na", "n/a", "nan", "null", "none", "?", "-", "."}
TRUTH = {"true": 1.0, "false": 0.0}
LOOKED_AT = 200  # rows that decide which columns are text
COUNTED = 10_000  # rows in which it is counted how often a column has no value
_NAMED_PIXEL = re.compile(r"(?:pixel|px)_?\d+|\d+x\d+", re.IGNORECASE)
_INDEX = re.compile(r"__index_level_\d+__")  # of rows that pandas writes into a Parquet file
_CELL = re.compile(r'"([^"]*)"|(\S+)')
_WHOLE = re.compile(r"\s*[+-]?\d+\s*")
_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+")


@dataclass(frozen=True)
class Layout:
    """How the text of a table is to be read: delimiter (None: blanks), whether the first row names columns, and names."""

    delimiter: str | None
    header: bool
    names: list[str]
    row_names: bool  # the rows have one field more than the header, as R writes tables
    decimal_comma: bool
    marked: bool = False  # the header lies behind a `#`
    skipped: int = 0  # lines of `#` above it


def read(path: Path) -> Values:
    """Return the numbers of a text table, with labels and splits where it has columns for them.

    Raises ValueError for a missing value, by line and column; for a column of words that is no label, by name; and for rows
    of different lengths.
    """
    text = file_content.text(path).replace("\r\n", "\n").replace("\r", "\n")
    try:
        return _read(path, text)
    except csv.Error as error:
        raise ValueError(f"expected a table of numbers, got {path}, which cannot be read: {error}") from error


def _read(path: Path, text: str) -> Values:
    text, layout = _without_comments(path, text)
    text, layout = _without_empty_end(path, text, layout)
    text = _requoted(text, layout.delimiter)
    sample = [row for _, row in islice(_rows(text, layout), LOOKED_AT)]
    if not sample:
        raise ValueError(f"expected a table with rows of numbers, got none in {path}")
    roles = _Roles.of(path, layout.names, _text_columns(sample, layout), layout)
    matrix, words = _matrix(path, text, layout, roles)
    found = _values(path, layout.names, matrix, words, roles, layout)
    if not layout.header and _is_like_names(sample):
        shown = ", ".join(sample[0][:3]) + (", ..." if len(sample[0]) > 3 else "")
        note = (
            f"The first row ({shown}) is read as an item, though only it has whole numbers in all columns; if these are names, "
            "take the row out or give the columns other names."
        )
        return replace(found, note=note)
    return found


def _is_like_names(rows: list[list[str]]) -> bool:
    """Whether the first row alone has whole numbers in all columns, and every column has others further down."""
    first, *others = ([_WHOLE.fullmatch(cell) is not None for cell in row] for row in rows)
    return all(first) and bool(others) and not any(map(all, others)) and not any(map(all, zip(*others, strict=False)))


def read_parquet(path: Path) -> Values:
    """Return the numbers of a Parquet file, with labels and splits where it has columns for them; pyarrow reads it.

    Raises ValueError as `read` does, and with the command that installs pyarrow where it is absent.
    """
    if find_spec("pyarrow") is None:
        raise ValueError(f"expected pyarrow to be installed to read {path}; install it: pip install pyarrow")
    import pyarrow.parquet

    try:
        found = pyarrow.parquet.ParquetFile(path)
        size = sum(found.metadata.row_group(i).total_byte_size for i in range(found.metadata.num_row_groups))
        if size > file_content.LARGEST:
            raise ValueError(f"it unpacks to {size / 2**30:.1f} GiB, more than 1 GiB; take a part of it")
        frame = found.read()
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"expected a Parquet file, got {path}, which cannot be read: {reason}") from error
    if not frame.num_rows:
        raise ValueError(f"expected a table with rows of numbers, got none in {path}")
    names = list(map(str, frame.column_names))
    columns = [frame.column(number) for number in range(len(names))]
    kinds = [_arrow_kind(column) for column in columns]
    roles = _Roles.of(path, names, {number for number, kind in enumerate(kinds) if kind == "text"})
    read = [number for number in range(len(names)) if number not in roles.left_out]
    strange = next((number for number in read if kinds[number] == "other"), None)
    if strange is not None:
        raise ValueError(f"expected columns of numbers, got {columns[strange].type} in column {names[strange]!r} of {path}")
    for number in (number for number in read if columns[number].null_count):
        row = columns[number].is_null().to_pylist().index(True)
        empty = {n: names[n] for n in read if 2 * columns[n].null_count > frame.num_rows}
        command = _whole_frame(path, [names[n] for n in (*roles.left_out, *empty)])
        raise _missing(path, f"row {row + 1}", names[number], command, empty)
    matrix = np.zeros((frame.num_rows, len(names)))
    words = {}
    for number in read:
        if kinds[number] == "text" or number == roles.split:
            words[number] = np.array(list(map(str, columns[number].to_pylist())))
        else:
            matrix[:, number] = columns[number].to_numpy()
    return _values(path, names, matrix, words, roles)


def _arrow_kind(column: Any) -> str:
    import pyarrow.types as types

    kind = column.type
    if types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind):
        return "number"
    if types.is_dictionary(kind):
        kind = kind.value_type
    return "text" if types.is_string(kind) or types.is_large_string(kind) else "other"


def _without_comments(path: Path, text: str) -> tuple[str, Layout]:
    """(the text with its first lines of `#` empty, its layout); the last one stays, without its mark, if it names the columns.

    So numpy.savetxt writes its header, which may have other delimiters than the rows.
    """
    head = re.match(r"(?:[ \t]*(?:#.*)?\n)+", text)
    above = [line.strip() for line in head[0].split("\n")[:-1]] if head else []
    if head is None or not any(above):
        return text, _layout(path, text)
    below = text[head.end() :]
    layout, count = _layout(path, below), sum(map(bool, above))
    last = max(number for number, line in enumerate(above) if line)
    names = None if layout.header else _names_in(above[last], next(_cells(io.StringIO(below), layout.delimiter), []), layout)
    if names is None:
        return "\n" * len(above) + below, replace(layout, skipped=count)
    written = io.StringIO()
    csv.writer(written, delimiter=layout.delimiter or " ", lineterminator="\n").writerow(names)
    text = "\n" * last + written.getvalue() + "\n" * (len(above) - last - 1) + below
    return text, replace(_layout(path, text), marked=True, skipped=count - 1)


def _names_in(line: str, first: list[str], layout: Layout) -> list[str] | None:
    """The names that a line of `#` gives to the columns of the first row, or None."""
    cells, bare = next(_cells([line], layout.delimiter)), line.lstrip("# \t")
    choices = [cells] if cells[0] == "#" else []  # that is a name, too
    choices += [next(_cells([bare], layout.delimiter), []), [cell for cell in re.split(r'[\s,;|"]+', bare) if cell]]
    return next((names for names in choices if len(names) == len(first) and _is_header(names, first)), None)


def _without_empty_end(path: Path, text: str, layout: Layout) -> tuple[str, Layout]:
    """(the text without a delimiter that ends all rows, its layout): what follows it is no column."""
    mark = layout.delimiter
    if mark is None or layout.header and layout.names[-1] and not layout.row_names:
        return text, layout
    filled = (line.rstrip(" \n") for line in io.StringIO(text) if line.strip(" \n"))
    if not all(line.endswith(mark) for line in islice(filled, int(layout.header), None)):
        return text, layout
    text = re.sub(rf"{re.escape(mark)} *$", "", text, flags=re.MULTILINE)
    return text, replace(_layout(path, text), marked=layout.marked, skipped=layout.skipped)


def _requoted(text: str, delimiter: str | None) -> str:
    """The text with quotes that follow a blank, as in `1, "a"`, right behind the delimiter: NumPy knows them only there."""
    if delimiter is None or ' "' not in text or not re.search(rf'(?:^|{re.escape(delimiter)}) +"', text, re.MULTILINE):
        return text
    rows, written = _cells(io.StringIO(text), delimiter), io.StringIO()
    csv.writer(written, delimiter=delimiter, lineterminator="\n").writerows([] if row == [""] else row for row in rows)
    return written.getvalue()


def _cells(lines: Iterable[str], delimiter: str | None) -> Iterator[list[str]]:
    """The cells of each row; blanks before a cell are none of it, since a quote may follow."""
    return csv.reader(lines, delimiter=delimiter, skipinitialspace=True) if delimiter else map(_between_blanks, lines)


def _layout(path: Path, text: str) -> Layout:
    lines = [line for line in islice(io.StringIO(text), LOOKED_AT) if line.strip()]
    delimiter = _delimiter(lines, path)
    rows = list(_cells(lines, delimiter))
    first, second = rows[0] if rows else [], rows[1] if len(rows) > 1 else []
    header = _is_header(first, second)
    row_names = header and len(second) == len(first) + 1
    names = (["", *first] if row_names else first) if header else [f"column {number}" for number in range(1, len(first) + 1)]
    comma = delimiter == ";" and any(_DECIMAL_COMMA.fullmatch(cell.strip()) for row in rows[1:] or rows for cell in row)
    return Layout(delimiter, header, [name.strip() for name in names], row_names, comma)


def _delimiter(lines: list[str], path: Path) -> str | None:
    """The delimiter that is in every line, as often as may be; a tab goes first in `.tsv`; None stands for blanks."""
    usual = "\t;,|" if any(suffix in (".tsv", ".tab") for suffix in path.suffixes) else ",;\t|"
    bare = [re.sub(r'"[^"]*"', "", line) for line in lines[:50]]
    if all(";" in line for line in bare):  # then a comma is that of a decimal number
        return ";"
    found = next((mark for mark in usual if bare and all(mark in line for line in bare)), None)
    if found is None and any(len(line.split()) > 1 for line in bare) and path.suffix not in (".csv", ".tsv"):
        return None
    return found or ("," if path.suffix != ".tsv" else "\t") if not _blanks(bare) else None


def _blanks(bare: list[str]) -> bool:
    """Whether every line is several numbers between blanks, and nothing else."""
    return all(len(line.split()) > 1 and all(_is_number(cell) for cell in line.split()) for line in bare[1:2] or bare)


def _is_header(first: list[str], second: list[str]) -> bool:
    if any(not _is_number(cell) and cell.strip().lower() not in MISSING - {""} for cell in first if cell.strip()):
        numbers = sum(map(_is_number, first))
        return not numbers or sum(map(_is_number, second)) > numbers or _has_label(first)
    if first and not first[0].strip() and second and second[0].strip():  # what pandas writes above its index
        return True
    names = [cell.strip() for cell in first]  # 0,1,2,...: the names of pandas' columns
    return len(names) > 2 and names in ([str(start + i) for i in range(len(names))] for start in (0, 1))


def _has_label(first: list[str]) -> bool:
    return any(cell.strip().lower() in (*LABELS, *LEFT_OUT[1:], SPLIT) for cell in first)


def _is_number(cell: str) -> bool:
    cell = cell.strip()
    if _DECIMAL_COMMA.fullmatch(cell):
        return True
    try:
        float(cell)
    except ValueError:
        return False
    return "_" not in cell


def _rows(text: str, layout: Layout) -> Iterator[tuple[int, list[str]]]:
    """(number of the line, its cells) of the rows below the header; lines that are empty are passed over."""
    lines = io.StringIO(text)
    if layout.delimiter is None:
        rows = ((number, _between_blanks(line)) for number, line in enumerate(lines, 1))
    else:
        reader = csv.reader(lines, delimiter=layout.delimiter)
        rows = ((reader.line_num, row) for row in reader)
    filled = ((number, row) for number, row in rows if row and (len(row) > 1 or row[0].strip()))
    return islice(filled, 1 if layout.header else 0, None)


def _between_blanks(line: str) -> list[str]:
    """The cells of a line between blanks, without the quotes of those that have some."""
    return [quoted or bare for quoted, bare in _CELL.findall(line)] if '"' in line else line.split()


def _text_columns(sample: list[list[str]], layout: Layout) -> set[int]:
    """Columns whose first cell that is not missing is neither a number nor true or false."""
    texts = set()
    for number in range(len(layout.names)):
        cells = (row[number].strip() for row in sample if number < len(row))
        cell = next((cell for cell in cells if cell.lower() not in MISSING), "0")
        if not _is_number(cell) and cell.lower() not in TRUTH:
            texts.add(number)
    return texts


@dataclass(frozen=True)
class _Roles:
    """Which columns are what: numbers of the label's, the split's, those left out, and all that hold words."""

    label: int | None
    split: int | None
    left_out: list[int]
    words: set[int]

    @classmethod
    def of(cls, path: Path, names: list[str], texts: set[int], layout: Layout | None = None) -> "_Roles":
        """Raises ValueError for a column of words that has no role."""
        named = layout is None or layout.header
        lower = [name.lower() for name in names]
        label = next((lower.index(name) for name in LABELS if name in lower), None) if named else None
        if label is not None and lower[label] == "y" and "x" in lower:  # a point in the plane
            label = None
        if not named and len(names) - 1 in texts:
            label = len(names) - 1
        split = lower.index(SPLIT) if named and SPLIT in lower else None
        left_out = [n for n, name in enumerate(lower) if named and (name in LEFT_OUT or _INDEX.fullmatch(name)) and n != label]
        left_out = left_out if len(left_out) < len(names) else []
        strange = sorted(texts - {label, split, *left_out})
        numbers = [number for number in range(len(names)) if number not in (label, split, *left_out, *strange)]
        if strange and not numbers:
            raise _is_text(path, names, strange[0], layout)
        if strange:
            more = f" (and {len(strange) - 1} more)" if len(strange) > 1 else ""
            raise ValueError(
                f"expected columns of numbers, got words in {_named(names[strange[0]])}{more} of {path}; name the column "
                "'label' if it holds the classes, else take it out"
            )
        return cls(label, split, left_out, {*texts, *left_out, *({split} - {None})})  # type: ignore[arg-type]


def _is_text(path: Path, names: list[str], number: int, layout: Layout | None) -> ValueError:
    """A table of texts, such as reviews with their sentiment: the text models read one text a line."""
    stem = path.name.split(".")[0]
    if layout is None:
        texts = f"import pandas; texts = pandas.read_parquet({str(path)!r})[{names[number]!r}]"
    else:
        below = f"rows[{int(layout.header)}:]"
        texts = f"{_as_rows(path, layout)}; texts = [row[{number}] for row in {below} if len(row) > {number}]"
    line = f"{texts}; [print(' '.join(text.split())) for text in texts]"
    return ValueError(
        f"expected columns of numbers, got texts in {_named(names[number])} of {path}; this makes a text file of them: "
        f"{conversions.python_command(line)} > {shlex.quote(stem)}.txt"
    )


def _as_rows(path: Path, layout: Layout) -> str:
    """Python that reads a text table as it was read here, into `rows`."""
    opener = "gzip.open" if path.suffix.lower() == ".gz" else "open"
    lines = f"{opener}({str(path)!r}, 'rt', encoding='utf-8-sig', newline='')"
    between_blanks = f"([a or b for a, b in re.findall({_CELL.pattern!r}, line)] for line in {lines})"
    rows = f"csv.reader({lines}, delimiter={layout.delimiter!r}, skipinitialspace=True)" if layout.delimiter else between_blanks
    skipped = f"[{layout.skipped}:]" if layout.skipped else ""
    return f"import csv, gzip, re; rows = [row for row in {rows} if any(cell.strip() for cell in row)]{skipped}"


def _matrix(path: Path, text: str, layout: Layout, roles: _Roles) -> tuple[Array, dict[int, Array]]:
    """(N, columns) numbers, 0 in columns of words, and the (N,) cells of the columns of words."""
    cells: dict[int, list[str]] = {number: [] for number in roles.words}
    if roles.label is not None:
        cells.setdefault(roles.label, [])

    def kept(number: int) -> Callable[[str], float]:
        return lambda cell: cells[number].append(cell.strip()) or 0.0  # type: ignore[func-returns-value]

    converters: dict[int | str, Callable[[str], float]] = {number: kept(number) for number in cells}
    _, first = next(_rows(text, layout))
    for number in set(range(len(first))) - set(cells):
        if first[number].strip().lower() in TRUTH:
            converters[number] = lambda cell: TRUTH[cell.strip().lower()]
    if layout.decimal_comma:
        for number in set(range(len(layout.names))) - set(converters):
            converters[number] = lambda cell: float(cell.replace(",", "."))
    lines = (line for line in io.StringIO(text) if line.strip(" \n"))
    if layout.header:
        _skip_header(lines, layout.delimiter)
    try:
        matrix = np.loadtxt(
            lines,
            dtype=np.float64,
            delimiter=layout.delimiter,
            quotechar='"',
            comments=None,
            ndmin=2,
            converters=converters,
            encoding=None,
        )
    except ValueError as error:
        raise _first_fault(path, text, layout, set(cells), error) from error
    if matrix.shape[1] != len(layout.names) or not np.isfinite(matrix).all():
        raise _first_fault(path, text, layout, set(cells), None)
    return matrix, {number: np.array(column) for number, column in cells.items()}


def _skip_header(lines: Iterator[str], delimiter: str | None) -> None:
    """Read on to the line after the first row, which is several lines where a quoted name is."""
    rows = csv.reader(lines, delimiter=delimiter) if delimiter else map(_between_blanks, lines)
    next((row for row in rows if any(cell.strip() for cell in row)), None)


def _first_fault(path: Path, text: str, layout: Layout, words: set[int], error: ValueError | None) -> ValueError:
    """What is wrong in the first row that cannot be read."""
    for line, row in _rows(text, layout):
        if len(row) != len(layout.names):
            expected = f"{len(layout.names)} fields, as in the {'header' if layout.header else 'first row'}"
            return ValueError(f"expected {expected}, got {len(row)} in line {line} of {path}")
        for number, cell in enumerate(row):
            if number in words:
                continue
            if cell.strip().lower() in MISSING:
                read = [number for number in range(len(row)) if number not in words]
                empty = _empty(text, layout, read)
                return _missing(path, f"line {line}", layout.names[number], _whole_rows(path, layout, read, empty), empty)
            comma = "," in cell and not layout.decimal_comma
            infinite = cell.strip().lower().lstrip("+-")[:3] == "inf"
            if not _is_number(cell) and cell.strip().lower() not in TRUTH or infinite or comma:
                shown = cell if len(cell) <= 40 else cell[:40] + "..."
                where = f"in line {line}, {_named(layout.names[number])}, of {path}"
                remedy = "; write it without the comma, or with a point" if comma and _is_number(cell.replace(",", "")) else ""
                return ValueError(f"expected a number, got {shown!r} {where}{remedy}")
    reason = " ".join(str(error).split()).partition(";")[0] if error else "its rows differ"  # NumPy's advice is not for users
    return ValueError(f"expected a table of numbers, got {path}, which cannot be read: {reason}")


def _missing(path: Path, line: str, name: str, command: str, empty: dict[int, str]) -> ValueError:
    """The refusal of a missing value; command: what leaves out the columns that are empty, and rows that lack others."""
    shown = ", ".join(list(map(_named, empty.values()))[:3]) + (f" and {len(empty) - 3} more" if len(empty) > 3 else "")
    advice = f"leave out {shown}, which most rows lack, and rows that lack others" if empty else "leave such rows out"
    return ValueError(
        f"expected no missing values, got one in {line}, {_named(name)}, of {path}; fill it, or {advice}: "
        f"{conversions.python_command(command)}"
    )


def _whole_rows(
    path: Path, layout: Layout, read: Sequence[int], empty: Collection[int], marks: Collection[str] = MISSING
) -> str:
    """Python that writes a text table without the empty columns, and without rows in which these marks stand for a value.

    read: the columns in which they do.
    """
    head, looked_at = int(layout.header), [number for number in read if number not in empty]
    missing = f"{{cell.strip().lower() for n, cell in enumerate(row) if n in {looked_at}}} & set({sorted(marks)})"
    names = f"[{layout.names}]" if layout.marked else f"rows[:{head}]"
    whole = f"{names} + [row for row in rows[{head}:] if not {missing}]"
    if empty:
        first = ", row is rows[0]" if layout.row_names else ""  # which has a field less
        whole = f"[[cell for n, cell in enumerate(row{first}) if n not in {list(empty)}] for row in {whole}]"
    opened = f"open({_whole(path)!r}, 'w', newline='', encoding='utf-8')"
    return f"{_as_rows(path, layout)}; csv.writer({opened}, delimiter={layout.delimiter or ','!r}).writerows({whole})"


def _whole_frame(path: Path, without: Sequence[str]) -> str:
    """Python that writes a Parquet file as a text table, without those columns, and without rows that lack others."""
    dropped = f".drop(columns={list(without)}, errors='ignore')" if without else ""
    return f"import pandas; pandas.read_parquet({str(path)!r}){dropped}.dropna().to_csv({_whole(path)!r}, index=False)"


def _whole(path: Path) -> str:
    return path.name.partition(".")[0] + "-whole.csv"


def _empty(text: str, layout: Layout, read: Sequence[int]) -> dict[int, str]:
    """{number: name} of the columns that have no value in most rows."""
    rows = [row for _, row in islice(_rows(text, layout), COUNTED)]
    counts = {n: sum(len(row) <= n or row[n].strip().lower() in MISSING for row in rows) for n in read}
    return {n: layout.names[n] for n in read if 2 * counts[n] > len(rows)}


def _named(name: str) -> str:
    return name if name.startswith("column ") else f"column {name!r}" if name else "the column without a name"


def _values(
    path: Path, names: list[str], matrix: Array, words: dict[int, Array], roles: _Roles, layout: Layout | None = None
) -> Values:
    label, said = roles.label, []
    labels = None
    if label is not None:
        labels = words[label] if label in words else matrix[:, label]
        unknown = [row for row, cell in enumerate(labels.tolist(), 1) if isinstance(cell, str) and cell.lower() in ("", "nan")]
        if unknown:
            empty = {label: names[label]} if 2 * len(unknown) > len(labels) else {}
            frame = _whole_frame(path, list(empty.values()))
            command = _whole_rows(path, layout, [label], empty, ("", "nan")) if layout else frame
            raise _missing(path, f"row {unknown[0]}", names[label], command, empty)
        numbers = _as_numbers(labels)
        if numbers is not None and (numbers != np.round(numbers)).any():  # a quantity, not a class
            said.append(f"{_named(names[label])} is a value like the others, since it holds no classes")
            matrix[:, label], label, labels = numbers, None, None
        else:
            labels = labels if numbers is None else numbers.astype(np.int64)
            said.append(f"{len(np.unique(labels)):,} classes from {_named(names[roles.label])}")  # type: ignore[index]
    columns = [number for number in range(len(names)) if number not in (label, roles.split, *roles.left_out)]
    if not columns:
        raise ValueError(f"expected columns of numbers beside the labels, got none in {path}")
    said.insert(0, f"{len(matrix):,} rows of {len(columns):,} columns")
    said += [f"left out: {', '.join(_named(names[number]) for number in roles.left_out)}"] if roles.left_out else []
    array = matrix[:, columns] if len(columns) < matrix.shape[1] else matrix
    kept = [names[number] for number in columns]
    array, shape = _typed(array, kept)
    said += [f"the pixels were laid out as images of {shape[0]}x{shape[1]}"] if shape else []
    arrays, classes = _by_split(path, array, labels, words.get(roles.split) if roles.split is not None else None)
    sources = {} if label is None else dict.fromkeys(classes, names[label])
    known = () if shape or layout and not layout.header else tuple(kept)
    return Values(arrays, classes, "; ".join(said), label_sources=sources, columns=known)


def _as_numbers(labels: Array) -> Array | None:
    if labels.dtype.kind != "U":
        return labels
    try:
        return labels.astype(np.float64)
    except ValueError:
        return None


def _typed(array: Array, names: list[str]) -> tuple[Array, tuple[int, int] | None]:
    """Whole numbers are counts, or grey levels where the columns are pixels or the largest is 255; pixels form an image.

    Pixels are in the order of the numbers in their names, whatever that of the columns.
    """
    low, high = array.min(), array.max()
    whole = low >= 0 and high <= LARGEST_COUNT and not (array != np.round(array)).any()
    pixels = all(_NAMED_PIXEL.fullmatch(name) for name in names)
    if whole:
        array = array.astype(np.uint8 if high == 255 or (pixels and high < 256) else np.int32)
    if not pixels:
        return array, None
    places = [tuple(map(int, re.findall(r"\d+", name))) for name in names]
    order, side = sorted(range(len(names)), key=places.__getitem__), round(len(names) ** 0.5)
    shape = (side, side)
    if all(len(place) == 2 for place in places):
        rows, columns = zip(*places, strict=True)
        shape = len(set(rows)), len(set(columns))
    if min(shape) > 1 and shape[0] * shape[1] == len(set(places)) == len(names):
        return array[:, order].reshape(-1, *shape), shape
    return array, None


def _by_split(path: Path, array: Array, labels: Array | None, split: Array | None) -> tuple[dict[str, Array], dict[str, Array]]:
    if split is None:
        return {"train": array}, {} if labels is None else {"train": labels}
    unknown = sorted(set(split.tolist()) - {word for word in split.tolist() if word.lower() in SPLIT_WORDS})
    if unknown:
        raise ValueError(f"expected train, valid or test in column 'split', got {unknown[0]!r} in {path}")
    parts = np.array([SPLIT_WORDS[word.lower()] for word in split.tolist()])
    if "train" not in parts:
        raise ValueError(f"expected rows for train in column 'split', got none in {path}")
    arrays = {part: array[parts == part] for part in np.unique(parts).tolist()}
    return arrays, {} if labels is None else {part: labels[parts == part] for part in arrays}
