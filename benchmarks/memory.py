"""Peak memory of feeding a data set four times larger than a cap that the process may not exceed.

    python benchmarks/memory.py [--cap-mb 1024]

Synthetic represented volumes are written as the cache would hold them and memory-mapped; the feed standardises and
cuts them into a store on disk. The cap is on the process's own memory (RLIMIT_DATA: an allocation beyond it fails);
mapped files are pages that the system takes back when it needs them.
"""

import argparse
import resource
import tempfile
import threading
import time
from pathlib import Path

from timing import anonymous_mb  # first: sets the number of threads

# isort: split
import numpy as np

from harmonet.data.patches import PatchFeed
from harmonet.data.standardise import statistics
from harmonet.data.volumes import Head, Volume, bring_together
from harmonet.platforms import Grid

CHANNELS, SHAPE = 28, (96, 96, 60)


def mapped(folder: Path, name: str, grid: Grid, mask: np.ndarray, seed: int) -> Volume:
    """A volume of noise on disk, memory-mapped read-only."""
    path = folder / f"{name}.npy"
    shape = (*grid.shape, CHANNELS)
    channels = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
    random = np.random.default_rng(seed)
    for x in range(shape[0]):
        channels[x] = random.standard_normal(size=shape[1:], dtype=np.float32)
    channels.flush()
    del channels
    return Volume(np.load(path, mmap_mode="r"), mask, grid)


def main() -> None:
    """Writes the data, feeds them under the cap, and prints what that took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cap-mb", type=int, default=1024)
    cap = parser.parse_args().cap_mb
    grid = Grid(SHAPE, np.diag([2.4, 2.4, 2.4, 1.0]))
    fine = grid.refined(2)
    x, y, z = np.meshgrid(*[np.arange(n) - n / 2 for n in SHAPE], indexing="ij")
    mask = (x / 22) ** 2 + (y / 28) ** 2 + (z / 23) ** 2 < 1
    fine_mask = np.repeat(np.repeat(np.repeat(mask, 2, 0), 2, 1), 2, 2)[tuple(slice(n) for n in fine.shape)]
    peak = [0.0]
    threading.Thread(target=lambda: _watch(peak), daemon=True).start()
    resource.setrlimit(resource.RLIMIT_DATA, (cap << 20, cap << 20))
    with tempfile.TemporaryDirectory() as name:
        folder, heads = Path(name), list[Head]()
        while sum(v.channels.nbytes for head in heads for v in (head.source, *head.targets.values())) < 4 * cap << 20:
            n = len(heads)
            source = mapped(folder, f"source{n}", grid, mask, 2 * n)
            target = mapped(folder, f"target{n}", fine, fine_mask, 2 * n + 1)
            heads.append(bring_together(f"s{n}", source, {"target": target}, {"target": 2}))
        total = sum(v.channels.nbytes for head in heads for v in (head.source, *head.targets.values()))
        standard = {"source": statistics((h.source for h in heads), "source")}
        standard["target"] = statistics((h.targets["target"] for h in heads), "target")
        feed = PatchFeed(heads, standard, "source", {"target": 2}, 11, 278, 0, store=folder / "feed")
        began, pairs = time.perf_counter(), 0
        for batch in feed.batches(0, 12):
            pairs += len(batch.source)
        taken = time.perf_counter() - began
    holds = peak[0] <= cap
    print(
        f"data set {total >> 20:,} MB, cap {cap:,} MB, peak of the process's own memory {peak[0]:,.0f} MB: "
        f"{'holds' if holds else 'MISSED'}"
    )
    print(f"{pairs} pairs 11 + 19 from {len(heads)} memory-mapped heads at {pairs / taken:,.0f} pairs/s")
    raise SystemExit(0 if holds else 1)


def _watch(peak: list[float]) -> None:
    while True:
        peak[0] = max(peak[0], anonymous_mb())
        time.sleep(0.01)


if __name__ == "__main__":
    main()
