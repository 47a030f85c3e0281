"""How final answers compare, in words: counted and measured, with no claim beyond that."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import mean

from harmonet.report.scored import INTERPOLATION, SCALE, EvaluationLike
from harmonet.runs import Trained

LINEAR = ("linear", "rish_linear")  # baselines that are fitted, as an evaluation names them
SAME = 0.005  # errors that differ by less than this fraction are called the same


@dataclass(frozen=True)
class Verdict:
    """How one run's answer on one platform compares; `tone` is `good`, `bad` or `even`."""

    text: str
    tone: str


def answer_of(evaluation: EvaluationLike, run: Trained, platform: str) -> str | None:
    """The method that is a run's final answer on a platform: its last stage, or the network that it chose."""
    prefix = evaluation.prefixes.get(run.folder, "")
    reference = evaluation.references[-1]
    own = [m for m in evaluation.methods if m.startswith(prefix) and evaluation.values(m, platform, reference)]
    staged = [m for m in own if ", stage " in m]
    chosen = [m for m in own if m == prefix + run.networks.get(platform, "")]
    return next(reversed(staged or chosen), None)


def _rivals(evaluation: EvaluationLike, answer: str, platform: str) -> dict[str, tuple[str, float]]:
    """What an answer must beat, in words, to its method and mean error."""
    reference = evaluation.references[-1]
    means = {m: mean(v) for m in evaluation.methods if (v := evaluation.values(m, platform, reference)) and m != answer}
    rivals = {}
    singles = [m for m in evaluation.singles if m in means and math.isfinite(means[m])]
    if singles:
        best = min(singles, key=means.__getitem__)
        rivals["the best single network"] = (best, means[best])
    first, staged, _ = answer.partition(", stage ")
    if staged and f"{first}, stage 0" in means:  # joint training alone helps or harms; this is what the fusion adds
        rivals["its own first stage"] = (f"{first}, stage 0", means[f"{first}, stage 0"])
    if INTERPOLATION in means:
        rivals["interpolation"] = (INTERPOLATION, means[INTERPOLATION])
    if linear := [method for method in LINEAR if method in means]:
        best = min(linear, key=means.__getitem__)
        rivals["the best linear baseline"] = (best, means[best])
    return rivals


def verdicts(evaluation: EvaluationLike, run: Trained) -> Iterator[Verdict]:
    """One sentence per platform, on the mean over the test subjects."""
    reference = evaluation.references[-1]
    for platform in evaluation.platforms:
        answer = answer_of(evaluation, run, platform)
        if answer is None:
            continue
        error = mean(evaluation.values(answer, platform, reference))
        if not math.isfinite(error):
            yield Verdict(f"{platform}: the error of {answer} is not a number.", "bad")
            continue
        told, tones = [], set()
        for name, (method, other) in _rivals(evaluation, answer, platform).items():
            named = name if method == name else f"{name} ({method})"
            words, tone = _compare(error, other, f"{named}, {other * SCALE:.3f}")
            told.append(words)
            tones.add(tone)
        tone = "bad" if "bad" in tones else "good" if tones == {"good"} else "even"
        yield Verdict(f"{platform}: {answer} has an error of {error * SCALE:.3f}: {'; '.join(told)}.", tone)


def _compare(error: float, other: float, named: str) -> tuple[str, str]:
    """The comparison of two errors in words, and its tone.

    >>> _compare(0.9, 1.0, "diqt"), _compare(1.2, 1.0, "diqt")
    (('10.0 % lower than diqt', 'good'), ('worse, 20.0 % higher than diqt', 'bad'))
    >>> _compare(5.0, 1.0, "diqt")[0], _compare(1.0, 1.001, "diqt")[0]
    ('worse, 5.0 times that of diqt', 'the same within 0.5 % as diqt')
    """
    change = error / other - 1 if other > 0 else math.inf
    if abs(change) < SAME:
        return f"the same within {100 * SAME:g} % as {named}", "even"
    if change < 0:
        return f"{-100 * change:.1f} % lower than {named}", "good"
    how_much = f"{change + 1:.1f} times that of" if change > 1 else f"{100 * change:.1f} % higher than"
    return f"worse, {how_much} {named}", "bad"


def one_of_each(evaluation: EvaluationLike, runs: Sequence[Trained]) -> list[Trained]:
    """The first run of each sweep: the others share its rows."""
    return list({evaluation.prefixes.get(run.folder, ""): run for run in reversed(runs)}.values())[::-1]


def headline(evaluation: EvaluationLike, runs: Sequence[Trained]) -> str:
    """How often the final answers end below their rivals; counted, with no claim beyond the count."""
    wins: dict[str, list[bool]] = {}
    for run in one_of_each(evaluation, runs):
        for platform in evaluation.platforms:
            answer = answer_of(evaluation, run, platform)
            if answer is None:
                continue
            error = mean(evaluation.values(answer, platform, evaluation.references[-1]))
            for name, (_, other) in _rivals(evaluation, answer, platform).items():
                wins.setdefault(name, []).append(error < other * (1 - SAME))
    counts = ", ".join(f"that of {name} on {sum(won)} of {len(won)} platforms" for name, won in wins.items())
    against = "the noise-free truth" if evaluation.references[-1] == "truth" else "the measured target"
    return f"Against {against}, the error of the final answer is lower than {counts}." if counts else ""
