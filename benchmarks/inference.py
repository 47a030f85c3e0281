"""A whole brain through a network trained on patches: harmonet beside MONAI, TorchIO and patches voxel by voxel.

    python benchmarks/inference.py [--quick] [--rounds 3]

Five 3³ convolutions, 28-64-64-64-64-28 channels, padded, so that the centre of an 11³ patch sees no border: what it
says there is the reference that all ways are held against. One thread, a synthetic brain of 60,000 voxels in a volume
of 96 x 96 x 60. MONAI and TorchIO are measured where they are installed, and are given the mask's box only. Voxel by
voxel takes minutes, so that it is done for some voxels and compared by voxel. What `predict_stages` takes to measure
the model is in its time and its operations.
"""

import argparse
import ctypes
import gc
import sys
import warnings
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

from timing import Bar, ratio, report, rounds  # first: sets the number of threads

# isort: split
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import conv3d, relu
from torch.utils.flop_counter import FlopCounterMode

import harmonet as hn
from harmonet.inference import Where, predict_stages
from harmonet.platforms import Alignment, Grid

SHAPE, CHANNELS, N, BATCH = (96, 96, 60), 28, 11, 24
WIDTHS = (28, 64, 64, 64, 64, 28)
OURS, VALID, SAME = "harmonet", "voxel by voxel, convolutions without padding", "voxel by voxel, padded patches"
MONAI, MONAI_HALF = "MONAI sliding window 11³, overlap 0", "MONAI sliding window 11³, overlap .5"
TORCHIO = "TorchIO GridAggregator 11³, core 5"
Way = Callable[[], int]


def network() -> nn.Sequential:
    """The network, the same at each call."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for a, b in pairwise(WIDTHS):
        layers += [nn.Conv3d(a, b, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers[:-1]).eval()


def brain() -> tuple[np.ndarray, np.ndarray]:
    """Channels (X, Y, Z, C), noise inside an ellipsoid and 0 elsewhere, and the ellipsoid."""
    x, y, z = np.meshgrid(*[np.arange(n) - n / 2 for n in SHAPE], indexing="ij")
    mask = (x / 22) ** 2 + (y / 28) ** 2 + (z / 23) ** 2 < 1
    channels = np.random.default_rng(0).normal(size=(*SHAPE, CHANNELS)).astype(np.float32)
    return channels * mask[..., None], mask


def patches(source: np.ndarray, places: np.ndarray) -> Tensor:
    """(B, C, 11, 11, 11) around some voxels."""
    cut = [source[x - 5 : x + 6, y - 5 : y + 6, z - 5 : z + 6] for x, y, z in places]
    return torch.from_numpy(np.stack(cut)).movedim(-1, 1)


def shrinking(net: nn.Sequential, x: Tensor) -> Tensor:
    """The same layers without padding: (B, C, 11, 11, 11) to (B, C, 1, 1, 1)."""
    convolutions = [layer for layer in net if isinstance(layer, nn.Conv3d)]
    for layer in convolutions[:-1]:
        x = relu(conv3d(x, layer.weight, layer.bias))
    return conv3d(x, convolutions[-1].weight, convolutions[-1].bias)


def voxel_ways(net: nn.Sequential, source: np.ndarray, places: np.ndarray) -> dict[str, Callable[[], np.ndarray]]:
    """Each voxel from its own patch, (voxels, C)."""

    def run(predict: Callable[[Tensor], Tensor]) -> np.ndarray:
        batches = [predict(patches(source, places[i : i + BATCH])) for i in range(0, len(places), BATCH)]
        return torch.cat(batches).numpy()

    return {
        VALID: lambda: run(lambda x: shrinking(net, x)[:, :, 0, 0, 0]),
        SAME: lambda: run(lambda x: net(x)[:, :, 5, 5, 5]),
    }


def monai_ways(net: nn.Sequential, box: Tensor) -> dict[str, Callable[[], Tensor]]:
    """MONAI's sliding window with the patch that the network was trained on."""
    from monai.inferers import SlidingWindowInferer

    ways = {name: SlidingWindowInferer((N,) * 3, BATCH, overlap) for name, overlap in ((MONAI, 0), (MONAI_HALF, 0.5))}
    return {name: lambda way=way: way(box, net)[0] for name, way in ways.items()}


def torchio_ways(net: nn.Sequential, box: Tensor) -> dict[str, Callable[[], Tensor]]:
    """TorchIO's sampler and aggregator, which keep the central 5 voxels of each patch."""
    import torchio as tio

    def run() -> Tensor:
        sampler = tio.GridSampler(tio.Subject(a=tio.ScalarImage(tensor=box[0])), N, patch_overlap=6)
        aggregator = tio.GridAggregator(sampler, overlap_mode="crop")
        for batch in tio.SubjectsLoader(sampler, batch_size=BATCH):
            aggregator.add_batch(net(batch["a"][tio.DATA]), batch[tio.LOCATION])
        return aggregator.get_output_tensor()

    return {TORCHIO: run}


def probe() -> tuple[Way, float]:
    """Convolutions that reach the peak, and their GFLOP."""
    conv = nn.Conv3d(64, 64, 3, padding=1).to(memory_format=torch.channels_last_3d)
    x = torch.randn(8, 64, 16, 16, 16).to(memory_format=torch.channels_last_3d)

    def work() -> int:
        for _ in range(8):
            conv(x)
        return 1

    return work, 8 * 2 * 64 * 64 * 27 * x[:, 0].numel() / 1e9


def peak_mb(work: Callable[[], object]) -> float:
    """MB by which the work lifts the process's memory (Linux: the high-water mark is reset before)."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    work()
    return _status("VmHWM") - before


def _status(field: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1024
    return float("nan")


def verdict(number: str, words: str, value: float, limit: float, *, least: bool) -> bool:
    """Prints a bar; whether it holds."""
    holds = value >= limit if least else value <= limit
    sign = ">=" if least else "<="
    print(f"  bar {number}: {words}: {value:.3g}, needs {sign} {limit:g}: {'holds' if holds else 'MISSED'}", flush=True)
    return holds


def counted(work: Callable[[], np.ndarray], units: int) -> Way:
    """A way that tells how many voxels it did."""

    def way() -> int:
        work()
        return units

    return way


def main() -> int:
    """All ways, and the bars; 1 where one is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--quick", action="store_true", help="one round, few voxels: shows that it runs, judges nothing"
    )
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    net, (source, mask) = network(), brain()
    model = hn.compose({"target": net}, channels=CHANNELS, patch_size=N)
    where = {"target": Where(Grid(SHAPE, np.eye(4)), Alignment(1))}
    inside = np.argwhere(mask)
    places = inside[np.random.default_rng(1).permutation(len(inside))[: 24 if asked.quick else 480]]
    low, high = inside.min(axis=0), inside.max(axis=0) + 1
    crop = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    box = torch.from_numpy(np.ascontiguousarray(source[crop].transpose(3, 0, 1, 2)))[None]

    def ours() -> np.ndarray:
        return predict_stages(model, source, mask, where, N)[0]["target"]

    voxelwise = voxel_ways(net, source, places)
    whole: dict[str, Callable[[], Tensor]] = {}
    for found in (monai_ways, torchio_ways):
        try:
            whole |= found(net, box)
        except ImportError as error:
            print(f"not measured: {error}")

    reference = voxelwise[SAME]()
    rms = float(np.sqrt((reference**2).mean()))
    said = {OURS: ours()[tuple(places.T)], VALID: voxelwise[VALID]()}
    said |= {name: way().numpy()[(slice(None), *(places - low).T)].T for name, way in whole.items()}
    ways = {OURS: ours, **whole, **voxelwise}
    memory = {name: peak_mb(way) for name, way in ways.items()}
    print(f"{'way':<52}{'MB':>8}{'largest difference, share of rms':>36}{'mean':>10}")
    for name, values in said.items():
        off = np.abs(values - reference) / rms
        print(f"{name:<52}{memory[name]:>8.0f}{off.max():>36.1e}{off.mean():>10.1e}")

    conv, conv_giga = probe()
    units = {name: len(places) if name in voxelwise else len(inside) for name in ways}
    taken = rounds(
        {n: counted(w, units[n]) for n, w in ways.items()} | {"conv3d": conv}, 1 if asked.quick else asked.rounds
    )
    peak = taken.pop("conv3d")
    bars = [
        Bar("6", OURS, VALID, 40, "over voxel by voxel without padding"),
        Bar("6", OURS, SAME, 200, "over voxel by voxel with padding"),
        Bar("8", OURS, MONAI_HALF, 5, "over MONAI's sliding window, overlap .5"),
        Bar("8", OURS, MONAI, 1, "over MONAI's sliding window, overlap 0"),
    ]
    held = [report(taken, bars, "voxels")]
    if TORCHIO in taken:
        print(
            "  TorchIO's aggregator takes {:.2f}x the wall, {:.2f}x the cpu time".format(*ratio(taken, TORCHIO, OURS))
        )
    held.append(
        verdict("6", "largest difference", float(np.abs(said[OURS] - reference).max() / rms), 1e-5, least=False)
    )
    with FlopCounterMode(display=False) as counter:
        ours()
    giga = counter.get_total_flops() / 1e9
    per_voxel = sum(2 * 27 * a * b for a, b in pairwise(WIDTHS)) / 1e9
    share = max(np.median(peak / (taken[OURS] * len(inside)), axis=0)) * giga / conv_giga
    held.append(verdict("7", "share of the peak of a convolution", float(share), 0.6, least=True))
    held.append(
        verdict(
            "7", f"{giga:.0f} GFLOP, times those of the mask's voxels", giga / (per_voxel * len(inside)), 3, least=False
        )
    )
    return 0 if asked.quick or all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
