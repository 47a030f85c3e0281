"""A small network in the manner of convolutional pose machines: stages that refine a prediction (Wei et al. 2016)."""

import torch
from torch import Tensor, nn

from harmonet.blocks.convolution import conv_relu, pointwise_relu
from harmonet.blocks.pointwise import Pointwise, channels_last
from harmonet.blocks.upsample import output_layer
from harmonet.errors import ShapeError


class CPMPlain(nn.Module):
    """One trunk and stages, each of which sees the trunk's features and the prediction before it.

    The single-task reading of Blumberg et al. 2019's CPM: all stages predict the same target, the last stage's
    prediction is the output, and only it is supervised. The multi-task network, whose stages predict one platform
    each, is the fusion of the same family; this one is a baseline that owes nothing to the other single networks.
    Receptive field 23³.

    Published (Wei et al. 2016, doi:10.1109/CVPR.2016.511): a trunk, stages that take its features and the previous
    prediction, widths 128, ReLU on all but predictions. Our choice: one trunk for all stages, a small one without
    pooling; 3³ kernels in place of 9² and 11² (patches are 11³); no loss on the earlier stages; at upsampling 2 only
    the last stage leaves the source's grid, by a transposed convolution (k3, s2, n -> 2n - 3).

    Args:
        in_channels: Input channels.
        out_channels: Output channels.
        upsampling: 1 or 2.
        stages: Predictions, one after the other; 3 is the number of targets in the benchmark.
        width: Channels of the stages; the trunk has half of it, and a quarter at its end.

    Raises:
        ShapeError: There is no stage.
    """

    def __init__(
        self, in_channels: int, out_channels: int, upsampling: int = 1, stages: int = 3, width: int = 128
    ) -> None:
        super().__init__()
        if stages < 1:
            raise ShapeError(f"cpm_plain has no prediction in {stages} stages: use 1 or more.")
        half, features = width // 2, width // 4
        self.trunk = nn.Sequential(
            conv_relu(in_channels, half), conv_relu(half, half), conv_relu(half, half), conv_relu(half, features)
        )
        bodies = [
            _body(features + (out_channels if stage else 0), width, convolutions=3 if stage else 1)
            for stage in range(stages)
        ]
        self.earlier = nn.ModuleList(nn.Sequential(body, Pointwise(width, out_channels)) for body in bodies[:-1])
        self.last = bodies[-1]
        self.output = output_layer(width, out_channels, upsampling, kernel=1, surplus=2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, n, n, n) to (B, out, t, t, t), t = n or 2n - 3."""
        features = seen = self.trunk(channels_last(x))
        for stage in self.earlier:
            seen = torch.cat([features, stage(seen)], dim=1)
        prediction: Tensor = self.output(self.last(seen))
        return prediction


def _body(in_channels: int, width: int, convolutions: int) -> nn.Sequential:
    """3³ convolutions and a 1³ one, each with ReLU."""
    spatial = [conv_relu(in_channels if not i else width, width) for i in range(convolutions)]
    return nn.Sequential(*spatial, pointwise_relu(width, width))
