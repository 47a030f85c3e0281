"""Errors of patches, the unit of the paper's Table 1."""

import numpy as np
from numpy.typing import NDArray

from harmonet.metrics.image import Map, Mask


def patch_mse(prediction: Map, truth: Map, mask: Mask, patch_size: int) -> NDArray[np.float64]:
    """(V,) mean squared error of the patch around each voxel of the mask, over its voxels in the mask and all channels.

    One pass over the map of squared errors, so that thousands of overlapping patches cost as much as one image.

    Args:
        prediction, truth: (X, Y, Z, C).
        mask: (X, Y, Z).
        patch_size: Odd number of voxels on edge; what reaches beyond the image is left out.
    """
    from scipy.ndimage import uniform_filter

    squares = np.where(mask, np.mean((prediction - truth) ** 2, axis=-1, dtype=np.float64), 0)
    sums, counts = (
        uniform_filter(values, patch_size, mode="constant") for values in (squares, mask.astype(np.float64))
    )
    return np.asarray(sums[mask] / counts[mask])
