# ruff: noqa: D102 (a protocol's attributes are named in its docstring or name themselves)
"""An evaluation as the report sees it: what is read of it, and no more, so that either can change alone."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

SCALE = 1e3  # errors are shown in units of 1e-3
MAIN = "sh_mse"  # the metric that is always measured
INTERPOLATION, NOISE = "interpolation", "the target itself"  # as an evaluation names them
LINEAR = ("linear", "rish_linear")  # baselines that are fitted, as an evaluation names them
BASELINES = {  # name to colour
    "identity": "#cccccc",
    INTERPOLATION: "#aaaaaa",
    "linear": "#8c8c8c",
    "rish_linear": "#737373",
    NOISE: "#555555",
}

Mask = NDArray[np.bool_]


class ScoreLike(Protocol):
    """What one method of one run reached on one platform of one subject."""

    @property
    def method(self) -> str: ...
    @property
    def platform(self) -> str: ...
    @property
    def subject(self) -> str: ...
    @property
    def against(self) -> str: ...
    @property
    def sh_mse(self) -> float: ...
    @property
    def by_group(self) -> Mapping[str, float]: ...
    @property
    def run(self) -> str: ...
    @property
    def values(self) -> Mapping[str, float | None]: ...


class MapsLike(Protocol):
    """One subject's volumes of one platform, channels (X, Y, Z, C) and mask (X, Y, Z) on the target's grid."""

    @property
    def platform(self) -> str: ...
    @property
    def subject(self) -> str: ...
    @property
    def method(self) -> str: ...
    @property
    def mask(self) -> Mask: ...
    @property
    def source(self) -> NDArray[np.float32]: ...
    @property
    def prediction(self) -> NDArray[np.float32]: ...
    @property
    def target(self) -> NDArray[np.float32]: ...
    @property
    def truth(self) -> NDArray[np.float32] | None: ...
    @property
    def single(self) -> NDArray[np.float32] | None: ...
    @property
    def rival(self) -> str: ...
    @property
    def voxel_size(self) -> tuple[float, float, float]: ...


class CellLike(Protocol):
    """One entry of a table."""

    @property
    def text(self) -> str: ...
    @property
    def best(self) -> bool: ...


class TableLike(Protocol):
    """A table: the first columns, `words` of them, are words, the others numbers; notes stand below it."""

    @property
    def name(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def words(self) -> int: ...
    @property
    def columns(self) -> Sequence[str]: ...
    @property
    def rows(self) -> Sequence[Sequence[CellLike]]: ...
    @property
    def notes(self) -> Sequence[str]: ...


class EvaluationLike(Protocol):
    """Scores of all methods on all test subjects, and the volumes of one."""

    @property
    def scores(self) -> Sequence[ScoreLike]: ...
    @property
    def methods(self) -> Sequence[str]: ...
    @property
    def platforms(self) -> Sequence[str]: ...
    @property
    def subjects(self) -> Sequence[str]: ...
    @property
    def label(self) -> str: ...
    @property
    def leaky(self) -> bool: ...
    @property
    def measure(self) -> str: ...
    @property
    def notes(self) -> Sequence[str]: ...
    @property
    def maps(self) -> Sequence[MapsLike]: ...
    @property
    def references(self) -> Sequence[str]: ...
    @property
    def singles(self) -> Sequence[str]: ...
    @property
    def kinds(self) -> Mapping[str, str]: ...
    @property
    def prefixes(self) -> Mapping[Path, str]: ...
    def tables(self) -> Sequence[TableLike]: ...
    def files(self) -> Mapping[str, str]: ...
    def numbers(self, method: str, platform: str, against: str) -> Mapping[str, float]: ...
    def values(self, method: str, platform: str, against: str) -> Sequence[float]: ...
    def as_json(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Section:
    """A further section of the page.

    Attributes:
        title: Its heading.
        text: Paragraphs.
        tables: Each as any table of an evaluation.
    """

    title: str
    text: Sequence[str] = ()
    tables: Sequence[TableLike] = ()


def summary(values: Sequence[float]) -> str:
    """Mean and, with two subjects or more, standard deviation, in units of 1e-3.

    >>> summary([0.001, 0.003]), summary([0.002]), summary([])
    ('2.000 ± 1.414', '2.000', '-')
    """
    if not values:
        return "-"
    spread = f" ± {stdev(values) * SCALE:.3f}" if len(values) > 1 and all(map(math.isfinite, values)) else ""
    return f"{mean(values) * SCALE:.3f}{spread}"
