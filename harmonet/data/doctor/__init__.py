"""The doctor: everything is examined, nothing is trained, and no fault hides another.

Whatever can be told by one file or one acquisition alone is told by its reader (`read_protocol`, `read_scan`), and
what concerns grids by `bring_together`: the doctor asks these, so that every verb refuses what it refuses. Only the
orientation of b-vectors, duplicates and the comparison of platforms are asked for by name.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harmonet.data.doctor import between, single
from harmonet.data.doctor.findings import COLUMNS, LEVELS, Check, Finding, Level, Row, about
from harmonet.data.layout import TravellingHeads, examine
from harmonet.data.orientation import Orientation, orientation
from harmonet.data.protocol import Protocol, read_protocol
from harmonet.data.scan import read_scan
from harmonet.data.volumes import Volume
from harmonet.errors import DataError, HarmonetError

__all__ = ["COLUMNS", "LEVELS", "Check", "Diagnosis", "Finding", "Level", "Row", "diagnose"]

Watch = Callable[[str, int, int, str], object]
Key = tuple[str, str]  # subject, platform


@dataclass(frozen=True)
class Diagnosis:
    """What was found in a data set.

    Attributes:
        rows: One per acquisition, by subject and platform.
        findings: Errors first, then warnings, then notes.
        dataset: What was looked at, None where there is nothing.
    """

    rows: tuple[Row, ...]
    findings: tuple[Finding, ...]
    dataset: TravellingHeads | None = None

    def of(self, level: Level) -> tuple[Finding, ...]:
        """The findings of one level."""
        return tuple(finding for finding in self.findings if finding.level == level)

    @property
    def healthy(self) -> bool:
        """Whether nothing is wrong; there may be warnings."""
        return not self.of("error")

    @property
    def lacking(self) -> dict[str, list[str]]:
        """Subject to the platforms that it was not scanned on, of those who lack any."""
        if self.dataset is None:
            return {}
        found = self.dataset.acquisitions
        lacks = {s: [p for p in self.dataset.platforms if (s, p) not in found] for s in self.dataset.subjects}
        return {subject: names for subject, names in lacks.items() if names}

    @property
    def verdict(self) -> str:
        """How many acquisitions, and how they are, in one line."""
        counts = [(len(self.of(level)), level) for level in ("error", "warning")]
        told = [f"{n} {level}{'s' if n > 1 else ''}" for n, level in counts if n]
        unusable = sum(row.verdict == "unusable" for row in self.rows)
        words = "all usable" if self.healthy else f"{unusable} unusable"
        n = len(self.rows)
        return ", ".join([f"{n} acquisition{'' if n == 1 else 's'}", words, *told])

    def as_json(self) -> dict[str, Any]:
        """Everything, for a program."""
        return {
            "verdict": self.verdict,
            "healthy": self.healthy,
            "acquisitions": [row.as_json() for row in self.rows],
            "missing": self.lacking,
            "findings": [finding.as_json() for finding in self.findings],
            "problems": [finding.sentence for finding in self.of("error")],
        }


def diagnose(root: Path, *, source: str, order: int = 6, auto_mask: bool = False, watch: Watch) -> Diagnosis:
    """What is usable of a data set, what is wrong with it and how to mend it.

    Headers and tables of all acquisitions come first, which takes milliseconds each; then images.

    Args:
        root: The folder.
        source: The platform that is read: the others are held against it.
        order: The SH order that is meant to be used.
        auto_mask: Make a mask where there is none.
        watch: Called with what is done, how many are, of how many, and a name.
    """
    try:
        dataset, wrong = examine(root)
    except DataError as error:  # nothing to look at: no acquisition at all, or unreadable facts
        return Diagnosis((), (Finding("error", "layout", str(error)),))
    acquisitions = dict(sorted(dataset.acquisitions.items()))
    findings = [Finding("error", "layout", str(error)) for error in wrong]
    findings += between.sources(dataset, source)

    protocols: dict[Key, Protocol] = {}
    for number, (key, acquisition) in enumerate(acquisitions.items()):
        try:
            protocols[key] = read_protocol(acquisition)
        except HarmonetError as error:
            findings.append(about(acquisition, "error", str(error), otherwise="header"))
        else:
            findings += single.in_tables(acquisition, protocols[key], order)
        watch("headers", number + 1, len(acquisitions), acquisition.name)
    rows = {key: single.row_of(acquisition, protocols.get(key)) for key, acquisition in acquisitions.items()}
    findings += between.platforms(protocols)
    findings += between.shared_shells(protocols, source)
    findings += between.twice(dataset)

    orientations: dict[Key, Orientation] = {}
    read = 0
    for subject in dataset.subjects:
        masks: dict[str, Volume] = {}  # of one subject only, and no signals: memory stays that of one image
        for key in (key for key in protocols if key[0] == subject):
            acquisition, protocol = acquisitions[key], protocols[key]
            try:
                scan = read_scan(acquisition, auto_mask=auto_mask)
            except HarmonetError as error:
                findings.append(about(acquisition, "error", str(error), otherwise="voxels"))
                masks[key[1]] = between.stand_in(protocol)
            else:
                orientations[key] = orientation(scan)
                findings += single.in_voxels(acquisition, scan, orientations[key], protocol.warnings)
                masks[key[1]] = between.outline(scan)
                rows[key] = replace(rows[key], mask=f"{scan.mask.mean():.0%}")
            read += 1
            watch("images", read, len(protocols), acquisition.name)
        findings += between.grids(subject, masks, protocols, source)
    findings += between.unjudged(orientations)
    findings += between.storage(list(rows.values()))
    findings += between.missing(dataset, source)
    findings += between.splits(dataset, source)
    findings.sort(key=lambda found: (LEVELS.index(found.level), found.subject, found.platform))
    return Diagnosis(tuple(_judged(row, findings) for row in rows.values()), tuple(findings), dataset)


def _judged(row: Row, findings: Iterable[Finding]) -> Row:
    """The row with the verdict that its worst finding makes."""
    levels = {found.level for found in findings if (found.subject, found.platform) == (row.subject, row.platform)}
    return replace(row, verdict="unusable" if "error" in levels else "doubtful" if "warning" in levels else "usable")
