"""From a scan to channels: masked voxels are gathered in chunks, so that memory stays bounded.

Above the scan and the channels themselves that takes some 5 MB, or 75 bytes per voxel of the mask if that is more.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from harmonet.data.gradients import SHELL_TOLERANCE, Gradients
from harmonet.data.scan import CHUNK, Scan
from harmonet.data.volumes import Volume
from harmonet.errors import DataError
from harmonet.representation import Representation


def represent(scan: Scan, representation: Representation, shells: Sequence[float]) -> Volume:
    """The channels of a scan, 0 outside its mask.

    Args:
        scan: What was read.
        representation: How its signal becomes channels.
        shells: The b-values to use, in s/mm²; ignored where the representation reads no gradients.

    Raises:
        DataError: The scan lacks a shell, or the representation refuses its table.
    """
    chosen = in_shells(scan, shells) if representation.uses_gradients else np.ones(len(scan.bvals), dtype=bool)
    bvals, directions = scan.bvals[chosen], scan.directions[chosen]
    try:
        encode = representation.encoder(bvals, directions)
    except DataError as error:
        raise DataError(f"{scan.subject} {scan.platform}: {error}") from None
    channels = np.zeros((scan.mask.size, representation.channels), dtype=np.float32)
    for voxels in scan.chunks():
        channels[voxels] = encode(scan.rows(voxels, chosen, normalised=representation.uses_gradients))
    return Volume(channels.reshape(*scan.mask.shape, -1), scan.mask, scan.grid, Gradients(bvals, directions))


def decoded(representation: Representation, volume: Volume, gradients: Gradients) -> NDArray[np.float32]:
    """(X, Y, Z, N) the signal of the channels along a gradient table, 0 outside the mask."""
    decode = representation.decoder(*gradients)
    inside = np.flatnonzero(volume.mask)
    channels = volume.channels.reshape(-1, volume.channels.shape[-1])
    signal = np.zeros((volume.mask.size, len(gradients.bvals)), dtype=np.float32)
    for start in range(0, inside.size, CHUNK):
        voxels = inside[start : start + CHUNK]
        signal[voxels] = decode(channels[voxels])
    return signal.reshape(*volume.mask.shape, -1)


def in_shells(scan: Scan, shells: Sequence[float]) -> NDArray[np.bool_]:
    """(N,) true for the volumes that lie in one of the shells.

    Raises:
        DataError: The scan has no volume in one of them.
    """
    near = [scan.is_dwi & (np.abs(scan.bvals - shell) <= SHELL_TOLERANCE) for shell in shells]
    for shell, volumes in zip(shells, near, strict=True):
        if not volumes.any():
            found = ", ".join(f"{b:g}" for b in sorted(set(scan.bvals[scan.is_dwi])))
            raise DataError(
                f"{scan.subject} {scan.platform} has no volumes at b = {shell:g} s/mm², found {found or 'none'}: "
                "choose one of these."
            )
    return np.asarray(np.any(near, axis=0))
