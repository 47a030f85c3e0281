"""A class that knows nothing of harmonet: it stands for the one that you name."""

from torch import Tensor, nn


class TwoConvs(nn.Module):
    """Two 3x3x3 convolutions with a ReLU between them.

    Args:
        in_channels: Channels that it takes.
        out_channels: Channels that it gives.
        width: Channels between the two.
    """

    def __init__(self, in_channels: int, out_channels: int, width: int = 16) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv3d(in_channels, width, 3, padding=1), nn.ReLU())
        self.head = nn.Conv3d(width, out_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, n, n, n) to (B, out, n, n, n)."""
        prediction: Tensor = self.head(self.body(x))
        return prediction
