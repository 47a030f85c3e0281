"""Masks of the brain: a file of zeros and ones on the image's grid, or one made from the b = 0 volumes."""

import numpy as np
from numpy.typing import NDArray

from harmonet.data.nifti import Image
from harmonet.errors import DataError

Mask = NDArray[np.bool_]

FULL = 0.999  # a mask of this much of the grid masks nothing
USUAL = (0.01, 0.95)  # shares of the grid: a brain fills less than the upper one and more than the lower


def checked_mask(image: Image) -> Mask:
    """(X', Y', Z') the mask in a file; a last axis of one volume is left out.

    Raises:
        DataError: It holds anything but zeros and ones.
    """
    numbers = image.numbers.stored
    values = image.data[..., 0] if numbers.ndim == 4 else image.data
    wrong = values[(values != 0) & (values != 1)]
    if wrong.size:
        raise DataError(
            f"{image.path} has {wrong.size} values other than 0 and 1 (first {wrong[0]:g}): "
            "choose a threshold and binarise it."
        )
    return np.asarray(values == 1)


def automatic_mask(b0: NDArray[np.float32]) -> Mask:
    """(X, Y, Z) the largest piece of dipy's `median_otsu` mask of a b = 0 image, without holes."""
    from dipy.segment.mask import median_otsu
    from scipy import ndimage

    _, rough = median_otsu(b0, median_radius=3, numpass=2)  # four passes of radius 4, the default, take 10 s
    labels, count = ndimage.label(rough)
    if count > 1:
        rough = labels == 1 + int(np.argmax(np.bincount(labels.ravel())[1:]))
    return np.asarray(ndimage.binary_fill_holes(rough), dtype=bool)


def share_warnings(mask: Mask, where: str) -> tuple[str, ...]:
    """A sentence where the mask is unusually small or large.

    Args:
        mask: Any shape.
        where: The file, or whose mask it is.

    Raises:
        DataError: It selects nothing, or as good as everything.
    """
    share, selects = mask.mean(), f"{where} selects {int(mask.sum())} of {mask.size} voxels"
    if not 0 < share < FULL:
        raise DataError(f"{selects}: a mask of the brain is needed.")
    if USUAL[0] <= share <= USUAL[1]:
        return ()
    return (f"{selects} ({share:.1%}), where a brain fills more than 1 % and less than 95 %: look at it.",)
