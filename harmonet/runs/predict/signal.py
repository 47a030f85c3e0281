"""A prediction as a DWI: along which directions, and with which b0."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harmonet.build import shells_of
from harmonet.data.axes import canonical_grid, first_three, to_canonical
from harmonet.data.gradients import (
    B0_MAX,
    SHELL_TOLERANCE,
    Gradients,
    check_gradients,
    read_bvals,
    read_bvecs,
    to_world,
)
from harmonet.data.nifti import read_nifti
from harmonet.data.protocol import listed
from harmonet.data.represent import decoded, in_shells
from harmonet.data.resample import seen
from harmonet.data.scan import Scan
from harmonet.errors import DataError
from harmonet.files import sha256
from harmonet.platforms import Grid
from harmonet.runs.folder import Trained
from harmonet.runs.predict.subject import Prediction, carried

TARGET, INPUT, ONE = "target", "input", "one"
DIRECTIONS, B0S = (TARGET, INPUT), (INPUT, ONE)

Floats = NDArray[np.float32]
Tables = tuple[Path, Path]  # b-values, b-vectors


@dataclass(frozen=True, eq=False)
class Dwi:
    """A DWI to write.

    Attributes:
        signal: (X, Y, Z, N) in closest-canonical axes.
        gradients: Its table in world axes.
        facts: What its sidecar says of it.
    """

    signal: Floats
    gradients: Gradients
    facts: dict[str, Any]


def dwi_of(
    run: Trained, scan: Scan, prediction: Prediction, platform: str, directions: str | Tables, b0: str | Path
) -> Dwi:
    """The signal that the channels stand for, S / S0 within [0, 1] times a b0.

    Args:
        run, scan, prediction, platform: What was predicted.
        directions: `target`: those of the target platform in the training data; `input`: the scan's in the shells; or
            an FSL table that belongs to the image that is written. A b = 0 volume comes first where there is none.
        b0: `input`: the scan's mean b0; `one`: the DWI holds S / S0; or an image, interpolated to the grid.

    Raises:
        DataError: The table asks for other shells than the model predicts, or the image does not show the brain.
    """
    table, whose = _table(run, scan, platform, directions, prediction.stored)
    volume, weighted = prediction.volume, table.bvals > B0_MAX
    ratio = decoded(run.representation, volume, Gradients(table.bvals[weighted], table.directions[weighted]))
    below, above = int((ratio < 0).sum()), int((ratio > 1).sum())  # 0 outside the mask
    brightness, what = _brightness(prediction, b0)
    brightness = (brightness * volume.mask)[..., None]
    signal = np.empty((*volume.mask.shape, len(table.bvals)), dtype=np.float32)
    signal[..., ~weighted] = brightness
    signal[..., weighted] = np.clip(ratio, 0, 1, out=ratio) * brightness
    facts: dict[str, Any] = {"B0": what, "Directions": whose, "Clipped": {"Below0": below, "AboveB0": above}}
    if not run.representation.invertible:
        facts["Signal"] = f"what the {run.recipe.representation.name} channels explain: they cannot be inverted"
    return Dwi(signal, table, facts)


def given_table(run: Trained, tables: Tables, affine: NDArray[np.float64]) -> Gradients:
    """An FSL table for an image with this affine, in world axes.

    Raises:
        DataError: It is no table, or has b-values that the model does not predict.
    """
    bval, bvec = tables
    bvals = read_bvals(bval)
    directions = to_world(check_gradients(bvals, read_bvecs(bvec, len(bvals)), bvec), affine)
    shells = shells_of(run.task)
    known = np.min([np.abs(bvals - shell) for shell in (0.0, *shells)], axis=0) <= SHELL_TOLERANCE
    if not known.all():
        told = ", ".join(f"{shell:g}" for shell in shells)
        raise DataError(
            f"{bval} asks for b = {bvals[~known][0]:g} s/mm² in {listed(np.flatnonzero(~known))}, the model predicts "
            f"b = {told}: leave out the others."
        )
    return Gradients(bvals, directions)


def _table(
    run: Trained, scan: Scan, platform: str, directions: str | Tables, stored: Grid
) -> tuple[Gradients, dict[str, Any]]:
    """The table in world axes with a b = 0 row, and whose it is."""
    if isinstance(directions, tuple):
        table = given_table(run, directions, stored.affine)
        whose: dict[str, Any] = {"Of": "the table that was given"} | {
            "Files": [{"File": path.name, "SHA256": sha256(path)} for path in directions]
        }
    elif directions == INPUT:
        chosen = in_shells(scan, shells_of(run.task))
        table, whose = Gradients(scan.bvals[chosen], scan.directions[chosen]), {"Of": "the input"}
    else:
        table, whose = run.gradients[platform], {"Of": "the target platform in the training data"}
    if (table.bvals > B0_MAX).all():
        table = Gradients(np.r_[0.0, table.bvals], np.vstack([np.zeros((1, 3)), table.directions]))
    return table, whose


def _brightness(prediction: Prediction, b0: str | Path) -> tuple[Floats, dict[str, Any]]:
    """(X, Y, Z) what S / S0 is multiplied with, and what that is."""
    grid, mask = prediction.volume.grid, prediction.volume.mask
    if b0 == ONE:
        return np.ones(grid.shape, dtype=np.float32), {"Of": "none: the volumes are S / S0"}
    if b0 == INPUT:
        return prediction.b0, {"Of": "the mean b = 0 image of the input, interpolated to this grid"}
    path = Path(b0)
    image = read_nifti(path)
    data = image.data[..., 0] if image.data.ndim == 4 and image.data.shape[3] == 1 else image.data
    if data.ndim != 3 or not np.isfinite(data).all():
        raise DataError(
            f"{path} should be one b = 0 image of finite values, found shape {data.shape}: give their mean."
        )
    stored = Grid(first_three(data.shape), image.affine)
    if (share := seen(mask, grid, stored)) < 1:
        raise DataError(f"{path} shows {share:.1%} of the predicted brain: give a b0 that covers all of it.")
    brightness = np.maximum(carried(to_canonical(data, stored), canonical_grid(stored), grid), 0)
    return brightness, {"Of": "the image that was given, interpolated to this grid", "File": path.name} | {
        "SHA256": image.sha256
    }
