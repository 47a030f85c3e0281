"""What each target platform would have measured of one subject."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from harmonet.build import kinds_of, shells_of
from harmonet.data.axes import canonical_grid, first_three
from harmonet.data.nifti import read_header
from harmonet.data.represent import represent
from harmonet.data.resample import resample, seen
from harmonet.data.scan import Scan
from harmonet.data.standardise import PerAcquisition
from harmonet.data.volumes import SEEN, Volume
from harmonet.errors import DataError, NotFoundError
from harmonet.inference import MEMORY, Filled, Where
from harmonet.model import answers
from harmonet.platforms import Grid, Kind, align
from harmonet.runs.answering import stages_of
from harmonet.runs.folder import Trained
from harmonet.runs.predict.caution import check_kind, concerns, disagreement, distance, voices
from harmonet.training.loop import Watch

Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Prediction:
    """What one platform would have measured, in closest-canonical axes.

    Attributes:
        volume: Channels in raw units (X, Y, Z, C), mask and grid; its notes say what is doubtful.
        b0: (X, Y, Z) the input's mean b0 on that grid, 0 or more.
        stored: The same voxels in the axes of the file to write: those of the input or of the grid that was given.
        variance: (X, Y, Z, C) of the channels, raw units squared, where the network knows it.
        caution: Name to a map (X, Y, Z): `disagreement`, `distance`; see `harmonet.runs.predict.caution`.
        onto: The file whose grid was asked for, None for the input's.
    """

    volume: Volume
    b0: Floats
    stored: Grid
    variance: Floats | None = None
    caution: Mapping[str, Floats] = field(default_factory=dict)
    onto: Path | None = None


def predict(
    run: Trained,
    scan: Scan,
    platforms: Sequence[str] | None = None,
    watch: Watch | None = None,
    *,
    onto: Path | None = None,
    memory: int = MEMORY,
) -> dict[str, Prediction]:
    """The run's answer for each target platform, on the source's grid refined to the target's voxel size.

    Args:
        run: A trained model.
        scan: A new subject on the source platform.
        platforms: Which targets; all where None.
        watch: Called as the work goes on.
        onto: An image on whose grid the answers are wanted: they are interpolated from the refined one, trilinearly
            with the mask's voxels as the only witnesses, and so is a variance, as if neighbours erred together.
        memory: Bytes that the model may hold at once, beside its weights, the source and the result.

    Raises:
        NotFoundError: The run does not predict such a platform.
        DataError: The scan is not of the kind that the run was trained on, or does not lie on the grid.
    """
    names = _names(run, platforms)
    check_kind(run, scan)
    stored = None if onto is None else grid_of(onto)
    source = represent(scan, run.representation, shells_of(run.task))
    standardised = run.standardise_source.standardisation_for(source).apply(source)
    notes = [*concerns(run, scan, standardised)]
    if stored is not None:
        notes += _overlap(source, stored, f"{scan.subject} {scan.platform}", onto)
    factors, kinds = run.task.upsampling, kinds_of(run.recipe)
    where = {name: _where(source.grid, factors[name], kinds[name]) for name in names}
    stages = stages_of(run, source, where, watch, memory=memory, members=True)
    far = distance(standardised)[..., None]
    predictions = {}
    for name in names:
        grid = where[name].grid
        near, mask = resample(far, source.mask, source.grid, grid)
        channels, variance = _answer(stages, name, mask)
        maps = {} if isinstance(run.standardise_source, PerAcquisition) else {"distance": near[..., 0]}
        scale = run.standardise[name].std.astype(np.float32)
        apart = disagreement([volume / scale for volume in voices(stages, name)], mask)
        if apart is not None:
            maps["disagreement"] = apart
        place = scan.stored.refined(factors[name], kinds[name])
        if stored is not None:
            place, wanted = stored, canonical_grid(stored)
            channels, inside = resample(channels, mask, grid, wanted)
            variance = None if variance is None else resample(variance, mask, grid, wanted)[0]
            maps = {word: resample(volume[..., None], mask, grid, wanted)[0][..., 0] for word, volume in maps.items()}
            grid, mask = wanted, inside
            if not mask.any():
                raise DataError(f"the grid of {onto} holds no voxel of the brain of {name}: give a grid that does.")
        b0 = np.maximum(carried(scan.b0(), source.grid, grid), 0)
        volume = Volume(channels, mask, grid, notes=tuple(notes))
        predictions[name] = Prediction(volume, b0, place, variance, maps, onto)
    return predictions


def grid_of(path: Path) -> Grid:
    """The voxels of an image, in the axes of its file."""
    header = read_header(path)
    if len(header.shape) < 3:
        raise DataError(f"{path} has shape {header.shape}, and a grid has three axes: give a 3-D or 4-D image.")
    return Grid(first_three(header.shape), header.affine)


def carried(volume: Floats, source: Grid, grid: Grid) -> Floats:
    """The volume (X, Y, Z) on `source` interpolated linearly on another grid; its border goes on outside."""
    from scipy.ndimage import affine_transform

    between = np.linalg.inv(source.affine) @ grid.affine
    return np.asarray(
        affine_transform(volume, between[:3, :3], between[:3, 3], grid.shape, order=1, mode="nearest"),
        dtype=np.float32,
    )


def _names(run: Trained, platforms: Sequence[str] | None) -> list[str]:
    """The targets that are asked for; all that the run predicts where None."""
    told = [name for name in run.task.target_names if name in run.networks or name in run.model.fusions]
    if platforms is None:
        return told
    for name in platforms:
        run.task.target(name)
    if lacking := [name for name in platforms if name not in told]:
        raise NotFoundError(
            f"{run.folder} predicts {', '.join(told)}, not {', '.join(lacking)}: ask for one that it predicts."
        )
    return list(dict.fromkeys(platforms))


def _where(source: Grid, factor: int, kind: Kind) -> Where:
    """The grid to predict on: the source's, refined as the networks predict."""
    grid = source.refined(factor, kind)
    return Where(grid, align(source, grid, factor))


def _answer(stages: Sequence[Filled], name: str, mask: NDArray[np.bool_]) -> tuple[Floats, Floats | None]:
    """Channels of a platform, and their variance where the last stage that has the platform knows it."""
    channels: Floats = answers(stages)[name]
    channels[~mask] = 0
    variance = next(stage for stage in reversed(stages) if name in stage).variances.get(name)
    if variance is not None:
        variance = variance * mask[..., None]
    return channels, variance


def _overlap(source: Volume, stored: Grid, name: str, onto: Path | None) -> list[str]:
    """A sentence where the grid that was asked for shows less than nine tenths of the brain; none of it is refused."""
    share = seen(source.mask, source.grid, stored)
    if not share:
        raise DataError(f"{onto} holds no voxel of the brain of {name}: check the affines of both.")
    return [] if share >= SEEN else [f"{name}: the grid of {onto} holds {share:.0%} of the brain."]
