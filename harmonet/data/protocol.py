"""What the header and the tables of an acquisition say, checked against each other: no image data are read."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from harmonet.data.acquisition import SECONDS_BELOW, Acquisition
from harmonet.data.axes import canonical_grid, first_three
from harmonet.data.gradients import (
    B0_MAX,
    Table,
    check_gradients,
    distinct_directions,
    read_bvals,
    read_bvecs,
    read_numbers,
    to_world,
)
from harmonet.data.header import Header, farthest
from harmonet.data.nifti import read_header
from harmonet.errors import DataError
from harmonet.platforms import Grid

Keep = NDArray[np.bool_]

MIN_DIRECTIONS = 6  # fewer determine not even a tensor
B0_CERTAIN = 20.0  # s/mm²: from here to B0_MAX a volume taken as b = 0 is worth a word
SAME_TIME = 0.01  # of the diffusion-weighted volumes' TE or TR
SAME_PLACE = 0.05  # mm: as far as a mask may lie from its image


@dataclass(frozen=True, eq=False)
class Protocol:
    """How one subject was scanned on one platform, as far as header and tables tell.

    Attributes:
        subject, platform: Their names.
        path: The image.
        grid: Its voxels in closest-canonical axes.
        stored: Its voxels in the axes of the file.
        bvals: (N,) in s/mm² of the volumes that are kept.
        directions: (N, 3) unit vectors in world axes (RAS+), zero for b = 0.
        keep: (M,) true for the volumes of the file whose TE and TR are those of the diffusion-weighted ones.
        te, tr: Echo and repetition time in ms, None where not given.
        warnings: Sentences on what can be read but may not be what is meant.
    """

    subject: str
    platform: str
    path: Path
    grid: Grid
    stored: Grid
    bvals: Table
    directions: Table
    keep: Keep
    te: float | None = None
    tr: float | None = None
    warnings: tuple[str, ...] = ()

    @property
    def is_dwi(self) -> Keep:
        """(N,) true for diffusion-weighted volumes."""
        return self.bvals > B0_MAX

    @property
    def dropped(self) -> int:
        """How many volumes are left out because TE or TR differ from the diffusion-weighted ones'."""
        return int((~self.keep).sum())


def read_protocol(acquisition: Acquisition) -> Protocol:
    """The protocol of these files: their headers and tables, checked in a few milliseconds.

    Raises:
        DataError: A file is missing, damaged at its beginning, or does not fit the others.
    """
    image = read_header(acquisition.dwi)
    warnings = image.warnings
    if acquisition.mask is not None:
        mask = read_header(acquisition.mask)
        _check_mask(mask, image)
        warnings += mask.warnings
    n = _volumes(acquisition, image)
    te = _times(acquisition.te, n, acquisition, SECONDS_BELOW["te"])
    tr = _times(acquisition.tr, n, acquisition, SECONDS_BELOW["tr"])
    bvals, bvecs, keep = np.zeros(n), np.zeros((n, 3)), np.ones(n, dtype=bool)  # a scalar image is one b = 0
    if acquisition.bval is not None and acquisition.bvec is not None:
        bvals = read_bvals(acquisition.bval)
        if len(bvals) != n:
            raise DataError(
                f"{acquisition.bval} has {len(bvals)} b-values, {image.path} has {n} volumes: find its own."
            )
        bvecs = check_gradients(bvals, read_bvecs(acquisition.bvec, n), acquisition.bvec)
        keep = _alike(te, bvals, acquisition.te) & _alike(tr, bvals, acquisition.tr)
        _check_table(bvals[keep], bvecs[keep], acquisition.bval, acquisition.bvec)
        warnings += _nearly_b0(bvals, acquisition.bval)
    stored = Grid(first_three(image.shape), image.affine)
    return Protocol(
        subject=acquisition.subject,
        platform=acquisition.platform,
        path=image.path,
        grid=canonical_grid(stored),
        stored=stored,
        bvals=bvals[keep],
        directions=to_world(bvecs[keep], image.affine),
        keep=keep,
        te=None if te is None else float(te[keep][0]),
        tr=None if tr is None else float(tr[keep][0]),
        warnings=warnings,
    )


def _volumes(acquisition: Acquisition, image: Header) -> int:
    """How many volumes the image has: one per b-value, or one where there is no table."""
    shape = image.shape
    if acquisition.bval is None or acquisition.bvec is None:
        if len(shape) not in (3, 4) or shape[3:] not in ((), (1,)):
            raise DataError(
                f"{image.path} has shape {shape} and no gradient table: give its bval and bvec, or one 3-D image."
            )
        return 1
    if len(shape) != 4:
        raise DataError(f"{image.path} has shape {shape}: a 4-D image, one volume per b-value, is needed.")
    return shape[3]


def _check_mask(mask: Header, image: Header) -> None:
    """Refuse a mask on another grid than its image's: resampling one silently would move its edge."""
    shape = mask.shape[:3] if mask.shape[3:] == (1,) else mask.shape
    expected = image.shape[:3]
    if shape != expected:
        raise DataError(f"{mask.path} has shape {shape}, {image.path} has {expected}: resample the mask to the image.")
    apart = farthest(mask.affine, image.affine, expected)
    if apart > SAME_PLACE:
        raise DataError(
            f"{mask.path} lies up to {apart:.2f} mm away from {image.path} (their affines differ): "
            "resample the mask to the image."
        )


def _check_table(bvals: Table, bvecs: Table, bval: Path, bvec: Path) -> None:
    if not (bvals <= B0_MAX).any():
        raise DataError(
            f"{bval} has no b = 0 volume (lowest b {bvals.min():g} s/mm²): at least one volume "
            f"with b <= {B0_MAX:g} is needed to divide by."
        )
    if (found := distinct_directions(bvecs)) < MIN_DIRECTIONS:
        raise DataError(
            f"{bvec} has {found} distinct directions in {int((bvals > B0_MAX).sum())} "
            f"diffusion-weighted volumes: at least {MIN_DIRECTIONS} are needed."
        )


def _nearly_b0(bvals: Table, path: Path) -> tuple[str, ...]:
    nearly = np.flatnonzero((bvals >= B0_CERTAIN) & (bvals <= B0_MAX))
    if not nearly.size:
        return ()
    return (
        f"{path} has b = {_span(bvals[nearly])} s/mm² for {listed(nearly)}, and "
        "they count as b = 0: take them out if they are not meant to be.",
    )


def _span(values: Table) -> str:
    low, high = values.min(), values.max()
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


def listed(volumes: NDArray[np.integer]) -> str:
    """Volumes by their index, the first few of many, for a sentence.

    >>> listed(np.arange(1)), listed(np.arange(3)), listed(np.arange(40))
    ('volume 0', 'volumes 0, 1, 2', 'volumes 0, 1, 2, 3, 4, 5 and 34 more')
    """
    most = 6
    rest = f" and {len(volumes) - most} more" if len(volumes) > most else ""
    return f"volume{'s' * (len(volumes) > 1)} " + ", ".join(str(index) for index in volumes[:most]) + rest


def _times(given: Path | float | None, n: int, acquisition: Acquisition, seconds_below: float) -> Table | None:
    """(n,) times in ms; values in a file so small that they can only be seconds are turned into ms."""
    if given is None:
        return None
    if not isinstance(given, Path):
        if not (np.isfinite(given) and given > 0):
            raise DataError(f"{acquisition.name} has a TE or TR of {given:g} ms: a time above 0 is needed.")
        return np.full(n, float(given))
    times = np.array([value for row in read_numbers(given) for value in row])
    if len(times) != n:
        raise DataError(f"{given} has {len(times)} values for {n} volumes: one per volume is needed.")
    if not (np.isfinite(times) & (times > 0)).all():
        raise DataError(f"{given} has values that are not above 0: times in ms are needed.")
    return times * 1000 if times.max() < seconds_below else times


def _alike(times: Table | None, bvals: Table, path: Path | float | None) -> Keep:
    """(N,) true for volumes timed as the diffusion-weighted ones: another TE or TR weights b0 otherwise."""
    if times is None or not (bvals > B0_MAX).any():
        return np.ones(len(bvals), dtype=bool)
    found = times[bvals > B0_MAX]
    if np.ptp(found) > SAME_TIME * found[0]:
        raise DataError(
            f"{path} gives diffusion-weighted volumes {found.min():g} to {found.max():g} ms: "
            "split the acquisition into one per timing."
        )
    return np.asarray(np.abs(times - found[0]) <= SAME_TIME * found[0])
