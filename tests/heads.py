"""Small travelling heads in memory, for tests: smooth random channels whose targets follow from the source."""

import numpy as np
from scipy.ndimage import gaussian_filter

from harmonet.data.volumes import Volume, bring_together
from harmonet.platforms import Grid

UPSAMPLING = {"near": 1, "fine": 2}


def make_head(name, seed=0, shape=(14, 15, 13), channels=6):
    """A head with a `near` target on the source's grid and a `fine` one of half the voxel size."""
    rng = np.random.default_rng(seed)
    grid = Grid(shape, np.diag([2.0, 2.0, 2.0, 1.0]))
    fine = grid.refined(2)
    smooth = np.stack([gaussian_filter(rng.normal(size=fine.shape), 2.5) for _ in range(channels)], axis=-1)
    smooth = (smooth / smooth.std()).astype(np.float32)
    fine_mask = np.zeros(fine.shape, dtype=bool)
    fine_mask[4:-4, 4:-4, 4:-4] = True
    coarse, mask = smooth[::2, ::2, ::2], fine_mask[::2, ::2, ::2]
    noise = rng.normal(scale=0.1, size=coarse.shape).astype(np.float32)
    source = Volume((coarse + noise) * mask[..., None], mask, grid)
    near = Volume((2 * coarse + 1) * mask[..., None], mask, grid)
    far = Volume((1 - smooth) * fine_mask[..., None], fine_mask, fine)
    return bring_together(name, source, {"near": near, "fine": far}, UPSAMPLING)
