"""Training curves of a run as a picture."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from harmonet.files import write_whole

CURVES = "curves.png"
STYLES = ("-", "--", ":", "-.")

Line = Mapping[str, Any]
Curves = Mapping[str, tuple[Sequence[int], Sequence[float]]]  # label to epochs and values


def draw_curves(folder: Path, history: Sequence[Line]) -> list[Path]:
    """The curves of a training in `curves.png`, by epoch.

    Validation error of each stage and platform beside the training's loss; that of each SH order in the last stage,
    where the representation has orders; learning rate; and alpha, where the fusion has one.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    orders = {label: _curve(history, read) for label, read in _order_readers(history)}
    figure = Figure(figsize=(13 if orders else 7.5, 7), layout="constrained")
    FigureCanvasAgg(figure)
    columns = figure.subplots(2, 2 if orders else 1, squeeze=False, sharex=True, height_ratios=[3, 1.2])
    terms = {label: _curve(history, read) for label, read in _term_readers(history)}
    _panel(columns[0][0], "validation error (standardised MSE)", terms, _place_of)
    if orders:
        _panel(columns[0][1], "the same by SH order, last stage", orders, _place_of)
        losses = {phase: _curve(history, _reader(phase, "loss")) for phase in _phases(history)}
        _panel(columns[1][1], "training loss", losses, lambda names, name: (names.index(name), 0))
    rates = {"learning rate": _curve(history, lambda line: line["learning_rate"])}
    _panel(columns[1][0], "learning rate", rates, lambda *_: (0, 0))
    alpha = _curve(history, lambda line: line["alpha"])
    if alpha[0]:
        right = columns[1][0].twinx()
        right.plot(*alpha, color="C1", linestyle="--", marker=".", markersize=3)
        right.set_ylabel("alpha (dashed)")
        right.set_ylim(-0.05, 1.05)
    for axes in columns[1]:
        axes.set_xlabel("epoch")
    figure.suptitle(f"{', '.join(_phases(history))}: {max(line['epoch'] for line in history)} epochs")
    picture = BytesIO()
    figure.savefig(picture, dpi=120)
    write_whole(folder / CURVES, picture.getvalue())
    return [folder / CURVES]


def _phases(history: Sequence[Line]) -> list[str]:
    return list(dict.fromkeys(line["phase"] for line in history))


def _reader(phase: str, *keys: str) -> Callable[[Line], float | None]:
    """What reads one number of a line of that phase; None where it has none."""

    def read(line: Line) -> float | None:
        value: Any = line if line["phase"] == phase else {}
        for key in keys:
            value = value.get(key, {})
        return value if isinstance(value, int | float) else None

    return read


def _term_readers(history: Sequence[Line]) -> Iterator[tuple[str, Callable[[Line], float | None]]]:
    """Label and reader of each stage and platform; members of one committee are told apart by their phase."""
    phases = _phases(history)
    for phase in phases:
        first = next(line for line in history if line["phase"] == phase)
        for term in sorted(first["validation"], key=lambda t: (t.partition("/")[2], t)):
            stage, _, platform = term.partition("/")
            label = f"{platform}, stage {stage}"
            yield label if len(phases) == 1 else f"{label}, {phase}", _reader(phase, "validation", term)


def _order_readers(history: Sequence[Line]) -> Iterator[tuple[str, Callable[[Line], float | None]]]:
    """Label and reader of each platform and order in the last stage that has the platform."""
    for phase in _phases(history):
        groups = next(line for line in history if line["phase"] == phase).get("groups", {})
        last = {term.partition("/")[2]: term for term in sorted(groups)}
        for platform, term in sorted(last.items()):
            for name in groups[term]:
                yield f"{platform}, {name}", _reader(phase, "groups", term, name)


def _curve(history: Sequence[Line], read: Callable[[Line], float | None]) -> tuple[list[int], list[float]]:
    found = [(line["epoch"], value) for line in history if (value := read(line)) is not None]
    return [epoch for epoch, _ in found], [value for _, value in found]


def _place_of(names: Sequence[str], name: str) -> tuple[int, int]:
    """Colour by platform, line by stage or order."""
    owner, _, part = name.partition(", ")
    owners = list(dict.fromkeys(other.partition(", ")[0] for other in names))
    parts = list(dict.fromkeys(other.partition(", ")[2] for other in names))
    return owners.index(owner), parts.index(part)


def _panel(axes: Any, title: str, curves: Curves, place: Callable[[Sequence[str], str], tuple[int, int]]) -> None:
    """Lines with a legend, errors and rates on a logarithmic axis where all are above 0."""
    names = list(curves)
    for name, (epochs, values) in curves.items():
        colour, style = place(names, name)
        line = STYLES[style % len(STYLES)]
        axes.plot(epochs, values, label=name, color=f"C{colour % 10}", linestyle=line, marker=".", markersize=3)
    if all(value > 0 for _, values in curves.values() for value in values):
        axes.set_yscale("log")
    axes.set_title(title, fontsize="medium")
    axes.grid(alpha=0.3)
    if len(names) > 1:
        axes.legend(fontsize="x-small", ncols=2 if len(names) > 8 else 1)
