"""`harmonet predict`: a new subject in, NIfTI out."""

from pathlib import Path
from typing import Annotated

import typer

from harmonet.cli.console import Force, Progress, keep_out_of, note


def predict(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    dwi: Annotated[Path, typer.Option(help="DWI of the new subject on the source platform.")],
    bval: Annotated[Path, typer.Option(help="Its b-values.")],
    bvec: Annotated[Path, typer.Option(help="Its b-vectors, FSL convention.")],
    mask: Annotated[str, typer.Option(help="Its brain mask, or 'auto'.")],
    out: Annotated[Path, typer.Option(help="Folder to write into.")],
    name: Annotated[str | None, typer.Option(help="Beginning of the file names; by default the DWI's.")] = None,
    target: Annotated[list[str] | None, typer.Option(help="Platform to predict; all where not given.")] = None,
    force: Force = False,
) -> None:
    """Predict what each target platform would have measured: SH coefficients and DWI as NIfTI.

    Example: harmonet predict runs/msp --dwi dwi.nii.gz --bval dwi.bval --bvec dwi.bvec --mask mask.nii.gz --out new
    """
    from harmonet.data.acquisition import Acquisition
    from harmonet.data.scan import read_scan
    from harmonet.platforms import check_name
    from harmonet.runs import load
    from harmonet.runs.predict import predict as predict_scan
    from harmonet.runs.predict import refuse_taken, write_predictions

    keep_out_of(out, run)
    stem = check_name(name if name is not None else dwi.name.removesuffix(".gz").removesuffix(".nii"), "name")
    trained = load(run)
    refuse_taken(target or trained.task.target_names, out, stem, force=force)
    auto = mask == "auto"
    if auto:
        note("mask: made with dipy's median_otsu")
    acquisition = Acquisition(stem, trained.task.source.name, dwi, bval, bvec, None if auto else Path(mask))
    scan = read_scan(acquisition, auto_mask=auto)
    if trained.label:
        note(f"the model was trained on: {trained.label}")
    with Progress() as progress:
        predictions = predict_scan(trained, scan, target, progress)
    for path in write_predictions(trained, scan, predictions, out, stem, force=force):
        note(f"wrote {path}")
