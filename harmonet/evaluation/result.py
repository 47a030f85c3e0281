"""What an evaluation holds: every number that was measured, and how errors over subjects are read from them."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from harmonet.evaluation.significance import PatchTest
from harmonet.evaluation.statistics import seed_means

if TYPE_CHECKING:
    from harmonet.evaluation.forms import Table

Floats = NDArray[np.float32]
Kind = Literal["baseline", "floor", "method", "single", "control", "stage"]

T = TypeVar("T")

MAIN = "sh_mse"  # the metric that is always measured, and chosen by


@dataclass(frozen=True)
class Score:
    """What one method of one run reached on one platform of one subject.

    Attributes:
        method: Baseline, network, or fusion and stage.
        platform, subject: What was predicted for whom.
        against: `target` (the noisy image) or `truth` (the noise-free one, known for simulated data).
        values: Metric to number, None where it was not measured; groups of channels as `sh_mse l = 2`.
        run: The run's folder name, which tells seeds and folds apart; empty for what no run predicted.
        calibration: Of a method with a variance, the mean of squared error over variance: 1 where it is honest.
    """

    method: str
    platform: str
    subject: str
    against: str
    values: Mapping[str, float | None]
    run: str = ""
    calibration: float | None = None

    @property
    def sh_mse(self) -> float:
        """Mean squared error of all channels in the target's mask; NaN where it was not measured."""
        value = self.values.get(MAIN)
        return float("nan") if value is None else value

    @property
    def by_group(self) -> dict[str, float]:
        """The same for each group of channels that the representation names, such as `l = 2`."""
        start = f"{MAIN} "
        groups = {name.removeprefix(start): value for name, value in self.values.items() if name.startswith(start)}
        return {name: float("nan") if value is None else value for name, value in groups.items()}

    def as_json(self) -> dict[str, Any]:
        """All of it."""
        return {
            "method": self.method,
            "platform": self.platform,
            "subject": self.subject,
            "against": self.against,
            "run": self.run,
            "values": dict(self.values),
            "calibration": self.calibration,
        }


@dataclass(frozen=True, eq=False)
class Maps:
    """One subject's volumes of one platform for pictures, each (X, Y, Z, C) on the target's grid, axes RAS+.

    Channels are SH of the signal (order 4) whatever the representation was; one channel for a scalar image.

    Attributes:
        platform, subject: What was predicted for whom.
        mask: (X, Y, Z), the target's.
        source: Interpolated to this grid.
        target: As it was measured.
        truth: Without noise; None where it is not known.
        prediction: Of `method`, the last one of the table that a run made.
        single: Of `rival`, the single network with the lowest error on this subject; None where `method` is the only
            one there is.
        voxel_size: Mm along each axis.
    """

    platform: str
    subject: str
    mask: NDArray[np.bool_]
    source: Floats
    target: Floats
    truth: Floats | None
    prediction: Floats
    method: str
    single: Floats | None = None
    rival: str = ""
    voxel_size: tuple[float, float, float] = (1.0, 1.0, 1.0)


@dataclass(frozen=True)
class MetricCard:
    """What a reader of a metric's numbers must know."""

    summary: str
    unit: str = ""
    best: float = 0.0


@dataclass(frozen=True)
class Patched:
    """The paper's patch-level test of one method against the best single network: see its warning.

    Attributes:
        method, platform, against: What was compared, as in a score.
        rival: The best single network.
        mean, deviation: Of the method's errors over patches.
        test: None where there was nothing to test.
        corrected: Its p times the number of such tests (Bonferroni).
    """

    method: str
    platform: str
    against: str
    rival: str
    mean: float
    deviation: float
    test: PatchTest | None
    corrected: float | None


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Scores of all methods on all test subjects.

    Attributes:
        scores: One per method, run, platform, subject and reference.
        methods: In the order of the table.
        platforms: Target platforms.
        subjects: Test subjects.
        label: What must be said of the data.
        leaky: Whether a test subject had been trained on.
        measure: What the channels are.
        notes: What reading the subjects had to say, a sentence each.
        maps: The first subject's volumes.
        kinds: Method to what it is; `single` is a network alone, `stage` an output of a composition, `method` a run's
            that is no network, `floor` no method.
        metrics: Metric to its card, in the order of the tables; `sh_mse` is the first.
        prefixes: Run folder to what begins the names of its methods.
        patched: The paper's test over patches, where it was asked for.
    """

    scores: Sequence[Score]
    methods: Sequence[str]
    platforms: Sequence[str]
    subjects: Sequence[str]
    label: str
    leaky: bool
    measure: str
    notes: Sequence[str]
    maps: Sequence[Maps]
    kinds: Mapping[str, Kind] = field(default_factory=dict)
    metrics: Mapping[str, MetricCard] = field(default_factory=lambda: {MAIN: MetricCard("mean squared error")})
    prefixes: Mapping[Path, str] = field(default_factory=dict)
    patched: Sequence[Patched] = ()
    _made: dict[Any, Any] = field(default_factory=dict, init=False, repr=False)

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """`make()`, made at the first call with this key: tables and JSON share the comparisons, which take time."""
        if key not in self._made:
            self._made[key] = make()
        found: T = self._made[key]
        return found

    @property
    def references(self) -> list[str]:
        """`target`, and `truth` where it is known."""
        return [name for name in ("target", "truth") if any(s.against == name for s in self.scores)]

    @property
    def singles(self) -> list[str]:
        """The single networks; the first stages where the networks alone were not scored."""
        alone = [method for method in self.methods if self.kinds.get(method) == "single"]
        return alone or [method for method in self.methods if method.endswith(", stage 0")]

    def numbers(self, method: str, platform: str, against: str, metric: str = MAIN) -> dict[str, float]:
        """Subject to number, seeds averaged; a subject for whom a seed has none is left out."""
        return self._over_seeds(method, platform, against, metric, lambda value: value)

    def errors(self, method: str, platform: str, against: str, metric: str = MAIN) -> dict[str, float]:
        """Subject to how far the number is from the best one; seeds are averaged last, so that signs do not cancel."""
        best = self.metrics[metric].best if metric in self.metrics else 0.0
        return self._over_seeds(method, platform, against, metric, lambda value: abs(value - best))

    def values(self, method: str, platform: str, against: str, metric: str = MAIN) -> list[float]:
        """The numbers of one method on one platform, one per subject."""
        return list(self.numbers(method, platform, against, metric).values())

    def _over_seeds(
        self, method: str, platform: str, against: str, metric: str, read: Callable[[float], float]
    ) -> dict[str, float]:
        found: dict[str, list[float | None]] = {}
        for s in self.scores:
            if (s.method, s.platform, s.against) == (method, platform, against):
                found.setdefault(s.subject, []).append(s.values.get(metric))
        measured = {name: [v for v in values if v is not None] for name, values in found.items() if None not in values}
        return seed_means({name: [read(v) for v in values] for name, values in measured.items()}) if measured else {}

    def tables(self) -> "list[Table]":
        """Every table, as the files have them."""
        from harmonet.evaluation.tables import tables_of  # tables are made of evaluations

        return self.once("tables", lambda: tables_of(self))

    def files(self) -> dict[str, str]:
        """Tables and statistics by file name."""
        from harmonet.evaluation.tables import files_of  # tables are made of evaluations

        return files_of(self)

    def as_json(self) -> dict[str, Any]:
        """Everything but the pictures, for JSON."""
        from harmonet.evaluation.tables import statistics_of

        return {
            "label": self.label,
            "leaky": self.leaky,
            "measure": self.measure,
            "notes": list(self.notes),
            "subjects": list(self.subjects),
            "platforms": list(self.platforms),
            "methods": [{"method": method, "kind": self.kinds.get(method)} for method in self.methods],
            "metrics": {name: vars(card) for name, card in self.metrics.items()},
            "scores": [score.as_json() for score in self.scores],
            "statistics": statistics_of(self),
        }
