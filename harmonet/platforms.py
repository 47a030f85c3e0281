"""Acquisition vocabulary: platforms, the task of predicting some from another, grids and their alignment."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from harmonet.errors import DataError, NotFoundError, ShapeError, nearest

Affine = NDArray[np.float64]
Indices = NDArray[np.int_]
Triple = tuple[float, float, float]

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


def check_name(name: str, what: str) -> str:
    """`name` itself, if it is fit to name a folder or a layer; subjects and platforms both pass here.

    >>> check_name("../sub", "subject")
    Traceback (most recent call last):
    harmonet.errors.DataError: subject '../sub' is not a plain name: use letters, digits, _ and -, at most 64.
    """
    if not NAME.fullmatch(name):
        raise DataError(f"{what} {name!r} is not a plain name: use letters, digits, _ and -, at most 64.")
    return name


@dataclass(frozen=True)
class Platform:
    """One scanner with one protocol.

    Attributes:
        name: `<scanner>_<protocol>`, lower case.
        voxel_size: mm along each voxel axis.
        shells: b-values in s/mm², without b = 0.
        directions: number of directions, all shells together.
        te, tr: echo and repetition time in ms, None where not known.
    """

    name: str
    voxel_size: Triple
    shells: tuple[float, ...]
    directions: int
    te: float | None = None
    tr: float | None = None

    def __post_init__(self) -> None:
        """Refuse a name that could not be a folder."""
        check_name(self.name, "platform")


@dataclass(frozen=True)
class Task:
    """Predict the `targets` from the `source`."""

    source: Platform
    targets: tuple[Platform, ...]

    def target(self, name: str) -> Platform:
        """The target platform of that name."""
        for platform in self.targets:
            if platform.name == name:
                return platform
        raise NotFoundError(f"platform {name!r} is not a target. {nearest(name, self.target_names)}")

    @property
    def target_names(self) -> tuple[str, ...]:
        """Names of the targets, in order."""
        return tuple(platform.name for platform in self.targets)

    @property
    def upsampling(self) -> dict[str, int]:
        """How many target voxels lie along one source voxel, for each target."""
        return {target.name: upsampling_between(self.source, target) for target in self.targets}


def upsampling_between(source: Platform, target: Platform) -> int:
    """Ratio of voxel sizes, 1 or 2; anything else is refused.

    >>> upsampling_between(Platform("a", (2.4, 2.4, 2.4), (1200,), 30), Platform("b", (1.2, 1.2, 1.2), (1200,), 60))
    2
    """
    ratios = np.asarray(source.voxel_size) / np.asarray(target.voxel_size)
    factor = round(float(ratios.mean()))
    if factor not in (1, 2) or np.abs(ratios - factor).max() > 1e-3 * factor:
        found = " x ".join(f"{ratio:.3g}" for ratio in ratios)
        raise ShapeError(
            f"{source.name} to {target.name} needs a voxel ratio of 1 or 2 on every axis, found {found}: "
            "resample one of them to such a grid."
        )
    return factor


def _cdmri2017() -> Task:
    st, sa = (2.4, 2.4, 2.4), (1.2, 1.2, 1.2)
    return Task(
        source=Platform("ge_st", st, (1200.0,), 30, te=89.0),
        targets=(
            Platform("prisma_st", st, (1200.0,), 30, te=89.0),
            Platform("connectom_st", st, (1200.0,), 30, te=89.0),
            Platform("connectom_sa", sa, (1200.0,), 60, te=68.0),
        ),
    )


PRESETS: Mapping[str, Task] = {"cdmri2017": _cdmri2017()}  # Blumberg et al. 2019, section 3


def preset(name: str) -> Task:
    """The task of that name.

    >>> preset("cdmri2017").target_names
    ('prisma_st', 'connectom_st', 'connectom_sa')
    """
    try:
        return PRESETS[name]
    except KeyError:
        raise NotFoundError(f"no preset {name!r}. {nearest(name, PRESETS)}") from None


@dataclass(frozen=True, eq=False)
class Grid:
    """Voxels in the world: `affine` takes voxel indices to mm in RAS+.

    How two of them lie on each other is an `Alignment`.
    """

    shape: tuple[int, int, int]
    affine: Affine

    @property
    def voxel_size(self) -> Triple:
        """Mm along each voxel axis."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(x), float(y), float(z)

    def refined(self, factor: int) -> "Grid":
        """The node-aligned grid of `factor` times finer voxels that spans the same voxel centres.

        >>> grid = Grid((10, 10, 10), np.diag([2.4, 2.4, 2.4, 1.0]))
        >>> grid.refined(2).shape, grid.refined(2).voxel_size[0]
        ((19, 19, 19), 1.2)
        """
        x, y, z = (factor * (n - 1) + 1 for n in self.shape)
        return Grid((x, y, z), self.affine @ np.diag([1 / factor, 1 / factor, 1 / factor, 1]))

    def same_as(self, other: "Grid", tolerance: float = 1e-3) -> bool:
        """Whether both have the same shape and place every corner within `tolerance` mm."""
        if self.shape != other.shape:
            return False
        corners = np.array(np.meshgrid(*[(0, n - 1) for n in self.shape])).reshape(3, -1)
        homogeneous = np.vstack([corners, np.ones(corners.shape[1])])
        return bool(np.abs((self.affine - other.affine) @ homogeneous).max() <= tolerance)


@dataclass(frozen=True)
class Alignment:
    """How the voxels of a target lie on those of a source whose axes point the same way.

    *Node*: a target voxel lies on every source voxel. *Cell*: every source voxel is split into `factor`³ target
    voxels. Patches, prediction and evaluation all find their places through this object.

    Attributes:
        factor: Target voxels along one source voxel.
        offset: Target index that lies on source voxel (0, 0, 0), or of the first voxel inside it (cell).
        kind: `node` or `cell`.
    """

    factor: int
    offset: tuple[int, int, int] = (0, 0, 0)
    kind: Literal["node", "cell"] = "node"

    def first(self, voxel: Indices) -> Indices:
        """Target index (..., 3) on source voxel `voxel` (..., 3), or of the first one inside it (cell).

        >>> Alignment(2, (1, 1, 1)).first(np.array([3, 0, 0])).tolist()
        [7, 1, 1]
        """
        return np.asarray(self.factor * voxel + np.asarray(self.offset))

    def corner(self, centre: Indices, edge: int) -> Indices:
        """First index of the target patch of `edge` voxels that is centred on source voxel `centre`.

        Raises:
            ShapeError: No patch of that edge can be centred there: odd edges fit nodes; cells take `factor` times an
                odd number.

        >>> Alignment(2).corner(np.array([5, 5, 5]), 19).tolist()
        [1, 1, 1]
        >>> Alignment(2, kind="cell").corner(np.array([5, 5, 5]), 14).tolist()
        [4, 4, 4]
        """
        if self.kind == "node" and edge % 2:
            return self.first(centre) - edge // 2
        if self.kind == "cell" and edge % self.factor == 0 and (edge // self.factor) % 2:
            return self.first(centre - edge // self.factor // 2)
        raise ShapeError(
            f"a target patch of {edge} voxels cannot be centred on a source voxel of {self.kind}-aligned grids at "
            f"ratio {self.factor}: use another patch size or network."
        )


def align(source: Grid, target: Grid, factor: int, tolerance: float = 0.05) -> Alignment:
    """How the target's voxels lie on the source's.

    At factor 1 nodes and cells are the same and called nodes.

    Args:
        source, target: Grids whose axes point the same way (both in closest-canonical order).
        factor: Target voxels along one source voxel.
        tolerance: Largest accepted distance between the centres, in target voxels.

    Raises:
        ShapeError: The grids are rotated against each other, have another ratio, or do not nest.

    >>> fine = Grid((10, 10, 10), np.diag([2.0, 2.0, 2.0, 1.0])).refined(2)
    >>> align(Grid((10, 10, 10), np.diag([2.0, 2.0, 2.0, 1.0])), fine, 2).offset
    (0, 0, 0)
    """
    between = np.linalg.inv(target.affine) @ source.affine
    # Over the whole volume a wrong ratio or angle adds up, so the test is on displacement, not on matrix entries.
    drift = np.abs(between[:3, :3] - factor * np.eye(3)) * np.asarray(source.shape)
    if drift.max() > 0.25:
        raise ShapeError(
            f"the grids need a voxel ratio of {factor} and parallel axes, found a drift of {drift.max():.2f} target "
            "voxels over the volume: resample the target to the source's axes."
        )
    half = (factor - 1) / 2  # from a source voxel's centre to that of the first target voxel inside it
    for kind, origin in (("node", between[:3, 3]), ("cell", between[:3, 3] - half)):
        nearest_index = np.rint(origin).astype(int)
        if np.abs(origin - nearest_index).max() <= tolerance:
            x, y, z = (int(i) for i in nearest_index)
            return Alignment(factor, (x, y, z), "node" if kind == "node" else "cell")
    shift = np.abs(between[:3, 3] - np.rint(between[:3, 3]))
    mm = float(np.linalg.norm(shift * np.asarray(target.voxel_size)))
    raise ShapeError(
        f"the voxel centres of source and target should coincide, found a shift of {mm:.2f} mm: "
        "resample the target so that the grids nest."
    )


def target_patch_size(patch_size: int, upsampling: int) -> int:
    """Edge of the target patch that belongs to a source patch of `patch_size` voxels.

    At upsampling 2 that is what a valid 3³ convolution and a transposed convolution (k3, s2) leave: 2n - 3.

    >>> target_patch_size(11, 1), target_patch_size(11, 2)
    (11, 19)
    """
    if patch_size < 7 or patch_size % 2 == 0:
        raise ShapeError(f"patch size {patch_size} has no centre voxel or is too small: use 7, 9, 11 or more, odd.")
    if upsampling not in (1, 2):
        raise ShapeError(f"upsampling {upsampling} is not supported: 1 or 2.")
    return patch_size if upsampling == 1 else 2 * patch_size - 3
