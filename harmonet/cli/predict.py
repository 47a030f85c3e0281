"""`harmonet predict`: a new subject in, NIfTI out."""

from pathlib import Path
from typing import Annotated

import typer

from harmonet.cli.console import Force, Progress, keep_out_of, note
from harmonet.cli.train import Accept, accepted
from harmonet.errors import DataError


def predict(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    dwi: Annotated[Path, typer.Option(help="DWI (or scalar image) of the new subject on the source platform.")],
    mask: Annotated[str, typer.Option(help="Its brain mask, or 'auto'.")],
    out: Annotated[Path, typer.Option(help="Folder to write into.")],
    bval: Annotated[Path | None, typer.Option(help="Its b-values; none for a scalar image.")] = None,
    bvec: Annotated[Path | None, typer.Option(help="Its b-vectors, FSL convention; none for a scalar image.")] = None,
    name: Annotated[str | None, typer.Option(help="Beginning of the file names; by default the DWI's.")] = None,
    target: Annotated[list[str] | None, typer.Option(help="Platform to predict; all where not given.")] = None,
    accept: Accept = None,
    force: Force = False,
) -> None:
    """Predict what each target platform would have measured: SH coefficients and DWI as NIfTI.

    Example: harmonet predict runs/msp --dwi dwi.nii.gz --bval dwi.bval --bvec dwi.bvec --mask mask.nii.gz --out new
    """
    from harmonet.data.acquisition import Acquisition
    from harmonet.platforms import check_name
    from harmonet.reading import Reading, read_checked
    from harmonet.runs import load
    from harmonet.runs.predict import predict as predict_scan
    from harmonet.runs.predict import refuse_taken, write_predictions

    keep_out_of(out, run)
    stem = check_name(name if name is not None else dwi.name.removesuffix(".gz").removesuffix(".nii"), "name")
    trained = load(run)
    refuse_taken(trained, target or trained.task.target_names, out, stem, force=force)
    if trained.representation.uses_gradients and (bval is None or bvec is None):
        raise DataError(f"{run} reads diffusion-weighted images, found no gradient table: add --bval and --bvec.")
    if not trained.representation.uses_gradients and (bval or bvec):
        raise DataError(f"{run} reads scalar images, which have no gradient table: leave out --bval and --bvec.")
    auto = mask == "auto"
    if auto:
        note("mask: made with dipy's median_otsu")
    acquisition = Acquisition(stem, trained.task.source.name, dwi, bval, bvec, None if auto else Path(mask))
    scan = read_checked(acquisition, Reading(auto, accepted(accept), say=note))
    for sentence in scan.warnings:
        note(sentence)
    if trained.label:
        note(f"the model was trained on: {trained.label}")
    with Progress() as progress:
        predictions = predict_scan(trained, scan, target, progress)
    for path in write_predictions(trained, scan, predictions, out, stem, force=force):
        note(f"wrote {path}")
