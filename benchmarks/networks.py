"""Training steps of every built-in single network: speed, share of the machine's peak, memory, before and after.

    python benchmarks/networks.py [--quick] [--rounds 3] [--only NAME ...] [--bf16]

One thread, batches of 12 patches of 11³ voxels and 28 channels, Adam. "Before" is the same network on a batch whose
channels lie apart (NCDHW), with torch's own 1 x 1 x 1 convolutions and with the halves of reversible layers joined
after each layer; "after" is what is built, on a batch as the feed gives it. The peak is that of a convolution of 64
channels, since matrix products are not the fastest thing here. Work is what torch's counter counts: it counts too much
where convolutions are grouped (none of these are), and nothing but convolutions and matrix products.
"""

import argparse
import ctypes
import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

from timing import ratio, rounds  # first: sets the number of threads

# isort: split
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import harmonet as hn
from harmonet import plugins
from harmonet.blocks.pointwise import Pointwise
from harmonet.blocks.reversible import ReversibleStack
from harmonet.registry import NETWORKS

CHANNELS, EDGE = 28, 11
# name, least gain over before (bar 10), least share of the peak (bar 11)
BARS = {"cnn_rish": (1.08, 0.85), "shresnet": (1.3, 0.55), "diqt": (1.15, 0.45)}
BF16 = ("cnn_rish", "shresnet")  # bar 12
DEEP = 8  # reversible layers per stack of bar 13


class JoinedStack(nn.Module):
    """A reversible stack that joins and splits the channels around each layer."""

    def __init__(self, stack: ReversibleStack) -> None:
        super().__init__()
        self.layers = nn.ModuleList(stack)
        self.widths = list(stack.widths)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, X, Y, Z) to the same size."""
        for layer in self.layers:
            first, second = torch.split(x, self.widths, dim=1)
            x = torch.cat(layer((first, second)), dim=1)
        return x


def plain(module: nn.Module) -> nn.Module:
    """The module with torch's own layers in place of the fast ones."""
    for name, child in module.named_children():
        plain(child)
        if isinstance(child, Pointwise):
            conv = nn.Conv3d(child.in_channels, child.out_channels, 1)
            conv.load_state_dict(child.state_dict())
            setattr(module, name, conv)
        elif isinstance(child, ReversibleStack):
            setattr(module, name, JoinedStack(child))
    return module


@contextmanager
def given_layout() -> Iterator[None]:
    """Networks leave the layout of their input as it is."""
    modules = ("harmonet.networks.diqt", "harmonet.networks.shresnet")
    with ExitStack() as stack:
        for module in modules:
            stack.enter_context(patch(f"{module}.channels_last", lambda x: x))
        yield


def step_of(network: nn.Module, x: Tensor, around: Callable[[], Any] = nullcontext) -> Callable[[], int]:
    """One training step, to be called again and again."""
    optimiser = torch.optim.Adam(network.parameters())

    def step() -> int:
        optimiser.zero_grad(set_to_none=True)
        with around():
            y = network(x)
            parts = (y,) if isinstance(y, Tensor) else y  # a mean and a variance
            loss = torch.stack([part.float().square().mean() for part in parts]).sum()
        loss.backward()
        optimiser.step()
        return 1

    return step


def build(name: str, **options: Any) -> nn.Module:
    """A registered network at full width, the same at each call."""
    torch.manual_seed(0)
    return hn.create_network(name, CHANNELS, CHANNELS, 1, **options)


def batch(size: int, layout: torch.memory_format) -> Tensor:
    """The same patches at each call."""
    values = torch.randn(size, CHANNELS, EDGE, EDGE, EDGE, generator=torch.Generator().manual_seed(0))
    return values.to(memory_format=layout)


def operations(name: str, size: int) -> float:
    """GFLOP of one training step, as torch counts them."""
    work = step_of(build(name), batch(1, torch.channels_last_3d))
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops() * size / 1e9


def probe() -> tuple[Callable[[], int], float]:
    """Convolutions that reach the peak, and their GFLOP."""
    conv = nn.Conv3d(64, 64, 3, padding=1).to(memory_format=torch.channels_last_3d)
    x = torch.randn(8, 64, 16, 16, 16).to(memory_format=torch.channels_last_3d)
    repeats = 8

    def work() -> int:
        with torch.no_grad():
            for _ in range(repeats):
                conv(x)
        return 1

    return work, repeats * 2 * 64 * 64 * 27 * x[:, 0].numel() / 1e9


def peak_mb(work: Callable[[], int]) -> float:
    """MB by which one step lifts the process's memory (Linux: the high-water mark is reset before)."""
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
    print(f"  bar {number}: {words}: {value:.2f}, needs {sign} {limit:g}: {'holds' if holds else 'MISSED'}", flush=True)
    return holds


def measure(name: str, size: int, repeats: int) -> bool:
    """Prints the line of one network and its bars; whether they hold."""
    before = step_of(plain(build(name)), batch(size, torch.contiguous_format), given_layout)
    after = step_of(build(name), batch(size, torch.channels_last_3d))
    conv, conv_giga = probe()
    taken = rounds({"before": before, "after": after, "peak": conv}, repeats)
    gain = max(ratio(taken, "before", "after"))
    giga = operations(name, size)
    per_step = giga / conv_giga
    shares = {way: max(ratio(taken, "peak", way)) * per_step for way in ("before", "after")}
    rates = {way: 1 / float(sorted(taken[way][:, 1])[repeats // 2]) for way in ("before", "after")}
    memory = {"before": peak_mb(before), "after": peak_mb(after)}
    print(
        f"{name:<16}{giga:>8.1f}{rates['before']:>9.2f}{rates['after']:>8.2f}{gain:>7.2f}x"
        f"{shares['before']:>8.0%}{shares['after']:>7.0%}{memory['before']:>9.0f}{memory['after']:>8.0f}",
        flush=True,
    )
    if name not in BARS:
        return True
    least_gain, least_share = BARS[name]
    held = verdict("10", f"{name}, step after over before", gain, least_gain, least=True)
    return verdict("11", f"{name}, share of the peak", shares["after"], least_share, least=True) and held


def measure_recomputing(size: int, repeats: int) -> bool:
    """Prints the bars of reversible stacks that recompute; whether they hold."""
    x = batch(size, torch.channels_last_3d)
    ways = {
        name: step_of(build("diqt", layers=DEEP, recompute=name == "recomputing"), x)
        for name in ("keeping", "recomputing")
    }
    taken = rounds(ways, repeats)
    slower = min(ratio(taken, "recomputing", "keeping"))
    memory = {name: peak_mb(work) for name, work in ways.items()}
    print(f"diqt of {DEEP} layers per stack: {memory['keeping']:.0f} MB, recomputing {memory['recomputing']:.0f} MB")
    held = verdict("13", "recomputing, time of a step", slower, 1.4, least=False)
    share = memory["recomputing"] / memory["keeping"]
    return verdict("13", "recomputing, peak memory", share, 0.45, least=False) and held


def measure_bf16(name: str, size: int, repeats: int) -> bool:
    """Prints the bar of half precision; whether it holds, where the processor has such instructions (Linux)."""
    if "_bf16" not in Path("/proc/cpuinfo").read_text():
        print(f"  bar 12: {name}: not measured (this processor has no bfloat16 instructions and emulates them)")
        return True
    before = step_of(plain(build(name)), batch(size, torch.contiguous_format), given_layout)
    half = step_of(
        build(name), batch(size, torch.channels_last_3d), lambda: torch.autocast("cpu", dtype=torch.bfloat16)
    )
    gain = max(ratio(rounds({"before": before, "half": half}, repeats), "before", "half"))
    return verdict("12", f"{name}, bfloat16 over before", gain, 1.6, least=True)


def main() -> int:
    """Runs what was asked for; 1 where a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="batches of 2 and one round: shows that it runs, judges nothing"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="*", help="names of networks")
    parser.add_argument("--bf16", action="store_true", help="bar 12 as well")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    size, repeats = (2, 1) if asked.quick else (12, asked.rounds)
    plugins.load()
    built_in = [name for name in NETWORKS.names() if NETWORKS.provider(name) == "harmonet"]
    names = [name for name in built_in if asked.only is None or name in asked.only]
    print(f"batch {size}, {EDGE}³ x {CHANNELS}; steps per CPU second, share of the conv3d probe, MB above the start")
    print(
        f"{'network':<16}{'GFLOP':>8}{'before':>9}{'after':>8}{'gain':>8}{'before':>8}{'after':>7}{'MB':>9}{'after':>8}"
    )
    held = [measure(name, size, repeats) for name in names]
    if "diqt" in names:
        held.append(measure_recomputing(size, 1 if asked.quick else 2))
    if asked.bf16:
        held += [measure_bf16(name, size, repeats) for name in BF16 if name in names]
    return 0 if asked.quick or all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
