"""The connection network: two 3D convolutions from one network's features to another platform's prediction.

Blumberg et al. 2019 say "a stack of two 3D convolutions"; kernels, padding, width and the ReLU between them are our
choice, resolved from measured sizes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from math import prod
from operator import add

from torch import Tensor, nn
from torch.nn import functional as F

from harmonet.errors import NotFoundError, ShapeError, nearest

Size = tuple[int, ...]  # (C, X, Y, Z)


@dataclass(frozen=True)
class Step:
    """One convolution: its padding, its stride, whether it is transposed, its kernel."""

    padding: int
    stride: int = 1
    transposed: bool = False
    kernel: int = 3

    def __str__(self) -> str:
        """Kernel, stride and padding in short."""
        kind = "deconv" if self.transposed else "conv"
        return f"{kind} k{self.kernel} s{self.stride} p{self.padding}"

    def edge(self, size: int) -> int:
        """Voxels on edge that come out of `size`."""
        if self.transposed:
            return (size - 1) * self.stride + self.kernel - 2 * self.padding
        return (size + 2 * self.padding - self.kernel) // self.stride + 1

    def layer(self, in_channels: int, out_channels: int, bias: bool = True) -> nn.Module:
        """The convolution."""
        conv = nn.ConvTranspose3d if self.transposed else nn.Conv3d
        return conv(in_channels, out_channels, self.kernel, stride=self.stride, padding=self.padding, bias=bias)


def resolve(size: int, target: int) -> tuple[Step, Step] | None:
    """The two convolutions that take an edge of `size` voxels to one of `target`, centre to centre; None if none do.

    A kernel of 3 at stride 2 joins a source grid to the nodes at half its voxel size, one of 4 to the cells.

    >>> [str(step) for step in resolve(11, 19)]
    ['conv k3 s1 p0', 'deconv k3 s2 p0']
    """
    if target == size:
        return Step(1), Step(1)
    if target == size + 2:  # a feature that a valid convolution has shrunk
        return Step(2), Step(1)
    if target == 2 * size - 3:  # a source patch to the finer nodes
        return Step(0), Step(0, 2, transposed=True)
    if target == 2 * size + 1:  # the same from a shrunk feature
        return Step(1), Step(0, 2, transposed=True)
    if size == 2 * target - 3:  # finer nodes back to the source grid
        return Step(2, 2), Step(1)
    if target == 2 * size:  # a source patch to its cells
        return Step(1), Step(1, 2, transposed=True, kernel=4)
    if target == 2 * (size + 2):  # the same from a shrunk feature
        return Step(2), Step(1, 2, transposed=True, kernel=4)
    if size == 2 * target:  # cells back to the source grid
        return Step(1, 2, kernel=4), Step(1)
    return None


def fitting_edges(target: int) -> list[int]:
    """Edges of features from which two convolutions lead to one of `target` voxels.

    >>> fitting_edges(19)
    [9, 11, 17, 19, 35, 38]
    """
    return [size for size in range(3, 2 * target + 1) if resolve(size, target)]


def resample_about_centre(x: Tensor, edge: int) -> Tensor:
    """Trilinear interpolation of (B, C, m, m, m) to `edge` voxels, t, as if both showed the same field of view.

    An odd t is a grid of nodes: the outermost voxels lie on each other, voxel j on voxel j (m - 1) / (t - 1) of x. An
    even t is one of cells: the outer faces do, voxel j lies on voxel (j + 1/2) m / t - 1/2. Centre lies on centre.

    >>> import torch
    >>> x = torch.arange(3.0).expand(1, 1, 3, 3, 3)
    >>> resample_about_centre(x, 5)[0, 0, 0, 0], resample_about_centre(x, 6)[0, 0, 0, 0]
    (tensor([0.0000, 0.5000, 1.0000, 1.5000, 2.0000]), tensor([0.0000, 0.2500, 0.7500, 1.2500, 1.7500, 2.0000]))
    """
    return F.interpolate(x, size=(edge, edge, edge), mode="trilinear", align_corners=edge % 2 == 1)


@dataclass(frozen=True)
class Road:
    """What follows the first convolution: the grid between the two, and the second. Tensors of one road are summed."""

    between: int  # voxels on edge
    second: Step


@dataclass(frozen=True)
class Arrival:
    """How a tensor comes to the grid between: its first convolution, and for some an interpolation after it."""

    first: Step
    resampled: int | None = None  # voxels on edge that are interpolated

    def __str__(self) -> str:
        """The convolution in short."""
        return str(self.first) if self.resampled is None else f"{self.first}, trilinear"


class Junction(nn.Module):
    """A first convolution per tensor onto one grid, their sum, ReLU, a second convolution.

    The sum is what one convolution over the concatenated tensors would give, so it has one bias.
    """

    def __init__(self, channels: Sequence[int], arrivals: Sequence[Arrival], road: Road, width: int, out: int) -> None:
        super().__init__()
        self.arrivals = tuple(arrivals)
        self.firsts = nn.ModuleList(
            arrival.first.layer(c, width, bias=number == 0)
            for number, (c, arrival) in enumerate(zip(channels, arrivals, strict=True))
        )
        self.second = road.second.layer(width, out)
        self.road = road

    def forward(self, *z: Tensor) -> Tensor:
        """Each (B, C_i, ...) to (B, C_out, ...)."""
        brought = [
            conv(one) if arrival.resampled is None else self._resample(conv(one), arrival.resampled)
            for conv, one, arrival in zip(self.firsts, z, self.arrivals, strict=True)
        ]
        prediction: Tensor = self.second(F.relu(reduce(add, brought)))
        return prediction

    def _resample(self, y: Tensor, edge: int) -> Tensor:
        if y.shape[2] != edge:  # a larger window would be squeezed onto the patch
            raise ShapeError(
                f"a connection interpolates features of {edge} voxels on edge, found {y.shape[2]}: give the network "
                "patches of the size that it was composed for."
            )
        return resample_about_centre(y, self.road.between)

    def __str__(self) -> str:
        """First convolutions, then the second."""
        return f"{' + '.join(map(str, self.arrivals))}, {self.road.second}"


class ConnectionNet(nn.Module):
    """Conv3d, ReLU, Conv3d from features (B, C, X, Y, Z) to a prediction of another grid.

    Several tensors, such as several taps of a network, have a first convolution each and are summed before the ReLU;
    where they need unlike second convolutions, each kind goes its own road and the outcomes are summed.

    Args:
        features: (C, X, Y, Z) that comes in, or a list of such sizes where several tensors do.
        prediction: (C, X, Y, Z) that must come out.
        hidden: Width between the two; by default the incoming channels, of several tensors those of the widest.
        resample: "trilinear" interpolates between the convolutions where none lead from the one grid to the other;
            see `resample_about_centre`.

    Raises:
        ShapeError: No two convolutions lead from the one grid to the other.
        NotFoundError: There is no such way to resample.

    >>> net = ConnectionNet((100, 11, 11, 11), (28, 19, 19, 19))
    >>> sum(p.numel() for p in net.parameters())
    345728
    """

    def __init__(
        self,
        features: Size | Sequence[Size],
        prediction: Size,
        hidden: int | None = None,
        resample: str | None = None,
    ) -> None:
        super().__init__()
        if resample not in (None, "trilinear"):
            raise NotFoundError(f"a connection has no resample {resample!r}. {nearest(str(resample), ['trilinear'])}")
        sizes = _sizes(features)
        target = _edge(prediction, "a prediction")
        ways = [_way(_edge(size, "features"), target, resample) for size in sizes]
        roads = list(dict.fromkeys(road for _, road in ways))
        self.inputs = [[number for number, (_, taken) in enumerate(ways) if taken == road] for road in roads]
        self.junctions = nn.ModuleList()
        for road, numbers in zip(roads, self.inputs, strict=True):
            channels = [sizes[number][0] for number in numbers]
            width = max(channels) if hidden is None else hidden
            self.junctions.append(
                Junction(channels, [ways[number][0] for number in numbers], road, width, prediction[0])
            )

    def forward(self, *z: Tensor) -> Tensor:
        """(B, C_in, ...) of each size in turn to (B, C_out, ...)."""
        outcomes = [
            junction(*(z[number] for number in numbers))
            for junction, numbers in zip(self.junctions, self.inputs, strict=True)
        ]
        prediction: Tensor = reduce(add, outcomes)
        return prediction

    def __str__(self) -> str:
        """The convolutions, first ones before second; those of another road after a semicolon."""
        return "; ".join(map(str, self.junctions))


def _sizes(features: Size | Sequence[Size]) -> list[Size]:
    """A list of sizes, of one size alone too."""
    sizes = [tuple(size) for size in features if not isinstance(size, int)]
    return sizes or [tuple(size for size in features if isinstance(size, int))]


def _edge(size: Size, what: str) -> int:
    """Voxels on the edge of a cube."""
    if len(size) != 4 or len(set(size[1:])) != 1:
        found = " x ".join(map(str, size[1:])) or "no"
        raise ShapeError(
            f"a connection leads from cubes to cubes, found {what} of {found} voxels: tap a layer that gives a cube."
        )
    return size[1]


def _way(size: int, target: int, resample: str | None) -> tuple[Arrival, Road]:
    """How a tensor of `size` voxels on edge reaches a prediction of `target`."""
    steps = resolve(size, target)
    if steps is not None:
        first, second = steps
        return Arrival(first), Road(first.edge(size), second)
    if resample is None:
        fitting = ", ".join(map(str, fitting_edges(target)))
        raise ShapeError(
            f"no two convolutions lead from features of {size} x {size} x {size} voxels to a prediction of "
            f"{target} x {target} x {target}: tap a layer of edge {fitting} voxels, or ask for "
            'resample = "trilinear".'
        )
    return Arrival(Step(1), resampled=size), Road(target, Step(1))


def count_parameters(module: nn.Module) -> int:
    """Number of parameters."""
    return sum(prod(p.shape) for p in module.parameters())
