"""A straight line per channel from the source, to which networks and fusions add what it cannot say."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Line(nn.Module):
    """target = slope * source + offset, channel by channel, of the source interpolated at the target's voxels.

    With it a network starts from the `linear` baseline in place of from nothing. Slope and offset are fitted by least
    squares to the training patches before the network is trained, and are not trained on: our choice.

    Args:
        channels: Of source and target.
        factor: Target voxels along one source voxel, 1 or 2.

    Attributes:
        slope, offset: (C,) buffers, saved with the weights; 1 and 0 until `fit`.
    """

    slope: Tensor
    offset: Tensor

    def __init__(self, channels: int, factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.register_buffer("slope", torch.ones(channels))
        self.register_buffer("offset", torch.zeros(channels))

    def forward(self, x: Tensor, like: Tensor) -> Tensor:
        """The line over patches x (B, C, n, n, n) at the voxels of a prediction `like` (B, C, t, t, t)."""
        slope, offset = (values.view(1, -1, 1, 1, 1) for values in (self.slope, self.offset))
        return slope * self.interpolated(x, like.shape[2:]) + offset

    def interpolated(self, x: Tensor, shape: tuple[int, ...] | torch.Size) -> Tensor:
        """The source trilinearly at the target's voxels, cut about the centre to `shape`.

        Nodes (an odd number of voxels at factor 2) lie on source voxels and halfway between, cells about their centres.
        """
        if self.factor != 1:
            size = [self.factor * n - t % 2 for n, t in zip(x.shape[2:], shape, strict=True)]
            x = F.interpolate(x, size=size, mode="trilinear", align_corners=shape[0] % 2 == 1)
        cut = [slice((n - t) // 2, (n - t) // 2 + t) for n, t in zip(x.shape[2:], shape, strict=True)]
        return x[:, :, cut[0], cut[1], cut[2]]

    def fit(self, sums: Tensor) -> None:
        """Take the least-squares line; a channel of the source that does not vary gets the target's mean.

        Args:
            sums: (6, C) over voxels: 1, x, y, x², y², xy of source x and target y, in double precision.
        """
        n, x, y, xx, _, xy = sums
        varies = n * xx - x * x
        usable = varies > 1e-12 * n * xx
        slope = torch.where(usable, (n * xy - x * y) / torch.where(usable, varies, torch.ones_like(varies)), 0.0)
        self.slope.copy_(slope)
        self.offset.copy_((y - slope * x) / n)


def sums_over(line: Line, x: Tensor, y: Tensor, inside: Tensor) -> Tensor:
    """What `Line.fit` takes, of patches x (B, C, n, n, n), y (B, C, t, t, t) and their mask (B, 1, t, t, t).

    >>> x = torch.arange(27.0).view(1, 1, 3, 3, 3)
    >>> line = Line(1, 1)
    >>> line.fit(sums_over(line, x, 2 * x + 1, torch.ones(1, 1, 3, 3, 3)))
    >>> line.slope, line.offset
    (tensor([2.]), tensor([1.]))
    """
    keep = inside[:, 0] > 0
    a, b = (v.movedim(1, -1)[keep].double() for v in (line.interpolated(x, y.shape[2:]), y))
    return torch.stack([values.sum(0) for values in (torch.ones_like(a), a, b, a * a, b * b, a * b)])
