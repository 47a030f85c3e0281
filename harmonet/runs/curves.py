"""Training curves of a run as a picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

CURVES = "curves.png"


def draw_curves(folder: Path, history: Sequence[Mapping[str, Any]]) -> list[Path]:
    """Validation error by epoch, one line per stage and platform, and alpha where there is one, in `curves.png`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    lines: dict[str, tuple[list[int], list[float]]] = {}
    for record in history:
        for term, error in record["validation"].items():
            stage, _, platform = term.partition("/")
            epochs, errors = lines.setdefault(f"{platform}, stage {stage}", ([], []))
            epochs.append(record["epoch"])
            errors.append(error)
    for number, (name, (epochs, errors)) in enumerate(sorted(lines.items())):
        axes.plot(epochs, errors, label=name, linestyle="-" if name.endswith("0") else "--", color=f"C{number % 10}")
    axes.set_xlabel("epoch")
    axes.set_ylabel("validation error (standardised MSE)")
    axes.set_yscale("log")
    if any(record["alpha"] is not None for record in history):
        right = axes.twinx()
        right.plot([r["epoch"] for r in history], [r["alpha"] for r in history], color="0.6", label="alpha")
        right.set_ylabel("alpha (grey)")
        right.set_ylim(-0.02, 1.02)
    axes.legend(fontsize="small")
    axes.set_title(f"{history[-1]['phase']}: training of {len(history)} epochs")
    path = folder / CURVES
    figure.savefig(path, dpi=120)
    return [path]
