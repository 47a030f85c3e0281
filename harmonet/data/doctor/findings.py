"""What the doctor says: findings, each with its level and the check that made it, and a row per acquisition."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from harmonet.data.acquisition import Acquisition

Level = Literal["error", "warning", "note"]
LEVELS: tuple[Level, ...] = ("error", "warning", "note")

# In docs/reference/faults.md there is a row for each.
Check = Literal[
    "layout",
    "header",
    "voxels",
    "mask",
    "table",
    "timing",
    "directions",
    "orientation",
    "constant",
    "dark",
    "duplicate",
    "source",
    "platform",
    "shell",
    "grid",
    "axes",
    "missing",
    "split",
]


@dataclass(frozen=True)
class Finding:
    """One thing that was found.

    Attributes:
        level: `error`: results would be wrong or there would be none; `warning`: look at it; `note`: nothing to do.
        check: Which check found it.
        sentence: What was found, where, and what to do.
        subject, platform: Whom it is about, empty where it is about several.
        file: The file to look at, None where it is about several.
    """

    level: Level
    check: Check
    sentence: str
    subject: str = ""
    platform: str = ""
    file: Path | None = None

    def __str__(self) -> str:
        """Level, check and sentence, on one line."""
        return f"{self.level} ({self.check}): {' '.join(self.sentence.split())}"

    def as_json(self) -> dict[str, str | None]:
        """What `--json` prints of it."""
        return {
            "level": self.level,
            "check": self.check,
            "subject": self.subject or None,
            "platform": self.platform or None,
            "file": None if self.file is None else str(self.file),
            "sentence": self.sentence,
        }


def about(acquisition: Acquisition, level: Level, sentence: str, otherwise: Check) -> Finding:
    """A finding that a reader has put into a sentence, with the file that the sentence names first.

    Args:
        acquisition: What was read.
        level: How bad it is.
        sentence: The reader's own.
        otherwise: The check where the sentence is about the image, or names no file.
    """
    checks: Mapping[Path | None, Check] = {
        acquisition.dwi: otherwise,
        acquisition.bval: "table",
        acquisition.bvec: "table",
        acquisition.mask: "mask",
        **{time: "timing" for time in (acquisition.te, acquisition.tr) if isinstance(time, Path)},
    }
    places = {path: sentence.find(str(path)) for path in checks if path is not None and str(path) in sentence}
    file = min(places, key=lambda path: (places[path], -len(str(path))), default=None)
    if f"{acquisition.name} has no mask" in sentence or "automatic mask" in sentence:
        return Finding(level, "mask", sentence, acquisition.subject, acquisition.platform, file)
    return Finding(level, checks.get(file, otherwise), sentence, acquisition.subject, acquisition.platform, file)


@dataclass(frozen=True)
class Row:
    """One acquisition in the table; what could not be read is empty.

    Attributes:
        subject, platform: Names.
        voxels, mm: Sizes of the grid and of a voxel, in closest-canonical axes.
        axes: Those of the file, such as LAS.
        shells: Directions and b-value of each shell, such as `30 x 1200, 60 x 3000`.
        directions: Diffusion-weighted volumes.
        order: Highest even SH order that every shell carries.
        b0: Volumes with b = 0.
        timing: TE and TR in ms.
        mask: Share of the grid.
        verdict: `usable`, `doubtful` where there is a warning, `unusable` where there is an error.
    """

    subject: str
    platform: str
    voxels: str = ""
    mm: str = ""
    axes: str = ""
    shells: str = ""
    directions: int | None = None
    order: int | None = None
    b0: int | None = None
    timing: str = ""
    mask: str = ""
    verdict: Literal["usable", "doubtful", "unusable"] = "usable"

    def as_json(self) -> dict[str, Any]:
        """The row by the names of its columns."""
        values = (
            *(self.subject, self.platform, self.voxels, self.mm, self.axes, self.shells, self.directions),
            *(self.order, self.b0, self.timing, self.mask, self.verdict),
        )
        return dict(zip(COLUMNS, values, strict=True))

    def cells(self) -> list[str]:
        """The row as text."""
        return ["" if value is None else str(value) for value in self.as_json().values()]


COLUMNS = (
    *("subject", "platform", "voxels", "mm", "axes", "b (s/mm²)", "directions"),
    *("SH order", "b0", "TE/TR (ms)", "mask", "verdict"),
)
