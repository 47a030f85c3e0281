"""What one platform's volumes show: mean signal, principal direction and anisotropy; of a scalar image its values."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from harmonet import sh
from harmonet.report.scored import MapsLike, Mask

SOURCE, SINGLE, PREDICTION, TARGET, TRUTH = "source", "best single", "prediction", "target", "truth"
JUDGED = (SOURCE, SINGLE, PREDICTION)  # whose error is shown
BRIGHT = 0.7  # FA of full brightness
AT_ONCE = 50_000  # voxels whose tensors are fitted together: 60 directions of them are 24 MB

Floats = NDArray[np.floating]


@dataclass(frozen=True, eq=False)
class Image:
    """One image inside its mask's bounding box, NaN or 0 outside the mask.

    Attributes:
        mask: (X, Y, Z).
        mean: (X, Y, Z), mean S/S0 over all directions, or the values of a scalar image.
        coefficients: (V, C) of the voxels in the mask.
    """

    mask: Mask
    mean: Floats
    coefficients: Floats

    @cached_property
    def _fitted(self) -> tuple[Floats, Floats]:
        found = [
            tensor_directions(self.coefficients[start : start + AT_ONCE])
            for start in range(0, len(self.coefficients), AT_ONCE)
        ]
        directions, anisotropy = np.zeros((*self.mask.shape, 3)), np.zeros(self.mask.shape)
        directions[self.mask] = np.concatenate([one for one, _ in found])
        anisotropy[self.mask] = np.concatenate([one for _, one in found])
        return directions, anisotropy

    @property
    def direction(self) -> Floats:
        """(X, Y, Z, 3), unit principal direction."""
        return self._fitted[0]

    @property
    def anisotropy(self) -> Floats:
        """(X, Y, Z), fractional anisotropy (FA)."""
        return self._fitted[1]

    @property
    def colour(self) -> Floats:
        """(X, Y, Z, 3), direction-encoded FA: red left-right, green anterior-posterior, blue superior-inferior."""
        return np.asarray(np.abs(self.direction) * np.clip(self.anisotropy / BRIGHT, 0, 1)[..., None])


@dataclass(frozen=True, eq=False)
class Views:
    """The images of one platform of one subject, cropped to the mask, axes RAS+.

    Attributes:
        platform, subject: Whose they are.
        method, rival: What made `prediction` and `best single`.
        voxel_size: Mm along each axis.
        mask: (X, Y, Z).
        images: Name to image, in the order in which they are shown; the last is the reference.
    """

    platform: str
    subject: str
    method: str
    rival: str
    voxel_size: tuple[float, float, float]
    mask: Mask
    images: Mapping[str, Image]

    @property
    def reference(self) -> str:
        """The truth where it is known, else the target."""
        return list(self.images)[-1]

    @property
    def scalar(self) -> bool:
        """Whether the image has no directions."""
        return bool(self.images[TARGET].coefficients.shape[-1] == 1)

    @property
    def judged(self) -> list[str]:
        """The images whose error is shown; a measured target is one of them where the truth is known."""
        return [name for name in self.images if name != self.reference]

    @property
    def middle(self) -> int:
        """The axial slice in the middle of those that hold some of the mask, which may be hollow or have gaps."""
        planes = np.flatnonzero(self.mask.any(axis=(0, 1)))
        return int(planes[len(planes) // 2])

    def error(self, name: str) -> Floats:
        """(X, Y, Z), absolute error of the mean signal."""
        return np.abs(self.images[name].mean - self.images[self.reference].mean)

    def colour_error(self, name: str) -> Floats:
        """(X, Y, Z), root mean squared error of the three colours of direction-encoded FA; NaN outside the mask."""
        gap = self.images[name].colour - self.images[self.reference].colour
        return np.where(self.mask, np.sqrt(np.mean(gap**2, axis=-1)), np.nan)


def views(maps: MapsLike) -> Views:
    """The images of one platform, each once.

    Raises:
        ValueError: The mask is empty.
    """
    places = np.argwhere(maps.mask)
    if not len(places):
        raise ValueError(f"the mask of {maps.platform} of {maps.subject} is empty")
    low, high = np.maximum(places.min(axis=0) - 1, 0), places.max(axis=0) + 2
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    volumes = {
        SOURCE: maps.source,
        SINGLE: maps.single,
        PREDICTION: maps.prediction,
        TARGET: maps.target,
        TRUTH: maps.truth,
    }
    mask = maps.mask[box]
    images = {name: _image(volume[box], mask) for name, volume in volumes.items() if volume is not None}
    return Views(maps.platform, maps.subject, maps.method, maps.rival, maps.voxel_size, mask, images)


def _image(channels: Floats, mask: Mask) -> Image:
    values = channels[..., 0] if channels.shape[-1] == 1 else channels[..., 0] / np.sqrt(4 * np.pi)
    return Image(mask, np.where(mask, values, np.nan), channels[mask])  # the basis is orthonormal: Y_00 = 1/sqrt(4 pi)


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
