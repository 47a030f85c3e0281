"""Charts of an evaluation's errors, as PNG: per method, per group of channels, subject by subject."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from harmonet.report.drawing import MARKERS, colours, figure_of, plain, save, wrapped
from harmonet.report.scored import SCALE, EvaluationLike

LOG_RATIO = 15.0  # errors that differ by more than this share a logarithmic axis
MANY = 24  # methods: above, one reference is drawn
NAMED = 5  # subjects: above, only the one with the highest error is named in paired plots
BELOW, ABOVE = "#0072B2", "#D55E00"  # a subject whose error falls, or rises


def error_bars(evaluation: EvaluationLike, out: Path) -> Path:
    """`out`, a PNG of the error of each method on each platform: the mean over test subjects, and each of them."""
    methods = list(evaluation.methods)
    references = list(evaluation.references)[-1 if len(methods) > MANY else 0 :]
    columns = len(evaluation.platforms)
    longest = max(map(len, methods))
    figure = figure_of(3.4 * columns + 0.085 * longest, (0.25 * len(methods) + 1.1) * len(references) + 0.4)
    grid = figure.subplots(len(references), columns, squeeze=False, sharex=True, sharey=True)
    errors = [score.sh_mse for score in evaluation.scores if score.sh_mse > 0]
    logarithmic = bool(errors) and max(errors) > LOG_RATIO * min(errors)
    for row, reference in zip(grid, references, strict=True):
        for axes, platform in zip(row, evaluation.platforms, strict=True):
            found = {m: [v * SCALE for v in evaluation.values(m, platform, reference)] for m in methods}
            _error_panel(axes, found, logarithmic=logarithmic)
            axes.set_title(plain(f"{platform}, against {reference}"), fontsize=10)
    for axes in grid[-1]:
        axes.set_xlabel("mean squared error in 1e-3", fontsize=9)
    n = len(evaluation.subjects)
    figure.suptitle(f"Error per method: bar or line = mean, circles = each of {n} test subject{'s' * (n != 1)}")
    return save(figure, out)


def _error_panel(axes: Any, found: Mapping[str, Sequence[float]], *, logarithmic: bool) -> None:
    """A row per method: its errors on one platform."""
    from matplotlib.ticker import LogLocator, NullFormatter

    for place, (method, colour) in enumerate(colours(list(found)).items()):
        values = found[method]
        if not values:
            continue
        if not logarithmic:  # a bar stands on 0, which a logarithmic axis does not have
            axes.barh(place, mean(values), color=colour, height=0.66, alpha=0.55)
        axes.plot([mean(values)], [place], marker="|", markersize=14, mew=3, color=colour)
        axes.plot(values, [place] * len(values), "o", markersize=4, mfc="white", mec="black", mew=0.8)
    if logarithmic:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_yticks(range(len(found)), [plain(method) for method in found])
    axes.set_ylim(len(found) - 0.4, -0.6)
    axes.grid(axis="x", color="0.9")
    axes.set_axisbelow(True)


def by_group(evaluation: EvaluationLike, methods: Sequence[str], out: Path) -> Path:
    """`out`, a PNG of the error in each group of channels, a panel per platform, against the truth where known."""
    reference, platforms = list(evaluation.references)[-1], list(evaluation.platforms)
    figure = figure_of(3.5 * len(platforms) + 0.5, 3.8 + 0.22 * -(-len(methods) // 3))
    panels = figure.subplots(1, len(platforms), squeeze=False, sharey=True)[0]
    palette = colours(methods)
    for axes, platform in zip(panels, platforms, strict=True):
        for number, method in enumerate(methods):
            chosen = (method, platform, reference)
            tables = [s.by_group for s in evaluation.scores if (s.method, s.platform, s.against) == chosen]
            if not tables:
                continue
            groups = list(tables[0])
            errors = [mean(table[name] for table in tables) * SCALE for name in groups]
            marker = MARKERS[number % len(MARKERS)]
            axes.plot(range(len(groups)), errors, marker=marker, ms=5, color=palette[method], label=plain(method))
            axes.set_xticks(range(len(groups)), [plain(name) for name in groups])
        axes.set_yscale("log")
        axes.grid(color="0.92", which="both")
        axes.set_title(plain(f"{platform}, against {reference}"), fontsize=10)
    panels[0].set_ylabel("mean squared error per channel in 1e-3")
    handles = {label: line for axes in panels for line, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(
        list(handles.values()), list(handles), loc="outside lower center", ncols=3, fontsize="small", frameon=False
    )
    return save(figure, out)


def paired(evaluation: EvaluationLike, pairs: Sequence[Mapping[str, Sequence[tuple[str, str]]]], out: Path) -> Path:
    """`out`, a PNG of errors subject by subject, against the truth where known.

    Args:
        evaluation: The scores.
        pairs: For each row of panels, platform to the pairs (rival, answer) that are joined by lines.
        out: The file to write.
    """
    platforms = list(evaluation.platforms)
    figure = figure_of(3.9 * len(platforms), 3.9 * len(pairs) + 0.5)
    grid = figure.subplots(len(pairs), len(platforms), squeeze=False)
    for row, of_platforms in zip(grid, pairs, strict=True):
        for axes, platform in zip(row, platforms, strict=True):
            _paired_panel(axes, evaluation, platform, of_platforms.get(platform, ()))
    for axes in grid[:, 0]:
        axes.set_ylabel("mean squared error in 1e-3")
    figure.suptitle("Each line is a subject: blue and solid falls, orange and dashed rises")
    return save(figure, out)


def _paired_panel(axes: Any, evaluation: EvaluationLike, platform: str, pairs: Sequence[tuple[str, str]]) -> None:
    """The pairs of one platform side by side."""
    reference, places, names = list(evaluation.references)[-1], [], []
    for number, (rival, answer) in enumerate(pairs):
        left = 2.6 * number
        theirs, ours = (evaluation.numbers(method, platform, reference) for method in (rival, answer))
        subjects = [subject for subject in theirs if subject in ours]
        worst = max(subjects, key=ours.__getitem__, default=None)
        for subject in subjects:
            ends = theirs[subject] * SCALE, ours[subject] * SCALE
            falls = ends[1] < ends[0]
            axes.plot(
                (left, left + 1),
                ends,
                marker="o",
                ms=4,
                lw=1.2,
                color=BELOW if falls else ABOVE,
                ls="-" if falls else "--",
            )
            if len(subjects) <= NAMED or subject == worst:
                axes.annotate(plain(subject), (left + 1, ends[1]), (4, 0), textcoords="offset points", fontsize=7)
        lower = sum(ours[subject] < theirs[subject] for subject in subjects)
        counted = f"lower for\n{lower} of {len(subjects)}"
        axes.text(left + 0.5, 1.0, counted, transform=axes.get_xaxis_transform(), va="top", ha="center", fontsize=8)
        places += [left, left + 1]
        names += [wrapped(rival, 12), wrapped(answer, 12)]
    axes.margins(y=0.22)
    axes.set_xlim(-0.5, max(places, default=1) + 0.9)
    axes.set_xticks(places, names, fontsize=7.5)
    axes.grid(axis="y", color="0.92")
    axes.set_title(plain(f"{platform}, against {reference}"), fontsize=10)
