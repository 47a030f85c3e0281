"""A model applied to whole volumes."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import groupby

import numpy as np
import torch
from numpy.typing import NDArray

from harmonet.errors import DataError, ShapeError
from harmonet.inference.reach import Reach, Road, measure, window_bytes
from harmonet.inference.tiles import Near, Overlap, Tile, Where, blocks, box, cores, near
from harmonet.model import Model

CORE = 5  # source voxels kept of each patch where tiles cannot be larger than patches
MEMORY = 2 << 30  # bytes
BATCH = 24  # windows at once: more are no faster
EDGES = (8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)  # of tiles that are tried

Floats = NDArray[np.float32]


class Filled(dict[str, Floats]):
    """One stage's volumes by platform.

    Attributes:
        variances: Those of the variances, where a network gives them.
        members: What the first, the second and so on of a platform's networks say, by platform; where some platform has
            several, and somebody asked.
    """

    def __init__(self) -> None:
        super().__init__()
        self.variances: dict[str, Floats] = {}
        self.members: list[dict[str, Floats]] = []


def predict_stages(
    model: Model,
    source: Floats,
    mask: NDArray[np.bool_],
    where: Mapping[str, Where],
    patch_size: int,
    watch: Callable[[int, int], None] | None = None,
    *,
    core: int | None = None,
    stride: int | None = None,
    memory: int = MEMORY,
    members: bool = False,
) -> list[Filled]:
    """Every stage's prediction of each platform, standardised.

    The result is the definition by cores (see `harmonet.inference`) to 1e-5 of its rms, however it is computed and
    whatever `memory` is. A model whose cores see no border of their patch is applied to large tiles.

    Args:
        model: Composed model or single networks; put in evaluation mode.
        source: (X, Y, Z, C), standardised, 0 outside the mask.
        mask: (X, Y, Z); tiles that do not touch it, or a voxel next to it, are not computed.
        where: Platform to grid; a platform that is not here is left out.
        patch_size: Edge of the patches that the model was trained on.
        watch: Called with tiles done and their number.
        core: Source voxels on edge that are kept of each patch, odd. Where None, 1 (the dense definition) for a model
            that gives it from large tiles, else 5.
        stride: Source voxels from one core to the next; the core where None. Where cores overlap, their mean is
            taken with weights that fall linearly from the middle of a core to its border on every axis.
        memory: Bytes that the model may hold at once, beside its weights, the source and the result; measuring it takes
            four patches.
        members: Whether what each network of a platform says is kept too, which takes as many volumes.

    Returns:
        One dict per stage, platform to (X', Y', Z', C); 0 further than one source voxel from the mask.

    Raises:
        DataError: The mask is empty, or `memory` does not hold one patch.
        ShapeError: Core or stride do not fit the patch.
    """
    around = near(mask)
    model.eval()
    stages: list[Filled] = []
    with torch.inference_mode(), _full_precision():
        reach = measure(model, where, source.shape[-1], patch_size)
        road, tiles = _plan(around, reach, patch_size, core, stride, memory)
        overlap = Overlap.of(tiles)
        done = 0
        for batch in _batches(tiles, reach, memory):
            with road.layers(model):
                predicted = model(_windows(model, source, batch))
            stages = stages or [Filled() for _ in predicted]
            for out, stage in zip(stages, predicted, strict=True):
                _keep(out, stage, batch, where, road, around, overlap)
                _keep(out.variances, getattr(stage, "variances", {}), batch, where, road, around, overlap)
                for number, said in enumerate(_by_number(stage) if members else ()):
                    while len(out.members) <= number:
                        out.members.append({})
                    _keep(out.members[number], said, batch, where, road, around, overlap)
            del predicted, stage  # or they would lie beside the next batch
            done += len(batch)
            if watch is not None:
                watch(done, len(tiles))
    return stages


def _windows(model: Model, source: Floats, batch: Sequence[Tile]) -> torch.Tensor:
    """What the model sees of some tiles of one shape, (B, C, X, Y, Z)."""
    return torch.from_numpy(np.stack([tile.cut(source) for tile in batch])).to(model.device).movedim(-1, 1)


def _by_number(stage: Mapping[str, torch.Tensor]) -> list[dict[str, torch.Tensor]]:
    """What the first, the second and so on of each platform's networks say."""
    members: Mapping[str, Sequence[torch.Tensor]] = getattr(stage, "members", {})
    most = max(map(len, members.values()), default=0)
    return [{platform: said[n] for platform, said in members.items() if n < len(said)} for n in range(most)]


@contextmanager
def _full_precision() -> Iterator[None]:
    """Convolutions on a GPU in float32: TF32, which is faster, would make tiles differ from patches by 1e-3."""
    cudnn = torch.backends.cudnn
    with cudnn.flags(
        enabled=cudnn.enabled, benchmark=cudnn.benchmark, deterministic=cudnn.deterministic, allow_tf32=False
    ):
        yield


def _plan(
    around: Near, reach: Reach, patch_size: int, core: int | None, stride: int | None, memory: int
) -> tuple[Road, list[Tile]]:
    """The tiles that give what is asked for with the least work."""
    radius = patch_size // 2
    if core is None:
        core, stride = (CORE, stride) if reach.tiles is None else (1, 1)
    stride = core if stride is None else stride
    largest = 2 * (radius - reach.patches.halo) + 1
    if core % 2 == 0 or not 1 <= stride <= core <= largest:
        raise ShapeError(
            f"a core of {core} voxels and a stride of {stride} do not fit patches of {patch_size}: the core is odd and "
            f"at most {largest}, the stride at most the core."
        )
    if reach.tiles is not None and reach.tiles.halo + core // 2 <= radius:
        plans = [blocks(around, edge, reach.tiles.halo) for edge in EDGES]
        fitting = [plan for plan in plans if _fits(plan, reach, memory)]
        if fitting:
            return reach.tiles, min(fitting, key=lambda plan: sum(tile.voxels for tile in plan))
    plan = cores(around, core, stride, radius - core // 2)
    if not _fits(plan, reach, memory):
        needed = window_bytes(reach, plan[0].shape) / 2**20
        raise DataError(
            f"the model holds {needed:.1f} MiB for one patch, and {memory / 2**20:.1f} MiB are allowed: allow more."
        )
    return reach.patches, plan


def _fits(plan: Sequence[Tile], reach: Reach, memory: int) -> bool:
    """Whether the largest of the tiles can be computed."""
    return max(window_bytes(reach, tile.shape) for tile in plan) <= memory


def _batches(tiles: Sequence[Tile], reach: Reach, memory: int) -> Iterator[list[Tile]]:
    """Tiles of one shape together, as many as memory holds."""
    for shape, same in groupby(sorted(tiles, key=lambda tile: tile.shape), key=lambda tile: tile.shape):
        alike = list(same)
        size = min(BATCH, memory // window_bytes(reach, shape))
        for start in range(0, len(alike), size):
            yield alike[start : start + size]


def _keep(
    out: dict[str, Floats],
    predicted: Mapping[str, torch.Tensor],
    tiles: Sequence[Tile],
    where: Mapping[str, Where],
    road: Road,
    around: Near,
    overlap: Overlap,
) -> None:
    """Put what was predicted for some tiles of each platform in its place."""
    for platform, values in predicted.items():
        if platform in where:
            place = where[platform]
            if platform not in out:
                out[platform] = np.zeros((*place.grid.shape, values.shape[1]), dtype=np.float32)
            windows = values.movedim(1, -1).cpu().numpy()
            for tile, window in zip(tiles, windows, strict=True):
                share = overlap.share(tile, around.of(tile))
                _add(out[platform], window, share, tile, place, road.leads[platform])


def _add(out: Floats, window: Floats, share: Floats, tile: Tile, place: Where, lead: NDArray[np.int_]) -> None:
    """Add a tile's prediction, times its share of each source voxel, where the share is not 0."""
    alignment = place.alignment
    first = alignment.first(tile.low)
    low, high = np.maximum(first, 0), np.minimum(alignment.first(tile.high), place.grid.shape)
    if (low < high).all():
        for axis in range(3):
            share = share.repeat(alignment.factor, axis)
        part = share[box(low - first, high - first)][..., None]
        begin = alignment.first(tile.low - tile.halo) + lead
        region = out[box(low, high)]
        np.add(region, part * window[box(low - begin, high - begin)], out=region, where=part > 0)
