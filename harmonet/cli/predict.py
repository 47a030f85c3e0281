"""`harmonet predict`: one new subject or many in, NIfTI out."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harmonet.cli.console import Force, Progress, keep_out_of, note
from harmonet.cli.train import Accept, accepted
from harmonet.errors import DataError, NotFoundError, RecipeError, RunError, nearest

if TYPE_CHECKING:
    from harmonet.data.layout import TravellingHeads
    from harmonet.reading import Reading
    from harmonet.runs import Trained
    from harmonet.runs.predict import Output

UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def predict(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder, or exported model.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder to write into.")],
    dwi: Annotated[
        Path | None, typer.Option(metavar="FILE", help="DWI (or scalar image) of a new subject on the source platform.")
    ] = None,
    bval: Annotated[Path | None, typer.Option(metavar="FILE", help="Its b-values; none for a scalar image.")] = None,
    bvec: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Its b-vectors, FSL convention; none for a scalar image.")
    ] = None,
    mask: Annotated[
        str | None, typer.Option(metavar="FILE|auto", help="Its brain mask; of a data set, 'auto' where there is none.")
    ] = None,
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="Beginning of the file names; by default the DWI's.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(metavar="DIR", help="In place of --dwi: a data set, all of whose subjects are new.")
    ] = None,
    subject: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Only this one of the data set. May be given twice.")
    ] = None,
    part: Annotated[
        str | None, typer.Option(metavar="M/N", help="Only the M-th of N shares of the subjects: one per machine.")
    ] = None,
    target: Annotated[
        list[str] | None, typer.Option(metavar="PLATFORM", help="Platform to predict; all where not given.")
    ] = None,
    grid: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Image on whose grid to write; by default the input's, refined.")
    ] = None,
    directions: Annotated[
        str, typer.Option(metavar="target|input|BVAL,BVEC", help="Of the DWI; a table is read for the image written.")
    ] = "target",
    b0: Annotated[
        str, typer.Option(metavar="input|one|FILE", help="What multiplies S / S0; 'one' leaves S / S0.")
    ] = "input",
    basis: Annotated[
        str, typer.Option(metavar="descoteaux07|mrtrix3", help="Of the SH coefficients.")
    ] = "descoteaux07",
    caution: Annotated[
        bool, typer.Option("--caution", help="Write maps of where to trust the prediction less.")
    ] = False,
    memory: Annotated[str, typer.Option(metavar="SIZE", help="Memory for the model's work, such as 4G.")] = "2G",
    device: Annotated[
        str, typer.Option(metavar="NAME", help="'cpu', 'cuda', 'cuda:1', or 'auto' for a GPU where there is one.")
    ] = "auto",
    accept: Accept = None,
    force: Force = False,
) -> None:
    """Predict what each target platform would have measured: SH coefficients and DWI as NIfTI.

    With --data each subject becomes a folder of BIDS derivatives. Called again, subjects that are finished are not done
    again. A subject that fails lets the others go on; the exit status is then 1.

    Example: harmonet predict runs/msp --dwi dwi.nii.gz --bval dwi.bval --bvec dwi.bvec --mask mask.nii.gz --out new

    Example: harmonet predict runs/msp --data heads --out derivatives --part 2/8
    """
    from harmonet.reading import Reading
    from harmonet.runs import load
    from harmonet.runs.export import opened
    from harmonet.runs.predict import Output
    from harmonet.runs.predict.output import check_output
    from harmonet.training.engine import launched

    for_one = {"--dwi": dwi, "--bval": bval, "--bvec": bvec, "--name": name}
    _check_way(data, for_one, {"--subject": subject, "--part": part}, mask, b0)
    room = bytes_of(memory)
    keep_out_of(out, run, *([] if data is None else [data]))
    with opened(run) as folder:
        trained = load(folder)
        output = Output(_directions(directions), b0, basis, caution)
        check_output(trained, output)
        if mask == "auto":
            note("mask: made with dipy's median_otsu" + ("" if data is None else " where there is none"))
        reading = Reading(mask == "auto", accepted(accept), say=note)
        with launched(device) as engine:
            trained.model.to(engine.device)
            if data is None:
                assert dwi is not None  # _check_way
                place = None if mask == "auto" or mask is None else Path(mask)
                _one(trained, dwi, bval, bvec, place, name, out, target, output, reading, grid, room, force=force)
            else:
                _many(trained, data, subject, part, out, target, output, reading, grid, room, force=force)


def _one(
    run: "Trained",
    dwi: Path,
    bval: Path | None,
    bvec: Path | None,
    mask: Path | None,
    name: str | None,
    out: Path,
    target: Sequence[str] | None,
    output: "Output",
    reading: "Reading",
    grid: Path | None,
    memory: int,
    *,
    force: bool,
) -> None:
    """Predict one subject whose files are given."""
    from harmonet.data.acquisition import Acquisition
    from harmonet.platforms import check_name
    from harmonet.runs.predict import predict as predict_scan
    from harmonet.runs.predict import read_new, refuse_taken, remarks, write_predictions

    stem = check_name(name if name is not None else dwi.name.removesuffix(".gz").removesuffix(".nii"), "name")
    refuse_taken(run, target or run.task.target_names, out, stem, force=force, output=output)
    scan = read_new(run, Acquisition(stem, run.task.source.name, dwi, bval, bvec, mask), reading)
    if run.label:
        note(f"the model was trained on: {run.label}")
    with Progress() as progress:
        predictions = predict_scan(run, scan, target, progress, onto=grid, memory=memory)
    for sentence in remarks(scan, predictions, output):
        note(sentence)
    for path in write_predictions(run, scan, predictions, out, stem, force=force, output=output):
        note(f"wrote {path}")


def _many(
    run: "Trained",
    data: Path,
    subjects: Sequence[str] | None,
    part: str | None,
    out: Path,
    target: Sequence[str] | None,
    output: "Output",
    reading: "Reading",
    grid: Path | None,
    memory: int,
    *,
    force: bool,
) -> None:
    """Predict the subjects of a data set."""
    from harmonet.data.layout import examine
    from harmonet.runs.predict import predict_cohort
    from harmonet.runs.sweep import share

    heads, problems = examine(data)
    everyone = _subjects(heads, run.task.source.name, subjects, problems)
    mine = share(list(everyone), part)
    if heads.label:
        note(f"data: {heads.label}")
    if run.label:
        note(f"the model was trained on: {run.label}")
    with Progress() as progress:
        tally = predict_cohort(
            run,
            heads,
            mine,
            out,
            target,
            output=output,
            reading=reading,
            onto=grid,
            memory=memory,
            force=force,
            watch=progress,
            say=note,
        )
    reasons = [f"{subject} failed: {reason}" for subject, reason in tally.failed.items()]
    if subjects is None:  # of whose subjects or platforms a fault of the layout is, the layout cannot tell
        reasons += [f"not read: {problem}" for problem in problems]
    note(
        f"{len(tally.done)} subjects predicted, {len(tally.before)} finished before, {len(tally.failed)} failed: {out}"
    )
    if reasons:
        for reason in reasons:
            note(reason)
        raise RunError(
            f"{len(reasons)} faults kept subjects of {data} from being predicted, as listed above: mend them and give "
            "the same command again, which keeps what is finished."
        )


def _check_way(
    data: Path | None, for_one: Mapping[str, object], for_many: Mapping[str, object], mask: str | None, b0: str
) -> None:
    """Refuse options that go with one subject's files and those that go with a data set in one command."""
    if data is None and for_one["--dwi"] is None:
        raise DataError("predict needs the images of a subject, or a data set: give --dwi or --data.")
    if data is None and mask is None:
        raise DataError("predict needs to know the brain: give --mask FILE, or --mask auto to have it made.")
    unfit = for_many if data is None else for_one
    for option, value in unfit.items():
        if value:
            raise DataError(
                f"{option} does not go with {'--dwi' if data is None else '--data'}: leave one of them out."
            )
    if data is not None and mask not in (None, "auto"):
        raise DataError(f"--mask {mask} is one subject's, and --data has many: leave it out, or use --mask auto.")
    if data is not None and b0 not in ("input", "one"):
        raise DataError(f"--b0 {b0} is one subject's, and --data has many: use --b0 input or one.")


def _subjects(
    heads: "TravellingHeads", source: str, asked: Sequence[str] | None, problems: Iterable[DataError]
) -> list[str]:
    """Who is predicted: those asked for, else all who were scanned on the source platform."""
    known = heads.subjects_with([source])
    for name in asked or ():
        if name not in known:
            of_it = next((f" {problem}" for problem in problems if name in str(problem)), f" {nearest(name, known)}")
            raise NotFoundError(f"no subject {name!r} with {source} can be read in {heads.root}.{of_it}")
    if not known and not list(problems):
        raise DataError(f"{heads.root} has no image of {source}, which the run reads: give data of that platform.")
    without = [name for name in heads.subjects if name not in known]
    if without and not asked:
        note(f"passed, since they have no image of {source}: {', '.join(without)}")
    return sorted(set(asked)) if asked else list(known)


def _directions(text: str) -> str | tuple[Path, Path]:
    """The word, or the two paths that a comma parts."""
    if "," not in text:
        return text
    bval, _, bvec = text.partition(",")
    return Path(bval), Path(bvec)


def bytes_of(text: str) -> int:
    """The number of bytes that `4G` and the like stand for.

    >>> bytes_of("1.5K"), bytes_of("4GiB") >> 30
    (1536, 4)
    """
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([KMGT]?)(?:I?B)?", text.strip().upper())
    if match is None or not (size := int(float(match[1]) * UNITS[match[2]])):
        raise RecipeError(f"--memory {text!r} is not understood: write 4G, 512M or a number of bytes.")
    return size
