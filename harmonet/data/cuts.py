"""Standardised volumes cut to where patches can reach, kept in memory, in files or on a device, and patches of them.

Channels come last, so that a patch is copied in long rows and a batch viewed as (B, C, X, Y, Z) is already in torch's
channels-last layout.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, TypeVar, Union

import numpy as np
from numpy.typing import NDArray

from harmonet.data.standardise import Standardisation, slab_thickness
from harmonet.data.volumes import Volume, window
from harmonet.errors import OutputError
from harmonet.files import write_atomically
from harmonet.platforms import Alignment

if TYPE_CHECKING:
    from torch import Tensor

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]
Indices = NDArray[np.int_]
Patches = Union[Floats, "Tensor"]  # (B, e, e, e, C)
Inside = Union[Bools, "Tensor"]  # (B, e, e, e)
T = TypeVar("T", bound=np.generic)


@dataclass(frozen=True, eq=False)
class Cut:
    """A volume and the part of it that patches of some places can reach; nothing is copied yet.

    Attributes:
        volume: As it was read or mapped from a file.
        standard: What its channels are standardised with.
        first, last: Corners of the part in the volume's indices, which it may exceed.
        base: Where the patch centred on source voxel (0, 0, 0) begins, in the part's indices.
    """

    volume: Volume
    standard: Standardisation
    first: Indices
    last: Indices
    base: Indices

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels of the part along each axis."""
        x, y, z = (int(n) for n in self.last - self.first)
        return x, y, z

    def channels(self) -> Iterator[Floats]:
        """Standardised slabs of the part along its first axis, 0 outside the mask."""
        channels = self.volume.channels
        for low, high in self._slabs((*self.shape, channels.shape[-1]), channels.dtype):
            yield self.standard.apply_to(window(channels, low, high), window(self.volume.mask, low, high))

    def inside(self) -> Iterator[Bools]:
        """Slabs of the mask."""
        for low, high in self._slabs(self.shape, np.dtype(bool)):
            yield window(self.volume.mask, low, high)

    def _slabs(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Iterator[tuple[Indices, Indices]]:
        thick = slab_thickness(shape, dtype)
        for start in range(0, shape[0], thick):
            low, high = self.first.copy(), self.last.copy()
            low[0], high[0] = low[0] + start, min(low[0] + start + thick, high[0])
            yield low, high


def cut(
    volume: Volume, standard: Standardisation, box: tuple[Indices, Indices], alignment: Alignment, edge: int
) -> Cut:
    """The part that target patches of `edge` voxels reach from the source voxels in a box (its corners, inclusive)."""
    first = alignment.corner(box[0], edge)
    last = alignment.corner(box[1], edge) + edge
    return Cut(volume, standard, first, last, alignment.corner(np.zeros(3, dtype=int), edge) - first)


@dataclass(frozen=True, eq=False)
class Layer:
    """One platform's parts, one for each head.

    Attributes:
        cuts: None where the head lacks the platform.
        factor: Voxels along one source voxel.
        edge: Voxels along a patch.
    """

    cuts: Sequence[Cut | None]
    factor: int
    edge: int

    @property
    def reach(self) -> "Reach":
        """Where the patches are."""
        bases = np.array([np.zeros(3, dtype=int) if part is None else part.base for part in self.cuts])
        return Reach(self.factor, self.edge, bases)


class Reach(NamedTuple):
    """Where patches are in the parts: the one of source voxel v of head h begins at factor * v + bases[h]."""

    factor: int
    edge: int
    bases: Indices


class _Kept(NamedTuple):
    channels: Floats
    inside: Bools


class InMemory:
    """The parts as arrays, in memory or mapped read-only from files.

    Args:
        layers: Platform to its parts.
        width: Number of channels.
        files: Path without suffix, by platform, for each head's arrays; in memory where None.
    """

    def __init__(
        self, layers: Mapping[str, Layer], width: int, files: Mapping[str, Sequence[Path]] | None = None
    ) -> None:
        self._width = width
        self._reach = {platform: layer.reach for platform, layer in layers.items()}  # the volumes are let go
        self._kept = {
            platform: [
                None if part is None else _kept(part, width, None if files is None else files[platform][head])
                for head, part in enumerate(layer.cuts)
            ]
            for platform, layer in layers.items()
        }

    def channels(self, places: Indices) -> dict[str, Floats]:
        """Platform to (B, e, e, e, C), a patch per row of (head, x, y, z), zeros where the head lacks the platform."""
        shapes = {p: (len(places), *(reach.edge,) * 3, self._width) for p, reach in self._reach.items()}
        sizes = [int(np.prod(shape)) for shape in shapes.values()]
        # One block for all: the C library keeps one freed block for the next batch where it would hand back several,
        # and fresh pages cost as much as the copy.
        blocks = np.split(np.empty(sum(sizes), dtype=np.float32), np.cumsum(sizes)[:-1])
        return {
            platform: self._fill(block.reshape(shape), platform, places, lambda kept: kept.channels)
            for block, (platform, shape) in zip(blocks, shapes.items(), strict=True)
        }

    def inside(self, platform: str, places: Indices) -> Bools:
        """(B, e, e, e) whether each voxel lies in the mask."""
        out = np.empty((len(places), *(self._reach[platform].edge,) * 3), dtype=bool)
        return self._fill(out, platform, places, lambda kept: kept.inside)

    def _fill(self, out: NDArray[T], platform: str, places: Indices, of: Callable[[_Kept], NDArray[Any]]) -> NDArray[T]:
        """Copied slice by slice: long contiguous rows, so at memory speed."""
        kept, (factor, edge, array) = self._kept[platform], self._reach[platform]
        bases = array.tolist()
        # Plain integers: for a dozen places numpy's calls would cost a tenth of the copy.
        for patch, (head, x, y, z) in zip(out, places.tolist(), strict=True):
            arrays = kept[head]
            if arrays is None:
                patch[...] = 0
            else:
                i, j, k = bases[head]
                i, j, k = factor * x + i, factor * y + j, factor * z + k
                patch[...] = of(arrays)[i : i + edge, j : j + edge, k : k + edge]
        return out


class OnDevice:
    """The parts of each platform as one tensor on a device, where patches are gathered by index.

    Args:
        layers: Platform to its parts.
        width: Number of channels.
        device: torch's name of it.
    """

    def __init__(self, layers: Mapping[str, Layer], width: int, device: str) -> None:
        self._kept = {platform: _Flat(layer, width, device) for platform, layer in layers.items()}

    def channels(self, places: Indices) -> dict[str, "Tensor"]:
        """Platform to (B, e, e, e, C), a patch per row of (head, x, y, z), zeros where the head lacks the platform."""
        return {platform: flat.gather(flat.channels, places) for platform, flat in self._kept.items()}

    def inside(self, platform: str, places: Indices) -> "Tensor":
        """(B, e, e, e) whether each voxel lies in the mask."""
        flat = self._kept[platform]
        return flat.gather(flat.inside, places)[..., 0]


class _Flat:
    """One platform's voxels as rows of tensors, head after head."""

    def __init__(self, layer: Layer, width: int, device: str) -> None:
        import torch

        self._reach, self._device = layer.reach, device
        shapes = np.array([(0, 0, 0) if part is None else part.shape for part in layer.cuts])
        sizes = shapes.prod(axis=1)
        self._start = np.cumsum(sizes) - sizes
        self._line = shapes[:, 2]
        self._plane = shapes[:, 1] * shapes[:, 2]
        total = max(int(sizes.sum()), layer.edge)  # a platform that no head has still has a line of zeros to read
        self.channels = torch.zeros((total, width), device=device)
        self.inside = torch.zeros((total, 1), dtype=torch.bool, device=device)
        for part, start in zip(layer.cuts, self._start.tolist(), strict=True):
            if part is not None:
                _upload(part.channels(), self.channels, start)
                _upload(part.inside(), self.inside, start)

    def gather(self, rows: "Tensor", places: Indices) -> "Tensor":
        """One selection of lines of `edge` voxels, which overlap in the view and are read in long rows."""
        import torch

        (factor, edge, bases), width, head = self._reach, rows.shape[1], places[:, 0]
        x, y, z = (factor * places[:, 1:] + bases[head]).T  # the patches' first voxels
        plane, line = self._plane[head], self._line[head]
        present = plane > 0
        first = np.where(present, self._start[head] + x * plane + y * line + z, 0)
        # One small transfer; the lines' places are worked out where they are needed.
        first, plane, line = torch.from_numpy(np.stack([first, plane, line])).to(self._device)
        step = torch.arange(edge, device=self._device)
        lines = (first[:, None, None] + plane[:, None, None] * step[:, None] + line[:, None, None] * step).reshape(-1)
        view = rows.as_strided((rows.shape[0] - edge + 1, edge * width), (width, 1))
        out = view.index_select(0, lines).reshape(len(places), edge, edge, edge, width)
        if not present.all():
            out[torch.from_numpy(~present).to(self._device)] = 0
        return out


def _kept(part: Cut, width: int, path: Path | None) -> _Kept:
    shape, floats, bools = part.shape, np.dtype(np.float32), np.dtype(bool)
    if path is None:
        return _Kept(_keep(part.channels(), (*shape, width), floats), _keep(part.inside(), shape, bools))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{path.parent} cannot be made ({error.strerror}): choose another folder.") from error
    channels, inside = path.with_name(f"{path.name}.npy"), path.with_name(f"{path.name}.mask.npy")
    return _Kept(_file(part.channels(), (*shape, width), floats, channels), _file(part.inside(), shape, bools, inside))


def _keep(slabs: Iterator[NDArray[T]], shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """The slabs as one array in memory."""
    out = np.empty(shape, dtype=dtype)
    start = 0
    for slab in slabs:
        out[start : start + len(slab)] = slab
        start += len(slab)
    return out


def _file(slabs: Iterator[NDArray[T]], shape: tuple[int, ...], dtype: np.dtype[Any], path: Path) -> NDArray[Any]:
    """The slabs as one array, mapped read-only from a file written for it; older mappings of that file stay whole."""

    def write(file: BinaryIO) -> None:
        header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_2_0(file, header)
        for slab in slabs:
            file.write(np.ascontiguousarray(slab, dtype=dtype).data)

    write_atomically(path, write)
    # Seen as a plain array: slicing numpy's own mapped type costs more than copying a patch.
    return np.asarray(np.load(path, mmap_mode="r"))


def _upload(slabs: Iterator[NDArray[Any]], onto: "Tensor", start: int) -> None:
    """The slabs' voxels as rows of a tensor."""
    import torch

    for slab in slabs:
        voxels = int(np.prod(slab.shape[:3]))
        onto[start : start + voxels] = torch.from_numpy(slab).reshape(voxels, -1).to(onto.device)
        start += voxels
