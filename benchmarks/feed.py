"""Patch pairs per second: harmonet's feed beside memcpy, a C gather, TorchIO, MONAI and hand-written datasets.

    python benchmarks/feed.py [--rounds 5] [--quick]

TorchIO, MONAI and h5py are measured where they are installed. One thread, batch 12, one synthetic subject of
96 x 96 x 60 voxels and 28 channels with 60,000 voxels in the mask.
"""

import argparse
import ctypes
import subprocess
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

from timing import Bar, anonymous_mb, report, rounds  # first: sets the number of threads

# isort: split
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from harmonet.data.patches import PatchFeed
from harmonet.data.standardise import Standardisation
from harmonet.data.volumes import Volume, bring_together
from harmonet.platforms import Grid

N, FINE, CHANNELS, BATCH = 11, 19, 28, 12
SHAPE = (96, 96, 60)
C_SOURCE = r"""
#include <string.h>
void gather(const float *volume, long nx, long ny, long nz, long c, const long *at, long n, long edge, float *out) {
  for (long p = 0; p < n; p++)
    for (long x = 0; x < edge; x++)
      for (long y = 0; y < edge; y++) {
        const float *row = volume + (((at[3*p] + x) * ny + at[3*p+1] + y) * nz + at[3*p+2]) * c;
        __builtin_prefetch(row + nz * c);
        memcpy(out, row, edge * c * sizeof(float));
        out += edge * c;
      }
}
"""


def head(fine: bool):
    """One synthetic head with a target on the same grid or, `fine`, on one of half the voxel size."""
    rng = np.random.default_rng(0)
    grid = Grid(SHAPE, np.diag([2.4, 2.4, 2.4, 1.0]))
    x, y, z = np.meshgrid(*[np.arange(n) - n / 2 for n in SHAPE], indexing="ij")
    mask = (x / 22) ** 2 + (y / 28) ** 2 + (z / 23) ** 2 < 1
    source = Volume(rng.normal(size=(*SHAPE, CHANNELS)).astype(np.float32), mask, grid)
    if not fine:
        return bring_together("one", source, {"target": source}, {"target": 1})
    lattice = grid.refined(2)
    target_mask = np.repeat(np.repeat(np.repeat(mask, 2, 0), 2, 1), 2, 2)[tuple(slice(n) for n in lattice.shape)]
    channels = rng.standard_normal(size=(*lattice.shape, CHANNELS), dtype=np.float32)
    return bring_together("one", source, {"target": Volume(channels, target_mask, lattice)}, {"target": 2})


def compiled() -> Callable[..., None]:
    """The gather in C: the floor under anything that copies patches out of a volume."""
    folder = Path(tempfile.mkdtemp())
    (folder / "gather.c").write_text(C_SOURCE)
    command = ["gcc", "-O3", "-march=native", "-shared", "-fPIC", "gather.c", "-o", "gather.so"]
    subprocess.run(command, cwd=folder, check=True)
    library = ctypes.CDLL(str(folder / "gather.so"))

    def gather(volume, at, edge, out):
        at = np.ascontiguousarray(at, dtype=np.int64)
        library.gather(
            volume.ctypes.data_as(ctypes.c_void_p),
            *map(ctypes.c_long, volume.shape),
            at.ctypes.data_as(ctypes.c_void_p),
            ctypes.c_long(len(at)),
            ctypes.c_long(edge),
            out.ctypes.data_as(ctypes.c_void_p),
        )

    return gather


class ByHand(Dataset):
    """What one would write first: channels-first tensors, one pair of slices per index."""

    def __init__(self, source, target, places, factor, edge):
        self.source = torch.from_numpy(np.ascontiguousarray(source.transpose(3, 0, 1, 2)))
        self.target = torch.from_numpy(np.ascontiguousarray(target.transpose(3, 0, 1, 2)))
        self.places, self.factor, self.edge = places, factor, edge

    def __len__(self):
        return len(self.places)

    def __getitem__(self, index):
        x, y, z = (int(i) for i in self.places[index])
        a, b = N // 2, self.edge // 2
        u, v, w = (self.factor * i for i in (x, y, z))
        return (
            self.source[:, x - a : x + a + 1, y - a : y + a + 1, z - a : z + a + 1],
            self.target[:, u - b : u + b + 1, v - b : v + b + 1, w - b : w + b + 1],
        )


def endless(make: Callable[[], Iterator]) -> Callable[[int], int]:
    """A function that takes so many batches from an iterator that is made anew when it ends."""
    state = {"iterator": make()}

    def take(batches: int) -> int:
        done = 0
        while done < batches:
            try:
                next(state["iterator"])
                done += 1
            except StopIteration:
                state["iterator"] = make()
        return done * BATCH

    return take


def ours(one, factor, **more) -> tuple[PatchFeed, Callable[[int], int]]:
    """The package's own feed."""
    plain = Standardisation(np.zeros(CHANNELS), np.ones(CHANNELS))
    feed = PatchFeed([one], {"s": plain, "target": plain}, "s", {"target": factor}, N, 10**9, 0, **more)
    epoch = iter(range(10**9))
    return feed, endless(lambda: feed.batches(next(epoch), BATCH))


def monai_ways(one, places) -> dict[str, Callable[[int], int]]:
    """MONAI's patch datasets on the pair 11 + 11 as its documentation has them, and at their best."""
    from monai.data import CacheDataset, PatchDataset
    from monai.data import DataLoader as MonaiLoader
    from monai.transforms import Compose, RandCropByPosNegLabeld, ToTensord

    keys = ["source", "target"]
    first = {k: np.ascontiguousarray(one.source.channels.transpose(3, 0, 1, 2)) for k in keys}
    label = one.source.mask[None].astype(np.float32)
    indices = np.flatnonzero(one.source.mask), np.flatnonzero(~one.source.mask)
    crop = {"keys": keys, "label_key": "label", "spatial_size": (N,) * 3, "pos": 1, "neg": 0, "num_samples": BATCH}
    plain = CacheDataset([{**first, "label": label}] * 4, RandCropByPosNegLabeld(**crop), progress=False)
    cached = RandCropByPosNegLabeld(**crop, fg_indices_key="fg", bg_indices_key="bg")
    given = {k: torch.from_numpy(v) for k, v in first.items()} | {"label": torch.from_numpy(label)}
    given |= {"fg": indices[0], "bg": indices[1]}
    best = CacheDataset(
        [given] * 64, Compose([cached, ToTensord(keys, track_meta=False)]), progress=False, copy_cache=False
    )

    def sampler(image):
        chosen = places[np.random.randint(len(places), size=BATCH)]
        return [{k: image[k][:, x - 5 : x + 6, y - 5 : y + 6, z - 5 : z + 6] for k in keys} for x, y, z in chosen]

    patches = PatchDataset([given] * 64, patch_func=sampler, samples_per_image=BATCH)
    return {
        "MONAI RandCropByPosNegLabeld, as documented": endless(lambda: iter(MonaiLoader(plain, batch_size=1))),
        "MONAI CacheDataset, no copy, cached indices": endless(lambda: iter(MonaiLoader(best, batch_size=1))),
        "MONAI PatchDataset": endless(lambda: iter(MonaiLoader(patches, batch_size=BATCH))),
    }


def torchio_ways(one) -> dict[str, Callable[[int], int]]:
    """TorchIO's queue at the settings of its documentation and at larger ones."""
    import torchio as tio

    channels = torch.from_numpy(np.ascontiguousarray(one.source.channels.transpose(3, 0, 1, 2)))
    mask = torch.from_numpy(one.source.mask[None].astype(np.float32))

    def subjects(n):
        return tio.SubjectsDataset(
            [
                tio.Subject(
                    source=tio.ScalarImage(tensor=channels),
                    target=tio.ScalarImage(tensor=channels),
                    mask=tio.LabelMap(tensor=mask),
                )
                for _ in range(n)
            ]
        )

    def queue(length, per_volume):
        sampler = tio.WeightedSampler(N, "mask")
        loader = tio.SubjectsLoader(
            tio.Queue(subjects(8), length, per_volume, sampler, num_workers=0, shuffle_subjects=False),
            batch_size=BATCH,
        )
        return endless(lambda: iter(loader))

    return {"TorchIO Queue 300/10, Weighted": queue(300, 10), "TorchIO Queue 1200/300, Weighted": queue(1200, 300)}


def file_ways(one, places, folder: Path) -> dict[str, Callable[[int], int]]:
    """One file record per patch pair, in HDF5 and npz."""
    import h5py

    chosen = places[np.random.default_rng(1).permutation(len(places))[:480]]
    cut = [one.source.channels[x - 5 : x + 6, y - 5 : y + 6, z - 5 : z + 6] for x, y, z in chosen]
    with h5py.File(folder / "patches.h5", "w") as file:
        for name in ("source", "target"):
            file.create_dataset(name, data=np.stack(cut), chunks=(1, N, N, N, CHANNELS))
    for number, patch in enumerate(cut):
        np.savez(folder / f"{number}.npz", source=patch, target=patch)
    opened = h5py.File(folder / "patches.h5")

    def batches(read):
        order = np.random.default_rng(2).permutation(len(cut))
        for start in range(0, len(order), BATCH):
            pairs = [read(int(i)) for i in order[start : start + BATCH]]
            yield [np.stack(each) for each in zip(*pairs, strict=True)]

    def npz(i):
        with np.load(folder / f"{i}.npz") as file:
            return file["source"], file["target"]

    return {
        "h5py, a chunk per patch": endless(lambda: batches(lambda i: (opened["source"][i], opened["target"][i]))),
        "npz per patch": endless(lambda: batches(npz)),
    }


def pair(factor: int, repeats: int, folder: Path) -> tuple[dict[str, np.ndarray], float, float]:
    """Times of all ways for one pair of grids, MB of the feed beyond its volumes, share of the volumes kept."""
    edge = N if factor == 1 else FINE
    one = head(factor == 2)
    places = np.argwhere(one.source.mask)
    volumes = (one.source, *one.targets.values())
    ours(one, factor, store=folder / "cuts")
    kept = sum(path.stat().st_size for path in (folder / "cuts").iterdir())
    before = anonymous_mb()
    _, take = ours(one, factor)
    take(4)
    beyond = anonymous_mb() - before - kept / 2**20
    full = sum(volume.channels.nbytes + volume.mask.nbytes for volume in volumes)

    target, source = one.targets["target"].channels, one.source.channels
    # memcpy reads what is not in the processor's cache, as a gather of random patches must: one stretch after another.
    line = target.reshape(-1)
    out = [np.empty(BATCH * n**3 * CHANNELS, np.float32) for n in (N, edge)]
    gather, cursor = compiled(), np.random.default_rng(4)

    def memcpy(batches):
        for _ in range(batches):
            start = cursor.integers(line.size - out[1].size)
            for buffer in out:
                np.copyto(buffer, line[start : start + buffer.size])
        return batches * BATCH

    def in_c(batches):
        for _ in range(batches):
            at = places[cursor.integers(len(places), size=BATCH)]
            gather(source, at - N // 2, N, out[0])
            gather(target, factor * at - edge // 2, edge, out[1])
        return batches * BATCH

    def in_c_fresh(batches):
        for _ in range(batches):
            at = places[cursor.integers(len(places), size=BATCH)]
            gather(source, at - N // 2, N, np.empty(BATCH * N**3 * CHANNELS, np.float32))
            gather(target, factor * at - edge // 2, edge, np.empty(BATCH * edge**3 * CHANNELS, np.float32))
        return batches * BATCH

    loader = DataLoader(ByHand(source, target, places, factor, edge), batch_size=BATCH, shuffle=True)
    ways = {
        "numpy memcpy of the same bytes": (memcpy, 400),
        "gather in C into one buffer": (in_c, 300),
        "gather in C into fresh buffers": (in_c_fresh, 300),
        "harmonet": (take, 200),
        "hand-written channels-first Dataset + DataLoader": (endless(lambda: iter(loader)), 40),
    }
    if factor == 1:
        for found, batches in ((monai_ways, 10), (torchio_ways, 200), (file_ways, 20)):
            try:
                arguments = {monai_ways: (one, places), torchio_ways: (one,), file_ways: (one, places, folder)}[found]
                ways |= {name: (way, batches) for name, way in found(*arguments).items()}
            except ImportError as error:
                print(f"  not measured: {error}")
    chosen = {name: (lambda way=way, n=n: way(n)) for name, (way, n) in ways.items()}
    return rounds(chosen, repeats), beyond, kept / full


def main() -> None:
    """Both pairs of grids, and the bars."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    held = True
    with tempfile.TemporaryDirectory() as folder:
        for factor in (1, 2):
            edge = N if factor == 1 else FINE
            (Path(folder) / str(factor)).mkdir()
            taken, beyond, kept = pair(factor, options.rounds, Path(folder) / str(factor))
            print(f"pairs {N} + {edge}, batch {BATCH}, one thread")
            least = 0.40 if factor == 1 else 0.35
            memcpy = Bar("1", "harmonet", "numpy memcpy of the same bytes", least, "share of memcpy speed")
            bars = [memcpy]
            if factor == 1:
                bars += [
                    Bar("2", "harmonet", "TorchIO Queue 1200/300, Weighted", 15, "over TorchIO's large queue"),
                    Bar("2", "harmonet", "TorchIO Queue 300/10, Weighted", 100, "over TorchIO's documented queue"),
                    Bar("3", "harmonet", "MONAI CacheDataset, no copy, cached indices", 10, "over MONAI's best"),
                    Bar("3", "harmonet", "MONAI PatchDataset", 10, "over MONAI's PatchDataset"),
                    Bar("4", "harmonet", "h5py, a chunk per patch", 12, "over h5py per patch"),
                    Bar("4", "harmonet", "npz per patch", 12, "over npz per patch"),
                ]
            by_hand = "hand-written channels-first Dataset + DataLoader"
            bars.append(Bar("4", "harmonet", by_hand, 3, "over hand-written"))
            held &= report(taken, bars, "pairs")
            held &= beyond <= 32 and kept <= 0.4
            print(
                f"  bar 5: {beyond:.0f} MB beyond the cuts (at most 32), {kept:.0%} of the volumes kept (at most 40 %)"
            )
    raise SystemExit(0 if held else 1)


if __name__ == "__main__":
    main()
