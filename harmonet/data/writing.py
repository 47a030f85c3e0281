"""Writing a data set of simulated heads in the challenge's layout: whole, or not at all."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from harmonet.data.gradients import from_world, write_gradients
from harmonet.data.layout import FACTS
from harmonet.data.nifti import write_nifti
from harmonet.errors import OutputError
from harmonet.files import staged, write_whole

ORIENTATIONS: Any = nib.orientations  # Any: nibabel's functions carry no types
Field = NDArray[np.floating]
Table = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Place:
    """Where one acquisition goes and what is known of it, in RAS+ axes; stored in the `orientation` asked for."""

    folder: Path
    affine: Table
    mask: NDArray[np.bool_]
    bvals: Table
    directions: Table
    orientation: str = "RAS"

    def write(self, name: str, image: Field | NDArray[np.bool_]) -> None:
        """Writes `<name>.nii.gz`."""
        data = ORIENTATIONS.apply_orientation(image, self._turns())
        write_nifti(self.folder / f"{name}.nii.gz", data, self._stored(), description=f"harmonet {name}, simulated")

    def write_tables(self, te: float | None) -> None:
        """Makes the folder and writes the gradient table, the mask and, where known, the echo time in ms."""
        self.folder.mkdir(parents=True, exist_ok=True)
        bvecs = from_world(self.directions, self._stored())
        write_gradients(self.folder / "dwi.bval", self.folder / "dwi.bvec", self.bvals, bvecs)
        if te is not None:
            write_whole(self.folder / "dwi.TE", (" ".join([f"{te:g}"] * len(self.bvals)) + "\n").encode())
        self.write("mask", self.mask)

    def _turns(self) -> Any:
        """From RAS to the stored axes."""
        ras, stored = (ORIENTATIONS.axcodes2ornt(tuple(codes)) for codes in ("RAS", self.orientation))
        return ORIENTATIONS.ornt_transform(ras, stored)

    def _stored(self) -> Table:
        """The affine of the stored axes."""
        return np.asarray(self.affine @ ORIENTATIONS.inv_ornt_aff(self._turns(), self.mask.shape))


@contextmanager
def data_set(out: Path, force: bool) -> Iterator[Path]:
    """A folder to fill that becomes the data set `out` at the end.

    Raises:
        OutputError: `out` holds something. With `force`, only a data set that says it is simulated is replaced.
    """
    ours = _is_simulated(out)
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise OutputError(f"{out} is no folder: choose another name.")
    if out.exists() and any(out.iterdir()) and not (force and ours):
        hint = "add --force to replace it" if ours else "it is no simulated data set, choose another folder"
        raise OutputError(f"{out} exists and is not empty: {hint}.")
    with staged(out) as folder:
        yield folder


def _is_simulated(out: Path) -> bool:
    try:
        facts = json.loads((out / FACTS).read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(facts, dict) and facts.get("simulated") is True


def write_facts(folder: Path, **facts: object) -> None:
    """Writes `dataset.json`: that the data are simulated, by which version, and how."""
    try:
        version = metadata.version("harmonet")
    except metadata.PackageNotFoundError:
        version = "0"  # run from a checkout that is not installed
    told = {"simulated": True, **facts, "harmonet_version": version}
    write_whole(folder / FACTS, (json.dumps(told, indent=2) + "\n").encode())
