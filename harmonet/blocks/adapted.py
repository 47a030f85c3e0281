"""A stranger's network made to fit: channels by 1x1x1 convolutions, grids by padding and trilinear resampling."""

from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from harmonet.errors import HarmonetError, ShapeError
from harmonet.platforms import Kind, target_patch_size
from harmonet.taps import Size, empty_patch, measure

MULTIPLES = (1, 2, 4, 8, 16, 32)  # that networks with pooling or strides ask of a patch's edge
LONGER = 32  # voxels: how much longer a second patch is, to see how far apart the output's voxels lie


@dataclass(frozen=True)
class Fit:
    """How a network's voxels lie on the patch, as measured.

    Attributes:
        patch: Edge of the source patch in voxels.
        padded: Edge of what the network is given.
        output: Size (C, X, Y, Z) of what it gives.
        step: Source voxels from one of its voxels to the next, along each axis.
    """

    patch: int
    padded: int
    output: Size
    step: tuple[Fraction, ...]

    @property
    def nests(self) -> bool:
        """Whether the output spans the padded patch, from outer centre to outer centre or from side to side."""
        return all(
            (n - 1) * step == self.padded - 1 or n * step == self.padded
            for n, step in zip(self.output[1:], self.step, strict=True)
        )


class Adapted(nn.Module):
    """A network with what makes it fit around it; its own layers are found under `net.`.

    Args:
        net: The network.
        channels: Channels of source and target.
        in_channels: Channels that the network takes.
        fit: How its voxels lie on the patch.
        upsampling, kind: Of the target's grid.
    """

    along_x: Tensor
    along_y: Tensor
    along_z: Tensor

    def __init__(self, net: nn.Module, channels: int, in_channels: int, fit: Fit, upsampling: int, kind: Kind) -> None:
        super().__init__()
        self.entry = nn.Identity() if in_channels == channels else nn.Conv3d(channels, in_channels, 1)
        self.net = net
        self.exit = nn.Identity() if fit.output[0] == channels else nn.Conv3d(fit.output[0], channels, 1)
        self.before = (fit.padded - fit.patch) // 2
        self.after = fit.padded - fit.patch - self.before
        for axis, n, step in zip("xyz", fit.output[1:], fit.step, strict=True):
            weights = resampling(fit, n, step, upsampling, kind)
            self.register_buffer(f"along_{axis}", weights, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, n, n, n) to (B, C, t, t, t)."""
        # Padded in front of the entry: 0 is what every patch has outside the mask.
        y = self.exit(self.net(self.entry(pad(x, (self.before, self.after) * 3))))
        y = torch.einsum("bcxyz,ix->bciyz", y, self.along_x)
        y = torch.einsum("bcxyz,iy->bcxiz", y, self.along_y)
        return torch.einsum("bcxyz,iz->bcxyi", y, self.along_z)


def resampling(fit: Fit, n: int, step: Fraction, upsampling: int, kind: Kind) -> Tensor:
    """(t, n) weights of an output's n voxels, centred on the padded patch, in each of the target's t along one axis.

    Voxels that coincide are taken as they are, others interpolated linearly, those beyond the last continued.

    >>> resampling(Fit(7, 8, (1, 8, 8, 8), (Fraction(1),) * 3), 8, Fraction(1), 1, "node").argmax(dim=1).tolist()
    [0, 1, 2, 3, 4, 5, 6]
    """
    edge = target_patch_size(fit.patch, upsampling, kind)
    middle = (fit.padded - fit.patch) // 2 + Fraction(fit.patch - 1, 2)  # the patch's in the padded one
    first = Fraction(fit.padded - 1, 2) - Fraction(n - 1, 2) * step
    weights = torch.zeros(edge, n)
    for row in range(edge):
        place = middle + (row - Fraction(edge - 1, 2)) / upsampling
        at = min(max((place - first) / step, Fraction(0)), Fraction(n - 1))
        low = min(int(at), n - 1)
        weights[row, low] = float(1 - (at - low))
        if at > low:
            weights[row, low + 1] = float(at - low)
    return weights


def adapt(
    module: nn.Module,
    *,
    channels: int = 28,
    patch_size: int = 11,
    upsampling: int = 1,
    kind: Kind = "node",
    in_channels: int | None = None,
    pad_to: int | None = None,
) -> Adapted:
    """A network that knows nothing of harmonet, made to fit; its own weights and layers are kept, under `net.`.

    A 1x1x1 convolution is put in front or behind where channels differ. The patch is padded with 0 to a multiple that
    the network needs. Its output is brought to the target's grid by trilinear interpolation, which where voxels
    coincide is cropping. Sizes are measured in dry runs. That the output lies centred on what the network was given
    is assumed: of one that strides without padding alike on both sides, voxels can be off by a part of its step, which
    training has to make up for.

    Args:
        module: Takes one tensor (B, C, X, Y, Z) and gives one.
        channels: Channels of source and target.
        patch_size: Edge of a source patch in voxels.
        upsampling: 1 or 2.
        kind: How the target's grid lies on the source's.
        in_channels: Channels that the module takes; where None, those of the first 3D convolution that runs.
        pad_to: The edge is padded to a multiple of this; where None, of the smallest power of 2, up to 32, at which
            the network runs and its output spans the padded patch.

    Raises:
        ShapeError: No padding makes it run, it gives no volume, or no volume that spans the patch.

    >>> adapted = adapt(nn.Conv3d(1, 2, 3, padding=1), upsampling=2)
    >>> adapted(torch.zeros(1, 28, 11, 11, 11)).shape
    torch.Size([1, 28, 19, 19, 19])
    """
    target_patch_size(patch_size, upsampling, kind)  # refuses sizes that no patch has
    taken = _entry_channels(module, channels, patch_size) if in_channels is None else in_channels
    fit = _measured_fit(module, taken, patch_size, MULTIPLES if pad_to is None else (pad_to,))
    return Adapted(module, channels, taken, fit, upsampling, kind)


def _entry_channels(module: nn.Module, channels: int, patch_size: int) -> int:
    """Channels that the first convolution to run takes."""
    seen: list[int] = []

    def keep(layer: nn.Module, _inputs: object) -> None:
        assert isinstance(layer, nn.Conv3d)
        seen.append(layer.in_channels)

    handles = [m.register_forward_pre_hook(keep) for m in module.modules() if isinstance(m, nn.Conv3d)]
    try:
        with empty_patch(module, channels, patch_size) as x:
            module(x)
    except (RuntimeError, ValueError):
        pass  # expected: other channels, or a patch that is not padded yet; the first layer was seen
    finally:
        for handle in handles:
            handle.remove()
    if not seen:
        raise ShapeError(f"{type(module).__name__} runs no 3D convolution to read its channels from: pass in_channels.")
    return seen[0]


def _measured_fit(module: nn.Module, in_channels: int, patch_size: int, multiples: tuple[int, ...]) -> Fit:
    """The fit at the first multiple at which the network runs and its output spans the padded patch."""
    name, found = type(module).__name__, ""
    for multiple in multiples:
        padded, added = (-(-edge // multiple) * multiple for edge in (patch_size, LONGER))
        edge = padded
        try:
            output = measure(module, {}, in_channels, edge).prediction
            edge += added
            longer = measure(module, {}, in_channels, edge).prediction
        except HarmonetError:
            raise
        except (RuntimeError, ValueError) as error:  # whatever a stranger's layers say of sizes that they cannot take
            found = found or f"cannot take {edge}³ voxels ({_first_line(error)})"
            continue
        if len(output) != 4:
            raise ShapeError(
                f"{name} gives {output} from a patch, not a volume (C, X, Y, Z): leave out the layers that pool it "
                "away, or give a part of it that ends before them."
            )
        more = [b - a for a, b in zip(output[1:], longer[1:], strict=True)]
        if min(more) <= 0:
            raise ShapeError(
                f"{name} gives {output} from {padded}³ voxels and {longer} from {edge}³: it has no grid; give a part "
                "of it that ends before it pools."
            )
        fit = Fit(patch_size, padded, output, tuple(Fraction(added, n) for n in more))
        if fit.nests:
            return fit
        found = found or f"gives {output[1:]} voxels from {padded}³, which do not span them"
    told = f"a multiple of {multiples[0]}" if len(multiples) == 1 else f"multiples of {multiples[0]} to {multiples[-1]}"
    raise ShapeError(f"{name} {found}, nor does a patch of {patch_size} padded to {told} help: choose another network.")


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:120] if str(error).strip() else type(error).__name__
