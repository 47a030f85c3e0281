"""Where the acquisitions of a travelling-heads data set lie; finding them reads no image."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from harmonet.data.acquisition import Acquisition
from harmonet.data.gradients import SHELL_TOLERANCE, shells
from harmonet.data.scan import Scan
from harmonet.errors import DataError, NotFoundError, nearest
from harmonet.files import check_readable
from harmonet.platforms import Platform, check_name

LAYOUT = "DIR/<subject>/<scanner>/<protocol>/dwi.nii.gz with dwi.bval, dwi.bvec and mask.nii.gz"
DWI = ("dwi.nii.gz", "dwi.nii")
MASK = ("mask.nii.gz", "mask.nii", "dwi_mask.nii.gz", "dwi_mask.nii")
TRUTH = ("truth.nii.gz", "truth.nii")
FACTS = "dataset.json"
MAX_FACTS = 1 << 20  # bytes


@dataclass(frozen=True)
class TravellingHeads:
    """Subjects scanned on several platforms.

    Attributes:
        root: The folder.
        acquisitions: By (subject, platform).
        facts: What `dataset.json` says, such as {"simulated": true, "label": "two heads cut into slabs"}.
    """

    root: Path
    acquisitions: Mapping[tuple[str, str], Acquisition]
    facts: Mapping[str, object] = field(default_factory=dict)

    @property
    def subjects(self) -> tuple[str, ...]:
        """Names of the subjects, sorted."""
        return tuple(sorted({subject for subject, _ in self.acquisitions}))

    @property
    def platforms(self) -> tuple[str, ...]:
        """Names of the platforms, sorted."""
        return tuple(sorted({platform for _, platform in self.acquisitions}))

    @property
    def label(self) -> str:
        """What must be said wherever results from these data are shown; often nothing."""
        return str(self.facts.get("label", ""))

    @property
    def simulated(self) -> bool:
        """Whether the signals were computed, in whole or part."""
        return self.facts.get("simulated") is True

    def acquisition(self, subject: str, platform: str) -> Acquisition:
        """The files of this subject on this platform.

        Raises:
            NotFoundError: There are none.
        """
        if subject not in self.subjects:
            raise NotFoundError(f"no subject {subject!r} in {self.root}. {nearest(subject, self.subjects)}")
        here = [known for name, known in self.acquisitions if name == subject]
        if platform not in here:
            raise NotFoundError(
                f"no platform {platform!r} for subject {subject} in {self.root}. {nearest(platform, here)}"
            )
        return self.acquisitions[subject, platform]

    def subjects_with(self, platforms: Iterable[str]) -> tuple[str, ...]:
        """Subjects that were scanned on all of these platforms, sorted."""
        wanted = tuple(platforms)
        return tuple(
            subject for subject in self.subjects if all((subject, platform) in self.acquisitions for platform in wanted)
        )


def open_dataset(root: Path | str) -> TravellingHeads:
    """The travelling heads in a folder laid out as the CDMRI challenges' data sets were.

    The platform is `<scanner>_<protocol>` in lower case. Hidden files and folders without a dwi are ignored.

    Raises:
        DataError: There is no such folder, nothing in it, or an acquisition in it is incomplete or ambiguous.
    """
    heads, problems = examine(root)
    if problems:
        raise problems[0]
    return heads


def examine(root: Path | str) -> tuple[TravellingHeads, list[DataError]]:
    """What can be used of a data set, and what is wrong with the layout of the rest.

    Raises:
        DataError: There is no such folder, or nothing in it at all.
    """
    root = Path(root)
    if not root.is_dir():
        raise DataError(f"{root} is no folder: name the data set's folder, laid out as {LAYOUT}.")
    found: dict[tuple[str, str], Acquisition] = {}
    problems: list[DataError] = []
    protocols = [p for subject in _folders(root) for scanner in _folders(subject) for p in _folders(scanner)]
    for folder in protocols:
        try:
            acquisition = _acquisition(folder)
            if acquisition is not None:
                _refuse_twice(acquisition, found)
                found[acquisition.subject, acquisition.platform] = acquisition
        except DataError as error:
            problems.append(error)
    if not (found or problems):
        raise DataError(f"{root} holds no acquisition: the layout is {LAYOUT}.")
    try:
        _refuse_alike({subject for subject, _ in found}, root)
    except DataError as error:
        problems.append(error)
    return TravellingHeads(root, found, _facts(root / FACTS)), problems


def _refuse_twice(acquisition: Acquisition, found: Mapping[tuple[str, str], Acquisition]) -> None:
    """Refuse a platform that a subject has already, such as from folders that differ in case."""
    there = found.get((acquisition.subject, acquisition.platform))
    if there is not None:
        raise DataError(
            f"{there.dwi.parent} and {acquisition.dwi.parent} both are {acquisition.platform} of "
            f"subject {acquisition.subject}: rename or remove one."
        )


def describe(scans: Iterable[Scan]) -> Platform:
    """The platform of these scans, as their files have it.

    The number of directions is that of diffusion-weighted volumes, the smallest where subjects differ.

    Args:
        scans: Of one platform; read one at a time, so a generator keeps memory low.

    Raises:
        DataError: None are given, or voxel size, shells or name differ between subjects.
    """
    platform: Platform | None = None
    subject = ""
    for scan in scans:
        here = _platform(scan)
        if platform is None:
            platform, subject = here, scan.subject
            continue
        for what, a, b, same in (
            ("the name", platform.name, here.name, platform.name == here.name),
            ("voxel size in mm", platform.voxel_size, here.voxel_size, _same_sizes(platform, here)),
            ("b-values of the shells", platform.shells, here.shells, _same_shells(platform, here)),
        ):
            if not same:
                raise DataError(
                    f"platform {platform.name} differs between subjects: {what} is {a} for {subject}, "
                    f"{b} for {scan.subject}; leave one out or give it a platform of its own."
                )
        platform = _merged(platform, here)
    if platform is None:
        raise DataError("a platform is described by its scans, found none: give at least one subject.")
    return platform


def _platform(scan: Scan) -> Platform:
    x, y, z = (round(size, 4) for size in scan.grid.voxel_size)  # 1.2 is stored as 1.2000000477
    return Platform(
        name=scan.platform,
        voxel_size=(x, y, z),
        shells=shells(scan.bvals),
        directions=int(scan.is_dwi.sum()),
        te=scan.te,
        tr=scan.tr,
    )


def _merged(a: Platform, b: Platform) -> Platform:
    return replace(
        a,
        directions=min(a.directions, b.directions),
        te=a.te if a.te == b.te else None,
        tr=a.tr if a.tr == b.tr else None,
    )


def _same_sizes(a: Platform, b: Platform) -> bool:
    return all(abs(p - q) <= 1e-3 * p for p, q in zip(a.voxel_size, b.voxel_size, strict=True))


def _same_shells(a: Platform, b: Platform) -> bool:
    pairs = zip(a.shells, b.shells, strict=False)
    return len(a.shells) == len(b.shells) and all(abs(p - q) <= SHELL_TOLERANCE for p, q in pairs)


def _folders(parent: Path) -> list[Path]:
    try:
        return sorted(path for path in parent.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError as error:
        raise DataError(f"{parent} cannot be listed ({error.strerror}): check its permissions.") from error


def _acquisition(folder: Path) -> Acquisition | None:
    """The acquisition in `<subject>/<scanner>/<protocol>`, None where there is no image."""
    # Names, not existence: of a git-annex link without content the reader will say `datalad get`.
    names = {path.name for path in folder.iterdir()}
    dwi = _one(folder, names, DWI)
    if dwi is None:
        return None
    for name in ("dwi.bval", "dwi.bvec"):
        if name not in names:
            raise DataError(f"{folder / name} is missing beside {dwi.name}: copy it there.")
    subject, scanner, protocol = folder.parts[-3:]
    try:
        check_name(subject, "subject")
        platform = check_name(f"{scanner}_{protocol}".lower(), "platform")
    except DataError as error:
        raise DataError(f"{folder} cannot be used: {error}") from None
    return Acquisition(
        subject=subject,
        platform=platform,
        dwi=dwi,
        bval=folder / "dwi.bval",
        bvec=folder / "dwi.bvec",
        mask=_one(folder, names, MASK),
        te=_one(folder, names, ("dwi.TE",)),
        tr=_one(folder, names, ("dwi.TR",)),
        truth=_one(folder, names, TRUTH),
    )


def _one(folder: Path, names: set[str], candidates: tuple[str, ...]) -> Path | None:
    there = [name for name in candidates if name in names]
    if len(there) > 1:
        raise DataError(f"{folder} holds both {there[0]} and {there[1]}: keep the one that is meant.")
    return folder / there[0] if there else None


def _refuse_alike(subjects: set[str], root: Path) -> None:
    """Refuses names that differ only in case: on some file systems their results would share a folder."""
    seen: dict[str, str] = {}
    for subject in sorted(subjects):
        if other := seen.get(subject.lower()):
            raise DataError(f"{root} holds subjects {other} and {subject}, alike but for case: rename one.")
        seen[subject.lower()] = subject


def _facts(path: Path) -> dict[str, object]:
    if not path.exists():
        return {}
    check_readable(path)
    try:
        with path.open("rb") as file:
            facts = json.loads(file.read(MAX_FACTS))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON ({error}): mend or remove it.") from None
    if not isinstance(facts, dict):
        raise DataError(f"{path} should hold a JSON object, found {type(facts).__name__}: mend or remove it.")
    for name, kind, what in (("label", str, "text"), ("simulated", bool, "true or false")):
        if not isinstance(facts.get(name, kind()), kind):
            raise DataError(f"{path} has {name} = {facts[name]!r}: it should be {what}.")
    return facts
