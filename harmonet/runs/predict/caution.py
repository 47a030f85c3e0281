"""Where a prediction should be trusted less: two maps, and sentences on how the input differs from the training data.

All thresholds here are our choice. The maps need only what the run folder holds: the stages of the model, and the
standardisation by the training subjects.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from harmonet.build import shells_of
from harmonet.data.represent import in_shells
from harmonet.data.scan import Scan
from harmonet.data.standardise import PerAcquisition
from harmonet.errors import DataError
from harmonet.reading import check_voxels
from harmonet.runs.folder import Trained

VOXEL_SEEN, VOXEL_REFUSED = 0.01, 0.1  # of the training platform's largest edge
B_SEEN = 20.0  # s/mm² between the median b-value of a shell and the training platform's
DIRECTIONS_MORE = 1.5  # times as many as the training platform's
SHIFT = 0.5  # of a channel's mean, in standard deviations of the training voxels
SPREAD = (0.5, 2.0)  # of a channel's standard deviation over that of the training voxels

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]

DISAGREEMENT = (
    "Standard deviation of what the networks of this platform say, or where it has one of what the stages of the model "
    "say (the single network, then each step of the fusion), root mean square over the channels, in standard "
    "deviations of the training subjects' voxels of this platform"
)
DISTANCE = (
    "Distance of the input from the training subjects of the source platform: root mean square over the channels of "
    "(value - mean) / standard deviation, which is about 1 over a brain like theirs; correlations between channels are "
    "not counted"
)


def voices(stages: Sequence[Mapping[str, Floats]], platform: str) -> list[Floats]:
    """What answers for a platform: its networks where a stage has several of them (`members`), else every stage."""
    members = ([member[platform] for member in getattr(s, "members", ()) if platform in member] for s in stages)
    return next(filter(None, members), [stage[platform] for stage in stages if platform in stage])


def disagreement(said: Sequence[Floats], mask: Mask) -> Floats | None:
    """(X, Y, Z) sample standard deviation over standardised answers, root mean square over channels.

    Args:
        said: Each (X, Y, Z, C).
        mask: (X, Y, Z); 0 outside.

    Returns:
        None where fewer than two answer, so that nobody could disagree.
    """
    if len(said) < 2:
        return None
    out = np.zeros(mask.shape, dtype=np.float32)
    for plane, inside in enumerate(mask):  # plane by plane: the volumes may fill the memory
        rows = np.stack([volume[plane][inside] for volume in said])
        out[plane][inside] = np.sqrt(rows.var(axis=0, ddof=1, dtype=np.float64).mean(axis=-1))
    return out


def distance(standardised: Floats) -> Floats:
    """(X, Y, Z) root mean square over the channels of a standardised source (X, Y, Z, C)."""
    return np.asarray(np.sqrt(np.square(standardised).mean(axis=-1)))


def check_kind(run: Trained, scan: Scan) -> None:
    """Refuse a scan from which the run cannot make sense: it would need another representation, or other voxels.

    Too few directions for the order are refused by the representation itself.

    Raises:
        DataError: Diffusion-weighted where scalar images are read or the other way, or voxels more than 10 % off.
    """
    name = f"{scan.subject} {scan.platform}"
    if run.representation.uses_gradients and not scan.is_dwi.any():
        raise DataError(f"{name} has no diffusion-weighted volume, and {run.folder} reads nothing else: give a DWI.")
    if not run.representation.uses_gradients and scan.is_dwi.any():
        raise DataError(f"{name} is diffusion-weighted, and {run.folder} reads scalar images: give one of its kind.")
    if _misfit(scan, run) > VOXEL_REFUSED:
        check_voxels(scan.grid, run.task.source, name)


def concerns(run: Trained, scan: Scan, standardised: Floats) -> Iterator[str]:
    """Sentences on what lies outside what the model has seen: voxel size, b-values, directions, intensities.

    Args:
        run: The model.
        scan: The new subject, of the right kind.
        standardised: (X, Y, Z, C) its standardised channels.
    """
    name, source = f"{scan.subject} {scan.platform}", run.task.source
    if _misfit(scan, run) > VOXEL_SEEN:
        found, seen = (" x ".join(f"{edge:.3g}" for edge in size) for size in (scan.grid.voxel_size, source.voxel_size))
        yield f"{name} has voxels of {found} mm, the model has seen {seen} mm: the prediction may be off."
    if run.representation.uses_gradients:
        yield from _protocol_concerns(run, scan, name)
    if not isinstance(run.standardise_source, PerAcquisition):
        yield from _intensity_concerns(run, standardised[scan.mask], name)


def _misfit(scan: Scan, run: Trained) -> float:
    """The largest difference between a voxel edge and the training platform's, over the largest of these."""
    seen = np.asarray(run.task.source.voxel_size)
    return float(np.abs(np.asarray(scan.grid.voxel_size) - seen).max() / seen.max())


def _protocol_concerns(run: Trained, scan: Scan, name: str) -> Iterator[str]:
    """On b-values and the number of directions."""
    shells, source = shells_of(run.task), run.task.source
    for shell in shells:
        found = float(np.median(scan.bvals[in_shells(scan, [shell])]))
        if abs(found - shell) > B_SEEN:
            yield (
                f"{name} was measured at b = {found:g} s/mm², the model has seen {shell:g}: the prediction may be off."
            )
    directions = int(in_shells(scan, shells).sum())
    # The run knows how many directions all shells of the source had together, not how many each.
    if shells == source.shells and not source.directions <= directions <= DIRECTIONS_MORE * source.directions:
        noise = "more" if directions < source.directions else "less"
        yield (
            f"{name} has {directions} directions, the model has seen {source.directions}: expect {noise} noise than it "
            "was trained with."
        )


def _intensity_concerns(run: Trained, rows: Floats, name: str) -> Iterator[str]:
    """On the mean and spread of the channels over the brain; one sentence, on the worst channel."""
    shift = rows.mean(axis=0, dtype=np.float64)
    spread = rows.std(axis=0, dtype=np.float64)
    low, high = SPREAD
    far = (np.abs(shift) > SHIFT) | (spread < low) | (spread > high)
    if not far.any():
        return
    odd = np.maximum(np.abs(shift) / SHIFT, np.abs(np.log(np.maximum(spread, 1e-9))) / np.log(high))
    worst = int(odd.argmax())
    groups = run.representation.groups()
    group = next((word for word, where in groups.items() if where.start <= worst < where.stop), "")
    yield (
        f"{name} has other intensities than the training subjects in {int(far.sum())} of {far.size} channels, most in "
        f"channel {worst} ({group}), whose mean is {shift[worst]:+.2g} and whose spread {spread[worst]:.2g} times "
        "their standard deviation: check b-values, mask and scanner."
    )
