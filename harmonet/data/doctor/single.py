"""What the doctor looks at in one acquisition, beyond what its reader refuses or warns of."""

from collections.abc import Collection, Iterator
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from harmonet.data.acquisition import Acquisition
from harmonet.data.doctor.findings import Finding, Row, about
from harmonet.data.gradients import SHELL_TOLERANCE, Table, distinct_directions, shells
from harmonet.data.orientation import Orientation, fault
from harmonet.data.protocol import Protocol, listed
from harmonet.data.scan import Scan
from harmonet.sh import condition_number, n_coefficients

ORIENTATIONS: Any = nib.orientations  # Any: nibabel's functions carry no types

HIGHEST_ORDER = 8
WORST_CONDITION = 100.0  # above, noise is blown up a hundredfold and only a penalty makes an answer
DARK_SHARE = 0.01  # of the mask: a few dark voxels are vessels and air cells, more is a mask that is too wide


def row_of(acquisition: Acquisition, protocol: Protocol | None) -> Row:
    """The acquisition's row, as far as header and tables tell."""
    if protocol is None:
        return Row(acquisition.subject, acquisition.platform)
    on_shell = per_shell(protocol)
    return Row(
        subject=acquisition.subject,
        platform=acquisition.platform,
        voxels=" x ".join(map(str, protocol.grid.shape)),
        mm=" x ".join(f"{edge:.3g}" for edge in protocol.grid.voxel_size),
        axes="".join(ORIENTATIONS.aff2axcodes(protocol.stored.affine)),
        shells=", ".join(f"{len(directions)} x {b:g}" for b, directions in on_shell.items()),
        directions=int(protocol.is_dwi.sum()),
        order=min((highest_order(directions) for directions in on_shell.values()), default=None),
        b0=int((~protocol.is_dwi).sum()),
        timing=" / ".join("-" if time is None else f"{time:g}" for time in (protocol.te, protocol.tr)),
    )


def per_shell(protocol: Protocol) -> dict[float, Table]:
    """The directions (N, 3) of each shell, by its b-value."""
    return {b: protocol.directions[np.abs(protocol.bvals - b) <= SHELL_TOLERANCE] for b in shells(protocol.bvals)}


def highest_order(directions: Table) -> int:
    """Highest even SH order, up to 8, that directions determine without a penalty, by number and by condition.

    >>> highest_order(np.eye(3))
    0
    """
    distinct = distinct_directions(directions)
    for order in range(HIGHEST_ORDER, 0, -2):
        if distinct >= n_coefficients(order) and condition_number(directions, order) <= WORST_CONDITION:
            return order
    return 0


def in_tables(acquisition: Acquisition, protocol: Protocol, order: int) -> Iterator[Finding]:
    """What header and tables show: the reader's warnings, an SH order that is not carried, volumes left out."""
    whose = acquisition.subject, acquisition.platform
    for sentence in protocol.warnings:
        yield about(acquisition, "warning", sentence, otherwise="header")
    for b, directions in per_shell(protocol).items():
        carried = highest_order(directions)
        if carried < min(order, HIGHEST_ORDER):
            few = _too_few(acquisition, b, directions, order, carried)
            yield Finding("warning", "directions", few, *whose, acquisition.bvec)
    if protocol.dropped:
        yield Finding(
            "note",
            "timing",
            f"{acquisition.name}: {listed(np.flatnonzero(~protocol.keep))} left out, as TE or TR are not those of the "
            "diffusion-weighted volumes.",
            *whose,
            acquisition.dwi,
        )


def _too_few(acquisition: Acquisition, b: float, directions: Table, order: int, carried: int) -> str:
    needed, distinct = n_coefficients(order), distinct_directions(directions)
    why = f"{needed} coefficients"
    if distinct >= needed:
        why += f", condition number {condition_number(directions, order):.3g}"
    return (
        f"{acquisition.bvec} has {distinct} distinct directions at b = {b:g} s/mm², which do not determine SH order "
        f"{order} ({why}): use order {carried}, or keep the penalty (laplace_beltrami), which makes up the rest."
    )


def in_voxels(acquisition: Acquisition, scan: Scan, found: Orientation, known: Collection[str]) -> Iterator[Finding]:
    """What the image shows: the reader's warnings, wrong b-vectors, volumes without content, a mask too wide."""
    whose = acquisition.subject, acquisition.platform
    for sentence in scan.warnings:
        if sentence not in known:
            yield about(acquisition, "warning", sentence, otherwise="table")
    if wrong := fault(scan, found):
        yield Finding("error", "orientation", wrong, *whose, acquisition.bvec)
    if (empty := _constant(scan)).size:
        yield Finding(
            "warning",
            "constant",
            f"{acquisition.dwi} has the same value in every voxel of the mask in {listed(empty)}: leave that out of "
            "the image and its table, or copy the image again from its source.",
            *whose,
            acquisition.dwi,
        )
    dark, inside = int(scan.dark().sum()), int(scan.mask.sum())
    if dark > DARK_SHARE * inside:
        yield Finding(
            "warning",
            "dark",
            f"{acquisition.name} has {dark} of {inside} voxels of its mask ({dark / inside:.1%}) too dark at b = 0 to "
            "form S / S0, and they count as 0: draw the mask closer to the brain.",
            *whose,
            acquisition.mask,
        )
    if scan.cleared:
        yield Finding(
            "note",
            "voxels",
            f"{acquisition.dwi} has {scan.cleared} NaN or infinite values outside the mask, which are read as 0.",
            *whose,
            acquisition.dwi,
        )


def _constant(scan: Scan) -> NDArray[np.int_]:
    """The volumes that are the same all over the mask."""
    everything = np.ones(len(scan.bvals), dtype=bool)
    low, high = np.full(len(scan.bvals), np.inf), np.full(len(scan.bvals), -np.inf)
    for voxels in scan.chunks():
        rows = scan.rows(voxels, everything, normalised=False)
        low, high = np.minimum(low, rows.min(axis=0)), np.maximum(high, rows.max(axis=0))
    return np.flatnonzero(low == high)
