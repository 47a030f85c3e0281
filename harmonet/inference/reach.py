"""What one pass of a model over a few small windows tells: how far it sees, and what it holds in memory."""

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from harmonet.fusion import Stage
from harmonet.inference.tiles import Where
from harmonet.model import Model
from harmonet.platforms import Alignment

TOLERANCE = 1e-5  # of the prediction's rms: rounding leaves about 4e-6
# Layers without padding lose less of a large tile than of the patch that is measured, and convolutions need scratch.
SPARE = 2
Ints = NDArray[np.int_]


@dataclass(frozen=True, eq=False)
class Road:
    """A way to predict from windows.

    Attributes:
        halo: Source voxels at the border of a window, on every side, for which nothing or nothing true is said.
        leads: Platform to target voxels (3,) between the place of a window's first voxel and the first predicted.
        layers: Prepares the model's layers for as long as its context lasts.
    """

    halo: int
    leads: Mapping[str, Ints]
    layers: Callable[[Model], AbstractContextManager[None]]


@dataclass(frozen=True, eq=False)
class Reach:
    """What was measured on a model.

    Attributes:
        patches: Windows of the patch's size, as in training: all is true that is said.
        tiles: Windows of any size, which say what patches say that are centred on their voxels; None where none do.
        voxel_bytes: What the model holds at most, for each voxel of a window.
    """

    patches: Road
    tiles: Road | None
    voxel_bytes: float


def measure(model: Model, where: Mapping[str, Where], channels: int, patch_size: int) -> Reach:
    """How far the model sees on the platforms of `where`, and its memory.

    One voxel of a window is NaN: the predictions that become NaN see it, whatever the weights. Where they lie within
    the patch, a window larger than the patch is held against patches centred on some of its voxels, with those at
    its corners and neighbours of both parities among them: a model that pools or counts from a border differs.

    The layers of a tile need no padding. Where the model runs without, it does less work; one that adds outputs of
    layers of several depths does not.
    """
    alignments = {platform: place.alignment for platform, place in where.items()}
    values = np.random.default_rng(0).normal(size=(1, patch_size, patch_size, patch_size, channels))
    with _Held() as held:
        stages = model(_on(model, values))
    voxel_bytes = SPARE * (4 * channels + held.peak / patch_size**3)
    patches = _road(stages, alignments, patch_size, _as_trained, 0)
    try:
        halo = _seen(model, alignments, patches.leads, channels, patch_size)
    except Exception:  # a model that takes no other size than its patch may say so in any way
        return Reach(patches, None, voxel_bytes)
    if halo <= patch_size // 2:
        for layers in (_unpadded, _as_trained):
            road = _exact(model, alignments, patches, layers, channels, patch_size, halo)
            if road is not None:
                return Reach(patches, road, voxel_bytes)
    return Reach(patches, None, voxel_bytes)


def _road(
    stages: Sequence[Stage],
    alignments: Mapping[str, Alignment],
    edge: int,
    layers: Callable[[Model], AbstractContextManager[None]],
    halo: int,
) -> Road:
    """The road whose window of `edge` voxels on the first axis, odd, gave these stages.

    A window loses as much at either end of every axis; the halo is at least `halo`, and what the window loses.
    """
    leads = {}
    for platform, y in (pair for stage in stages for pair in _known(stage, alignments)):
        alignment, found = alignments[platform], y.shape[2]
        leads[platform] = alignment.corner(np.full(3, edge // 2), found) - np.asarray(alignment.offset)
        before = int(leads[platform][0])
        halo = max(halo, *(-(-lost // alignment.factor) for lost in (before, alignment.factor * edge - before - found)))
    return Road(halo, leads, layers)


@contextmanager
def _as_trained(_: Model) -> Iterator[None]:
    """All layers as they are."""
    yield


@contextmanager
def _unpadded(model: Model) -> Iterator[None]:
    """Convolutions without padding inside."""
    padded = {
        layer: layer.padding
        for layer in model.modules()
        if isinstance(layer, nn.Conv3d) and layer.padding_mode == "zeros" and set(layer.stride) == {1}
    }
    try:
        for layer in padded:
            layer.padding = (0, 0, 0)
        yield
    finally:
        for layer, padding in padded.items():
            layer.padding = padding


def _on(model: Model, values: NDArray[np.float64]) -> Tensor:
    """Windows (B, X, Y, Z, C) as the model takes them."""
    return torch.from_numpy(values.astype(np.float32)).to(model.device).movedim(-1, 1)


def _known(stage: Stage, alignments: Mapping[str, Alignment]) -> Iterator[tuple[str, Tensor]]:
    """Predictions and variances of the platforms that were asked for."""
    for values in (stage, getattr(stage, "variances", {})):
        yield from ((platform, y) for platform, y in values.items() if platform in alignments)


def _seen(
    model: Model, alignments: Mapping[str, Alignment], leads: Mapping[str, Ints], channels: int, patch_size: int
) -> int:
    """How many voxels away a source voxel is seen, at most what the window holds: two more than the patch does."""
    edge = patch_size + 4
    values = np.random.default_rng(1).normal(size=(1, edge, edge, edge, channels))
    values[0, edge // 2, edge // 2, edge // 2] = np.nan
    furthest = 0
    for stage in model(_on(model, values)):
        for platform, y in _known(stage, alignments):
            seeing = y[0].isnan().any(0).nonzero().cpu().numpy()
            places = (seeing + leads[platform]) // alignments[platform].factor
            furthest = max(furthest, int(np.abs(places - edge // 2).max(initial=0)))
    return furthest


def _exact(
    model: Model,
    alignments: Mapping[str, Alignment],
    patches: Road,
    layers: Callable[[Model], AbstractContextManager[None]],
    channels: int,
    patch_size: int,
    halo: int,
) -> Road | None:
    """The road of tiles with such layers, if a window says what patches say that are centred on its voxels."""
    shape = np.array([patch_size + 2, patch_size + 1, patch_size + 3])  # no cube, odd and even
    around = patch_size // 2  # what patches see beyond the window
    field = np.random.default_rng(2).normal(size=(*(shape + 2 * around), channels))
    x, y, z = (slice(around, around + n) for n in shape)
    try:
        with layers(model):
            window = model(_on(model, field[None, x, y, z]))
        road = _road(window, alignments, int(shape[0]), layers, halo)
    except Exception:  # as above, or sizes that do not fit each other without padding
        return None
    if road.halo > around:
        return None
    low, high = np.full(3, road.halo), shape - 1 - road.halo
    centres = [low, low + 1, high, np.array([low[0], low[1] + 1, high[2]])]
    cut = [field[i : i + patch_size, j : j + patch_size, k : k + patch_size] for i, j, k in centres]
    small = model(_on(model, np.stack(cut)))
    large = [pair for stage in window for pair in _known(stage, alignments)]
    at_centres = [pair for stage in small for pair in _known(stage, alignments)]
    for (platform, whole), (_, each) in zip(large, at_centres, strict=True):
        factor = alignments[platform].factor
        middle = _block(each, factor * around - patches.leads[platform], factor)
        limit = TOLERANCE * each.square().mean().sqrt()
        for centre, expected in zip(centres, middle, strict=True):
            found = _block(whole, factor * centre - road.leads[platform], factor)[0]
            # Not `>`: NaN is not the same either.
            if found.shape != expected.shape or not (found - expected).abs().max() <= limit:
                return None
    return road


def _block(y: Tensor, low: Ints, edge: int) -> Tensor:
    """y (B, C, X, Y, Z) from `low`, `edge` voxels on edge."""
    i, j, k = (int(n) for n in low)
    return y[:, :, i : i + edge, j : j + edge, k : k + edge]


class _Held(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Bytes of all that operations gave and that is not yet freed; `peak` is the most at any time."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._owners: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, Tensor):
                self._count(tensor)
        return out

    def _count(self, tensor: Tensor) -> None:
        """Count the tensor's memory until the last tensor that shares it is gone."""
        storage = tensor.untyped_storage()
        place, size = storage.data_ptr(), storage.nbytes()
        if not self._owners.get(place):
            self._owners[place] = 0
            self.now += size
            self.peak = max(self.peak, self.now)
        self._owners[place] += 1
        weakref.finalize(tensor, self._free, place, size).atexit = False

    def _free(self, place: int, size: int) -> None:
        self._owners[place] -= 1
        if not self._owners[place]:
            self.now -= size


def window_bytes(reach: Reach, shape: Sequence[int]) -> int:
    """What the model holds at most for one window of that shape."""
    return int(reach.voxel_bytes * prod(shape))
