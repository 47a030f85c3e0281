"""Travelling heads made from one real acquisition: the same head as an older and as newer scanners might see it.

The order matters. Directions are split first, so that source and targets share no diffusion-weighted volume: a
target that is a filtered copy of the source holds the same noise, and every score flatters. Then resolution, the
scanner's effect on each SH order, b-value error, receive field, and noise last. All sizes of effects are our choice
unless they say otherwise. Scans are taken to be aligned: no motion is added.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from harmonet import sh
from harmonet.data.gradients import SHELL_TOLERANCE, shells
from harmonet.data.phantom import smooth_field
from harmonet.data.scan import Acquisition, Scan, read_scan
from harmonet.data.simulate import Place, Progress, add_rician, receive_field, staged, unit_cube, write_facts
from harmonet.errors import DataError, NotFoundError, OutputError, nearest
from harmonet.platforms import Grid, Platform, Task, upsampling_between
from harmonet.platforms import preset as task_of

MIN_DIRECTIONS = 12  # so that source and targets have the six each that a tensor needs
MIN_SLAB = 5  # source voxels: fewer are hardly an image
TUKEY = 0.5  # the part of the pass band over which k-space fades out
CENTRES, SOURCE_MAPS, FIELD, NOISE = range(4)  # purposes of random numbers

Image = NDArray[np.float32]
Table = NDArray[np.float64]
Box = tuple[slice, slice, slice]


@dataclass(frozen=True)
class Effect:
    """What stands between the real acquisition and one platform.

    Attributes:
        snr: Of b = 0 in white matter; None leaves the acquisition's own noise alone.
        b_error: Factor on every b-value that the table does not tell, smooth in space around this mean.
        orders: Mean factors on l = 0, 2, 4 of the diffusion-weighted signal, smooth in space.
        bias: Standard deviation of the receive field's logarithm.
        gain: Factor on the whole signal.
        orientation: Axes of the stored image.
    """

    snr: float | None
    b_error: float = 1.0
    orders: tuple[float, ...] = ()
    bias: float = 0.1
    gain: float = 1.0
    orientation: str = "RAS"


PRESETS: Mapping[str, Mapping[str, Effect]] = {
    "cdmri2017": {
        "ge_st": Effect(18, b_error=0.975, orders=(1.05, 0.93, 0.85), bias=0.15, gain=1.3),
        "prisma_st": Effect(28, b_error=1.02, bias=0.12, gain=0.8, orientation="LAS"),
        "connectom_st": Effect(30, bias=0.10),
        "connectom_sa": Effect(None, bias=0.10, gain=1.1),
    }
}


def degrade(
    out: Path,
    acquisition: Acquisition | Scan,
    *,
    seed: int = 0,
    slabs: int = 1,
    gap: int = 11,
    preset: str = "cdmri2017",
    progress: Progress | None = None,
    force: bool = False,
) -> None:
    """Writes a travelling-heads data set made from one real head; the same arguments give the same bytes.

    The finest target is the acquisition itself; the others have voxels twice as large on each axis. There is no
    `truth.nii.gz`: nobody knows what a real head looks like without noise.

    Args:
        out: Folder to make.
        acquisition: One real head: one shell of it is used, that nearest to the preset's.
        seed: 0 or more.
        slabs: Cut the head along its longest axis into so many pieces, which stand in for subjects.
        gap: Source voxels between slabs. With the source patch's edge, 11, no two patches of different slabs that
            lie centred in their masks overlap; each slab brings (gap - 1) / 2 voxels of context on both sides.
        preset: Which platforms to make.
        progress: Called with what is done, how many acquisitions are written, and of how many.
        force: Replace a data set that harmonet simulated before.

    Raises:
        DataError: The acquisition is unusable or too small, or has too few directions.
        NotFoundError: No such preset.
        OutputError: `out` exists, lies over the input, or cannot be written.
    """
    if slabs < 1 or gap < 0 or seed < 0:
        raise DataError(f"{slabs} slabs, gap {gap} and seed {seed} were asked for: use 1, 0 and 0 or more.")
    effects, task = _preset(preset)
    if isinstance(acquisition, Acquisition):
        if out.resolve() in acquisition.dwi.resolve().parents:
            raise OutputError(f"{out} holds the input {acquisition.dwi}: choose another folder.")
        acquisition = read_scan(acquisition)
    scan = _odd(acquisition)
    half, rest, b = _split(scan, task.source.shells[0])
    boxes = _slabs(scan.mask[::2, ::2, ::2], slabs, gap)
    platforms = (task.source, *task.targets)
    coarse = {"source": _coarser(_volumes(scan, half)), "target": _coarser(_volumes(scan, rest))}
    with staged(out, force) as folder:
        for index, platform in enumerate(platforms):
            factor = upsampling_between(task.source, platform)
            chosen = half if platform == task.source else rest
            if factor == 1:
                image = coarse["source" if platform == task.source else "target"].copy()
            else:
                image = _volumes(scan, chosen)
            step = 2 // factor
            seen = _Seen(image, scan.bvals[chosen], scan.directions[chosen], scan.mask[::step, ::step, ::step])
            _scanned(seen, effects[platform.name], np.random.default_rng([seed, index]))
            affine = scan.grid.affine @ np.diag([step, step, step, 1.0])
            for number, (core, context) in enumerate(boxes):
                name = f"slab{number + 1:02d}" if slabs > 1 else "head01"
                _write(folder / name, platform, effects[platform.name], seen, affine, core, context, factor, scan.te)
                if progress:
                    progress("degrading", index * slabs + number + 1, len(platforms) * slabs)
        _tell(folder, acquisition, preset, seed, slabs, gap, effects, (len(half), len(rest)), b)
