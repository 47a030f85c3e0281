"""`harmonet simulate`: travelling heads, synthetic or degraded from a real acquisition."""

from pathlib import Path
from typing import Annotated

import typer

from harmonet.cli.console import Force, Progress, note
from harmonet.cli.train import Accept, accepted
from harmonet.errors import DataError


def simulate(
    out: Annotated[Path, typer.Argument(help="Folder to write the data set into.")],
    subjects: Annotated[int, typer.Option(help="Number of simulated heads.", min=1, max=999)] = 5,
    seed: Annotated[int, typer.Option(help="The same seed gives the same bytes.", min=0)] = 0,
    preset: Annotated[str, typer.Option(help="Platforms to simulate.")] = "cdmri2017",
    shape: Annotated[
        tuple[int, int, int], typer.Option(help="Voxels of the head at the source's resolution.", metavar="X Y Z")
    ] = (26, 30, 22),
    from_dwi: Annotated[Path | None, typer.Option(help="Degrade this real DWI instead.")] = None,
    bval: Annotated[Path | None, typer.Option(help="b-values of the real DWI.")] = None,
    bvec: Annotated[Path | None, typer.Option(help="b-vectors of the real DWI.")] = None,
    mask: Annotated[str | None, typer.Option(help="Brain mask of the real DWI, or 'auto'.")] = None,
    slabs: Annotated[int, typer.Option(help="Cut the real head into slabs that stand in for subjects.", min=1)] = 1,
    gap: Annotated[int, typer.Option(help="Source voxels between slabs.", min=0)] = 11,
    accept: Accept = None,
    force: Force = False,
) -> None:
    """Write a travelling-heads data set, synthetic or degraded from a real acquisition.

    Example: harmonet simulate heads --subjects 5 --seed 1

    Example: harmonet simulate heads --from-dwi dwi.nii.gz --bval dwi.bval --bvec dwi.bvec --mask mask.nii.gz --slabs 3
    """
    if from_dwi is None:
        if bval or bvec or mask or slabs > 1:
            raise DataError("--bval, --bvec, --mask and --slabs describe a real acquisition: give it with --from-dwi.")
        from harmonet.data.simulate import simulate as write

        with Progress() as progress:
            write(out, subjects=subjects, seed=seed, preset=preset, shape=shape, progress=progress, force=force)
    else:
        if bval is None or bvec is None or mask is None:
            raise DataError("--from-dwi needs --bval, --bvec and --mask of that acquisition (--mask auto makes one).")
        from harmonet.data.acquisition import Acquisition
        from harmonet.data.degrade import degrade
        from harmonet.reading import Reading, read_checked

        auto = mask == "auto"
        acquisition = Acquisition("head", "real", from_dwi, bval, bvec, None if auto else Path(mask))
        if auto:
            note("mask: made with dipy's median_otsu")
        with Progress() as progress:
            scan = read_checked(acquisition, Reading(auto, accepted(accept), say=note))
            for sentence in scan.warnings:
                note(sentence)
            degrade(out, scan, seed=seed, slabs=slabs, gap=gap, preset=preset, progress=progress, force=force)
    note(f"wrote {out}")
