"""A new subject in, NIfTI out: SH coefficients and DWI on each target's grid, with sidecars."""

import json
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harmonet.build import kinds_of, shells_of
from harmonet.data.gradients import Gradients, from_world, write_gradients
from harmonet.data.nifti import write_nifti
from harmonet.data.represent import decoded, represent
from harmonet.data.scan import Scan
from harmonet.data.volumes import Volume
from harmonet.errors import NotFoundError, OutputError
from harmonet.files import sha256, write_whole
from harmonet.inference import Where, predict_stages
from harmonet.model import answers
from harmonet.platforms import Grid, Kind, align
from harmonet.reading import check_voxels
from harmonet.runs.folder import MODEL, Trained
from harmonet.training.loop import Watch

Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Prediction:
    """What one platform would have measured, in closest-canonical axes.

    Attributes:
        volume: Channels in raw units (X, Y, Z, C), mask and grid.
        b0: (X, Y, Z) the input's mean b0 on that grid: it multiplies S / S0 back.
        variance: (X, Y, Z, C) of the channels, raw units squared, where the network knows it.
    """

    volume: Volume
    b0: Floats
    variance: Floats | None = None


def predict(
    run: Trained, scan: Scan, platforms: Sequence[str] | None = None, watch: Watch | None = None
) -> dict[str, Prediction]:
    """The run's answer for each target platform, on the source's grid refined to the target's voxel size.

    Args:
        run: A trained model.
        scan: A new subject on the source platform.
        platforms: Which targets; all where None.
        watch: Called as the work goes on.

    Raises:
        NotFoundError: The run does not predict such a platform.
        DataError: The scan is not of the kind that the run was trained on.
    """
    names = run.task.target_names if platforms is None else platforms
    for name in names:
        run.task.target(name)
    check_voxels(scan.grid, run.task.source, f"{scan.subject} {scan.platform}")
    source = represent(scan, run.representation, shells_of(run.task))
    factors = run.task.upsampling
    kinds = kinds_of(run.recipe)
    where = {name: _where(source.grid, factors[name], kinds[name]) for name in run.task.target_names}
    stages = predict_stages(
        run.model,
        run.standardise_source.standardisation_for(source).apply(source),
        source.mask,
        where,
        run.recipe.model.patch_size,
        None if watch is None else lambda done, total: watch("predicting", done, total, ""),
    )
    answer = answers(stages)
    if platforms is None:
        names = [name for name in names if name in answer]
    elif missing := [name for name in names if name not in answer]:
        told, lacking = ", ".join(answer), ", ".join(missing)
        raise NotFoundError(f"{run.folder} predicts {told}, not {lacking}: ask for one that it predicts.")
    predictions = {}
    for name in names:
        grid = where[name].grid
        mask = _on_grid(source.mask.astype(np.float32), source.grid, grid) >= 0.5
        channels = run.standardise[name].invert(answer[name])
        channels[~mask] = 0
        variance = next(stage for stage in reversed(stages) if name in stage).variances.get(name)
        if variance is not None:
            variance = variance * (run.standardise[name].std.astype(np.float32) ** 2) * mask[..., None]
        b0 = _on_grid(scan.b0(), source.grid, grid)
        predictions[name] = Prediction(Volume(channels, mask, grid), b0, variance)
    return predictions


def _where(source: Grid, factor: int, kind: Kind) -> Where:
    """The grid to predict on: the source's, refined as the networks predict."""
    grid = source.refined(factor, kind)
    return Where(grid, align(source, grid, factor))


def _on_grid(volume: Floats, source: Grid, grid: Grid) -> Floats:
    """The volume (X, Y, Z) on `source` interpolated linearly on a grid with parallel axes."""
    from scipy.ndimage import map_coordinates

    between = np.linalg.inv(source.affine) @ grid.affine
    axes = [between[i, i] * np.arange(n) + between[i, 3] for i, n in enumerate(grid.shape)]
    places = np.stack(np.meshgrid(*axes, indexing="ij"))
    return np.asarray(map_coordinates(volume, places, order=1, mode="nearest"), dtype=np.float32)


def write_predictions(
    run: Trained, scan: Scan, predictions: dict[str, Prediction], out: Path, name: str, *, force: bool = False
) -> list[Path]:
    """The files of each prediction, in the axis order of the input image.

    `<name>_space-<platform>_sh` (or what the representation calls its channels), `_sh_variance` where the network knows
    it, `_dwi` (with .bval and .bvec; not of a scalar image) and `_mask`, each .nii.gz, and JSON sidecars. All are
    written aside first, so that an interruption leaves nothing half-written.

    Raises:
        OutputError: A file exists and `force` was not given, or the folder cannot be written.
    """
    files = refuse_taken(run, predictions, out, name, force=force)
    aside = out.parent / f".{out.name}.partial"
    shutil.rmtree(aside, ignore_errors=True)
    try:
        aside.mkdir(parents=True)
        for platform, prediction in predictions.items():
            _write_one(run, scan, prediction, platform, aside / f"{name}_space-{platform}")
        out.mkdir(parents=True, exist_ok=True)
        files = [file for file in files if (aside / file).exists()]
        for file in files:
            (aside / file).replace(out / file)
    except OSError as error:
        raise OutputError(f"{out} cannot be written ({error.strerror}): choose another folder.") from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return [out / file for file in files]


def refuse_taken(run: Trained, platforms: Iterable[str], out: Path, name: str, *, force: bool) -> list[str]:
    """Names of the files that may be written (a variance where there is one); refuses if one exists without `force`."""
    channels = run.representation.suffix
    kinds = [f"{channels}.nii.gz", f"{channels}.json", f"{channels}_variance.nii.gz", "mask.nii.gz"]
    if run.representation.uses_gradients:
        kinds += ["dwi.nii.gz", "dwi.bval", "dwi.bvec", "dwi.json"]
    files = [f"{name}_space-{platform}_{kind}" for platform in platforms for kind in kinds]
    taken = [file for file in files if (out / file).exists()]
    if taken and not force:
        raise OutputError(f"{out / taken[0]} exists: add --force to replace it, or choose another folder or --name.")
    return files


def _write_one(run: Trained, scan: Scan, prediction: Prediction, platform: str, stem: Path) -> None:
    """Channels and mask with their sidecar, and the DWI that they stand for."""
    volume, channels = prediction.volume, run.representation.suffix
    affine = scan.stored.refined(run.task.upsampling[platform], kinds_of(run.recipe)[platform]).affine
    common = _sidecar(run, scan, platform)
    write_nifti(
        Path(f"{stem}_{channels}.nii.gz"),
        scan.to_stored(volume.channels),
        affine,
        description=f"harmonet {run.recipe.representation.name}",
    )
    write_nifti(Path(f"{stem}_mask.nii.gz"), scan.to_stored(volume.mask), affine, description="harmonet mask")
    if prediction.variance is not None:
        variance = scan.to_stored(prediction.variance)
        write_nifti(Path(f"{stem}_{channels}_variance.nii.gz"), variance, affine, description="harmonet variance")
    write_whole(Path(f"{stem}_{channels}.json"), _json(common | run.representation.sidecar()))
    if run.representation.uses_gradients:
        _write_dwi(run, scan, prediction, run.gradients[platform], Path(f"{stem}_dwi"), affine, common)


def _write_dwi(
    run: Trained,
    scan: Scan,
    prediction: Prediction,
    gradients: Gradients,
    stem: Path,
    affine: NDArray[np.float64],
    common: dict[str, Any],
) -> None:
    """The signal along the target platform's directions, one b = 0 volume before it, with table and sidecar."""
    volume = prediction.volume
    signal = decoded(run.representation, volume, gradients)
    outside = int(((signal < 0) | (signal > 1))[volume.mask].sum())
    b0 = (prediction.b0 * volume.mask)[..., None]
    dwi = np.concatenate([b0, np.clip(signal, 0, 1) * b0], axis=-1)
    write_nifti(Path(f"{stem}.nii.gz"), scan.to_stored(dwi), affine, description="harmonet DWI")
    table = np.vstack([np.zeros(3), from_world(gradients.directions, affine)])
    write_gradients(Path(f"{stem}.bval"), Path(f"{stem}.bvec"), np.r_[0.0, gradients.bvals], table)
    extra = {
        "B0": "mean b = 0 image of the input, interpolated to this grid; it multiplies the predicted S / S0",
        "Directions": "those of the target platform in the training data",
        "ValuesClippedTo01": outside,
    }
    if not run.representation.invertible:
        extra["Signal"] = f"what the {run.recipe.representation.name} channels explain: they cannot be inverted"
    write_whole(Path(f"{stem}.json"), _json(common | extra))


def _sidecar(run: Trained, scan: Scan, platform: str) -> dict[str, Any]:
    """Where a prediction comes from."""
    alpha = [float(b) for key, b in run.model.named_buffers() if key == f"fusions.{platform}.alpha"]
    return {
        "Description": f"What {platform} would have measured, predicted from {run.task.source.name}",
        "GeneratedBy": [{"Name": "harmonet", "Version": version("harmonet")}],
        "Sources": [{"File": file, "SHA256": digest} for file, digest in scan.sources.items()],
        "Model": {
            "Run": run.folder.name,
            "SHA256": sha256(run.folder / MODEL),
            "Networks": dict(run.networks),
            "Fusion": run.recipe.model.fusion,
            "Alpha": alpha[0] if alpha else None,
            "TrainingData": run.label,
        },
    }


def _json(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=1) + "\n").encode()
