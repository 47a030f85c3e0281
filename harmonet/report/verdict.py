"""How final answers compare, in words: what the paired statistics over subjects show, and what they cannot show."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any, Literal

from harmonet.report.scored import LINEAR, MAIN, SCALE, EvaluationLike
from harmonet.runs import Trained

SAME = 0.5  # percent: errors that differ by less are called the same
LEVEL = 0.05  # of p after Holm, at or below which a gain is called one

Tone = Literal["good", "hint", "even", "bad"]
WORDS: Mapping[Tone, tuple[str, str]] = {  # symbol and words, so that nothing hangs on a colour
    "good": ("✔", "better"),
    "hint": ("◐", "lower, not proven"),
    "even": ("=", "no difference shown"),
    "bad": ("✘", "worse"),
}


@dataclass(frozen=True)
class Beside:
    """An answer beside one rival.

    Attributes:
        role: What the rival is, such as `the best single network`.
        rival: The method that has this role.
        error: Its mean error.
        gain: By how many percent the answer's mean error is below it; below 0, above it.
        n, lower: Subjects, and those of them for whom the answer's error is lower.
        tested: Whether the evaluation has a paired test of the two.
        interval: Of the gain; None with one subject or without a test.
        p, holm: Of the test, bare and corrected for all tests of its table.
    """

    role: str
    rival: str
    error: float
    gain: float
    n: int
    lower: int
    tested: bool = False
    interval: tuple[float, float] | None = None
    p: float | None = None
    holm: float | None = None

    @property
    def tone(self) -> Tone:
        """A gain must be shown to be called one; a loss need not be proven to be called a loss."""
        if self.gain < -SAME:
            sure = self.interval[1] < 0 if self.interval else 2 * self.lower < self.n
            return "bad" if sure else "even"
        if self.gain < SAME or (self.interval is not None and self.interval[0] <= 0):
            return "even"
        return "good" if self.holm is not None and self.holm <= LEVEL else "hint"

    @property
    def named(self) -> str:
        """The rival in words."""
        return self.role if self.role == self.rival else f"{self.role} ({self.rival})"

    @property
    def text(self) -> str:
        """All that is known of the two."""
        how = f"{_change(self.gain, self.interval)} {self.named}, {self.error * SCALE:.3f}"
        counted = f"lower for {self.lower} of {self.n}"
        if not self.tested:
            return f"{how}; {counted}, not tested"
        test = "one subject, so no test" if self.p is None else f"p = {self.p:.3g}, after Holm {self.holm:.3g}"
        return f"{how}; {counted}; {test}"

    @property
    def brief(self) -> str:
        """The change, and what the test says of it."""
        change = f"{_change(self.gain, self.interval)} {self.named}"
        return change if self.p is None else f"{change} (p = {self.p:.3g}, after Holm {self.holm:.3g})"


@dataclass(frozen=True)
class Verdict:
    """How one series' answer on one platform compares.

    Attributes:
        platform: What is predicted.
        tone: What the comparisons come to.
        text: One sentence.
        details: A line per rival.
    """

    platform: str
    tone: Tone
    text: str
    details: Sequence[str] = ()

    @property
    def symbol(self) -> str:
        """Of the tone."""
        return WORDS[self.tone][0]

    @property
    def word(self) -> str:
        """The tone in words."""
        return WORDS[self.tone][1]


def _change(gain: float, interval: tuple[float, float] | None) -> str:
    """A gain in percent, in words.

    >>> _change(10.0, (2.5, 20.0)), _change(-20.0, None), _change(-400.0, None), _change(0.1, None)
    ('10.0 % lower [95 %: 2.5 to 20.0] than', '20.0 % higher than', '5.0 times that of', 'the same within 0.5 % as')
    """
    low, high = sorted(end if gain >= 0 else -end for end in interval) if interval else (0.0, 0.0)
    ends = f" [95 %: {low:.1f} to {high:.1f}]" if interval else ""
    if abs(gain) < SAME and not interval:
        return f"the same within {SAME:g} % as"
    if gain < -100 and not interval:
        return f"{1 - gain / 100:.1f} times that of"
    return f"{abs(gain):.1f} % {'lower' if gain >= 0 else 'higher'}{ends} than"


def series_of(evaluation: EvaluationLike, runs: Sequence[Trained]) -> dict[str, list[Trained]]:
    """Name of a series to its runs: the folds and seeds of a sweep share their rows."""
    found: dict[str, list[Trained]] = {}
    for run in runs:
        found.setdefault(evaluation.prefixes.get(run.folder, ""), []).append(run)
    return {prefix.removesuffix(": ") or _name_of(group): group for prefix, group in found.items()}


def _name_of(runs: Sequence[Trained]) -> str:
    """Of the run's folder; of the folder of runs, where there are several."""
    folder = runs[0].folder.resolve()
    return (folder if len(runs) == 1 else folder.parent).name


def answer_of(evaluation: EvaluationLike, run: Trained, platform: str) -> str | None:
    """The method that is a run's final answer on a platform: its last stage, or the network that it chose."""
    prefix = evaluation.prefixes.get(run.folder, "")
    reference = evaluation.references[-1]
    if prefix in evaluation.methods:  # of a benchmark, which has one row for each series
        return prefix if evaluation.values(prefix, platform, reference) else None
    own = [m for m in evaluation.methods if m.startswith(prefix) and evaluation.values(m, platform, reference)]
    staged = [m for m in own if ", stage " in m]
    chosen = [m for m in own if m == prefix + run.networks.get(platform, "")]
    return next(reversed(staged or chosen), None)


def answers_of(evaluation: EvaluationLike, runs: Sequence[Trained]) -> set[str]:
    """Every series' answers on every platform."""
    firsts = [group[0] for group in series_of(evaluation, runs).values()]
    return {a for run in firsts for p in evaluation.platforms if (a := answer_of(evaluation, run, p)) is not None}


def rivals(
    evaluation: EvaluationLike, statistics: Sequence[Mapping[str, Any]], answer: str, platform: str
) -> list[Beside]:
    """What an answer must beat: what it was tested against, its own first stage, the best linear baseline.

    Args:
        evaluation: The scores.
        statistics: Every comparison, as the evaluation's JSON has it.
        answer, platform: What is compared.
    """
    reference = evaluation.references[-1]
    chosen = (MAIN, reference, platform, answer)
    tested = [
        row
        for row in statistics
        if (row["metric"], row["against"], row["platform"], row["method"]) == chosen
        and row.get("gain_percent") is not None
    ]
    ours = evaluation.numbers(answer, platform, reference)
    found = []
    for row in tested:
        one = _beside(evaluation, row["role"], row["rival"], ours, platform)
        if one is not None:
            interval = row["gain_interval"]
            ends = None if interval is None else (float(interval[0]), float(interval[1]))
            found.append(
                Beside(
                    one.role,
                    one.rival,
                    one.error,
                    row["gain_percent"],
                    one.n,
                    one.lower,
                    True,
                    ends,
                    row["p"],
                    row["p_holm"],
                )
            )
    known = {one.rival for one in found} | {answer}
    first, staged, _ = answer.partition(", stage ")
    untested = [("its own first stage", f"{first}, stage 0")] if staged else []  # what the fusion itself adds
    linear = [m for m in LINEAR if evaluation.numbers(m, platform, reference)]
    if linear:
        best = min(linear, key=lambda method: mean(evaluation.numbers(method, platform, reference).values()))
        untested.append(("the best linear baseline", best))
    more = [_beside(evaluation, role, rival, ours, platform) for role, rival in untested if rival not in known]
    return found + [one for one in more if one is not None]


def _beside(
    evaluation: EvaluationLike, role: str, rival: str, ours: Mapping[str, float], platform: str
) -> Beside | None:
    """An answer's errors beside a rival's, untested; None where no subject has both."""
    theirs = evaluation.numbers(rival, platform, evaluation.references[-1])
    both = [subject for subject in ours if subject in theirs]
    if not both:
        return None
    our_error, error = (mean(errors[subject] for subject in both) for errors in (ours, theirs))
    gain = 100 * (1 - our_error / error) if error > 0 else -math.inf
    return Beside(role, rival, error, gain, len(both), sum(ours[s] < theirs[s] for s in both))


def verdicts(evaluation: EvaluationLike, statistics: Sequence[Mapping[str, Any]], run: Trained) -> Iterator[Verdict]:
    """One sentence per platform, on the paired differences over the test subjects."""
    for platform in evaluation.platforms:
        answer = answer_of(evaluation, run, platform)
        if answer is not None:
            yield verdict_of(evaluation, statistics, answer, platform)


def verdict_of(
    evaluation: EvaluationLike, statistics: Sequence[Mapping[str, Any]], answer: str, platform: str
) -> Verdict:
    """How one answer compares on one platform."""
    error = mean(evaluation.values(answer, platform, evaluation.references[-1]))
    if not math.isfinite(error):
        return Verdict(platform, "bad", f"the error of {answer} is not a number.")
    found = rivals(evaluation, statistics, answer, platform)
    tone = overall(found)
    reasons = [one for one in found if one.tone == tone] or found
    if found and found[0] not in reasons:  # what everybody asks first, whatever decides
        reasons = [found[0], *reasons]
    told = f": {'; '.join(one.brief for one in reasons)}" if reasons else ""
    sentence = f"{answer} has an error of {error * SCALE:.3f}{told}."
    return Verdict(platform, tone, sentence, [one.text for one in found])


def overall(found: Sequence[Beside]) -> Tone:
    """What several comparisons come to: good where every test shows a gain and nothing untested speaks against it.

    >>> shown = Beside("a", "a", 1.0, 10.0, 9, 9, tested=True, interval=(5.0, 15.0), p=0.004, holm=0.008)
    >>> lower, higher = Beside("b", "b", 1.0, 8.0, 9, 9), Beside("c", "c", 1.0, -8.0, 9, 2)
    >>> overall([shown]), overall([shown, lower]), overall([shown, higher]), overall([lower])
    ('good', 'good', 'bad', 'hint')
    """
    tones = {one.tone for one in found}
    tests = {one.tone for one in found if one.tested}
    if "bad" in tones:
        return "bad"
    if "even" in tones or not found:
        return "even"
    return "good" if tests == {"good"} else "hint"


def limits(statistics: Sequence[Mapping[str, Any]], reference: str) -> str:
    """What the number of subjects and of tests leaves possible, where it leaves no gain that could be proven.

    The exact two-sided signed-rank test of n subjects gives 2 / 2^n at the least; Holm multiplies the smallest p by
    the number of tests of a method.
    """
    chosen = [row for row in statistics if (row["metric"], row["against"]) == (MAIN, reference) and row["tests"]]
    if not chosen:
        return ""
    tests, n = max(row["tests"] for row in chosen), max(row["n"] for row in chosen)
    least = min(1.0, 0.5 ** (n - 1) * tests)
    if least <= LEVEL:
        return ""
    return (
        f"After Holm for the {tests} tests of a method no p can be below {least:.3g}: with {n} subjects no gain can "
        f"be proven at {LEVEL:g} here, however large."
    )


def headline(evaluation: EvaluationLike, found: Sequence[Verdict]) -> str:
    """How often the answers are better, worse or neither."""
    against = "the noise-free truth" if evaluation.references[-1] == "truth" else "the measured target"
    counts = [f"{WORDS[t][1]} for {k} of {len(found)}" for t in WORDS if (k := sum(v.tone == t for v in found))]
    return f"Final answers against {against}: {', '.join(counts)}." if counts else ""
