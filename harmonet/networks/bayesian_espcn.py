"""Bayesian image quality transfer: an ESPCN that knows how uncertain it is (Tanno et al. 2017)."""

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from harmonet.blocks.upsample import output_layer
from harmonet.blocks.variational import VariationalDropout
from harmonet.stages import Gaussian

FLOOR = 1e-6  # of the precision
SEED = 0  # of the noise in evaluation: the same patch gives the same answer


class BayesianESPCN(nn.Module):
    """A mean from an ESPCN with variational dropout, and a precision from a second ESPCN.

    In training the prediction is one noisy pass; the loss is the likelihood, to which every dropout layer adds its
    divergence from the prior. In evaluation the mean of several noisy passes is predicted; its variance is the noise
    that the second network expects plus the spread of the passes. The noise of a pass is the same for all patches of a
    batch and drawn from a fixed seed.

    Published: two separate networks, softplus precision, multiplicative Gaussian noise after each hidden ReLU, 100
    passes. Our choice: padding at upsampling 1, a transposed convolution instead of the shuffle, one sigma per channel,
    sigma² in the divergence (the authors' code passes sigma), 20 passes, no ramp from squared error to likelihood.

    Args:
        in_channels: Input channels.
        out_channels: Output channels.
        upsampling: 1 or 2.
        widths: Channels after the first and second convolution.
        passes: Noisy passes in evaluation; 0 predicts without noise.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        upsampling: int = 1,
        widths: tuple[int, int] = (50, 100),
        passes: int = 20,
    ) -> None:
        super().__init__()
        first, second = widths
        self.passes = passes
        self.features = nn.Sequential(
            *_hidden(in_channels, first, 3, padding=2 - upsampling),
            VariationalDropout(first),
            *_hidden(first, second, 1, padding=0),
            VariationalDropout(second),
        )
        self.head = output_layer(second, out_channels, upsampling)
        self.precision = nn.Sequential(
            *_hidden(in_channels, first, 3, padding=2 - upsampling),
            *_hidden(first, second, 1, padding=0),
            output_layer(second, out_channels, upsampling),
        )

    def forward(self, x: Tensor) -> Gaussian:
        """(B, in, n, n, n) to mean and variance (B, out, t, t, t), t = n or 2n - 3."""
        mean = self.head(self.features(x))
        noise = 1 / (softplus(self.precision(x)) + FLOOR)
        if self.training or not self.passes:
            return Gaussian(mean, noise)
        total, squares = torch.zeros_like(mean), torch.zeros_like(mean)
        generator = torch.Generator(x.device).manual_seed(SEED)
        for _ in range(self.passes):
            sample = self.head(self._noisy(x, generator)) - mean  # shifted, so that the squares do not cancel
            total += sample
            squares += sample**2
        shift = total / self.passes
        return Gaussian(mean + shift, noise + (squares / self.passes - shift**2).clamp(min=0))

    def _noisy(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """The features with noise; layer by layer, so that a tap on `features` sees the pass without it only."""
        for layer in self.features:
            if isinstance(layer, VariationalDropout):
                x = layer.noisy(x, torch.randn(x.shape[1:], generator=generator, device=x.device, dtype=x.dtype))
            else:
                x = layer(x)
        return x


def _hidden(in_channels: int, out_channels: int, kernel: int, padding: int) -> list[nn.Module]:
    return [nn.Conv3d(in_channels, out_channels, kernel, padding=padding), nn.ReLU()]
