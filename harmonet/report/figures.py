"""Pictures of an evaluation, as PNG.

Slices are axial, anterior up, the subject's left on the left: volumes are in closest-canonical axes (RAS+).
"""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from harmonet.report.scored import BASELINES, SCALE, EvaluationLike, MapsLike
from harmonet.report.slices import PREDICTION, SOURCE, TARGET, TRUTH, Floats, Slice, slices

ANISOTROPIC = 0.2  # the reference's FA above which a principal direction means something
DPI = 120
BRIGHT = 0.7  # FA of full brightness
LOG_RATIO = 15.0  # errors that differ by more than this share a logarithmic axis
JUDGED = (PREDICTION, SOURCE)  # whose error is shown
TITLES = {
    SOURCE: "source\n(interpolated to this grid)",
    PREDICTION: "prediction",
    TARGET: "measured target",
    TRUTH: "noise-free truth",
}


def picture(maps: MapsLike, out: Path, *, label: str = "", voxel_size: Sequence[float] = (1.0, 1.0, 1.0)) -> Path:
    """`out`, a PNG of one platform: signal and its error above, directions (if it has any) and their error below.

    Args:
        maps: One subject's volumes.
        out: The file to write.
        label: What must be said of the data.
        voxel_size: Mm along each axis, for the shape of the voxels.
    """
    images = slices(maps)
    columns = len(images) + len(JUDGED)
    scalar = maps.target.shape[-1] == 1
    figure = _figure(2.3 * columns, 4.3 if scalar else 7.8)
    figure.get_layout_engine().set(hspace=0.08)
    panels = figure.subplots(1 if scalar else 2, columns, squeeze=False)
    for axes in panels.ravel():
        axes.set_axis_off()
        axes.set_aspect(voxel_size[1] / voxel_size[0])
    _signal_row(figure, panels[0], images, "intensity" if scalar else "mean signal over directions, S/S0")
    if not scalar:
        _direction_row(figure, panels[1], images)
    title = f"{maps.platform}, subject {maps.subject}: prediction by {maps.method}"
    figure.suptitle(_plain(title + (f"\n{_wrap(label)}" if label else "")), fontsize=12)
    return _save(figure, out)


def frames(maps: MapsLike, folder: Path, voxel_size: Sequence[float] = (1.0, 1.0, 1.0)) -> dict[str, Path]:
    """Name of the image to a PNG of its slice (signal, directions), all of one size to be laid on each other."""
    images = slices(maps)
    written = {}
    for name, image in images.items():
        figure = _figure(8.0, 4.6)
        panels = figure.subplots(1, 2)
        for axes in panels:
            axes.set_axis_off()
            axes.set_aspect(voxel_size[1] / voxel_size[0])
        _show(panels[0], image.mean, "gray", _ceiling([i.mean for i in images.values()]))
        _show_colour(panels[1], image)
        _letters(panels[0])
        figure.suptitle(_plain(f"{maps.platform}, {maps.subject}: {name}"), fontsize=11)
        written[name] = _save(figure, folder / f"{maps.platform}-{name.split()[0]}.png")
    return written


def error_bars(evaluation: EvaluationLike, out: Path) -> Path:
    """`out`, a PNG of the error of each method on each platform: the mean over test subjects, and each of them."""
    references, methods = list(evaluation.references), list(evaluation.methods)
    columns = len(evaluation.platforms)
    figure = _figure(4.2 * columns + 1.5, (0.32 * len(methods) + 1.3) * len(references) + 0.5)
    grid = figure.subplots(len(references), columns, squeeze=False, sharex=True, sharey=True)
    errors = [score.sh_mse for score in evaluation.scores if score.sh_mse > 0]
    logarithmic = bool(errors) and max(errors) > LOG_RATIO * min(errors)
    for row, reference in zip(grid, references, strict=True):
        for axes, platform in zip(row, evaluation.platforms, strict=True):
            found = {m: [v * SCALE for v in evaluation.values(m, platform, reference)] for m in methods}
            _error_panel(axes, found, logarithmic=logarithmic)
            axes.set_title(_plain(f"{platform}, against {reference}"), fontsize=10)
    for axes in grid[-1]:
        axes.set_xlabel(f"MSE of {evaluation.measure} in 1e-3", fontsize=9)
    n = len(evaluation.subjects)
    figure.suptitle(f"Error per method: line = mean, circles = each of {n} test subject{'s' * (n != 1)}", fontsize=11)
    return _save(figure, out)


def _error_panel(axes: Any, found: Mapping[str, Sequence[float]], *, logarithmic: bool) -> None:
    """A row per method: its errors on one platform."""
    from matplotlib.ticker import LogLocator, NullFormatter

    for place, (method, colour) in enumerate(_colours(list(found)).items()):
        values = found[method]
        if not values:
            continue
        if not logarithmic:  # a bar stands on 0, which a logarithmic axis does not have
            axes.barh(place, np.mean(values), color=colour, height=0.66, alpha=0.55)
        axes.plot([np.mean(values)], [place], marker="|", markersize=16, mew=3.5, color=colour)
        axes.plot(values, [place] * len(values), "o", markersize=4, mfc="white", mec="black", mew=0.8)
    if logarithmic:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_yticks(range(len(found)), [_plain(method) for method in found])
    axes.set_ylim(len(found) - 0.4, -0.6)
    axes.grid(axis="x", color="0.9")
    axes.set_axisbelow(True)


def by_group(evaluation: EvaluationLike, out: Path) -> Path:
    """`out`, a PNG of the error in each group of channels, a panel per platform, against the truth where known."""
    reference = list(evaluation.references)[-1]
    platforms, methods = list(evaluation.platforms), list(evaluation.methods)
    figure = _figure(3.9 * len(platforms) + 2.2, 4.2)
    panels = figure.subplots(1, len(platforms), squeeze=False, sharey=True)[0]
    colours = _colours(methods)
    for axes, platform in zip(panels, platforms, strict=True):
        for number, method in enumerate(methods):
            chosen = (method, platform, reference)
            tables = [s.by_group for s in evaluation.scores if (s.method, s.platform, s.against) == chosen]
            if not tables:
                continue
            groups = list(tables[0])
            errors = [float(np.mean([table[name] for table in tables])) * SCALE for name in groups]
            marker = "osD^vPX*"[number % 8]
            axes.plot(
                range(len(groups)), errors, marker=marker, markersize=5, color=colours[method], label=_plain(method)
            )
            axes.set_xticks(range(len(groups)), [_plain(name) for name in groups])
        axes.set_yscale("log")
        axes.grid(color="0.92", which="both")
        axes.set_title(_plain(f"{platform}, against {reference}"), fontsize=10)
    panels[0].set_ylabel("MSE per channel in 1e-3")
    handles = {label: line for axes in panels for line, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(list(handles.values()), list(handles), loc="outside right center", fontsize="small", frameon=False)
    return _save(figure, out)


def _signal_row(figure: Any, row: Sequence[Any], images: Mapping[str, Slice], what: str) -> None:
    """Mean signal of every image, then the error of those that are judged."""
    judge, reference = list(images.items())[-1]
    top = _ceiling([image.mean for image in images.values()])
    for axes, (name, image) in zip(row, images.items(), strict=False):
        shown = _show(axes, image.mean, "gray", top)
        axes.set_title(TITLES[name], fontsize=10)
    _letters(row[0])
    _colour_bar(figure, shown, row[: len(images)], what)
    errors = [np.abs(images[name].mean - reference.mean) for name in JUDGED]
    for axes, name, error in zip(row[len(images) :], JUDGED, errors, strict=True):
        shown = _show(axes, error, "cividis", _ceiling(errors, 99))
        axes.set_title(f"|{name} - {judge}|\nmean {_mean(error)}", fontsize=10)
    _colour_bar(figure, shown, row[len(images) :], "absolute error")


def _mean(error: Floats) -> str:
    finite = error[np.isfinite(error)]
    return f"{finite.mean():.4f}" if finite.size else "not a number"


def _direction_row(figure: Any, row: Sequence[Any], images: Mapping[str, Slice]) -> None:
    """Directions of every image, then the angle by which those that are judged miss the reference's."""
    judge, reference = list(images.items())[-1]
    for axes, image in zip(row, images.values(), strict=False):
        _show_colour(axes, image)
    key = "red left-right, green anterior-posterior, blue superior-inferior\n"
    key += f"brightness: FA, full at {BRIGHT}; sticks: principal direction in the plane"
    row[0].text(0, -0.05, key, transform=row[0].transAxes, fontsize=9, va="top", in_layout=False)
    certain = reference.anisotropy > ANISOTROPIC
    for axes, name in zip(row[len(images) :], JUDGED, strict=True):
        cosine = np.abs(np.sum(images[name].direction * reference.direction, axis=-1))
        angle = np.where(certain, np.degrees(np.arccos(np.clip(cosine, 0, 1))), np.nan)
        shown = _show(axes, angle, "cividis", 90.0)
        typical = f"median {np.nanmedian(angle):.1f}°" if certain.any() else "no anisotropic voxel"
        axes.set_title(f"angle of {name} to {judge}\n{typical}", fontsize=10)
    _colour_bar(figure, shown, row[len(images) :], f"degrees, where FA of the {judge} > {ANISOTROPIC}")


def _show(axes: Any, values: Floats, colours: str, top: float) -> Any:
    from matplotlib import colormaps

    scale = colormaps[colours].with_extremes(bad="white")
    return axes.imshow(
        values.T, cmap=scale, vmin=0, vmax=top, origin="lower", interpolation="nearest", aspect=axes.get_aspect()
    )


def _show_colour(axes: Any, image: Slice) -> None:
    """Direction-encoded colour, with sticks: the colour of a direction and of its mirror image is the same."""
    from matplotlib.collections import LineCollection

    colour = np.abs(image.direction) * np.clip(image.anisotropy / BRIGHT, 0, 1)[..., None]
    colour[~image.mask] = 1.0
    axes.imshow(colour.transpose(1, 0, 2), origin="lower", interpolation="nearest", aspect=axes.get_aspect())
    step = max(1, round(max(image.mask.shape) / 36))
    places = np.argwhere(image.anisotropy > ANISOTROPIC)
    x, y = places[(places % step == 0).all(axis=1)].T
    half, places = 0.5 * step * image.direction[x, y, :2], np.stack([x, y], axis=1)
    sticks = list(np.stack([places - half, places + half], axis=1))
    axes.add_collection(LineCollection(sticks, colors="white", linewidths=0.7))


def _colour_bar(figure: Any, shown: Any, row: Sequence[Any], label: str) -> None:
    figure.colorbar(shown, ax=list(row), location="bottom", shrink=1.5 / len(row), aspect=30, label=label)


def _letters(axes: Any) -> None:
    for x, y, letter in ((0.01, 0.5, "L"), (0.99, 0.5, "R"), (0.5, 0.99, "A"), (0.5, 0.01, "P")):
        axes.text(x, y, letter, transform=axes.transAxes, ha="center", va="center", fontsize=9, color="tab:red")


def _ceiling(values: Sequence[Floats], percentile: float = 99.8) -> float:
    """The top of a colour scale that a few bright voxels do not set."""
    found = np.concatenate([v[np.isfinite(v)] for v in values])
    return max(float(np.percentile(found, percentile)), 1e-6) if found.size else 1.0


def _colours(methods: Sequence[str]) -> dict[str, str]:
    """A colour per method that colour-blind readers can tell apart (Okabe and Ito 2008); baselines are grey."""
    palette = ["#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442", "#000000"]
    learned = [method for method in methods if method not in BASELINES]
    return {m: BASELINES.get(m) or palette[learned.index(m) % len(palette)] for m in methods}


def _plain(text: str) -> str:
    """Text that is drawn as it stands: between two dollar signs matplotlib reads mathematics."""
    return text.replace("$", r"\$")


def _wrap(text: str) -> str:
    return "\n".join(textwrap.wrap(text, 120))


def _figure(width: float, height: float) -> Any:
    """A figure of that size in inches, without pyplot and its global state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Any, out: Path) -> Path:
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=DPI)
    return out
