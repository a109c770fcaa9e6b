"""What is shown on a terminal: tables on stdout; notes on stderr, and progress there only if that is a terminal."""

import contextlib
import io

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from pyro_skipvae.text.printable import printable

from .notes import note, quiet


def table(header, rows):
    """A plain aligned table as text."""
    out = io.StringIO()
    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    rows = [[*map(printable, row)] for row in rows]
    for number, name in enumerate(header):
        longest = max((len(row[number]) for row in rows), default=0)
        grid.add_column(name, overflow="fold", no_wrap=number < 2 and longest < 25)  # names stay whole
    for row in rows:
        grid.add_row(*row)
    Console(file=out, width=140, color_system=None, markup=False, emoji=False).print(grid)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


def progress():
    """A bar on stderr with loss, rate, active units and time left; nothing with -q or where stderr is not a terminal."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[status]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=console, disable=quiet() or not console.is_terminal)


@contextlib.contextmanager
def looking():
    """What a look at large data is told by, show(what, items so far, items in all): a bar, or a note where there is none."""
    tasks = {}
    with progress() as bar:

        def show(what, done, total):
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total, status="")
                if bar.disable:
                    note(f"{what.capitalize()}: {total:,} in all.")
            bar.update(tasks[what], completed=done, total=total)

        yield show


def duration(seconds):
    """Seconds as people say them: 0.2 s, 4 s, 3 min, 2.1 h, 1.5 days."""
    if seconds < 1:
        return f"{seconds:.1g} s"
    for size, unit in ((86400, "days"), (3600, "h")):
        if seconds >= 2 * size or (unit == "h" and seconds >= 5400):
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds / 60:.0f} min" if seconds >= 100 else f"{seconds:.0f} s"
