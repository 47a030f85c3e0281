"""The data of the slice viewer: volumes of 8 bits, compressed, inside the page; `viewer.js` shows them."""

import base64
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harmonet.report.images import BRIGHT, Floats, Views
from harmonet.report.maps import FALSE, ceiling, title_of, unit_of

BUDGET = 8_000_000  # characters of volumes; above, axial slices are left out
LEVELS = 254  # of a grey value; byte 0 is outside the mask
QUANTITIES = {"signal": "mean signal (l = 0)", "colour": "direction-encoded FA", "error": "error of the mean signal"}

Bytes = NDArray[np.uint8]


def viewer_data(seen: Sequence[Views], budget: int = BUDGET) -> dict[str, Any]:
    """What viewer.js reads, ready for JSON: platforms, each with its quantities and their images.

    Where the volumes would make the page too large, every second (third, ...) axial slice is kept at full resolution,
    and only axial slices are offered.
    """
    full = [_platform(each, 1) for each in seen]
    size = sum(map(_size, full))
    step = -(-size // budget)
    return {
        "platforms": full if step <= 1 else [_platform(each, step) for each in seen],
        "errors": base64.b64encode(_table(FALSE)).decode(),
        "quantities": QUANTITIES,
        "levels": LEVELS,
        "bright": BRIGHT,
    }


def _size(platform: dict[str, Any]) -> int:
    return sum(len(text) for quantity in platform["quantities"].values() for text in quantity["volumes"].values())


def _platform(seen: Views, step: int) -> dict[str, Any]:
    """One platform, with every `step`-th axial slice."""
    first = seen.middle % step  # the middle slice, which the pictures show, is one of those that stay
    grey = {name: image.mean for name, image in seen.images.items()}
    errors = {name: seen.error(name) for name in seen.judged}
    quantities = {"signal": _quantity(grey, unit_of(seen), 99.8, first, step)}
    if not seen.scalar:
        volumes = {
            name: _packed(np.rint(255 * image.colour).astype(np.uint8)[:, :, first::step])
            for name, image in seen.images.items()
        }
        quantities["colour"] = {"top": BRIGHT, "unit": "FA", "volumes": volumes}
    quantities["error"] = _quantity(errors, f"absolute difference from the {seen.reference}", 99.5, first, step)
    x, y, z = seen.mask.shape
    return {
        "name": seen.platform,
        "subject": seen.subject,
        "shape": [x, y, len(range(first, z, step))],
        "first": first,
        "step": step,
        "middle": (seen.middle - first) // step,
        "size": list(seen.voxel_size),
        "reference": seen.reference,
        "images": [{"name": name, "title": title_of(seen, name)} for name in seen.images],
        "quantities": quantities,
    }


def _quantity(volumes: dict[str, Floats], unit: str, percentile: float, first: int, step: int) -> dict[str, Any]:
    """Grey values of all images on one scale."""
    top = ceiling(list(volumes.values()), percentile)
    packed = {name: _packed(levels(volume, top)[:, :, first::step]) for name, volume in volumes.items()}
    return {"top": top, "unit": unit, "volumes": packed}


def levels(values: Floats, top: float) -> Bytes:
    """Values from 0 to `top` in 1 ... 255, those beyond at the ends; 0 for what is not a number.

    >>> levels(np.array([np.nan, -1.0, 0.0, 0.5, 1.0, 2.0]), 1.0).tolist()
    [0, 1, 1, 128, 255, 255]
    """
    scaled = 1 + np.rint(LEVELS * np.clip(np.nan_to_num(values) / top, 0, 1))
    return np.where(np.isfinite(values), scaled, 0).astype(np.uint8)


def _packed(volume: Bytes) -> str:
    """Bytes, x slowest, through zlib and base64."""
    return base64.b64encode(zlib.compress(np.ascontiguousarray(volume).tobytes(), 9)).decode()


def _table(name: str) -> bytes:
    """A colour map as 256 times red, green, blue."""
    from matplotlib import colormaps

    table: Bytes = np.rint(255 * colormaps[name](np.arange(256))[:, :3]).astype(np.uint8)
    return table.tobytes()
