"""A stranger's network made to fit: channels by 1x1x1 convolutions, grids by padding and trilinear resampling."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Self

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
        multiple: An edge is padded to the next multiple of this.
    """

    patch: int
    padded: int
    output: Size
    step: tuple[Fraction, ...]
    multiple: int = 1

    @classmethod
    def kept(cls, channels: int, multiple: int, patch: int = 11) -> Self:
        """That of a network known to give `channels` on the grid that it takes, where its edges are multiples."""
        padded = patch + -patch % multiple
        return cls(patch, padded, (channels, padded, padded, padded), (Fraction(1),) * 3, multiple)

    @property
    def nests(self) -> bool:
        """Whether the output spans the padded patch, from outer centre to outer centre or from side to side."""
        return all(
            (n - 1) * step == self.padded - 1 or n * step == self.padded
            for n, step in zip(self.output[1:], self.step, strict=True)
        )


class Adapted(nn.Module):
    """A network with what makes it fit around it; its own layers are found under `net.`.

    It takes patches of any odd edge, not only of the one that was measured: each is padded to the fit's multiple. The
    layer `grid` gives the network's own channels on the target's grid: a tap that every fusion can read.

    Args:
        net: The network.
        fit: How its voxels lie on the patch.
        channels: Of the source.
        in_channels: That the network takes.
        out_channels: Of the target.
        upsampling, kind: Of the target's grid.

    Attributes:
        before, after: Voxels of padding at either end of each axis of the measured patch.
    """

    def __init__(
        self, net: nn.Module, fit: Fit, channels: int, in_channels: int, out_channels: int, upsampling: int, kind: Kind
    ) -> None:
        super().__init__()
        self.entry = nn.Identity() if in_channels == channels else nn.Conv3d(channels, in_channels, 1)
        self.net = net
        self.grid = Regrid(fit, upsampling, kind)
        self.exit = nn.Identity() if fit.output[0] == out_channels else nn.Conv3d(fit.output[0], out_channels, 1)
        self.multiple = fit.multiple
        self.before, self.after = margins(fit.patch, fit.multiple)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, n, n, n) to (B, C', t, t, t)."""
        edges = x.shape[2:]
        # Padded in front of the entry: 0 is what every patch has outside the mask.
        sides = [side for edge in reversed(edges) for side in margins(edge, self.multiple)]
        y: Tensor = self.exit(self.grid(self.net(self.entry(pad(x, sides))), edges))
        return y


class Regrid(nn.Module):
    """Brings a network's output to the target's grid."""

    def __init__(self, fit: Fit, upsampling: int, kind: Kind) -> None:
        super().__init__()
        self.multiple, self.steps = fit.multiple, tuple(map(float, fit.step))
        self.upsampling, self.kind = upsampling, kind

    def forward(self, y: Tensor, edges: Sequence[int]) -> Tensor:
        """(B, C, X, Y, Z) to (B, C, t, t, t); `edges` are the source patch's."""
        for axis, edge, step in zip("xyz", edges, self.steps, strict=True):
            n, padded = y.shape["bcxyz".index(axis)], sum(margins(edge, self.multiple), edge)
            along = resampling(edge, padded, n, step, self.upsampling, self.kind).to(y)
            y = torch.einsum(f"bcxyz,i{axis}->bc{'xyz'.replace(axis, 'i')}", y, along)
        return y


def margins(edge: int, multiple: int) -> tuple[int, int]:
    """Voxels of padding before and after `edge` voxels that make a multiple.

    >>> margins(11, 4), margins(11, 16), margins(11, 1)
    ((0, 1), (2, 3), (0, 0))
    """
    more = -edge % multiple
    return more // 2, more - more // 2


def resampling(edge: int, padded: int, n: int, step: float, upsampling: int, kind: Kind) -> Tensor:
    """(t, n) weights of an output's n voxels, centred on the padded patch, in each of the target's t along one axis.

    Voxels that coincide are taken as they are, others interpolated linearly, those beyond the last continued.

    >>> resampling(7, 8, 8, 1.0, 1, "node").argmax(dim=1).tolist()
    [0, 1, 2, 3, 4, 5, 6]
    """
    target = target_patch_size(edge, upsampling, kind)
    middle = (padded - edge) // 2 + (edge - 1) / 2  # the patch's in the padded one
    first = (padded - 1) / 2 - (n - 1) / 2 * step
    places = middle + (torch.arange(target) - (target - 1) / 2) / upsampling
    at = ((places - first) / step).clamp(0, n - 1)
    return (1 - (at[:, None] - torch.arange(n)).abs()).clamp(min=0)


def adapt(
    module: nn.Module,
    *,
    channels: int = 28,
    patch_size: int = 11,
    upsampling: int = 1,
    kind: Kind = "node",
    in_channels: int | None = None,
    out_channels: int | None = None,
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
        channels: Channels of the source.
        patch_size: Edge of a source patch in voxels, at which the network is measured; others are taken too.
        upsampling: 1 or 2.
        kind: How the target's grid lies on the source's.
        in_channels: Channels that the module takes; where None, those of the first 3D convolution that runs.
        out_channels: Channels of the target; where None, those of the source.
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
    return Adapted(module, fit, channels, taken, channels if out_channels is None else out_channels, upsampling, kind)


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
        fit = Fit(patch_size, padded, output, tuple(Fraction(added, n) for n in more), multiple)
        if fit.nests:
            return fit
        found = found or f"gives {output[1:]} voxels from {padded}³, which do not span them"
    told = f"a multiple of {multiples[0]}" if len(multiples) == 1 else f"multiples of {multiples[0]} to {multiples[-1]}"
    raise ShapeError(f"{name} {found}, nor does a patch of {patch_size} padded to {told} help: choose another network.")


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:120] if str(error).strip() else type(error).__name__
