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
Kind = Literal["node", "cell"]
KINDS: tuple[Kind, ...] = ("node", "cell")

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
    """The factor, 1 or 2, that is nearest to the ratio of voxel sizes (mean over the axes).

    The ratio need not be whole: a target that does not nest in the source's grid is resampled to the nearest grid
    that does (see `harmonet.data.volumes.bring_together`), and the run says so.

    Raises:
        ShapeError: The mean ratio lies outside 0.75 to 2.6, or one axis is more than 35 % away from the factor.

    >>> upsampling_between(Platform("a", (2.4, 2.4, 2.4), (1200,), 30), Platform("b", (1.25, 1.25, 1.25), (1200,), 60))
    2
    """
    ratios = np.asarray(source.voxel_size) / np.asarray(target.voxel_size)
    mean = float(ratios.mean())
    factor = 1 if mean < 1.5 else 2
    if not 0.75 <= mean <= 2.6 or np.abs(ratios - factor).max() > 0.35 * factor:
        found = " x ".join(f"{ratio:.3g}" for ratio in ratios)
        raise ShapeError(
            f"{source.name} to {target.name} needs a voxel ratio near 1 or 2 on every axis, found {found}: "
            "resample one of them, or leave it out."
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

    @property
    def cosines(self) -> Affine:
        """(3, 3) directions of the voxel axes in the world: the orthogonal matrix nearest to the affine's."""
        u, _, vt = np.linalg.svd(self.affine[:3, :3] / np.asarray(self.voxel_size))
        return np.asarray(u @ vt)

    def refined(self, factor: int, kind: Kind = "node") -> "Grid":
        """The grid of `factor` times finer voxels that is aligned with this one.

        A node-aligned one spans the same voxel centres, a cell-aligned one the same field of view.

        >>> grid = Grid((10, 10, 10), np.diag([2.4, 2.4, 2.4, 1.0]))
        >>> grid.refined(2).shape, grid.refined(2).affine[:3, 3].tolist()
        ((19, 19, 19), [0.0, 0.0, 0.0])
        >>> grid.refined(2, "cell").shape, grid.refined(2, "cell").affine[:3, 3].tolist()
        ((20, 20, 20), [-0.6, -0.6, -0.6])
        """
        x, y, z = (factor * (n - 1) + 1 if kind == "node" else factor * n for n in self.shape)
        inner = np.diag([1 / factor, 1 / factor, 1 / factor, 1])
        if kind == "cell":
            inner[:3, 3] = -(factor - 1) / (2 * factor)  # the first of the voxels that share voxel 0
        return Grid((x, y, z), self.affine @ inner)

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
    kind: Kind = "node"

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
        tolerance: Largest accepted distance between the centres in the middle of the source, in target voxels.

    Raises:
        ShapeError: The grids are rotated against each other, have another ratio, or do not nest.

    >>> fine = Grid((10, 10, 10), np.diag([2.0, 2.0, 2.0, 1.0])).refined(2)
    >>> align(Grid((10, 10, 10), np.diag([2.0, 2.0, 2.0, 1.0])), fine, 2).offset
    (0, 0, 0)
    """
    between = np.linalg.inv(target.affine) @ source.affine
    middle = (np.asarray(source.shape) - 1) / 2
    # Over the whole volume a wrong ratio or angle adds up, so the test is on displacement, not on matrix entries;
    # from the middle, where a header's rounding does least harm.
    drift = np.abs(between[:3, :3] - factor * np.eye(3)) @ middle
    if drift.max() > 0.25:
        raise ShapeError(
            f"the grids need a voxel ratio of {factor} and parallel axes, found {misfit(source, target, factor)}, a "
            f"drift of {drift.max():.2f} target voxels over half the volume: resample the target to the source's axes."
        )
    origin = between[:3, :3] @ middle + between[:3, 3] - factor * middle
    half = (factor - 1) / 2  # from a source voxel's centre to that of the first target voxel inside it
    kinds: tuple[tuple[Kind, Affine], ...] = (("node", origin), ("cell", origin - half))
    for kind, place in kinds:
        x, y, z = (round(float(i)) for i in place)
        if np.abs(place - (x, y, z)).max() <= tolerance:
            return Alignment(factor, (x, y, z), kind)
    raise ShapeError(
        "the voxel centres of source and target should coincide, found a shift of "
        f"{_shift(source, target):.2f} mm: resample the target so that the grids nest."
    )


def misfit(source: Grid, target: Grid, factor: int) -> str:
    """What keeps the target's voxels from lying on the source's, in words.

    >>> coarse = Grid((10, 10, 10), np.diag([2.4, 2.4, 2.4, 1.0]))
    >>> misfit(coarse, Grid((20, 20, 20), np.diag([1.25, 1.25, 1.25, 1.0])), 2)
    'voxel ratio 1.92'
    """
    found = []
    ratios = np.asarray(source.voxel_size) / np.asarray(target.voxel_size)
    if np.abs(ratios - factor).max() > 1e-3 * factor:
        words = [f"{ratio:.3g}" for ratio in ratios]
        found.append("voxel ratio " + (words[0] if len(set(words)) == 1 else " x ".join(words)))
    turn = target.cosines.T @ source.cosines
    # The sine of the half angle keeps its digits where the cosine of a small angle loses them.
    angle = 2 * np.rad2deg(np.arcsin(min(1.0, float(np.linalg.norm(turn - np.eye(3))) / 8**0.5)))
    if angle > 0.05:
        found.append(f"axes {angle:.1f}° apart")
    return ", ".join(found) or f"centres {_shift(source, target):.2f} mm apart"


def _shift(source: Grid, target: Grid) -> float:
    """Mm from the middle source voxel to the nearest target voxel."""
    middle = np.append((np.asarray(source.shape) - 1) // 2, 1)
    place = (np.linalg.inv(target.affine) @ source.affine @ middle)[:3]
    return float(np.linalg.norm((place - np.rint(place)) * np.asarray(target.voxel_size)))


def target_patch_size(patch_size: int, upsampling: int, kind: Kind = "node") -> int:
    """Edge of the target patch that belongs to a source patch of `patch_size` voxels.

    At upsampling 2 nodes leave what a valid 3³ convolution and a transposed convolution (k3, s2) leave, 2n - 3;
    cells are all the source patch's voxels, split in two.

    >>> target_patch_size(11, 1), target_patch_size(11, 2), target_patch_size(11, 2, "cell")
    (11, 19, 22)
    """
    if patch_size < 7 or patch_size % 2 == 0:
        raise ShapeError(f"patch size {patch_size} has no centre voxel or is too small: use 7, 9, 11 or more, odd.")
    if upsampling not in (1, 2):
        raise ShapeError(f"upsampling {upsampling} is not supported: 1 or 2.")
    return 2 * patch_size - 3 if upsampling == 2 and kind == "node" else upsampling * patch_size
