"""BIDS: `DIR/sub-<subject>/ses-<platform>/dwi/sub-<subject>_ses-<platform>_dwi.nii.gz` and what belongs to it.

Gorgolewski et al. 2016, doi:10.1038/sdata.2016.44. A table or sidecar may lie beside the image or in any folder above
it, and applies to images whose names say all that its own name says.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harmonet.data.acquisition import SECONDS_BELOW, Acquisition
from harmonet.data.layouts.listing import json_object, listing, names
from harmonet.errors import DataError

LAYOUT = "DIR/sub-<subject>/ses-<platform>/dwi/sub-<subject>_ses-<platform>_dwi.nii.gz with .bval, .bvec and .json"
SUBJECT, SESSION, FOLDER = "sub-", "ses-", "dwi"
NOT_RAW = ("code", "derivatives", "sourcedata")
IMAGE = ("nii.gz", "nii")
TIMES = {"EchoTime": "te", "RepetitionTime": "tr"}


@dataclass(frozen=True)
class _File:
    """A file, and what its name says: `sub-01_ses-ge_st_dwi.nii.gz` has sub 01, ses ge_st, suffix dwi."""

    path: Path
    entities: Mapping[str, str]
    suffix: str
    extension: str


@dataclass(frozen=True)
class _Session:
    """Where one subject's images of one platform lie.

    Attributes:
        folder: `sub-<subject>/ses-<platform>`.
        above: Files in the folders above it that may apply to its images, nearest first.
        pipelines: Folders under `derivatives`.
    """

    folder: Path
    above: Sequence[Sequence[_File]]
    pipelines: Sequence[Path]

    @property
    def entities(self) -> dict[str, str]:
        """What the names of its files must say."""
        return {
            "sub": self.folder.parent.name.removeprefix(SUBJECT),
            "ses": self.folder.name.removeprefix(SESSION),
        }


def is_here(root: Path) -> bool:
    """Whether a folder is laid out so: a `sub-*` folder in it holds a `ses-*` or a `dwi` folder."""
    for subject in subjects(root):
        try:
            inside = listing(subject).folders
        except DataError:
            continue  # said when it is this folder's turn
        if any(folder.name.startswith(SESSION) or folder.name == FOLDER for folder in inside):
            return True
    return False


def subjects(root: Path) -> list[Path]:
    """The folders of the subjects."""
    return [folder for folder in listing(root).folders if folder.name.startswith(SUBJECT)]


def find(root: Path) -> Iterator[Acquisition | DataError]:
    """Each acquisition below a data set's folder, or what is wrong with it; sessions without an image are passed."""
    try:
        top = _files(root)
        pipelines = listing(root / "derivatives").folders
    except DataError as error:
        yield error
        return
    for subject in subjects(root):
        try:
            sessions = _sessions(subject)
            above = (_files(subject), top)
        except DataError as error:
            yield error
            continue
        for session in sessions:
            try:
                if acquisition := _acquisition(_Session(session, above, pipelines)):
                    yield acquisition
            except DataError as error:
                yield error


def _sessions(subject: Path) -> list[Path]:
    folders = listing(subject).folders
    sessions = [folder for folder in folders if folder.name.startswith(SESSION)]
    outside = [folder for folder in folders if folder.name == FOLDER]
    if outside or not sessions:
        found = f"{outside[0].name} outside a session" if outside else "no ses- folder"
        raise DataError(
            f"{subject} has {found}: the session names the platform, so move its images to "
            f"{subject.name}/ses-<platform>/dwi and add _ses-<platform> to their names."
        )
    return sessions


def _acquisition(session: _Session) -> Acquisition | None:
    """The acquisition of a session, None where there is no image."""
    folder = session.folder / FOLDER
    beside = _files(folder)
    images = [file for file in beside if file.suffix == "dwi" and file.extension in IMAGE]
    if not images:
        return None
    if len(images) > 1:
        raise DataError(
            f"{folder} holds {' and '.join(image.path.name for image in images)}: keep one, "
            "or list the one that is meant in acquisitions.tsv."
        )
    (image,) = images
    if not session.entities.items() <= image.entities.items():
        parts = session.folder.parts[-2:]
        raise DataError(f"{image.path} lies in {'/'.join(parts)}: begin its name with {'_'.join(parts)}_.")
    subject, platform = names(session.entities["sub"], session.entities["ses"], str(session.folder))
    levels = (beside, _files(session.folder), *session.above)
    times = _times(image, levels)
    return Acquisition(
        subject=subject,
        platform=platform,
        dwi=image.path,
        bval=_table(image, levels, "bval"),
        bvec=_table(image, levels, "bvec"),
        mask=_mask(image, session, beside),
        te=times.get("te"),
        tr=times.get("tr"),
    )


def _table(image: _File, levels: Sequence[Sequence[_File]], extension: str) -> Path:
    """The nearest table that applies to an image."""
    for level in levels:
        if found := _applicable(image, level, extension):
            return found
    beside = image.path.name.removesuffix(image.extension) + extension
    raise DataError(f"{image.path} has no .{extension}, beside it or in a folder above: add {beside}.")


def _applicable(image: _File, level: Sequence[_File], extension: str) -> Path | None:
    """The file of one folder that applies to an image, None where none does."""
    there = [
        file.path
        for file in level
        if (file.extension, file.suffix) == (extension, image.suffix)
        and file.entities.items() <= image.entities.items()
    ]
    if len(there) > 1:
        raise DataError(
            f"{there[0].parent} holds {' and '.join(path.name for path in there)}, which all apply to "
            f"{image.path.name}: keep one."
        )
    return there[0] if there else None


def _times(image: _File, levels: Sequence[Sequence[_File]]) -> dict[str, float]:
    """Echo and repetition time in ms, each from the nearest sidecar that gives it."""
    times: dict[str, float] = {}
    for level in levels:
        sidecar = _applicable(image, level, "json")
        facts = json_object(sidecar) if sidecar else {}
        for key, name in TIMES.items():
            if name in times or key not in facts:
                continue
            seconds, limit = facts[key], SECONDS_BELOW[name]
            if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds < limit:
                raise DataError(
                    f"{sidecar} has {key} = {seconds!r:.40}: write one number in seconds, above 0 and below {limit:g}."
                )
            times[name] = round(1000 * seconds, 6)  # 0.0524 s is 52.4 ms, not 52.400000000000006
    return times


def _mask(image: _File, session: _Session, beside: Sequence[_File]) -> Path | None:
    """The brain mask of an image, in its folder or in the same place of a pipeline's; None where there is none."""
    parts = (session.folder.parent.name, session.folder.name, FOLDER)
    places = (beside, *(_files(pipeline.joinpath(*parts)) for pipeline in session.pipelines))
    there = [file.path for place in places for file in place if _is_mask_of(image, file)]
    if len(there) > 1:
        raise DataError(
            f"{image.path} has several brain masks, {' and '.join(map(str, there))}: keep one, "
            "or list the one that is meant in acquisitions.tsv."
        )
    return there[0] if there else None


def _is_mask_of(image: _File, file: _File) -> bool:
    """Whether a file is the brain mask of an image: further entities (space, label) may come, none may differ."""
    if file.suffix != "mask" or file.extension not in IMAGE or file.entities.get("desc") != "brain":
        return False
    shared = set(file.entities) & set(image.entities) - {"desc"}
    return all(file.entities[key] == image.entities[key] for key in shared)


def _files(folder: Path) -> list[_File]:
    return [_parsed(path) for path in listing(folder).files]


def _parsed(path: Path) -> _File:
    stem, _, extension = path.name.partition(".")
    *parts, suffix = stem.split("_")
    entities: dict[str, str] = {}
    key = ""
    for part in parts:
        name, dash, value = part.partition("-")
        if dash:
            key = name
            entities[key] = value
        else:  # strictly, labels hold no underscore; platforms do: ses-connectom_st
            entities[key] = f"{entities[key]}_{part}" if key in entities else part
    return _File(path, entities, suffix, extension)
