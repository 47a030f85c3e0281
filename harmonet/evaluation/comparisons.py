"""Every method beside the best single network, the best linear baseline and interpolation, over subjects."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from harmonet.errors import DataError
from harmonet.evaluation.result import MAIN, Evaluation
from harmonet.evaluation.significance import bonferroni, holm
from harmonet.evaluation.statistics import Comparison, compare

INTERPOLATION = "interpolation"
BEST_SINGLE = "the best single network"
BEST_LINEAR = "the best linear baseline"
LINEAR = ("linear", "rish_linear")
UNLEARNED = ("identity", INTERPOLATION)  # what needs no test: it is what others are tested against


@dataclass(frozen=True)
class Compared:
    """One method beside one rival on one platform, by one metric against one reference.

    Attributes:
        metric, against, platform, method: What was compared.
        role: `the best single network` or `the best linear baseline`, the one of the lowest mean error on these very
            subjects, which favours it; or `interpolation`.
        rival: The method that has this role.
        comparison: Paired over subjects; None where that cannot be done, for the reason in `problem`.
        problem: Why there is no comparison, or no test.
        tests: How many tests the corrections count: those of this method by this metric against this reference.
        p, holm, bonferroni: Of the exact signed-rank test, bare and corrected; None with one subject.
    """

    metric: str
    against: str
    platform: str
    method: str
    role: str
    rival: str
    comparison: Comparison | None
    problem: str = ""
    tests: int = 0
    p: float | None = None
    holm: float | None = None
    bonferroni: float | None = None


def best_single(evaluation: Evaluation, platform: str, against: str, metric: str = MAIN) -> str | None:
    """The single network with the lowest mean error over these subjects; None where none was scored."""
    return _best(evaluation, evaluation.singles, platform, against, metric)


def best_linear(evaluation: Evaluation, platform: str, against: str, metric: str = MAIN) -> str | None:
    """The linear baseline with the lowest mean error over these subjects; None where none was scored."""
    return _best(evaluation, LINEAR, platform, against, metric)


def _best(evaluation: Evaluation, names: Sequence[str], platform: str, against: str, metric: str) -> str | None:
    means = {
        name: float(np.mean(list(errors.values())))
        for name in names
        if len(errors := evaluation.errors(name, platform, against, metric)) == len(evaluation.subjects)
    }
    finite = {name: value for name, value in means.items() if np.isfinite(value)}
    return min(finite, key=finite.__getitem__, default=None)


def comparisons(evaluation: Evaluation, against: str, metric: str = MAIN) -> list[Compared]:
    """All comparisons by one metric against one reference, in the order of the table.

    Each method asks a question of its own, so p-values are corrected for the number of that method's tests.
    """
    return evaluation.once(("comparisons", against, metric), lambda: _comparisons(evaluation, against, metric))


def _comparisons(evaluation: Evaluation, against: str, metric: str) -> list[Compared]:
    rows = []
    for platform in evaluation.platforms:
        rivals = {
            BEST_SINGLE: best_single(evaluation, platform, against, metric),
            BEST_LINEAR: best_linear(evaluation, platform, against, metric),
            INTERPOLATION: INTERPOLATION,
        }
        for method in evaluation.methods:
            errors = evaluation.errors(method, platform, against, metric)
            if method in UNLEARNED or evaluation.kinds.get(method) == "floor" or not errors:
                continue
            for role, rival in rivals.items():
                if rival is None or rival == method:
                    continue
                theirs = evaluation.errors(rival, platform, against, metric)
                row = Compared(metric, against, platform, method, role, rival, None)
                if theirs:
                    rows.append(_compared(row, errors, theirs))
    return _corrected(rows)


def _compared(row: Compared, errors: Mapping[str, float], theirs: Mapping[str, float]) -> Compared:
    try:
        found = compare(errors, theirs)
    except DataError as error:
        return replace(row, problem=str(error))
    if found.n < 2:
        return replace(row, comparison=found, problem="one subject, so no test")
    return replace(row, comparison=found, p=found.signed_rank.p)


def _corrected(rows: list[Compared]) -> list[Compared]:
    """The rows with p-values corrected for all tests of the same method among them."""
    p_values: dict[str, list[float]] = {}
    for row in rows:
        if row.p is not None:
            p_values.setdefault(row.method, []).append(row.p)
    stepped, plain = ({m: iter(way(found)) for m, found in p_values.items()} for way in (holm, bonferroni))
    return [
        row
        if row.p is None
        else replace(
            row, tests=len(p_values[row.method]), holm=next(stepped[row.method]), bonferroni=next(plain[row.method])
        )
        for row in rows
    ]


def as_json(row: Compared) -> dict[str, Any]:
    """A comparison without what can be read from the scores."""
    found = row.comparison
    content: dict[str, Any] = {
        name: getattr(row, name) for name in ("metric", "against", "platform", "method", "role", "rival", "problem")
    }
    content["n"] = None if found is None else found.n
    if found is not None:
        ends, gains = ([i.low, i.high] if i is not None else None for i in (found.interval, found.gain_interval))
        content |= {
            "difference": found.mean,
            "differences": dict(found.differences),
            "interval": ends,
            "gain_percent": found.gain,
            "gain_interval": gains,
            "worst_subject": found.worst.subject,
            "worst_difference": found.worst.value,
        }
    return content | {"p": row.p, "p_holm": row.holm, "p_bonferroni": row.bonferroni, "tests": row.tests}
