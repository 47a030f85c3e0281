"""The section of tables: errors, comparisons, every measured metric, with the files that hold them."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

from harmonet.report.parts import Part
from harmonet.report.scored import BASELINES, MAIN, NOISE, SCALE, EvaluationLike, TableLike, summary
from harmonet.report.verdict import answers_of
from harmonet.runs import Trained

ENDS = ("md", "tex", "csv")  # of a table's files
LONG = 150  # rows: a longer table stands in its files alone


@dataclass(frozen=True)
class Entry:
    """One entry of the main table; `best` of its column."""

    text: str
    worst: str = ""
    best: bool = False


def scores(evaluation: EvaluationLike, runs: Sequence[Trained]) -> Part:
    """The section."""
    answers = answers_of(evaluation, runs)
    main: list[dict[str, Any]] = []
    others: dict[str, list[dict[str, Any]]] = {}
    for table in evaluation.tables():
        if table.name.startswith(f"{MAIN}_"):
            main.append(_told(table) | {"answers": _rows_of(table, answers)})
        elif table.name != MAIN:
            others.setdefault(_metric_of(table.name, evaluation), []).append(_told(table))
    content = {
        "n": len(evaluation.subjects),
        "measure": evaluation.measure,
        "columns": [(p, r) for p in evaluation.platforms for r in evaluation.references],
        "rows": _main_rows(evaluation, answers),
        "truth": "truth" in evaluation.references,
        "noise": NOISE,
        "main": MAIN,
        "ends": ENDS,
        "comparisons": main[::-1],  # that against the truth, which counts most, first
        "others": others,
        "broken": (broken := _not_finite(evaluation)),
    }
    return Part(content, broken)


def _told(table: TableLike) -> dict[str, Any]:
    return {"table": table, "long": len(table.rows) > LONG}


def _rows_of(table: TableLike, answers: set[str]) -> list[Sequence[Any]]:
    """The rows of final answers, of a table whose second column names methods."""
    return [row for row in table.rows if row[1].text in answers]


def _metric_of(name: str, evaluation: EvaluationLike) -> str:
    """The metric that a table is of, by the table's name."""
    for reference in evaluation.references:
        name = name.removesuffix(f"_{reference}_differences")
    return name


def _main_rows(evaluation: EvaluationLike, answers: set[str]) -> list[tuple[str, str, list[Entry]]]:
    """Method, its kind (`answer`, `floor`, `baseline`, `network`), and an entry per platform and reference."""
    columns = [(p, r) for p in evaluation.platforms for r in evaluation.references]
    lowest = {}
    for platform, reference in columns:  # the noise in the target is no method and wins nothing
        found = [evaluation.values(m, platform, reference) for m in evaluation.methods if m != NOISE]
        lowest[platform, reference] = min((e for v in found if v and math.isfinite(e := mean(v))), default=math.nan)
    rows = []
    for method in evaluation.methods:
        kind = "floor" if method == NOISE else "baseline" if method in BASELINES else "network"
        entries = []
        for column in columns:
            errors = evaluation.numbers(method, *column)
            values = list(errors.values())
            best = bool(values) and method != NOISE and mean(values) == lowest[column]
            entries.append(Entry(summary(values), _worst(errors), best))
        rows.append((method, "answer" if method in answers else kind, entries))
    return rows


def _worst(errors: Mapping[str, float]) -> str:
    """The subject with the highest error, where there are several."""
    if len(errors) < 2 or not all(map(math.isfinite, errors.values())):
        return ""
    subject = max(errors, key=errors.__getitem__)
    return f"{subject} {errors[subject] * SCALE:.3f}"


def _not_finite(evaluation: EvaluationLike) -> list[str]:
    return [
        f"the error of {s.method} on {s.platform} of {s.subject} against {s.against} is not a number"
        for s in evaluation.scores
        if not math.isfinite(s.sh_mse)
    ]


def unrounded(evaluation: EvaluationLike) -> str:
    """CSV with a line per score, a column per metric; nothing is scaled, and what was not measured is empty."""
    names = list(dict.fromkeys(name for score in evaluation.scores for name in score.values))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["method", "platform", "subject", "against", "run", *names])
    for s in evaluation.scores:
        numbers = ["" if (value := s.values.get(name)) is None else value for name in names]
        writer.writerow([s.method, s.platform, s.subject, s.against, s.run, *numbers])
    return out.getvalue()


def finite(value: Any) -> Any:
    """The same for JSON, which knows no NaN: null in its place."""
    if isinstance(value, Mapping):
        return {str(key): finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
