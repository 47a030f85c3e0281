"""The section of figures: which are drawn, of which series, with the words that belong to them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harmonet.report.charts import by_group, error_bars, paired
from harmonet.report.graph import svg
from harmonet.report.images import Views
from harmonet.report.maps import ORIENTATION, comparison, platforms_picture
from harmonet.report.parts import Part, Shown, drawn, inlined, problems_of
from harmonet.report.scored import BASELINES, NOISE, EvaluationLike
from harmonet.report.verdict import answer_of, answers_of, rivals, series_of
from harmonet.report.wiring import wiring_of
from harmonet.runs import Trained

MOST = 6  # series whose paired plots, curves and wiring are shown
PAIRED = ("the best single network", "the best linear baseline")


def figures(
    evaluation: EvaluationLike,
    statistics: Sequence[Mapping[str, Any]],
    runs: Sequence[Trained],
    seen: Mapping[str, Views | str],
    folder: Path,
) -> Part:
    """The section.

    Args:
        evaluation, runs: What is shown.
        statistics: Every comparison, as the evaluation's JSON has it.
        seen: Platform to its images, or to why there are none.
        folder: For the PNGs.
    """
    series = series_of(evaluation, runs)
    firsts = {name: members[0] for name, members in list(series.items())[:MOST]}
    charts = _charts(evaluation, statistics, list(firsts.values()), folder)
    maps = _maps(evaluation, runs[0].task.source.name, seen, folder)
    # Those of the networks alone, which double the page, where there is one series to look at.
    curves = {name: _curves(run)[: None if len(firsts) == 1 else 1] for name, run in firsts.items()}
    wiring = {name: _wiring(name, run) for name, run in firsts.items()}
    every = [*charts, *maps, *(image for images in curves.values() for image in images), *wiring.values()]
    content = {
        "charts": charts,
        "maps": maps,
        "curves": curves,
        "wiring": wiring,
        "shown": len(firsts),
        "series": len(series),
        "runs": len(runs),
    }
    return Part(content, problems_of(every))


def _charts(
    evaluation: EvaluationLike, statistics: Sequence[Mapping[str, Any]], firsts: Sequence[Trained], folder: Path
) -> list[Shown]:
    reference, n = evaluation.references[-1], len(evaluation.subjects)
    chosen = _compared(evaluation, statistics, firsts)
    pairs = [_pairs(evaluation, statistics, run) for run in firsts]
    return [
        drawn(
            "Error per method",
            folder / "errors.png",
            lambda out: error_bars(evaluation, out),
            caption="Error per method: the mean, and each subject as a circle. Lower is better; baselines are grey.",
            alt=f"Chart of the error of each method on each platform, {n} subject(s); its numbers are in the table.",
        ),
        drawn(
            "Error by group of channels",
            folder / "by_order.png",
            lambda out: by_group(evaluation, chosen, out),
            caption=f"Error by group of channels (SH order), against the {reference}, logarithmic.",
            alt="Chart of the error in each SH order; its numbers are in scores.csv.",
        ),
        drawn(
            "Subject by subject",
            folder / "paired.png",
            lambda out: paired(evaluation, pairs, out),
            caption=f"Subject by subject, against the {reference}: from the best single network, and from the best "
            "linear baseline, to the final answer.",
            alt="Paired plots of each subject's error; its numbers are in scores.csv.",
        ),
    ]


def _pairs(
    evaluation: EvaluationLike, statistics: Sequence[Mapping[str, Any]], run: Trained
) -> dict[str, list[tuple[str, str]]]:
    """Platform to what a series' answer is joined to by lines, subject by subject."""
    found = {}
    for platform in evaluation.platforms:
        answer = answer_of(evaluation, run, platform)
        if answer is not None:
            beside = rivals(evaluation, statistics, answer, platform)
            found[platform] = [(one.rival, answer) for role in PAIRED for one in beside if one.role == role]
    return found


def _compared(
    evaluation: EvaluationLike, statistics: Sequence[Mapping[str, Any]], firsts: Sequence[Trained]
) -> list[str]:
    """The methods whose errors by order are drawn: baselines, the noise, answers and what they are compared with."""
    answers = answers_of(evaluation, firsts)
    wanted = {*BASELINES, NOISE, *answers} - {"identity"}
    for platform in evaluation.platforms:
        for answer in answers:
            wanted |= {one.rival for one in rivals(evaluation, statistics, answer, platform)}
    return [method for method in evaluation.methods if method in wanted]


def _maps(evaluation: EvaluationLike, source: str, seen: Mapping[str, Views | str], folder: Path) -> list[Shown]:
    """The platforms side by side, then each platform's predictions."""
    good = [each for each in seen.values() if isinstance(each, Views)]
    pictures = []
    if good:
        pictures.append(
            drawn(
                "The platforms",
                folder / "platforms.png",
                lambda out: platforms_picture(good, source, out),
                caption=f"The same head on every platform: {ORIENTATION}, in mm, one scale of greys.",
                alt=f"Slices of {source} and of each measured target, subject {good[0].subject}.",
            )
        )
    for name in evaluation.platforms:
        each = seen.get(name, "the evaluation has no volumes of it")
        pictures.append(
            Shown(name, problem=each) if isinstance(each, str) else _compared_maps(each, evaluation, folder)
        )
    return pictures


def _compared_maps(seen: Views, evaluation: EvaluationLike, folder: Path) -> Shown:
    rows = "mean signal and its absolute error" + (
        "" if seen.scalar else "; direction-encoded FA of a tensor fitted to the signal, and the error of its colour"
    )
    return drawn(
        seen.platform,
        folder / f"{seen.platform}.png",
        lambda out: comparison(seen, out, label=evaluation.label),
        caption=f"{seen.platform}, subject {seen.subject}: {rows}; {ORIENTATION}. Errors: from the {seen.reference}.",
        alt=f"Slices of {', '.join(seen.images)} for {seen.platform}, and their errors.",
    )


def _curves(run: Trained) -> list[Shown]:
    """The training curves of a run and of the networks alone in it."""
    singles = sorted(path for path in (run.folder / "singles").glob("*") if path.is_dir())
    found = [inlined(f"{run.folder.name}: training", run.folder / "curves.png")]
    return found + [inlined(f"{run.folder.name}: {path.name} alone", path / "curves.png") for path in singles]


def _wiring(name: str, run: Trained) -> Shown:
    """The composition drawn."""
    title = f"Wiring of {name}"
    try:
        drawing = svg(wiring_of(run.recipe)).replace(' xmlns="http://www.w3.org/2000/svg"', "")  # HTML knows its SVG
    except Exception as error:  # a network of a stranger is built and run for this
        return Shown(title, problem=f"it cannot be drawn ({type(error).__name__}: {error})")
    return Shown(
        title, caption=f"{name}: boxes are networks, fusions and predictions; arrows what each reads.", drawing=drawing
    )
