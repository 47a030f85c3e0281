"""Label maps, brought to the grid of what is measured."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from harmonet.data.nifti import read_nifti
from harmonet.errors import DataError
from harmonet.platforms import Grid


def read_labels(pattern: str, subject: str, platform: str, onto: Grid) -> NDArray[np.int64]:
    """(X, Y, Z) label of each voxel of a grid: that of the nearest voxel of the map, 0 outside it.

    Args:
        pattern: Path with `{subject}` and, where platforms have maps of their own, `{platform}`.
        subject, platform: What to put there.
        onto: Where labels are wanted; the map may lie on any grid of the same world.

    Raises:
        DataError: There is no such file, or it holds no whole numbers of three axes.
    """
    try:
        path = Path(pattern.format(subject=subject, platform=platform))
    except (KeyError, IndexError, ValueError):
        raise DataError(
            f"--labels {pattern!r} is not understood: write a path with {{subject}} and perhaps {{platform}}."
        ) from None
    image = read_nifti(path)
    values = image.data[..., 0] if image.data.ndim == 4 and image.data.shape[3] == 1 else image.data
    if values.ndim != 3 or not np.isfinite(values).all() or (values != np.rint(values)).any():
        raise DataError(
            f"{path} is no label map: found an image {image.data.shape}, give whole numbers on three axes, 0 for no "
            "region."
        )
    between = np.linalg.inv(image.affine) @ onto.affine
    voxels = np.indices(onto.shape).reshape(3, -1)
    places = np.rint(between[:3, :3] @ voxels + between[:3, 3:]).astype(int)
    inside = ((places >= 0) & (places < np.asarray(values.shape)[:, None])).all(axis=0)
    found = np.zeros(voxels.shape[1], dtype=np.int64)
    x, y, z = places[:, inside]
    found[inside] = values[x, y, z]
    if not found.any():
        raise DataError(f"{path} has no label on the grid of {platform} of {subject}: check its affine.")
    return found.reshape(onto.shape)
