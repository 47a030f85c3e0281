"""Tables on stdout, notes and progress on stderr."""

import json
import sys
import time
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, Self

import typer

from harmonet.errors import OutputError

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Force = Annotated[bool, typer.Option("--force", help="Replace what is there.")]


def note(text: str) -> None:
    """A line for people, on stderr."""
    typer.echo(text, err=True)


def keep_out_of(out: Path, *inputs: Path) -> None:
    """Refuse a place for output inside a folder that is only read."""
    for folder in inputs:
        if out.resolve().is_relative_to(folder.resolve()):
            raise OutputError(f"{out} lies in {folder}, which is only read: choose a place outside it.")


def print_json(value: Any) -> None:
    """JSON on stdout."""
    typer.echo(json.dumps(value, indent=1))


def print_table(
    title: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    numbers: int = 0,
    bold: Collection[tuple[int, int]] = (),
) -> None:
    """A table on stdout; the last `numbers` columns are right-aligned. Cells are data, never markup.

    Args:
        title, columns, rows: What is shown.
        numbers: How many columns are numbers.
        bold: Row and column of the cells that stand out.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for place, name in enumerate(columns):
        right = place >= len(columns) - numbers
        table.add_column(Text(name), justify="right" if right else "left", overflow="fold")
    for i, row in enumerate(rows):
        table.add_row(*(Text(cell, style="bold" if (i, j) in bold else "") for j, cell in enumerate(row)))
    # Away from a terminal nothing is cut to a width of 80.
    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else 200, highlight=False)
    console.print(Text(title, style="bold"))
    console.print(table)


class Progress:
    """What is being done, how far it is and how long it will take: a bar on a terminal, plain lines elsewhere.

    An instance is called as `progress(what, done, total, note)`.
    """

    EVERY = 15.0  # seconds between plain lines

    def __init__(self) -> None:
        self._bars: Any = None
        self._tasks: dict[str, Any] = {}
        self._began: dict[str, float] = {}
        self._from: dict[str, int] = {}  # a resumed job does not begin at 0
        self._spoke = 0.0

    def __enter__(self) -> Self:
        """Show the bars, if stderr is a terminal."""
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bars

            self._bars = Bars(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}", markup=False),
                console=Console(stderr=True),
            )
            self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Take the bars away."""
        if self._bars is not None:
            self._bars.stop()

    def __call__(self, what: str, done: int, total: int, words: str = "") -> None:
        """Report that `done` of `total` are done."""
        now = time.monotonic()
        first = what not in self._began
        self._spoke = self._spoke or now
        began = self._began.setdefault(what, now)
        start = self._from.setdefault(what, max(done - 1, 0))
        if self._bars is not None:
            if first:
                self._tasks[what] = self._bars.add_task(what, total=total, note=words)
            self._bars.update(self._tasks[what], completed=done, note=words)
        elif done >= total or now - self._spoke >= self.EVERY:
            self._spoke = now
            left = (now - began) / max(done - start, 1) * (total - done)
            time_left = f", {_duration(left)} left" if done < total else f", took {_duration(now - began)}"
            note(f"{what}: {done}/{total}{time_left}{'  ' + words if words else ''}")


def _duration(seconds: float) -> str:
    """Hours, minutes and seconds.

    >>> _duration(75), _duration(4)
    ('1 min 15 s', '4 s')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
