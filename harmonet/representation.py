"""What a representation is: it turns the signal of a voxel into channels, and back where that can be done.

Voxels are rows. The package gathers them from the masks in chunks, so a representation never sees an image and its
memory stays bounded whatever the size of the head.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.float32]  # (V, N) or (V, C): one row per voxel
Table = NDArray[np.float64]
Rewrite = Callable[[Rows], Rows]


class Representation(ABC):
    """How signals become channels, built as `build(shells, **options)`.

    Attributes:
        channels: Number of channels C.
        invertible: Whether `decoder` gives back the encoded signal, but for what a smooth series leaves out (noise).
        suffix: What a predicted image of the channels is called: `NAME_space-PLATFORM_<suffix>.nii.gz`.
        measure: What the channels are and in which units, for tables.
        uses_gradients: Whether it reads S / S0 of the diffusion-weighted volumes in the shells; otherwise it reads
            the one volume of a scalar image as it is.
    """

    channels: int
    invertible: bool = True
    uses_gradients: bool = True
    suffix: str = "sh"
    measure: str = "SH coefficients of S/S0"

    @abstractmethod
    def encoder(self, bvals: Table, directions: Table) -> Rewrite:
        """What turns signals (V, N) of this gradient table into channels (V, C), row by row.

        Args:
            bvals: (N,) in s/mm², those of the shells only.
            directions: (N, 3) unit vectors, world axes.

        Raises:
            DataError: The table cannot carry the channels.
        """

    @abstractmethod
    def decoder(self, bvals: Table, directions: Table) -> Rewrite:
        """What turns channels (V, C) into the signals (V, N) along this gradient table."""

    @abstractmethod
    def groups(self) -> dict[str, slice]:
        """Channels whose errors are reported together, by name, such as {"l = 0": slice(0, 1)}."""

    @abstractmethod
    def turn(self, rotation: Table) -> Table:
        """Matrix (C, C) that turns channels as the orthogonal map `rotation` (3, 3) of the world turns the head."""

    @abstractmethod
    def sidecar(self) -> dict[str, Any]:
        """What a reader of the channels must know, for a JSON sidecar and the run."""

    def check_count(self, n: int) -> None:
        """Refuse, before any file is read, `n` directions on a shell where that is too few; any will do by default."""
        return
