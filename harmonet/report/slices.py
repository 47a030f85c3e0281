"""What one axial slice shows: mean signal, principal direction and anisotropy; of a scalar image its values."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harmonet import sh
from harmonet.report.scored import MapsLike, Mask

SOURCE, PREDICTION, TARGET, TRUTH = "source", "prediction", "target", "truth"
ORIENTATION = "axial slice through the middle of the mask, anterior up, the subject's left (L) on the left"

Floats = NDArray[np.floating]


@dataclass(frozen=True, eq=False)
class Slice:
    """One axial slice: what its coefficients say, NaN or 0 outside the mask.

    Attributes:
        mask: (X, Y).
        mean: (X, Y), mean S/S0 over all directions, or the values of a scalar image.
        direction: (X, Y, 3), unit principal direction.
        anisotropy: (X, Y), fractional anisotropy (FA).
    """

    mask: Mask
    mean: Floats
    direction: Floats
    anisotropy: Floats


def slices(maps: MapsLike) -> dict[str, Slice]:
    """The middle slice of each image; the last one is the reference: the truth where it is known, else the target."""
    places = np.argwhere(maps.mask)
    low, high = places.min(axis=0), places.max(axis=0) + 1
    planes = np.unique(places[:, 2])  # those that hold some of the mask: a mask may be hollow, or have gaps
    edge = np.s_[max(low[0] - 1, 0) : high[0] + 1, max(low[1] - 1, 0) : high[1] + 1, planes[len(planes) // 2]]
    volumes = {SOURCE: maps.source, PREDICTION: maps.prediction, TARGET: maps.target, TRUTH: maps.truth}
    return {name: _slice(volume[edge], maps.mask[edge]) for name, volume in volumes.items() if volume is not None}


def _slice(channels: Floats, mask: Mask) -> Slice:
    direction, anisotropy = np.zeros((*mask.shape, 3)), np.zeros(mask.shape)
    if channels.shape[-1] == 1:
        return Slice(mask, np.where(mask, channels[..., 0], np.nan), direction, anisotropy)
    mean = channels[..., 0] / np.sqrt(4 * np.pi)  # the basis is orthonormal: Y_00 = 1/sqrt(4 pi)
    direction[mask], anisotropy[mask] = tensor_directions(channels[mask])
    return Slice(mask, np.where(mask, mean, np.nan), direction, anisotropy)


def tensor_directions(coefficients: Floats) -> tuple[Floats, Floats]:
    """Principal direction (N, 3) and FA (N,) of the tensor that fits the log of the signal best.

    Direction and FA do not depend on the b-value, which is taken as 1. The direction's sign means nothing.

    Args:
        coefficients: (N, C) SH coefficients of S/S0, world axes.
    """
    axes = sh.spread(60)
    signal = coefficients @ sh.basis_matrix(axes, sh.order_of(coefficients.shape[-1])).T
    attenuation = -np.log(np.clip(np.nan_to_num(signal), 0.005, 1.0))
    x, y, z = axes.T
    design = np.stack([x * x, y * y, z * z, 2 * x * y, 2 * x * z, 2 * y * z], axis=1)
    xx, yy, zz, xy, xz, yz = np.linalg.lstsq(design, attenuation.T, rcond=None)[0]
    tensors = np.stack([xx, xy, xz, xy, yy, yz, xz, yz, zz], axis=-1).reshape(-1, 3, 3)
    values, vectors = np.linalg.eigh(tensors)
    values = np.maximum(values, 0)
    spread = values - values.mean(axis=1, keepdims=True)
    power = np.maximum((values**2).sum(axis=1), 1e-12)
    return vectors[..., -1], np.sqrt(1.5 * (spread**2).sum(axis=1) / power)
