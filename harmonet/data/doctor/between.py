"""What the doctor looks at between acquisitions: platforms, grids, who was scanned where, who is there twice."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from harmonet.data.doctor.findings import Finding, Row
from harmonet.data.duplicates import duplicates
from harmonet.data.gradients import SHELL_TOLERANCE
from harmonet.data.layout import TravellingHeads, describe
from harmonet.data.orientation import Orientation
from harmonet.data.protocol import Protocol
from harmonet.data.scan import Scan
from harmonet.data.splits import split_subjects
from harmonet.data.volumes import Volume, bring_together
from harmonet.errors import DataError, HarmonetError, nearest
from harmonet.platforms import Platform, upsampling_between

Protocols = Mapping[tuple[str, str], Protocol]  # by subject and platform
FEW = 4  # names in a sentence


def sources(dataset: TravellingHeads, source: str) -> Iterator[Finding]:
    """A source that is not there."""
    if source not in dataset.platforms:
        yield Finding(
            "error",
            "source",
            f"{dataset.root} has no platform {source!r} to read, so grids and shells were not compared: name it with "
            f"--source. {nearest(source, dataset.platforms)}",
        )


def platforms(protocols: Protocols) -> Iterator[Finding]:
    """Subjects whose voxel size or shells are not those of their platform's first subject."""
    first: dict[str, Protocol] = {}
    for (subject, platform), protocol in protocols.items():
        try:
            describe([first.setdefault(platform, protocol), protocol])
        except DataError as error:
            yield Finding("error", "platform", str(error), subject, platform, protocol.path)


def shared_shells(protocols: Protocols, source: str) -> Iterator[Finding]:
    """Targets that have no shell of the source's."""
    found = _described(protocols)
    if source not in found:
        return
    for name, platform in found.items():
        if not _share_shell(found[source], platform):
            yield Finding(
                "error",
                "shell",
                f"{name} has shells at b = {_listed(platform.shells)} s/mm² and {source} at "
                f"{_listed(found[source].shells)}: none is shared, so leave {name} out of the task.",
                platform=name,
            )


def _share_shell(source: Platform, target: Platform) -> bool:
    if not (source.shells or target.shells):
        return True  # scalar images
    return any(abs(a - b) <= SHELL_TOLERANCE for a in source.shells for b in target.shells)


def _described(protocols: Protocols) -> dict[str, Platform]:
    """Each platform, as its first subject has it."""
    found: dict[str, Platform] = {}
    for (_, name), protocol in protocols.items():
        if name not in found:
            found[name] = describe([protocol])
    return found


def storage(rows: Sequence[Row]) -> Iterator[Finding]:
    """That images are stored along different axes, which needs nothing done."""
    stored: dict[str, list[str]] = {}
    for row in rows:
        if row.axes and row.platform not in stored.setdefault(row.axes, []):
            stored[row.axes].append(row.platform)
    if len(stored) > 1:
        words = "; ".join(f"{axes}: {', '.join(names)}" for axes, names in sorted(stored.items()))
        yield Finding(
            "note",
            "axes",
            f"images are stored along different axes ({words}), which is handled: all are turned to the same axes, and "
            "their b-vectors to the world.",
        )


def grids(subject: str, masks: Mapping[str, Volume], protocols: Protocols, source: str) -> Iterator[Finding]:
    """Targets of a subject that are resampled, miss a part of the source's mask, or do not fit at all.

    Its masks go the way of the channels, so what is said here is what will be done.
    """
    if source not in masks:
        return
    for name, mask in masks.items():
        if name == source:
            continue
        try:
            factor = upsampling_between(describe([protocols[subject, source]]), describe([protocols[subject, name]]))
            notes = bring_together(subject, masks[source], {name: mask}, {name: factor}).notes
        except HarmonetError as error:
            sentence = str(error) if subject in str(error) else f"{subject} {name}: {error}"
            yield Finding("error", "grid", sentence, subject, name, protocols[subject, name].path)
        else:
            for note in notes:
                yield Finding("warning", "grid", f"{note}.", subject, name, protocols[subject, name].path)


def outline(scan: Scan) -> Volume:
    """The mask of a scan as a volume of one channel."""
    return Volume(scan.mask[..., None].astype(np.float32), scan.mask, scan.grid)


def stand_in(protocol: Protocol) -> Volume:
    """The middle of the grid instead of a mask that cannot be read: a fault there must not hide one of the grids."""
    mask = np.zeros(protocol.grid.shape, dtype=bool)
    mask[tuple(slice(n // 4, n - n // 4) for n in mask.shape)] = True
    return Volume(mask[..., None].astype(np.float32), mask, protocol.grid)


def missing(dataset: TravellingHeads, source: str) -> Iterator[Finding]:
    """Subjects that were not scanned on every platform."""
    for subject in dataset.subjects:
        lacks = [platform for platform in dataset.platforms if (subject, platform) not in dataset.acquisitions]
        if lacks:
            use = "it cannot be used without the source" if source in lacks else "it is used for the other platforms"
            yield Finding("warning", "missing", f"{subject} lacks {', '.join(lacks)}: {use}.", subject)


def splits(dataset: TravellingHeads, source: str) -> Iterator[Finding]:
    """Too few subjects to train, choose and test on."""
    if source not in dataset.platforms:
        return
    usable = [
        subject
        for subject in dataset.subjects_with([source])
        if any((subject, platform) in dataset.acquisitions for platform in dataset.platforms if platform != source)
    ]
    if not usable:
        sentence = (
            f"no subject was scanned on {source} and on another platform, so there is nothing to learn: add some."
        )
        yield Finding("warning", "split", sentence)
        return
    try:
        split_subjects(usable, 1, 1, 0)
    except DataError as error:
        yield Finding("warning", "split", str(error))


def twice(dataset: TravellingHeads) -> Iterator[Finding]:
    """Images that are there under two names."""
    for one, other in duplicates(dataset.acquisitions.values()):
        what = "would train and test at once" if one.subject != other.subject else "would be predicted from itself"
        yield Finding(
            "error",
            "duplicate",
            f"{one.dwi} and {other.dwi} hold the same voxels, so that a head {what}: find out whose they are and "
            "remove the other.",
            other.subject,
            other.platform,
            other.dwi,
        )


def unjudged(orientations: Mapping[tuple[str, str], Orientation]) -> Iterator[Finding]:
    """Acquisitions whose anatomy does not tell whether the b-vectors are right."""
    names = [" ".join(key) for key, found in orientations.items() if found.verdict == "doubtful"]
    if names:
        yield Finding(
            "note",
            "orientation",
            f"the b-vectors of {len(names)} of {len(orientations)} acquisitions ({_listed(names)}) could not be judged "
            "by the anatomy, which shows too few fibres or no clear winner: look at their fibre directions.",
        )


def _listed(values: Iterable[object]) -> str:
    words = [f"{value:g}" if isinstance(value, float) else str(value) for value in values]
    rest = f" and {len(words) - FEW} more" if len(words) > FEW else ""
    return (", ".join(words[:FEW]) or "none") + rest
