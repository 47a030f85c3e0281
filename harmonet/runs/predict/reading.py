"""A new subject's files, read for a run."""

from dataclasses import replace

from harmonet.data.acquisition import Acquisition
from harmonet.data.duplicates import fingerprint
from harmonet.data.scan import Scan
from harmonet.errors import DataError
from harmonet.reading import Reading, read_checked
from harmonet.runs.folder import Trained


def read_new(run: Trained, acquisition: Acquisition, reading: Reading) -> Scan:
    """The scan, with a note where the image trained or validated the run, so that it is no new subject.

    Raises:
        DataError: A file is unusable, or there is a gradient table for a scalar image or none for a DWI.
    """
    tables = (acquisition.bval, acquisition.bvec)
    if run.representation.uses_gradients and None in tables:
        raise DataError(
            f"{run.folder} reads diffusion-weighted images, found no gradient table for {acquisition.dwi}: "
            "add bval and bvec."
        )
    if not run.representation.uses_gradients and tables != (None, None):
        raise DataError(
            f"{run.folder} reads scalar images, which have no gradient table: leave out bval and bvec of "
            f"{acquisition.dwi}."
        )
    scan = read_checked(acquisition, reading)
    known = {image: name for name, image in run.facts.get("images", {}).items()}.get(fingerprint(acquisition.dwi))
    if known is None:
        return scan
    told = f"{acquisition.name} is {known}, who trained the model: what is predicted is better than of a new subject."
    return replace(scan, notes=(*scan.notes, told))
