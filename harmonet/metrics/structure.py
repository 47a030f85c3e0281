"""Structural similarity."""

import numpy as np

from harmonet.metrics.image import Context, Map, Mask
from harmonet.metrics.misalignment import smooth

SIGMA = 1.5  # voxels of the window, and the constants: Wang's
K1, K2 = 0.01, 0.03


def ssim(prediction: Map, truth: Map, mask: Mask, context: Context) -> float | None:
    """Mean structural similarity over the mask's voxels and channels, 1 for equal maps; None for a constant truth.

    After Wang et al. 2004 (doi:10.1109/TIP.2003.819861) with Gaussian windows in 3-D. Our choice: windows hold voxels
    of the mask only, and the range of a channel is that of the truth in the mask.
    """
    inside = truth[mask].astype(np.float64)
    extent = inside.max(axis=0) - inside.min(axis=0)
    if not (extent > 0).all():
        return None
    c1, c2 = (K1 * extent) ** 2, (K2 * extent) ** 2

    def local(values: Map) -> Map:
        return smooth(values, mask, np.full(3, SIGMA))[mask]

    # Moments about the truth's mean: squares of large values would lose their difference.
    p, t = prediction - inside.mean(axis=0), truth - inside.mean(axis=0)
    mean_p, mean_t = local(p), local(t)
    var_p, var_t = np.maximum(local(p * p) - mean_p**2, 0), np.maximum(local(t * t) - mean_t**2, 0)
    covariance = local(p * t) - mean_p * mean_t
    mean_p, mean_t = mean_p + inside.mean(axis=0), mean_t + inside.mean(axis=0)
    luminance = (2 * mean_p * mean_t + c1) / (mean_p**2 + mean_t**2 + c1)
    structure = (2 * covariance + c2) / (var_p + var_t + c2)
    return float(np.mean(luminance * structure))
