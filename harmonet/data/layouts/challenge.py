"""The layout of the CDMRI challenges: `DIR/<subject>/<scanner>/<protocol>/dwi.nii.gz` and what belongs to it."""

from collections.abc import Iterator
from pathlib import Path

from harmonet.data.acquisition import Acquisition
from harmonet.data.layouts.listing import listing, names
from harmonet.errors import DataError

LAYOUT = "DIR/<subject>/<scanner>/<protocol>/dwi.nii.gz with dwi.bval, dwi.bvec and mask.nii.gz"

# In lower case: the releases and their users write them in either (GE and ge, dwi.TE and dwi.te).
DWI = ("dwi.nii.gz", "dwi.nii")
MASK = ("mask.nii.gz", "mask.nii", "dwi_mask.nii.gz", "dwi_mask.nii")
TRUTH = ("truth.nii.gz", "truth.nii")


def find(root: Path) -> Iterator[Acquisition | DataError]:
    """Each acquisition below a data set's folder, or what is wrong with it; folders without an image are passed."""
    yield from _below(root, 3)


def find_of(subject: Path) -> Iterator[Acquisition | DataError]:
    """Each acquisition below a subject's folder, or what is wrong with it."""
    yield from _below(subject, 2)


def _below(folder: Path, depth: int) -> Iterator[Acquisition | DataError]:
    try:
        if depth:
            for inner in listing(folder).folders:
                yield from _below(inner, depth - 1)
        elif acquisition := _acquisition(folder):
            yield acquisition
    except DataError as error:
        yield error


def _acquisition(folder: Path) -> Acquisition | None:
    """The acquisition in `<subject>/<scanner>/<protocol>`, None where there is no image."""
    files = listing(folder).files
    dwi = _one(files, DWI)
    if dwi is None:
        return None
    tables = [_one(files, (name,)) for name in ("dwi.bval", "dwi.bvec")]
    for name, table in zip(("dwi.bval", "dwi.bvec"), tables, strict=True):
        if table is None:
            raise DataError(f"{folder / name} is missing beside {dwi.name}: copy it there.")
    subject, scanner, protocol = folder.parts[-3:]
    subject, platform = names(subject, f"{scanner}_{protocol}", str(folder))
    return Acquisition(
        subject=subject,
        platform=platform,
        dwi=dwi,
        bval=tables[0],
        bvec=tables[1],
        mask=_one(files, MASK),
        te=_one(files, ("dwi.te",)),
        tr=_one(files, ("dwi.tr",)),
        truth=_one(files, TRUTH),
    )


def _one(files: list[Path], candidates: tuple[str, ...]) -> Path | None:
    """The file that has one of these names, in any case; None where none has."""
    there = [file for file in files if file.name.lower() in candidates]
    if len(there) > 1:
        raise DataError(f"{there[0].parent} holds both {there[0].name} and {there[1].name}: keep the one meant.")
    return there[0] if there else None
