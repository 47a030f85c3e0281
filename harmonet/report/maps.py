"""Pictures of volumes, as PNG: the platforms side by side, and predictions beside what they should be.

Slices are axial, anterior up, the subject's left on the left: volumes are in closest-canonical axes (RAS+).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from harmonet.report.drawing import figure_of, plain, save, wrapped
from harmonet.report.images import BRIGHT, SINGLE, SOURCE, TARGET, Floats, Views

ORIENTATION = "axial slice through the middle of the mask, anterior up, the subject's left (L) on the left"
TITLES = {SOURCE: "source, interpolated", TARGET: "measured target", "truth": "noise-free truth"}
SIGNAL, VALUE = "mean signal over directions, S/S0", "intensity"
FALSE = "cividis"  # of errors: even in lightness, and the same to colour-blind readers


def unit_of(seen: Views) -> str:
    """What the maps of grey values show."""
    return VALUE if seen.scalar else SIGNAL


def platforms_picture(seen: Sequence[Views], source: str, out: Path) -> Path:
    """`out`, a PNG of one slice of the source and of every target as it was measured, in mm on one scale of greys.

    The source is shown on the grid of the target with the largest voxels, which is nearest to its own.

    Args:
        seen: One per target platform.
        source: Name of the source platform.
        out: The file to write.
    """
    coarse = max(seen, key=lambda each: float(np.prod(each.voxel_size)))
    shown = [(f"{source}\n(source, on the grid of {coarse.platform})", coarse, SOURCE)]
    shown += [(f"{each.platform}\n(measured target, {_size(each)})", each, TARGET) for each in seen]
    figure = figure_of(2.9 * len(shown) + 0.6, 3.9)
    panels = figure.subplots(1, len(shown), squeeze=False)[0]
    planes = [each.images[name].mean[:, :, each.middle] for _, each, name in shown]
    top = ceiling(planes)
    for axes, plane, (title, each, _) in zip(panels, planes, shown, strict=True):
        drawn = _show(axes, plane, "gray", top, each)
        axes.set_title(plain(title), fontsize=9)
        axes.set_xlabel("mm")
    panels[0].set_ylabel("mm")
    _letters(panels[0])
    figure.colorbar(drawn, ax=list(panels), label=unit_of(seen[0]), shrink=0.75)
    figure.suptitle(plain(f"The same head on every platform: subject {seen[0].subject}"))
    return save(figure, out)


def comparison(seen: Views, out: Path, *, label: str = "") -> Path:
    """`out`, a PNG of one platform: what was predicted beside the reference, with absolute errors below.

    Rows are the mean signal (SH of l = 0) and its error, direction-encoded FA (if there are directions) and its error;
    each row has one scale.

    Args:
        seen: The images.
        out: The file to write.
        label: What must be said of the data.
    """
    names = list(seen.images)
    rows = 2 if seen.scalar else 4
    height, width = (seen.mask.shape[axis] * seen.voxel_size[axis] for axis in (1, 0))
    panel = 1.95  # inches, beside 1.3 for the colour bar
    figure = figure_of((panel + 0.1) * len(names) + 1.3, rows * (panel * height / width + 0.2) + 1.2)
    grid = figure.subplots(rows, len(names), squeeze=False)
    for axes in grid.ravel():
        axes.set(xticks=[], yticks=[])  # the layout measures ticks, even of axes that are off
        axes.set_axis_off()
    for axes, name in zip(grid[0], names, strict=True):
        axes.set_title(wrapped(title_of(seen, name), 24), fontsize=9.5)
    _grey_rows(figure, grid[:2], seen)
    if not seen.scalar:
        _colour_rows(figure, grid[2:], seen)
    title = f"{seen.platform}, subject {seen.subject}, {_size(seen)}"
    figure.suptitle(plain(title) + (f"\n{wrapped(label)}" if label else ""), fontsize=11)
    return save(figure, out)


def title_of(seen: Views, name: str) -> str:
    """An image in words, with what made it.

    Used by the pictures and by the viewer.
    """
    made = {"prediction": seen.method, SINGLE: seen.rival}.get(name, "")
    return f"{TITLES.get(name, name)}{f': {made}' if made else ''}"


def _grey_rows(figure: Any, rows: Any, seen: Views) -> None:
    """Mean signal of every image, and below it the error of those that are judged."""
    planes = {name: image.mean[:, :, seen.middle] for name, image in seen.images.items()}
    top = ceiling(list(planes.values()))
    for axes, plane in zip(rows[0], planes.values(), strict=True):
        drawn = _show(axes, plane, "gray", top, seen)
    _letters(rows[0][0])
    figure.colorbar(drawn, ax=list(rows[0]), label="\n".join(unit_of(seen).split(", ")), shrink=0.85)
    errors = {name: seen.error(name)[:, :, seen.middle] for name in seen.judged}
    _error_row(figure, rows[1], errors, seen, "absolute error of it", digits=4)


def _colour_rows(figure: Any, rows: Any, seen: Views) -> None:
    """Direction-encoded FA of every image, and below it the error of those that are judged."""
    for axes, image in zip(rows[0], seen.images.values(), strict=True):
        colour = image.colour[:, :, seen.middle].copy()
        colour[~seen.mask[:, :, seen.middle]] = 1.0
        axes.imshow(colour.transpose(1, 0, 2), origin="lower", interpolation="nearest", extent=_extent(seen))
    _letters(rows[0][0])
    key = f"red: left-right\ngreen: front-back\nblue: feet-head\nfull at FA {BRIGHT}"
    rows[0][-1].text(1.06, 0.5, key, transform=rows[0][-1].transAxes, fontsize=8, va="center", in_layout=False)
    errors = {name: seen.colour_error(name)[:, :, seen.middle] for name in seen.judged}
    _error_row(figure, rows[1], errors, seen, "error of colour\n(RMS of three)", digits=3)


def _error_row(figure: Any, row: Any, errors: Mapping[str, Floats], seen: Views, what: str, *, digits: int) -> None:
    """Errors on one scale; the reference, which has none, says so."""
    top = ceiling(list(errors.values()), 99)
    for axes, (name, error) in zip(row, errors.items(), strict=False):
        drawn = _show(axes, error, FALSE, top, seen)
        finite = error[np.isfinite(error)]
        told = f"{finite.mean():.{digits}f}" if finite.size else "not a number"
        axes.set_title(plain(f"|{name} - {seen.reference}|\nmean {told}"), fontsize=8.5)
    row[-1].text(0.5, 0.5, f"{seen.reference} is what\nerrors are taken from", ha="center", va="center", fontsize=8)
    figure.colorbar(drawn, ax=list(row), label=what, shrink=0.85)


def _show(axes: Any, plane: Floats, colours: str, top: float, seen: Views) -> Any:
    from matplotlib import colormaps

    scale = colormaps[colours].with_extremes(bad="white")
    return axes.imshow(
        plane.T, cmap=scale, vmin=0, vmax=top, origin="lower", interpolation="nearest", extent=_extent(seen)
    )


def _extent(seen: Views) -> tuple[float, float, float, float]:
    """Of an axial slice, in mm."""
    x, y = (seen.mask.shape[axis] * seen.voxel_size[axis] for axis in (0, 1))
    return 0, x, 0, y


def _size(seen: Views) -> str:
    edges = [f"{edge:g}" for edge in np.round(seen.voxel_size, 2)]
    return f"{edges[0]} mm" if len(set(edges)) == 1 else f"{' x '.join(edges)} mm"


def _letters(axes: Any) -> None:
    from matplotlib.patheffects import withStroke

    for x, y, letter in ((0.03, 0.5, "L"), (0.97, 0.5, "R"), (0.5, 0.97, "A"), (0.5, 0.03, "P")):
        axes.text(
            x,
            y,
            letter,
            transform=axes.transAxes,
            ha="center",
            va="center",
            fontsize=9,
            path_effects=[withStroke(linewidth=2, foreground="white")],
        )


def ceiling(values: Sequence[Floats], percentile: float = 99.8) -> float:
    """The top of a colour scale that a few bright voxels do not set."""
    found = np.concatenate([v[np.isfinite(v)] for v in values])
    return max(float(np.percentile(found, percentile)), 1e-6) if found.size else 1.0
