"""Where the files of one subject on one platform lie."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

# Of a diffusion-weighted image, a time below can only be in seconds, and one from here on only in ms.
SECONDS_BELOW: Mapping[str, float] = {"te": 1.0, "tr": 100.0}


@dataclass(frozen=True)
class Acquisition:
    """The files of one subject on one platform.

    Attributes:
        subject, platform: Their names.
        dwi: The image; of a scalar modality (T1, T2, FLAIR), that.
        bval, bvec: The gradient table (FSL); None for a scalar image.
        mask: The brain, None where there is no file.
        te, tr: Echo and repetition time: a file with one number per volume, one number in ms for all, or None.
        truth: The noise-free image of a simulated acquisition.
    """

    subject: str
    platform: str
    dwi: Path
    bval: Path | None
    bvec: Path | None
    mask: Path | None
    te: Path | float | None = None
    tr: Path | float | None = None
    truth: Path | None = None

    @property
    def name(self) -> str:
        """Subject and platform, for messages."""
        return f"{self.subject} {self.platform}"
