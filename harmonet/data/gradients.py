"""Gradient tables: b-values, b-vectors, and their way into the world.

An FSL table gives directions along the image's voxel axes, with x reversed where the affine's determinant is
positive (FSL's and BIDS's convention; dipy does not apply it). A wrong sign changes 12 of 28 SH coefficients
and no rotation-invariant measure, so tables are brought to world axes (RAS+) once, at reading.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from harmonet.errors import DataError, OutputError
from harmonet.files import check_readable, write_atomically

Table = NDArray[np.float64]

B0_MAX = 50.0  # s/mm²: at or below this a volume counts as b = 0
SHELL_TOLERANCE = 50.0  # s/mm² to each side
NORM_TOLERANCE = 0.01
MAX_TABLE = 16 << 20  # bytes: more is no gradient table


class Gradients(NamedTuple):
    """A gradient table: b-values (N,) in s/mm² and unit directions (N, 3) in world axes, zero for b = 0."""

    bvals: Table
    directions: Table


NO_GRADIENTS = Gradients(np.zeros(0), np.zeros((0, 3)))  # of a scalar image, or of what was predicted


def read_numbers(path: Path) -> list[list[float]]:
    """The numbers of a text file, one list per line that holds any; separated by blanks or tabs.

    Raises:
        DataError: The file cannot be read, holds none, or holds something else.
    """
    check_readable(path)
    if path.stat().st_size > MAX_TABLE:
        raise DataError(f"{path} has more than {MAX_TABLE >> 20} MB, too much for a table: check what it is.")
    rows = []
    for number, line in enumerate(path.read_bytes().decode("utf-8-sig", "replace").splitlines(), 1):
        words = line.split()
        for word in words:
            if not _is_number(word):
                found = f"{word[:20]!r} on line {number}"
                raise DataError(f"{path} should hold numbers separated by blanks, found {found}.")
        if words:
            rows.append([float(word) for word in words])
    if not rows:
        raise DataError(f"{path} holds no numbers: copy it again from its source.")
    return rows


def read_bvals(path: Path) -> Table:
    """(N,) b-values in s/mm², one per volume; on one line or on many.

    Raises:
        DataError: A value is missing, negative, NaN or no number, or they look like ms/µm².
    """
    bvals = np.array([value for row in read_numbers(path) for value in row])
    for index in np.flatnonzero(~(np.isfinite(bvals) & (bvals >= 0))):
        raise DataError(f"{path} has b-value {bvals[index]:g} for volume {index}: b-values are 0 or more, in s/mm².")
    if 0 < bvals.max() <= 10:
        raise DataError(f"{path} has b-values 0..{bvals.max():g}, which look like ms/µm²: multiply them by 1000.")
    return bvals


def read_bvecs(path: Path, n: int) -> Table:
    """(n, 3) b-vectors as the file has them; 3 lines of n (FSL) or n lines of 3; 3 of 3 is read as FSL.

    Raises:
        DataError: The file is not a table for `n` volumes.
    """
    rows = read_numbers(path)
    lengths = sorted({len(row) for row in rows})
    if len(lengths) > 1:
        raise DataError(f"{path} has lines of {lengths[0]} to {lengths[-1]} numbers: 3 lines of {n} are expected.")
    shape = (len(rows), lengths[0])
    if shape == (3, n):
        return np.array(rows).T
    if shape == (n, 3):
        return np.array(rows)
    if 3 not in shape:
        raise DataError(f"{path} has {shape[0]} lines of {shape[1]} numbers: 3 lines of {n} are expected.")
    found = shape[1] if shape[0] == 3 else shape[0]
    raise DataError(f"{path} has {found} b-vectors for {n} b-values: copy both again from one source.")


def check_gradients(bvals: Table, bvecs: Table, where: Path) -> Table:
    """(N, 3) b-vectors fit for use: unit length for diffusion weighting, zero for b = 0.

    Lengths that are off by up to 1 % come from rounding and are mended; what stands at b = 0 means nothing.

    Args:
        bvals: (N,) in s/mm².
        bvecs: (N, 3).
        where: The file to name.

    Raises:
        DataError: A diffusion-weighted volume has no usable direction.
    """
    if bvecs.shape != (len(bvals), 3):
        raise DataError(f"{where} has {len(bvecs)} b-vectors for {len(bvals)} b-values: copy both from one source.")
    norms = np.linalg.norm(bvecs, axis=1)
    weighted = bvals > B0_MAX
    for index in np.flatnonzero(weighted & ~(np.abs(norms - 1) <= NORM_TOLERANCE)):  # NaN is not <= either
        vector = ", ".join(f"{value:g}" for value in bvecs[index])
        raise DataError(
            f"{where} has b-vector ({vector}) of length {norms[index]:.4g} for volume {index} "
            f"(b = {bvals[index]:g}): unit vectors are needed, export the table again."
        )
    cleaned = np.zeros((len(bvals), 3))
    cleaned[weighted] = bvecs[weighted] / norms[weighted, None]
    return cleaned


def to_world(bvecs: Table, affine: Table) -> Table:
    """(N, 3) directions in world axes (RAS+) of an FSL table that belongs to an image with this affine.

    >>> to_world(np.array([[1.0, 0.0, 0.0]]), np.diag([2.0, 2.0, 2.0, 1.0])).tolist()
    [[-1.0, 0.0, 0.0]]
    """
    return bvecs @ _fsl_axes(affine).T + 0.0  # + 0.0 turns -0 into 0


def from_world(directions: Table, affine: Table) -> Table:
    """(N, 3) FSL table of world directions for an image with this affine: undoes `to_world`."""
    return directions @ _fsl_axes(affine) + 0.0


def _fsl_axes(affine: Table) -> Table:
    """Orthogonal matrix whose columns are the axes of an FSL table in the world."""
    linear = np.asarray(affine, dtype=np.float64)[:3, :3]
    left, _, right = np.linalg.svd(linear / np.linalg.norm(linear, axis=0))
    axes: Table = left @ right  # nearest orthogonal matrix; the axes themselves where the affine has no shear
    if np.linalg.det(linear) > 0:
        axes[:, 0] *= -1
    return axes


def shells(bvals: Table) -> tuple[float, ...]:
    """B-values of the shells without b = 0, rising, each the median of what lies within 50 s/mm² to a side.

    >>> shells(np.array([0, 5, 1195, 1200, 1205, 3000]))
    (1200.0, 3000.0)
    """
    found: list[list[float]] = []
    for value in sorted(float(value) for value in bvals if value > B0_MAX):
        if found and value - found[-1][0] <= 2 * SHELL_TOLERANCE:
            found[-1].append(value)
        else:
            found.append([value])
    return tuple(float(round(float(np.median(shell)), -1)) for shell in found)


def distinct_directions(directions: Table) -> int:
    """How many different axes there are: opposite directions are one, as are those less than about 1° apart.

    >>> distinct_directions(np.array([[0, 0, 1.0], [0, 0, -1], [0, 1, 0], [0, 0, 0]]))
    2
    """
    kept: list[Table] = []
    for direction in directions[np.linalg.norm(directions, axis=1) > 0]:
        if not kept or np.abs(np.array(kept) @ direction).max() < 0.9998:
            kept.append(direction)
    return len(kept)


def write_gradients(bval_path: Path, bvec_path: Path, bvals: Table, bvecs: Table) -> None:
    """Writes an FSL table: b-values on one line, b-vectors on three; each file complete or not at all.

    Raises:
        OutputError: The values are no table, or the place cannot be written.
    """
    bvals, bvecs = np.asarray(bvals, dtype=np.float64), np.asarray(bvecs, dtype=np.float64)
    if bvals.ndim != 1 or bvecs.shape != (len(bvals), 3) or not (np.isfinite(bvals).all() and np.isfinite(bvecs).all()):
        raise OutputError(
            f"{bvec_path} needs a finite (N, 3) table for N b-values: found {bvecs.shape} for {bvals.shape}."
        )
    b_line = " ".join(f"{value:.10g}" for value in bvals) + "\n"
    v_lines = "".join(" ".join(f"{value:.10g}" for value in row) + "\n" for row in bvecs.T + 0.0)
    write_atomically(bval_path, lambda file: file.write(b_line.encode()))
    write_atomically(bvec_path, lambda file: file.write(v_lines.encode()))


def _is_number(word: str) -> bool:
    # Python's float takes 1_200 and digits of any script as well: in a table those are damage.
    if "_" in word or not word.isascii():
        return False
    try:
        float(word)
    except ValueError:
        return False
    return True
