"""What a network is made of, measured: its layers with sizes and parameters, its FLOPs, its receptive field.

Nothing here is declared by a card: everything comes from passes over patches, so that it holds for a stranger's module.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from harmonet.blocks.connection import count_parameters
from harmonet.errors import HarmonetError, ShapeError
from harmonet.stages import Gaussian
from harmonet.taps import Size, empty_patch, measure, tappable_layers

LENGTHS = (31, 63, 127, 255)  # voxels along the axis that is probed, until the field fits
ACROSS = 7  # voxels along the two others
Edges = tuple[int | None, int | None, int | None]


@dataclass(frozen=True)
class Layer:
    """One layer: its dotted path, its class, its parameters with those inside it, its size if it can be tapped."""

    path: str
    kind: str
    parameters: int
    size: Size | None


@dataclass(frozen=True)
class Anatomy:
    """What was measured.

    Attributes:
        prediction: (C, X, Y, Z).
        features: Tap name to (C, X, Y, Z).
        parameters: Number of parameters.
        flops: Floating-point operations for one patch, a multiplication and an addition being two.
        receptive_field: Source voxels on edge that the central voxel of a prediction depends on, by axis; None where
            all of the patch counts, however large it is.
        layers: Every inner layer, in order of definition.
    """

    prediction: Size
    features: Mapping[str, Size]
    parameters: int
    flops: int
    receptive_field: Edges
    layers: tuple[Layer, ...]


def anatomy(module: nn.Module, taps: Mapping[str, str], in_channels: int, patch_size: int, upsampling: int) -> Anatomy:
    """What the module is made of, from passes over patches; weights, modes and the random state stay as they are.

    Args:
        module: Maps (B, C, n, n, n) to (B, C', t, t, t).
        taps: Name of a feature to dotted path of a layer.
        in_channels: C.
        patch_size: n, voxels on edge.
        upsampling: 1 or 2.

    Raises:
        NotFoundError: A tap names no layer.
        ShapeError: The module takes no such patch.

    >>> anatomy(nn.Conv3d(2, 3, 3, padding=1), {}, 2, 5, 1).receptive_field
    (3, 3, 3)
    """
    try:
        measured = measure(module, taps, in_channels, patch_size)
        sizes = tappable_layers(module, in_channels, patch_size)
        flops = count_flops(module, in_channels, patch_size)
        field = receptive_field(module, in_channels, upsampling)
    except HarmonetError:
        raise
    except (RuntimeError, ValueError) as error:  # what torch says of a patch that does not fit
        raise ShapeError(
            f"{type(module).__name__} cannot be measured on a patch of {in_channels} channels and {patch_size} voxels "
            f"({str(error).splitlines()[0]}): choose another number of channels or patch size."
        ) from None
    layers = tuple(
        Layer(path, type(layer).__name__, count_parameters(layer), sizes.get(path))
        for path, layer in module.named_modules()
        if path
    )
    return Anatomy(measured.prediction, measured.features, count_parameters(module), flops, field, layers)


def count_flops(module: nn.Module, in_channels: int, patch_size: int) -> int:
    """Floating-point operations of convolutions and matrix products for one patch.

    >>> count_flops(nn.Conv3d(2, 3, 3, padding=1), 2, 5) == 2 * (2 * 27) * 3 * 5**3
    True
    """
    with empty_patch(module, in_channels, patch_size) as x, FlopCounterMode(display=False) as counter:
        module(x)
    return int(counter.get_total_flops())


def receptive_field(module: nn.Module, in_channels: int, upsampling: int) -> Edges:
    """Source voxels on edge that the central voxel of a prediction depends on, by axis.

    One plane of an elongated patch is NaN, and the voxels of the prediction that become NaN depend on it: whatever
    the weights and however deep the network, no path is lost to a ReLU or to a rounding error, as it would be with
    gradients. What is true of one plane is true of its neighbours, since the network treats all places alike but for
    borders, and the patch is made longer until these are out of reach.

    Args:
        module: Maps (B, C, X, Y, Z) to a prediction.
        in_channels: C.
        upsampling: Voxels of the prediction for each of the source, 1 or 2.

    Returns:
        One number for each axis, None where it exceeds 255 voxels or is all of the patch.

    Raises:
        ShapeError: The module hides NaN, so that nothing can be followed.
    """
    first, second, third = (_field(module, in_channels, upsampling, axis) for axis in range(3))
    return first, second, third


def _field(module: nn.Module, in_channels: int, upsampling: int, axis: int) -> int | None:
    for length in LENGTHS:
        edges = [ACROSS] * 3
        edges[axis] = length
        reached = _reached(module, in_channels, edges, axis)
        if not reached.any():
            raise ShapeError(
                f"{type(module).__name__} hides NaN, so its receptive field cannot be followed: let NaN in the input "
                "come out."
            )
        if not (reached[0] or reached[-1]):
            # The plane at `offset` voxels from the one that was spoilt reaches as far, shifted by as many voxels.
            centre, voxels = len(reached) // 2, set(reached.nonzero().flatten().tolist())
            offsets = [d for d in range(-length, length + 1) if centre - upsampling * d in voxels]
            return offsets[-1] - offsets[0] + 1
    return None


def _reached(module: nn.Module, in_channels: int, edges: list[int], axis: int) -> Tensor:
    """Whether each plane of the prediction along the axis depends on the middle plane of the patch: (t,) of bool."""
    # Not zeros: a network that divides by what it reads would give NaN of its own accord.
    with empty_patch(module, in_channels, 1) as like:
        x = torch.rand((1, in_channels, *edges), generator=torch.Generator().manual_seed(0)).to(like)
        x.select(2 + axis, edges[axis] // 2).fill_(torch.nan)
        prediction: Tensor | Gaussian = module(x)
    values = prediction.mean if isinstance(prediction, Gaussian) else prediction
    return values.isnan().movedim(2 + axis, 0).flatten(1).any(1).cpu()
