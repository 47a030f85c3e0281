"""The connection network: two 3D convolutions from one network's features to another platform's prediction.

Blumberg et al. 2019 say "a stack of two 3D convolutions"; kernels, padding, width and the ReLU between them are our
choice, resolved from measured sizes.
"""

from dataclasses import dataclass
from math import prod

from torch import Tensor, nn

from harmonet.errors import ShapeError

Size = tuple[int, ...]  # (C, X, Y, Z)


@dataclass(frozen=True)
class Step:
    """One convolution, kernel 3: its padding, its stride, and whether it is transposed."""

    padding: int
    stride: int = 1
    transposed: bool = False

    def __str__(self) -> str:
        """Kernel, stride and padding in short."""
        kind = "deconv" if self.transposed else "conv"
        return f"{kind} k3 s{self.stride} p{self.padding}"

    def layer(self, in_channels: int, out_channels: int) -> nn.Module:
        """The convolution."""
        conv = nn.ConvTranspose3d if self.transposed else nn.Conv3d
        return conv(in_channels, out_channels, 3, stride=self.stride, padding=self.padding)


def resolve(size: int, target: int) -> tuple[Step, Step] | None:
    """The two convolutions that take an edge of `size` voxels to one of `target`, centre to centre; None if none do.

    >>> [str(step) for step in resolve(11, 19)]
    ['conv k3 s1 p0', 'deconv k3 s2 p0']
    """
    if target == size:
        return Step(1), Step(1)
    if target == size + 2:
        return Step(2), Step(1)
    if target == 2 * size - 3:  # a source-grid patch to the finer grid
        return Step(0), Step(0, 2, transposed=True)
    if target == 2 * size + 1:  # the same from a feature that a valid convolution has shrunk
        return Step(1), Step(0, 2, transposed=True)
    if size == 2 * target - 3:  # a fine patch back to the source grid
        return Step(2, 2), Step(1)
    return None


class ConnectionNet(nn.Module):
    """Conv3d, ReLU, Conv3d from features (B, C, X, Y, Z) to a prediction of another grid.

    Args:
        features: (C, X, Y, Z) that come in.
        prediction: (C, X, Y, Z) that must come out.
        hidden: Width between the two; the incoming channels by default.

    Raises:
        ShapeError: No two convolutions lead from the one grid to the other.

    >>> net = ConnectionNet((100, 11, 11, 11), (28, 19, 19, 19))
    >>> sum(p.numel() for p in net.parameters())
    345728
    """

    def __init__(self, features: Size, prediction: Size, hidden: int | None = None) -> None:
        super().__init__()
        edges = {(a, b) for a, b in zip(features[1:], prediction[1:], strict=True)}
        self.steps = resolve(*edges.pop()) if len(edges) == 1 else None
        if self.steps is None:
            found = " x ".join(map(str, features[1:]))
            wanted = " x ".join(map(str, prediction[1:]))
            raise ShapeError(
                f"no two convolutions lead from features of {found} voxels to a prediction of {wanted}: "
                "tap a layer of the patch size n, of n - 2, or of the upsampled patch 2n - 3."
            )
        width = features[0] if hidden is None else hidden
        first, second = self.steps
        self.layers = nn.Sequential(first.layer(features[0], width), nn.ReLU(), second.layer(width, prediction[0]))

    def forward(self, z: Tensor) -> Tensor:
        """(B, C_in, ...) to (B, C_out, ...)."""
        prediction: Tensor = self.layers(z)
        return prediction

    def __str__(self) -> str:
        """The two convolutions and the number of parameters."""
        first, second = self.steps or ("", "")
        return f"{first}, {second}"


def count_parameters(module: nn.Module) -> int:
    """Number of parameters."""
    return sum(prod(p.shape) for p in module.parameters())
