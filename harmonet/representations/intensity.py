"""A scalar image as it is: T1, T2, FLAIR or any other modality with one number per voxel."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from harmonet.errors import DataError
from harmonet.representation import Representation, Rewrite, Rows, Table


class Intensity(Representation):
    """The intensity, one channel, so that what is composed for diffusion serves other modalities too.

    Args:
        shells: Ignored: a scalar image has none.
    """

    channels = 1
    uses_gradients = False
    suffix = "intensity"
    measure = "intensity"

    def __init__(self, shells: Sequence[float] = ()) -> None:
        return

    def encoder(self, bvals: Table, directions: Table) -> Rewrite:
        """The rows themselves; refuses an image of several volumes."""
        if len(bvals) != 1:
            raise DataError(
                f"an image of {len(bvals)} volumes has no one intensity: "
                "use a scalar image, or sh_signal for diffusion weighting."
            )
        return _same

    def decoder(self, bvals: Table, directions: Table) -> Rewrite:
        """The rows themselves."""
        return _same

    def groups(self) -> dict[str, slice]:
        """The one channel."""
        return {"intensity": slice(0, 1)}

    def turn(self, rotation: Table) -> Table:
        """1: a number stays what it is, whichever way the head lies."""
        return np.eye(1)

    def sidecar(self) -> dict[str, Any]:
        """That the values are the image's own."""
        return {"ModelDescription": "Intensity of a scalar image, in its own units"}


def _same(rows: Rows) -> Rows:
    return rows
