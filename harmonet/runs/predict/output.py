"""The files of a prediction: channels, DWI, mask and caution maps, with sidecars."""

import json
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harmonet import sh
from harmonet.data.axes import from_canonical
from harmonet.data.gradients import from_world, write_gradients
from harmonet.data.nifti import read_header, write_nifti
from harmonet.data.scan import Scan
from harmonet.errors import DataError, OutputError
from harmonet.files import check_readable, sha256, write_whole
from harmonet.representation import Representation
from harmonet.runs.folder import MODEL, Trained
from harmonet.runs.predict.caution import DISAGREEMENT, DISTANCE
from harmonet.runs.predict.signal import B0S, DIRECTIONS, INPUT, TARGET, Tables, dwi_of, given_table
from harmonet.runs.predict.subject import Prediction

MRTRIX = "mrtrix3"
BASES = (sh.BASIS, MRTRIX)
CAUTION = {"disagreement": DISAGREEMENT, "distance": DISTANCE}


@dataclass(frozen=True)
class Output:
    """What is written, and how.

    Attributes:
        directions: Of the DWI: `target`, `input`, or the paths of b-values and b-vectors.
        b0: What multiplies S / S0: `input`, `one`, or the path of an image.
        basis: Of the SH coefficients: `descoteaux07` (not legacy), or `mrtrix3` for its tools.
        caution: Whether the caution maps are written too.
    """

    directions: str | Tables = TARGET
    b0: str | Path = INPUT
    basis: str = sh.BASIS
    caution: bool = False


def write_predictions(
    run: Trained,
    scan: Scan,
    predictions: dict[str, Prediction],
    out: Path,
    name: str,
    *,
    force: bool = False,
    output: Output = Output(),
) -> list[Path]:
    """The files of each prediction, in the axis order of the input image or of the grid that was asked for.

    `<name>_space-<platform>_sh` (or what the representation calls its channels), `_sh_variance` where the network knows
    it, `_dwi` (with .bval and .bvec; not of a scalar image) and `_mask`, each .nii.gz, and JSON sidecars; with caution
    `_disagreement` and `_distance`. All are written aside first, so that an interruption leaves nothing half-written.

    Raises:
        OutputError: A file exists and `force` was not given, or the folder cannot be written.
        DataError: The run has no coefficients for the basis, or a table or b0 does not fit.
    """
    files = refuse_taken(run, predictions, out, name, force=force, output=output)
    aside = out.parent / f".{out.name}.{name}.partial"
    shutil.rmtree(aside, ignore_errors=True)
    try:
        aside.mkdir(parents=True)
        for platform, prediction in predictions.items():
            _write_one(run, scan, prediction, platform, aside / f"{name}_space-{platform}", output)
        out.mkdir(parents=True, exist_ok=True)
        files = [file for file in files if (aside / file).exists()]
        for file in files:
            (aside / file).replace(out / file)
    except OSError as error:
        raise OutputError(f"{out} cannot be written ({error.strerror}): choose another folder.") from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return [out / file for file in files]


def refuse_taken(
    run: Trained,
    platforms: Iterable[str],
    out: Path,
    name: str,
    *,
    force: bool,
    output: Output = Output(),
) -> list[str]:
    """Names of the files that may be written (a variance where there is one); refuses if one exists without `force`."""
    sidecar_in(run.representation, output.basis)
    channels = run.representation.suffix
    kinds = [f"{channels}.nii.gz", f"{channels}.json", f"{channels}_variance.nii.gz", "mask.nii.gz"]
    if run.representation.uses_gradients:
        kinds += ["dwi.nii.gz", "dwi.bval", "dwi.bvec", "dwi.json"]
    if output.caution:
        kinds += [f"{word}.{extension}" for word in CAUTION for extension in ("nii.gz", "json")]
    files = [f"{name}_space-{platform}_{kind}" for platform in platforms for kind in kinds]
    taken = [file for file in files if (out / file).exists()]
    if taken and not force:
        raise OutputError(f"{out / taken[0]} exists: add --force to replace it, or choose another folder or --name.")
    return files


def remarks(scan: Scan, predictions: dict[str, Prediction], output: Output) -> Iterator[str]:
    """Sentences for people: on the scan, on what the model has not seen, and on maps that are lacking."""
    yield from scan.warnings
    yield from next(iter(predictions.values())).volume.notes
    why = {
        "disagreement": "only one stage of the model predicts it",
        "distance": "the run standardises each source image by itself and so knows no training statistics",
    }
    for platform, prediction in predictions.items():
        for word in CAUTION if output.caution else ():
            if word not in prediction.caution:
                yield f"there is no map of {word} for {platform}: {why[word]}."


def check_output(run: Trained, output: Output) -> None:
    """Refuse, before anything is computed, what cannot be written.

    Raises:
        DataError: A word is none, a table or image is not there, or the run has no coefficients for the basis.
    """
    sidecar_in(run.representation, output.basis)
    if not isinstance(output.directions, str):
        given_table(run, output.directions, np.eye(4))
    elif output.directions not in DIRECTIONS:
        raise DataError(
            f"--directions {output.directions!r} is none: use {', '.join(DIRECTIONS)} or BVAL,BVEC (two files)."
        )
    if output.b0 not in B0S:
        check_readable(Path(output.b0))


def sidecar_in(representation: Representation, basis: str) -> dict[str, Any]:
    """What a reader of the channels must know once they are in this basis.

    Raises:
        DataError: The channels are not the coefficients of one SH series, or there is no such basis.
    """
    told = representation.sidecar()
    if basis == sh.BASIS:
        return told
    if basis not in BASES:
        raise DataError(f"--basis {basis!r} is none that is written: use {' or '.join(BASES)}.")
    encoding = told.get("OrientationEncoding", {})
    degree = encoding.get("SphericalHarmonicDegree")
    if degree is None or sh.n_coefficients(degree) != representation.channels:
        raise DataError(
            f"--basis {basis} is for images of one SH series, and this run has {representation.channels} channels that "
            "are none: leave --basis out."
        )
    others = {key: value for key, value in told.get("HarmonetBasis", {}).items() if key != "legacy"}
    return told | {
        "OrientationEncoding": encoding | {"SphericalHarmonicBasis": sh.BEP016[basis]},
        "HarmonetBasis": others | {"name": basis},
    }


def _write_one(run: Trained, scan: Scan, prediction: Prediction, platform: str, stem: Path, output: Output) -> None:
    """Channels and mask with their sidecar, the DWI that they stand for, and the caution maps."""
    volume, affine, channels = prediction.volume, prediction.stored.affine, run.representation.suffix
    common = _sidecar(run, scan, prediction, platform)
    codes = scan.codes if prediction.onto is None else read_header(prediction.onto).codes

    def write(kind: str, data: NDArray[Any], description: str) -> None:
        turned = from_canonical(data, prediction.stored)
        write_nifti(Path(f"{stem}_{kind}.nii.gz"), turned, affine, description=f"harmonet {description}", codes=codes)

    write(channels, _in_basis(volume.channels, output.basis), run.recipe.representation.name)
    write("mask", volume.mask, "mask")
    if prediction.variance is not None:
        # The bases are orthonormal: coefficients change their places and signs, and variances their places.
        write(f"{channels}_variance", np.abs(_in_basis(prediction.variance, output.basis)), "variance")
    write_whole(Path(f"{stem}_{channels}.json"), as_json(common | sidecar_in(run.representation, output.basis)))
    if run.representation.uses_gradients:
        dwi = dwi_of(run, scan, prediction, platform, output.directions, output.b0)
        write("dwi", dwi.signal, "DWI")
        bvecs = from_world(dwi.gradients.directions, affine)
        write_gradients(Path(f"{stem}_dwi.bval"), Path(f"{stem}_dwi.bvec"), dwi.gradients.bvals, bvecs)
        write_whole(Path(f"{stem}_dwi.json"), as_json(common | dwi.facts))
    for word, found in prediction.caution.items() if output.caution else ():
        write(word, found, word)
        inside = found[volume.mask]
        shares = {"Mean": float(inside.mean()), "Percentile95": float(np.percentile(inside, 95))}
        write_whole(Path(f"{stem}_{word}.json"), as_json(common | {"Measure": CAUTION[word]} | shares))


def _in_basis(channels: NDArray[np.float32], basis: str) -> NDArray[Any]:
    return channels if basis == sh.BASIS else sh.convert(channels, sh.BASIS, basis)


def _sidecar(run: Trained, scan: Scan, prediction: Prediction, platform: str) -> dict[str, Any]:
    """Where a prediction comes from."""
    alpha = [float(b) for key, b in run.model.named_buffers() if key == f"fusions.{platform}.alpha"]
    grid: dict[str, Any] = {"Of": "the input, refined to the target's voxel size"}
    if prediction.onto is not None:
        grid = {"Of": "the image that was given; interpolated", "File": prediction.onto.name}
        grid["SHA256"] = sha256(prediction.onto)
    return {
        "Description": f"What {platform} would have measured, predicted from {run.task.source.name}",
        "GeneratedBy": [{"Name": "harmonet", "Version": version("harmonet")}],
        "Sources": [{"File": file, "SHA256": digest} for file, digest in scan.sources.items()],
        "Grid": grid,
        "Warnings": [*scan.warnings, *prediction.volume.notes],
        "Model": {
            "Run": run.folder.name,
            "SHA256": sha256(run.folder / MODEL),
            "Networks": dict(run.networks),
            "Fusion": run.recipe.model.fusion,
            "Alpha": alpha[0] if alpha else None,
            "TrainingData": run.label,
        },
    }


def as_json(content: dict[str, Any]) -> bytes:
    """The text of a JSON file."""
    return (json.dumps(content, indent=1) + "\n").encode()
