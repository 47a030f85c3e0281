"""Where the acquisitions of a travelling-heads data set lie, and what platforms they make; finding reads no image."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, Protocol

from harmonet.data.acquisition import Acquisition
from harmonet.data.gradients import B0_MAX, SHELL_TOLERANCE, Table, shells
from harmonet.data.layouts import bids, challenge, manifest
from harmonet.data.layouts.listing import json_object, listing
from harmonet.errors import DataError, NotFoundError, nearest
from harmonet.platforms import Grid, Platform

Layout = Literal["challenge", "bids", "manifest"]
LAYOUTS = (challenge.LAYOUT, bids.LAYOUT, manifest.LAYOUT)
FACTS = "dataset.json"


@dataclass(frozen=True)
class TravellingHeads:
    """Subjects scanned on several platforms.

    Attributes:
        root: The folder.
        acquisitions: By (subject, platform).
        layout: How they lie there.
        facts: What `dataset.json` says, such as {"simulated": true, "label": "two heads cut into slabs"}.
    """

    root: Path
    acquisitions: Mapping[tuple[str, str], Acquisition]
    layout: Layout
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
    """The travelling heads in a folder.

    A file `acquisitions.tsv` makes it a manifest, and nothing but what that lists is used. Else a `sub-*` folder with
    a `ses-*` or `dwi` folder in it makes it BIDS. Else it is laid out as the CDMRI challenges' data sets were. Hidden
    files and folders without a dwi are passed; platforms are lower case.

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
    names = {file.name for file in listing(root).files}
    if not root.is_dir():
        raise DataError(f"{root} is no folder: name the data set's folder, laid out as {', or '.join(LAYOUTS)}.")
    layout = _layout_of(root)
    found: dict[tuple[str, str], Acquisition] = {}
    problems: list[DataError] = []
    for item in _find(root, layout):
        if isinstance(item, DataError):
            problems.append(item)
        elif there := found.get((item.subject, item.platform)):
            both = f"{there.dwi.parent} and {item.dwi.parent} both are {item.platform} of subject {item.subject}"
            problems.append(DataError(f"{both}: rename or remove one."))
        else:
            found[item.subject, item.platform] = item
    if not (found or problems):
        raise DataError(f"{root} holds no acquisition: the layout is {', or '.join(LAYOUTS)}.")
    problems.extend(_alike({subject for subject, _ in found}, root))
    return TravellingHeads(root, found, layout, _facts(root / FACTS) if FACTS in names else {}), problems


def _layout_of(root: Path) -> Layout:
    if manifest.is_here(root):
        return "manifest"
    return "bids" if bids.is_here(root) else "challenge"


def _find(root: Path, layout: Layout) -> Iterator[Acquisition | DataError]:
    if layout == "manifest":
        yield from manifest.find(root)
    elif layout == "challenge":
        yield from challenge.find(root)
    else:
        yield from bids.find(root)
        yield from _beside_bids(root)


def _beside_bids(root: Path) -> Iterator[DataError]:
    """What is wrong where a BIDS data set also holds images as the challenges laid them out: half would be unseen."""
    raw = bids.subjects(root)
    others = [folder for folder in listing(root).folders if folder not in raw and folder.name not in bids.NOT_RAW]
    for item in (item for folder in others for item in challenge.find_of(folder)):
        if isinstance(item, Acquisition):
            yield DataError(
                f"{root} holds both {raw[0].name}, as BIDS has it, and {item.dwi.relative_to(root)}, as the challenges "
                f"had it: move one of them away or list what is meant in {manifest.NAME}."
            )
            return


class Described(Protocol):
    """What a platform is described from: a scan, or only its headers and tables.

    Its b-values (N,) are in s/mm² and its times in ms; a scalar image has none above b = 0.
    """

    @property
    def subject(self) -> str:
        """Name of the subject."""

    @property
    def platform(self) -> str:
        """Name of the platform."""

    @property
    def grid(self) -> Grid:
        """The voxels, in closest-canonical axes."""

    @property
    def bvals(self) -> Table:
        """(N,) b-values of the volumes that are used."""

    @property
    def te(self) -> float | None:
        """Echo time, None where not given."""

    @property
    def tr(self) -> float | None:
        """Repetition time, None where not given."""


def describe(scans: Iterable[Described]) -> Platform:
    """The platform of these scans, as their files have it.

    The number of directions is that of diffusion-weighted volumes, the smallest where subjects differ.

    Args:
        scans: Of one platform, or what their headers and tables say; taken one at a time, so a generator keeps memory
            low.

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


def _platform(scan: Described) -> Platform:
    x, y, z = (round(size, 4) for size in scan.grid.voxel_size)  # 1.2 is stored as 1.2000000477
    return Platform(
        name=scan.platform,
        voxel_size=(x, y, z),
        shells=shells(scan.bvals),
        directions=int((scan.bvals > B0_MAX).sum()),
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


def _alike(subjects: set[str], root: Path) -> Iterator[DataError]:
    """What is wrong with names that differ only in case: on some file systems their results would share a folder."""
    seen: dict[str, str] = {}
    for subject in sorted(subjects):
        if other := seen.get(subject.lower()):
            yield DataError(f"{root} holds subjects {other} and {subject}, alike but for case: rename one.")
        seen[subject.lower()] = subject


def _facts(path: Path) -> dict[str, object]:
    facts = json_object(path)
    for name, kind, what in (("label", str, "text"), ("simulated", bool, "true or false")):
        if not isinstance(facts.get(name, kind()), kind):
            raise DataError(f"{path} has {name} = {facts[name]!r}: it should be {what}.")
    return facts
