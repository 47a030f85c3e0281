"""From a `.nii.gz` to SH coefficients: harmonet beside nibabel and dipy used plainly, and beside inflating alone.

    python benchmarks/sh_fit.py [--rounds 5] [--air 0]

One thread, one synthetic int16 scan of 96 x 96 x 60 voxels and 33 volumes with 60,000 voxels in the mask.
"""

import argparse
import tempfile
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from timing import rounds  # first: sets the number of threads

# isort: split
import nibabel as nib
import numpy as np

from harmonet import sh
from harmonet.data.acquisition import Acquisition
from harmonet.data.gradients import from_world, write_gradients
from harmonet.data.nifti import write_nifti
from harmonet.data.represent import represent
from harmonet.data.scan import read_scan
from harmonet.representations.sh_signal import SHSignal

SHAPE, B0S, DIRECTIONS, ORDER, SHELL = (96, 96, 60), 3, 30, 6, 1200.0
AFFINE = np.diag([2.4, 2.4, 2.4, 1.0])  # in canonical axes already, so that both results lie alike


def spread(n: int) -> Any:
    """(n, 3) directions over the half sphere."""
    z = 1 - (np.arange(n) + 0.5) / n
    turn = np.pi * (1 + 5**0.5) * np.arange(n)
    return np.stack([np.sqrt(1 - z**2) * np.cos(turn), np.sqrt(1 - z**2) * np.sin(turn), z], axis=1)


def acquire(folder: Path, air: float) -> Acquisition:
    """The files of an ellipsoid of about 60,000 voxels in int16: b0 over noise is 31, the noise outside is `air`."""
    rng = np.random.default_rng(0)
    x, y, z = np.indices(SHAPE)
    mask = ((x - 48) / 26) ** 2 + ((y - 48) / 33) ** 2 + ((z - 30) / 16.73) ** 2 < 1
    fibre = spread(7)[x // 14]  # another direction every few slices
    bvals = np.array([0.0] * B0S + [SHELL] * DIRECTIONS)
    directions = np.vstack([np.zeros((B0S, 3)), spread(DIRECTIONS)])
    dwi = np.empty((*SHAPE, len(bvals)), np.int16, order="F")
    for index, (b, direction) in enumerate(zip(bvals, directions, strict=True)):
        signal = 250 * mask * np.exp(-b * (3e-4 + 1.4e-3 * (fibre @ direction) ** 2))
        dwi[..., index] = np.abs(signal + rng.normal(scale=np.where(mask, 8, air), size=SHAPE))
    nib.save(nib.Nifti1Image(dwi, AFFINE), folder / "dwi.nii.gz")
    write_nifti(folder / "mask.nii.gz", mask, AFFINE)
    write_gradients(folder / "dwi.bval", folder / "dwi.bvec", bvals, from_world(directions, AFFINE))
    files = (folder / name for name in ("dwi.nii.gz", "dwi.bval", "dwi.bvec", "mask.nii.gz"))
    return Acquisition("head", "bench", *files)


def lean(acquisition: Acquisition) -> Any:
    """Channels (X, Y, Z, 28) as harmonet makes them."""
    return represent(read_scan(acquisition), SHSignal([SHELL], ORDER), [SHELL]).channels


def plain(acquisition: Acquisition, directions: Any) -> Any:
    """Channels (X, Y, Z, 28) as one would make them with nibabel and dipy, line by line."""
    from dipy.core.sphere import Sphere
    from dipy.reconst.shm import sf_to_sh

    data = nib.load(acquisition.dwi).get_fdata()
    b0 = data[..., :B0S].mean(axis=-1)
    ratio = np.divide(data[..., B0S:], b0[..., None], out=np.zeros_like(data[..., B0S:]), where=b0[..., None] > 0)
    return sf_to_sh(
        np.clip(ratio, 0, 1), Sphere(xyz=directions), sh_order_max=ORDER, basis_type=sh.BASIS,
        smooth=sh.LAPLACE_BELTRAMI, legacy=sh.LEGACY,
    )  # fmt: skip


def inflate(acquisition: Acquisition) -> bytes:
    """The image's bytes, inflated in one call: what no reader can do without."""
    return zlib.decompress(acquisition.dwi.read_bytes(), wbits=31)


def peak(work: Callable[[], object]) -> float:
    """Megabytes allocated at the highest point."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1] / 1e6
    finally:
        tracemalloc.stop()


def main() -> None:
    """Measures, prints the table, and ends with 1 where a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--air", type=float, default=0, help="noise outside the head; inside it is 8")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        acquisition = acquire(Path(folder), options.air)
        scan = read_scan(acquisition)
        ways: dict[str, Callable[[], Any]] = {
            "harmonet": lambda: lean(acquisition),
            "nibabel and dipy": lambda: plain(acquisition, scan.directions[scan.is_dwi]),
            "inflating alone": lambda: inflate(acquisition),
        }
        taken = rounds({name: lambda way=way: way() is not None for name, way in ways.items()}, options.rounds)
        peaks = {name: peak(way) for name, way in ways.items()}
        apart = float(np.abs(ways["harmonet"]() - ways["nibabel and dipy"]())[scan.mask].max())
        size = acquisition.dwi.stat().st_size / 1e6
    print(f"{int(scan.mask.sum())} voxels, a file of {size:.0f} MB, {options.rounds} rounds, one thread\n")
    print(f"{'':20}{'wall ms':>9}{'cpu ms':>9}{'peak MB':>9}")
    for name, times in taken.items():
        wall, cpu = 1e3 * np.median(times, axis=0)
        print(f"{name:20}{wall:9.0f}{cpu:9.0f}{peaks[name]:9.0f}")
    faster = np.median(taken["nibabel and dipy"] / taken["harmonet"], axis=0)
    slower = np.median(taken["harmonet"] / taken["inflating alone"], axis=0)
    bars = [
        ("nibabel and dipy over harmonet", ">= 8", "{:.1f} wall, {:.1f} cpu".format(*faster), faster.max() >= 8),
        ("harmonet over inflating alone", "<= 2.2", "{:.2f} wall, {:.2f} cpu".format(*slower), slower.min() <= 2.2),
        ("largest difference in the mask", "<= 1e-6", f"{apart:.1e}", apart <= 1e-6),
    ]
    print(f"\n{'bar 14':34}{'must be':>9}   measured")
    for words, bar, measured, holds in bars:
        print(f"{words:34}{bar:>9}   {measured:24} {'holds' if holds else 'MISSED'}")
    raise SystemExit(0 if all(holds for *_, holds in bars) else 1)


if __name__ == "__main__":
    main()
