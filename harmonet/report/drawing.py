"""What all pictures share: the figure, colours that colour-blind readers can tell apart, text as it stands."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harmonet.report.scored import BASELINES

DPI = 110
PALETTE = ["#0072B2", "#E69F00", "#CC79A7", "#56B4E9", "#D55E00", "#009E73", "#000000"]  # Okabe and Ito 2008
MARKERS = "osD^vPX*"


def colours(methods: Sequence[str]) -> dict[str, str]:
    """A colour per method; baselines are grey. Where there are more methods than colours, markers tell them apart."""
    learned = [method for method in methods if method not in BASELINES]
    return {m: BASELINES.get(m) or PALETTE[learned.index(m) % len(PALETTE)] for m in methods}


def plain(text: str) -> str:
    """Text that is drawn as it stands: between two dollar signs matplotlib reads mathematics."""
    return text.replace("$", r"\$")


def wrapped(text: str, width: int = 110) -> str:
    """The text on lines of at most that many characters, drawn as it stands."""
    return plain("\n".join(textwrap.wrap(text, width)))


def figure_of(width: float, height: float) -> Any:
    """A figure of that size in inches, without pyplot and its global state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save(figure: Any, out: Path) -> Path:
    """`out`, written."""
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=DPI)
    return out
