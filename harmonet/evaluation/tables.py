"""Tables of scores and of comparisons."""

import math
from collections.abc import Sequence
from statistics import mean, stdev
from typing import Any

from harmonet.evaluation.comparisons import Compared, as_json, comparisons
from harmonet.evaluation.forms import Cell, Table, comma, latex, markdown
from harmonet.evaluation.result import MAIN, Evaluation, Patched
from harmonet.evaluation.significance import TOO_SMALL
from harmonet.evaluation.statistics import caution

MISSING = "-"  # not measured; never 0


def scores_table(evaluation: Evaluation, metric: str = MAIN) -> Table:
    """Mean and standard deviation over subjects of one metric, a row per method; the best of a column is marked.

    Best is the mean error that is lowest; a method that was not measured on every subject, and the noise in the target,
    are no candidates.
    """
    columns = [(p, r) for p in evaluation.platforms for r in evaluation.references]
    exponent = _exponent(evaluation, metric)
    best = {column: _lowest(evaluation, *column, metric) for column in columns}
    rows = []
    for method in evaluation.methods:
        cells = [Cell(method)]
        for column in columns:
            values = evaluation.values(method, *column, metric)
            cells.append(Cell(_spread(values, exponent), method in best[column]))
        rows.append(cells)
    card, n = evaluation.metrics[metric], len(evaluation.subjects)
    what = f"Mean squared error of {evaluation.measure}" if metric == MAIN else f"{metric}: {card.summary}"
    unit = f"1e{exponent} {card.unit}".rstrip() if exponent else card.unit
    ideal = f", best at {card.best:g}" if card.best else ""
    title = f"{what}{f' in {unit}' if unit else ''}{ideal}, in-mask voxels of whole volumes, {n} test subject(s)"
    return Table(metric, title, 1, ["method", *(f"{p}\nagainst {r}" for p, r in columns)], rows, _notes(evaluation))


def _notes(evaluation: Evaluation) -> list[str]:
    notes = []
    if evaluation.label:
        notes.append(f"data: {evaluation.label}")
    if evaluation.leaky:
        notes.append("LEAKY: test subjects were trained on; these numbers say nothing about new subjects")
    seeds = {len({s.run for s in evaluation.scores if (s.subject, s.method) == key}) for key in _predicted(evaluation)}
    if seeds and max(seeds) > 1:
        notes.append(f"seeds: {max(seeds)}, averaged within each subject")
    return notes


def _predicted(evaluation: Evaluation) -> set[tuple[str, str]]:
    return {(s.subject, s.method) for s in evaluation.scores if s.run}


def _lowest(evaluation: Evaluation, platform: str, against: str, metric: str) -> set[str]:
    """The methods with the lowest mean error of a column."""
    means = {
        method: mean(errors.values())
        for method in evaluation.methods
        if evaluation.kinds.get(method) != "floor"
        and len(errors := evaluation.errors(method, platform, against, metric)) == len(evaluation.subjects)
    }
    lowest = min((value for value in means.values() if math.isfinite(value)), default=math.nan)
    return {method for method, value in means.items() if value == lowest}


def _exponent(evaluation: Evaluation, metric: str) -> int:
    """A power of 1000 that brings the numbers of a table to a readable size, 0 for those that have one."""
    if metric == MAIN:
        return -3
    sizes = [abs(v) for s in evaluation.scores if (v := s.values.get(metric)) is not None and math.isfinite(v) and v]
    if not sizes:
        return 0
    middle = sorted(sizes)[len(sizes) // 2]
    return 0 if 0.05 <= middle < 1000 else 3 * math.floor((math.log10(middle) + 1) / 3)


def _spread(values: Sequence[float], exponent: int) -> str:
    """Mean and, with two subjects or more, standard deviation.

    >>> _spread([0.001, 0.003], -3), _spread([0.002], -3), _spread([], -3)
    ('2.000 ± 1.414', '2.000', '-')
    """
    if not values:
        return MISSING
    scale = 10.0**-exponent
    spread = f" ± {stdev(values) * scale:.3f}" if len(values) > 1 and all(map(math.isfinite, values)) else ""
    return f"{mean(values) * scale:.3f}{spread}"


def comparison_table(evaluation: Evaluation, against: str, metric: str = MAIN) -> Table:
    """Paired differences over subjects of every method, with intervals, tests and the worst subject."""
    exponent = _exponent(evaluation, metric)
    compared = comparisons(evaluation, against, metric)
    rows = [_comparison_row(row, exponent) for row in compared]
    tests = max((row.tests for row in compared), default=0)
    columns = ["platform", "method", "beside", "difference [95 %]", "gain % [95 %]", "p", "Holm", "Bonferroni"]
    notes = [caution(len(evaluation.subjects))]
    if tests:
        notes.append(
            f"p: exact two-sided signed-rank test over subjects; corrected for the {tests} tests of each method. The "
            "best single network is the best on these subjects."
        )
    scale = f" in 1e{exponent}" if exponent else ""
    title = f"Differences of {metric} against {against}{scale} over subjects; below 0 the method is better"
    return Table(f"{metric}_{against}_differences", title, 3, [*columns, "n", "worst subject"], rows, notes)


def _comparison_row(row: Compared, exponent: int) -> list[Cell]:
    found = row.comparison
    rival = row.role if row.role == row.rival else f"{row.role} ({row.rival})"
    if found is None:
        texts = [row.problem, *[MISSING] * 6]
    else:
        scale = 10.0**-exponent
        ends, gains = (
            "" if i is None else f" [{i.low * s:.{d}f}, {i.high * s:.{d}f}]"
            for i, s, d in ((found.interval, scale, 3), (found.gain_interval, 1, 1))
        )
        texts = [
            f"{found.mean * scale:+.3f}{ends}",
            f"{found.gain:.1f}{gains}",
            *(_p(value) for value in (row.p, row.holm, row.bonferroni)),
            str(found.n),
            f"{found.worst.subject} {found.worst.value * scale:+.3f}",
        ]
    return [Cell(text) for text in (row.platform, row.method, rival, *texts)]


def _p(value: float | None) -> str:
    return "no test" if value is None else f"{value:.3g}"


def patch_table(evaluation: Evaluation) -> Table:
    """The paper's table: mean and standard deviation over patches, and its test with its warning."""
    rows = [[Cell(text) for text in _patch_row(row)] for row in evaluation.patched]
    n = next((row.test.n for row in evaluation.patched if row.test is not None), len(evaluation.subjects))
    return Table(
        "patches",
        "Patch error in 1e-3 over patches of all subjects, and the paper's test against the best single network",
        4,
        ["platform", "against", "method", "beside", "patch error", "p", "Bonferroni", "patches"],
        rows,
        [f"{TOO_SMALL} These come from {n} subject(s).", *_notes(evaluation)],
    )


def _patch_row(row: Patched) -> list[str]:
    p, corrected, patches = ("no test", "no test", MISSING)
    if row.test is not None:
        p, corrected, patches = _p(row.test.p), _p(row.corrected), str(row.test.patches)
    return [
        row.platform,
        row.against,
        row.method,
        row.rival,
        f"{row.mean * 1e3:.3f} ± {row.deviation * 1e3:.3f}",
        p,
        corrected,
        patches,
    ]


def tables_of(evaluation: Evaluation) -> list[Table]:
    """Every table: scores and differences of each metric, and the paper's where it was asked for."""
    found = [scores_table(evaluation, metric) for metric in evaluation.metrics]
    found += [comparison_table(evaluation, r, metric) for metric in evaluation.metrics for r in evaluation.references]
    return found + ([patch_table(evaluation)] if evaluation.patched else [])


def statistics_of(evaluation: Evaluation) -> list[dict[str, Any]]:
    """Every comparison, for JSON."""
    return [
        as_json(row)
        for metric in evaluation.metrics
        for against in evaluation.references
        for row in comparisons(evaluation, against, metric)
    ]


def files_of(evaluation: Evaluation) -> dict[str, str]:
    """The text of all tables, by file name."""
    forms = {"md": markdown, "tex": latex, "csv": comma}
    return {f"{table.name}.{end}": form(table) for table in tables_of(evaluation) for end, form in forms.items()}
