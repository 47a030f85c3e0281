"""One subject on one platform, read, checked and turned to the same axes as every other scan.

Everything here is in closest-canonical axis order (axes that point most nearly to right, anterior, superior).
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from harmonet.data.acquisition import Acquisition
from harmonet.data.axes import to_canonical
from harmonet.data.gradients import B0_MAX
from harmonet.data.masks import Mask, automatic_mask, checked_mask, share_warnings
from harmonet.data.nifti import Image, read_nifti
from harmonet.data.numbers import FloatImage, Indices, Numbers
from harmonet.data.protocol import Protocol, listed, read_protocol
from harmonet.errors import DataError
from harmonet.files import sha256, told_apart
from harmonet.platforms import Grid

CHUNK = 8192  # voxels at once: their rows stay in cache
DARK = 0.01  # of the mask's median b0: below it a signal ratio is noise over noise
ATTENUATED = 0.7  # of the usual b = 0 mean: below it a volume was hardly measured at b = 0
UNATTENUATED = 0.95  # of the usual b = 0 mean: above it a volume was hardly diffusion-weighted ...
WEIGHTED = 500.0  # ... where its b-value, in s/mm², says that it lost a good part


@dataclass(frozen=True, eq=False)
class Scan:
    """One subject on one platform, in closest-canonical axes.

    Attributes:
        subject, platform: Their names.
        numbers: (X, Y, Z, N) the signal as scanned, in the type and memory order of the file.
        bvals: (N,) in s/mm².
        directions: (N, 3) unit vectors in world axes (RAS+), zero for b = 0.
        mask: (X, Y, Z), the brain.
        grid: The voxels of `numbers`.
        stored: The voxels of the file.
        te, tr: Echo and repetition time in ms, None where not given.
        sources: SHA-256 of each file that was read, by its name and as many folders as tell it from the others.
        dropped: How many volumes were left out because TE or TR differ from the diffusion-weighted ones'.
        cleared: How many NaN or infinite values outside the mask were set to 0.
        notes: Warnings of the files' headers, tables and mask.
        codes: Of the file's qform and sform, as in `Header`.
    """

    subject: str
    platform: str
    numbers: Numbers
    bvals: NDArray[np.float64]
    directions: NDArray[np.float64]
    mask: Mask
    grid: Grid
    stored: Grid
    te: float | None = None
    tr: float | None = None
    sources: dict[str, str] = field(default_factory=dict)
    dropped: int = 0
    cleared: int = 0
    notes: tuple[str, ...] = ()
    codes: tuple[int, int] = (1, 1)

    @property
    def is_dwi(self) -> Mask:
        """(N,) true for diffusion-weighted volumes."""
        return self.bvals > B0_MAX

    @cached_property
    def signal(self) -> FloatImage:
        """(X, Y, Z, N) as scanned, float32, in the memory order of the file: made when first asked for."""
        return self.numbers.values()

    @cached_property
    def voxels(self) -> Indices:
        """(V,) the voxels of the mask, by index in the flattened mask, in the order in which they lie in the file."""
        return self.numbers.sweep(self.mask)

    def chunks(self) -> Iterator[Indices]:
        """`voxels`, some thousands at a time."""
        for start in range(0, self.voxels.size, CHUNK):
            yield self.voxels[start : start + CHUNK]

    def b0(self) -> FloatImage:
        """(X, Y, Z) mean of the b = 0 volumes."""
        return self.numbers.mean(np.flatnonzero(~self.is_dwi))

    @cached_property
    def darkest(self) -> float:
        """b0 at or below which no ratio can be formed: 1 % of its median in the mask, at least 0."""
        return max(0.0, DARK * float(np.median(self._mean_b0(self.voxels))))

    def dark(self) -> Mask:
        """(X, Y, Z) true in the mask where b0 is so low that no ratio can be formed."""
        return np.asarray(self.mask & (self.b0() <= self.darkest))

    def normalised(self) -> FloatImage:
        """(X, Y, Z, D) diffusion-weighted signal over b0, within [0, 1]; 0 off the mask and where `dark`."""
        ratio = np.zeros((self.mask.size, int(self.is_dwi.sum())), dtype=np.float32)
        for voxels in self.chunks():
            ratio[voxels] = self.rows(voxels, self.is_dwi, normalised=True)
        return ratio.reshape(*self.mask.shape, -1)

    def rows(self, voxels: Indices, volumes: Mask, *, normalised: bool) -> FloatImage:
        """(V, N) signal of some voxels, given by their index in the flattened mask, in the chosen volumes.

        Normalised: over b0, within [0, 1], and 0 where `dark`.
        """
        rows = self.numbers.gather(voxels, np.flatnonzero(volumes))
        if not normalised:
            return rows
        b0 = self._mean_b0(voxels)
        rows *= np.divide(1, b0, out=np.zeros_like(b0), where=b0 > self.darkest)[:, None]
        return np.clip(rows, 0, 1, out=rows)

    @cached_property
    def warnings(self) -> tuple[str, ...]:
        """Sentences on what can be used but may not be what is meant: of the files, and of what they hold."""
        return (*self.notes, *self._mislabelled())

    def _mean_b0(self, voxels: Indices) -> FloatImage:
        """(V,) as `b0`, of some voxels."""
        b0s = self.numbers.gather(voxels, np.flatnonzero(~self.is_dwi))
        return np.asarray(b0s.mean(axis=1, dtype=np.float64), dtype=np.float32)

    def _mislabelled(self) -> Iterator[str]:
        """Volumes that are darker or brighter than their b-value allows: the table may be another's, or in disorder."""
        means, b0s = self.numbers.means(self.voxels), ~self.is_dwi
        usual = float(np.quantile(means[b0s], 0.5, method="higher"))  # of two, of which one is wrong, the brighter
        uncounted = f", not counting the {self.dropped} left out," if self.dropped else ""
        for chosen, what in (
            (b0s & (means < ATTENUATED * usual), "b = 0 but attenuated like a diffusion-weighted volume"),
            ((self.bvals >= WEIGHTED) & (means > UNATTENUATED * usual), "diffusion-weighted but as bright as b = 0"),
        ):
            if usual > 0 and chosen.any():
                yield (
                    f"{self.subject} {self.platform} has {listed(np.flatnonzero(chosen))}{uncounted} labelled {what}: "
                    "check the order of the b-values."
                )


def read_scan(acquisition: Acquisition, *, auto_mask: bool = False) -> Scan:
    """The scan in these files, checked.

    Args:
        acquisition: Where the files lie.
        auto_mask: Make a mask with dipy's `median_otsu` where there is none; a mask file always wins.

    Raises:
        DataError: A file is missing, damaged, or does not fit the others.
    """
    protocol = read_protocol(acquisition)
    if acquisition.mask is None and not auto_mask:
        raise DataError(
            f"{acquisition.name} has no mask beside {acquisition.dwi}: add mask.nii.gz, or make one with `--mask auto`."
        )
    image = read_nifti(acquisition.dwi)
    numbers = _kept(image, protocol)
    given = None if acquisition.mask is None else read_nifti(acquisition.mask)
    if given is None:
        b0 = numbers.mean(np.flatnonzero(~protocol.is_dwi))
        mask = automatic_mask(np.nan_to_num(b0, nan=0, posinf=0, neginf=0))
        notes = share_warnings(mask, f"the automatic mask of {acquisition.name}")
    else:
        mask = checked_mask(given)
        notes = share_warnings(mask, str(given.path))
    numbers, cleared = _finite(numbers, mask, protocol)
    images = {found.path: found.sha256 for found in (image, given) if found is not None}
    tables = (acquisition.bval, acquisition.bvec, acquisition.te, acquisition.tr)
    digests = images | {path: sha256(path) for path in tables if isinstance(path, Path)}
    return Scan(
        subject=acquisition.subject,
        platform=acquisition.platform,
        numbers=replace(numbers, stored=to_canonical(numbers.stored, protocol.stored)),
        bvals=protocol.bvals,
        directions=protocol.directions,
        mask=np.ascontiguousarray(to_canonical(mask, protocol.stored)),
        grid=protocol.grid,
        stored=protocol.stored,
        te=protocol.te,
        tr=protocol.tr,
        sources=dict(zip(told_apart(list(digests)), digests.values(), strict=True)),
        dropped=protocol.dropped,
        cleared=cleared,
        notes=protocol.warnings + notes,
        codes=image.header.codes,
    )


def truth_scan(acquisition: Acquisition) -> Scan | None:
    """The noise-free signal of a simulated acquisition, with its table and mask; None where there is none."""
    if acquisition.truth is None:
        return None
    return read_scan(replace(acquisition, dwi=acquisition.truth, truth=None))


def _kept(image: Image, protocol: Protocol) -> Numbers:
    """(X', Y', Z', N) the numbers of the volumes that are kept."""
    stored = image.numbers.stored
    if stored.ndim == 3:
        stored = stored[..., None]
    # Indexed along the axis that lies outermost in memory: whole volumes are copied, or nothing at all.
    return replace(image.numbers, stored=stored if protocol.keep.all() else stored.T[protocol.keep].T)


def _finite(numbers: Numbers, mask: Mask, protocol: Protocol) -> tuple[Numbers, int]:
    """The numbers with 0 for what is not finite outside the mask (X', Y', Z'), and how many values that were."""
    if numbers.always_finite:
        return numbers, 0
    lost, inside, places = 0, 0, []
    for index, volume in enumerate(np.flatnonzero(protocol.keep)):
        bad = ~np.isfinite(numbers.volume(index))
        if bad.any():
            lost += int(bad.sum())
            found = np.argwhere(bad & mask)
            inside += len(found)
            places += [(*(int(i) for i in voxel), int(volume)) for voxel in found[:1]]
    if inside:
        first = ", ".join(map(str, min(places)))
        raise DataError(
            f"{protocol.path} has {inside} NaN or infinite values inside the mask, the first at [{first}] "
            "(x, y, z, volume): mend them or take those voxels out of the mask."
        )
    if not lost:
        return numbers, 0
    values = numbers.values()
    values[~np.isfinite(values)] = 0
    return Numbers(values), lost
