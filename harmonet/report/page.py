"""The report: one page that opens from disk with nothing beside it, the scores as files, the pictures."""

import base64
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from harmonet.errors import OutputError, RunError
from harmonet.files import foreign_in, staged, write_whole
from harmonet.report.figures import figures
from harmonet.report.images import Views, views
from harmonet.report.parts import Made, Part, own_text, rendered, section
from harmonet.report.provenance import provenance
from harmonet.report.scored import MAIN, EvaluationLike, Section
from harmonet.report.scores import finite, scores, unrounded
from harmonet.report.verdict import WORDS, headline, limits, series_of, verdicts
from harmonet.report.viewer import viewer_data
from harmonet.runs import Trained

PAGE, SCORES, TABLE, FIGURES, TABLES = "report.html", "scores.json", "scores.csv", "figures", "tables"


def write_report(
    evaluation: EvaluationLike,
    runs: Sequence[Trained],
    out: Path,
    *,
    command: str = "",
    extra: Sequence[Section] = (),
) -> Path:
    """The page's path, `out`/report.html; beside it scores.json, scores.csv, figures/ and tables/.

    Everything is made aside and takes the place of `out` as a whole. A report that was there before is replaced.

    Args:
        evaluation: Scores, and volumes of one subject.
        runs: The runs that were scored.
        out: Folder to make.
        command: What was typed to get here.
        extra: Further sections, which stand after the tables.

    Raises:
        OutputError: `out` holds something that is no report of ours, or cannot be written; nothing has changed then.
        RunError: A part of the page could not be made; the rest is written, and the page says in red what is missing.
    """
    place = out.resolve()  # where `out` is a link, what it leads to is replaced, and the link stays
    refuse_foreign(out)
    with staged(place) as folder:
        document, problems = _files(evaluation, folder)
        page, more = _page(evaluation, runs, document, folder / FIGURES, command, extra, problems)
        write_whole(folder / PAGE, page.encode())
    problems += more
    if problems:
        others = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise RunError(f"{out / PAGE} is written but incomplete: {problems[0]}{others}; the page says where, in red.")
    return out / PAGE


def refuse_foreign(out: Path) -> None:
    """Refuse to replace anything but a report of ours and an empty folder."""
    place = out.resolve()
    if not place.exists():
        return
    if not place.is_dir():
        raise OutputError(f"{out} exists and is no folder: choose another name.")
    foreign = foreign_in(place, (PAGE, SCORES, TABLE, FIGURES, TABLES))
    if foreign or (any(place.iterdir()) and not (place / SCORES).is_file()):
        found = f"it holds {foreign}" if foreign else f"there is no {SCORES} in it"
        raise OutputError(f"{out} exists and is no report of harmonet ({found}): choose another folder.")


def _files(evaluation: EvaluationLike, folder: Path) -> tuple[dict[str, Any], list[str]]:
    """Write what stands beside the page; gives the evaluation's JSON, and what could not be written."""
    problems: list[str] = []

    def attempt(name: str, make: Callable[[], Any]) -> Any:
        try:
            return make()
        except Exception as error:  # metrics are anybody's; the page is still wanted, and says what it lacks
            problems.append(f"{name} could not be made ({type(error).__name__}: {error})")
            return {}

    document: dict[str, Any] = attempt(SCORES, evaluation.as_json)
    write_whole(folder / SCORES, (json.dumps(finite(document), indent=1) + "\n").encode())
    write_whole(folder / TABLE, unrounded(evaluation).encode())
    for name, text in attempt(TABLES, evaluation.files).items():
        write_whole(folder / TABLES / name, text.encode())
    return document, problems


def _page(
    evaluation: EvaluationLike,
    runs: Sequence[Trained],
    document: Mapping[str, Any],
    folder: Path,
    command: str,
    extra: Sequence[Section],
    problems: Sequence[str],
) -> tuple[str, list[str]]:
    """The page, and what of it could not be made."""
    seen: dict[str, Views | str] = {maps.platform: _seen(maps) for maps in evaluation.maps}
    made = [
        section("verdict", "Verdict", lambda: _verdict(evaluation, runs, _statistics(document))),
        section("scores", "Tables", lambda: scores(evaluation, runs)),
        *(_further(number, each) for number, each in enumerate(extra, start=1)),
        section("figures", "Figures", lambda: figures(evaluation, _statistics(document), runs, seen, folder)),
        section("viewer", "Slice viewer", lambda: _viewer(seen)),
        section("provenance", "Provenance", lambda: provenance(evaluation, runs, command)),
    ]
    missing = [problem for each in made for problem in each.problems]
    script = own_text("viewer.js")
    content = {
        "evaluation": evaluation,
        "n": len(evaluation.subjects),
        "facts": _facts(evaluation, runs),
        "warnings": _warnings(evaluation, runs),
        "sections": made,
        "problems": [*problems, *missing],
        "style": own_text("style.css"),
        "script": script,
        "digest": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    }
    return rendered("report.html", content), missing


def _statistics(document: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    if "statistics" not in document:
        raise RunError(f"there are no comparisons, since {SCORES} could not be made")
    found: Sequence[Mapping[str, Any]] = document["statistics"]
    return found


def _seen(maps: Any) -> Views | str:
    try:
        return views(maps)
    except Exception as error:  # as in every section
        return f"its images cannot be made ({type(error).__name__}: {error})"


def _facts(evaluation: EvaluationLike, runs: Sequence[Trained]) -> dict[str, str]:
    """What must be known before a number is read."""
    subjects = evaluation.subjects
    listed = ", ".join(subjects) if len(subjects) <= 12 else f"{', '.join(subjects[:12])} ..."
    seeds = sorted({run.recipe.seed for run in runs})
    series = len(series_of(evaluation, runs))
    folds = len({run.split.test for run in runs})
    return {
        "test subjects": f"{len(subjects)} ({listed})",
        "seeds": f"{len(seeds)} ({', '.join(map(str, seeds[:12]))}{' ...' if len(seeds) > 12 else ''})",
        "folds": str(folds) if folds > 1 else "1 (one split)",
        "runs": f"{len(runs)}" + (f" of {series} series" if series > 1 else ""),
        "trained on test subjects": "YES, leaky" if evaluation.leaky else "no",
    }


def _warnings(evaluation: EvaluationLike, runs: Sequence[Trained]) -> list[str]:
    """Everything that a reader should know and might not expect, a sentence each."""
    notes = dict.fromkeys(f"Recipe: {run.recipe.note}" for run in runs if run.recipe.note)
    labels = sorted({run.label for run in runs if run.label} - {evaluation.label})
    return [*notes, *(f"A run was trained on other data: {label}" for label in labels), *evaluation.notes]


def _verdict(evaluation: EvaluationLike, runs: Sequence[Trained], statistics: Sequence[Mapping[str, Any]]) -> Part:
    """The section: a sentence per platform and series, and what the number of subjects allows to say."""
    found = {
        name: list(verdicts(evaluation, statistics, members[0]))
        for name, members in series_of(evaluation, runs).items()
    }
    table = f"{MAIN}_{evaluation.references[-1]}_differences"
    cautions = [note for each in evaluation.tables() if each.name == table for note in each.notes]
    cautions += [limits(statistics, evaluation.references[-1])]
    counted = {
        name: ", ".join(f"{WORDS[t][0]} {k} {WORDS[t][1]}" for t in WORDS if (k := sum(v.tone == t for v in told)))
        for name, told in found.items()
    }
    every = [verdict for told in found.values() for verdict in told]
    content = {
        "headline": headline(evaluation, every),
        "series": found,
        "counted": counted,
        "cautions": [caution for caution in cautions if caution],
        "n": len(evaluation.subjects),
    }
    return Part(content)


def _further(number: int, each: Section) -> Made:
    made = section("extra", each.title, lambda: Part({"text": list(each.text), "tables": list(each.tables)}))
    return Made(f"extra-{number}", made.title, made.html, made.problems)


def _viewer(seen: Mapping[str, Views | str]) -> Part:
    problems = [f"{name} is not in the viewer: {each}" for name, each in seen.items() if isinstance(each, str)]
    good = [each for each in seen.values() if isinstance(each, Views)]
    if not good:
        raise RunError("; ".join(problems) or "the evaluation has no volumes")
    data = viewer_data(good)
    # A script element ends at its end tag, whatever quotes stand around it.
    text = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    steps = sorted({platform["step"] for platform in data["platforms"]})
    return Part({"json": text, "data": data, "problems": problems, "step": steps[-1]}, problems)
