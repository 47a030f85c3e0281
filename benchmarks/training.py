"""harmonet's training loop beside one written by hand: steps per second, share of the machine's peak, memory.

    python benchmarks/training.py [--quick] [--rounds 15] [--only NAME ...]

One thread, batches of 12 patches of 11³ voxels and 28 channels of two small simulated heads, Adam. "harmonet" is
`training.loop.fit` and "by hand" is the loop of `step_of`, on a copy of the same network and on the same batches, each
loop with a feed of its own, so that the gather is in both. They take steps in turns, from within the first one's
progress callback: what is timed of harmonet is all that happens from one callback to the next. The epoch's end
(validation, a checkpoint) is no step. At the end both must have the same weights to the last bit.

The peak is that of `networks.py`, measured in the same turns; work is what torch's counter counts, what is recomputed
too. Memory is by how much two steps of a new model lift the process (harmonet keeps the best weights as well), and by
how much a training of two steps to its end, with a validation and a checkpoint. What is judged is the smaller of the
ratios in wall and in processor time. Beside other jobs a ratio is good to a tenth: see the load printed.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from networks import CHANNELS, EDGE, peak_mb, probe, verdict  # first: sets the number of threads

# isort: split
import numpy as np
import torch
from timing import ratio
from torch.utils.flop_counter import FlopCounterMode

import harmonet as hn
from harmonet.data.patches import Batch, PatchFeed
from harmonet.data.standardise import statistics
from harmonet.data.volumes import Head, Volume, bring_together
from harmonet.model import Model
from harmonet.platforms import Grid
from harmonet.training.checkpoint import Checkpoints
from harmonet.training.history import History
from harmonet.training.loop import fit
from harmonet.training.schedule import Manner, Schedule

RATE, SOURCE, SHAPE = 1e-4, "ge_st", (16, 17, 16)
OVER_BARE = 1.03  # harmonet's step over that of the loop by hand
SLOWER, SMALLER = 1.4, 0.45  # bar 13: recomputing over keeping, in time and in memory
MIXED = {"prisma_st": "shresnet", "connectom_st": "shresnet", "connectom_sa": "diqt"}
NARROW = {"shresnet": {"width": 16, "blocks": 1}, "diqt": {"layers": 1, "widths": (16, 32)}}


@dataclass(frozen=True)
class Case:
    """What is trained: platform to network, their options by name; MSP refines all where there are several platforms.

    Attributes:
        turn: Steps of one loop before it is the other's turn.
    """

    networks: Mapping[str, str]
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    turn: int = 1


CASES = {
    "shresnet-narrow": Case({"connectom_st": "shresnet"}, NARROW, 5),
    "shresnet": Case({"connectom_st": "shresnet"}),
    "diqt-narrow": Case({"connectom_sa": "diqt"}, NARROW, 5),
    "diqt": Case({"connectom_sa": "diqt"}),
    "msp-narrow": Case(MIXED, NARROW, 5),
    "msp": Case(MIXED),
}
KEEPING, RECOMPUTING = (Case({"connectom_st": "diqt"}, {"diqt": {"layers": 8, "recompute": r}}) for r in (False, True))


def upsampling(case: Case) -> dict[str, int]:
    """Platform to 1 or 2."""
    return {platform: 2 if platform == "connectom_sa" else 1 for platform in case.networks}


def model_of(case: Case) -> Model:
    """The model, the same at each call; alpha stays where it is, since the loop by hand knows nothing of it."""
    torch.manual_seed(0)
    fusion = "msp" if len(case.networks) > 1 else None
    options = {**case.options, **({"msp": {"schedule": "fixed", "final": 0.5}} if fusion else {})}
    return hn.compose(
        case.networks, fusion, upsampling=upsampling(case), channels=CHANNELS, patch_size=EDGE, options=options
    )


def head(name: str, seed: int, factors: Mapping[str, int]) -> Head:
    """A simulated head with every target: a ball of noise, which takes as long as a brain."""
    random = np.random.default_rng(seed)
    grid = Grid(SHAPE, np.diag([2.4, 2.4, 2.4, 1.0]))

    def volume(on: Grid) -> Volume:
        axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in on.shape), indexing="ij")
        mask = sum(axis**2 for axis in axes) < 0.9
        return Volume(random.standard_normal((*on.shape, CHANNELS), dtype=np.float32), mask, on)

    targets = {platform: volume(grid.refined(factor) if factor > 1 else grid) for platform, factor in factors.items()}
    return bring_together(name, volume(grid), targets, dict(factors))


def feed_of(heads: list[Head], factors: Mapping[str, int], patches: int) -> PatchFeed:
    """So many patches of each head in an epoch."""
    standard = {SOURCE: statistics((one.source for one in heads), SOURCE)}
    standard |= {platform: statistics((one.targets[platform] for one in heads), platform) for platform in factors}
    return PatchFeed(heads, standard, SOURCE, factors, EDGE, patches, 0)


def step_of(model: Model, batches: Iterator[Batch]) -> Callable[[], int]:
    """One step of the loop by hand, to be called again and again."""
    model.train()
    optimiser = torch.optim.Adam(model.parameters(), lr=RATE)

    def step() -> int:
        batch = next(batches)
        x = torch.from_numpy(batch.source).movedim(-1, 1)
        targets = {platform: torch.from_numpy(y).movedim(-1, 1) for platform, y in batch.targets.items()}
        masks = {platform: torch.from_numpy(inside)[:, None].float() for platform, inside in batch.inside.items()}
        optimiser.zero_grad()
        losses = [
            ((y - targets[platform]).square() * masks[platform]).sum() / (masks[platform].sum() * CHANNELS)
            for stage in model(x)
            for platform, y in stage.items()
        ]
        sum(losses).backward()
        optimiser.step()
        return 1

    return step


def harmonet(model: Model, feeds: tuple[PatchFeed, PatchFeed], steps: int, size: int, watch) -> None:
    """Trains the model for so many steps of one epoch."""
    with tempfile.TemporaryDirectory() as name:
        fit(
            model,
            *feeds,
            schedule=Schedule(epochs=1, per_epoch=steps, learning_rate=RATE),
            manner=Manner(batch_size=size),
            seed=0,
            phase="benchmark",
            checkpoints=Checkpoints(Path(name)),
            history=History(Path(name) / "history.jsonl"),
            watch=watch,
        )


def by_hand(step: Callable[[], int], steps: int) -> None:
    """Takes so many steps."""
    for _ in range(steps):
        step()


def in_turns(
    case: Case, others: Mapping[str, Callable[[], int]], feeds: tuple[PatchFeed, PatchFeed], turns: int, size: int
) -> tuple[dict[str, np.ndarray], Model]:
    """Name to (turns, 2), wall and process CPU seconds of a step, as `timing.rounds` gives them; the trained model.

    The first turn warms up and is left out.
    """
    model = model_of(case)
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in ("harmonet", *others)}
    began = clocks()

    def watch(_phase: str, done: int, _total: int, _note: str) -> None:
        nonlocal began
        if done % case.turn:
            return
        taken["harmonet"].append(since(began, case.turn))
        for name, step in others.items():
            began = clocks()
            by_hand(step, case.turn)
            taken[name].append(since(began, case.turn))
        began = clocks()

    harmonet(model, feeds, (turns + 1) * case.turn, size, watch)
    return {name: np.array(values[1:]) for name, values in taken.items()}, model


def clocks() -> tuple[float, float]:
    """Wall and process CPU seconds."""
    return time.perf_counter(), time.process_time()


def since(began: tuple[float, float], steps: int) -> tuple[float, float]:
    """Wall and process CPU seconds for each of so many steps."""
    wall, cpu = clocks()
    return (wall - began[0]) / steps, (cpu - began[1]) / steps


def feeds_of(case: Case, steps: int, size: int) -> tuple[PatchFeed, PatchFeed]:
    """Feeds of so many steps for training, and of one batch for validation."""
    heads = [head(name, seed, upsampling(case)) for seed, name in enumerate(("a", "b"))]
    return feed_of(heads, upsampling(case), steps * size // 2), feed_of(heads, upsampling(case), size // 2)


def operations(case: Case, feed: PatchFeed, size: int) -> float:
    """GFLOP of one step, as torch counts them."""
    step = step_of(model_of(case), feed.batches(0, size))
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops() / 1e9


class EnoughError(Exception):
    """Raised to leave a training before its epoch ends."""


def leave(_phase: str, done: int, _total: int, _note: str) -> None:
    """Ends a training after two steps."""
    if done == 2:
        raise EnoughError


def lifted_mb(case: Case, size: int) -> dict[str, float]:
    """MB by which two steps lift the process's memory in each loop, and by which a whole training of two steps does."""
    feeds = feeds_of(case, 2, size)

    def steps() -> None:
        with suppress(EnoughError):
            harmonet(model_of(case), feeds, 2, size, leave)

    return {
        "harmonet": peak_mb(steps),
        "by hand": peak_mb(lambda: by_hand(step_of(model_of(case), feeds[0].batches(0, size)), 2)),
        "to the end": peak_mb(lambda: harmonet(model_of(case), feeds, 2, size, lambda *_: None)),
    }


def line(name: str, columns: Sequence[str]) -> str:
    """A line of the table."""
    return f"{name:<18}" + "".join(f"{column:>9}" for column in columns)


def measure(name: str, size: int, turns: int) -> bool:
    """Prints the line of one case and its bar; whether it holds."""
    case = CASES[name]
    feeds, bare = feeds_of(case, (turns + 1) * case.turn, size), model_of(case)
    conv, conv_giga = probe()
    others = {"by hand": step_of(bare, feeds[0].batches(0, size)), "peak": conv}
    taken, trained = in_turns(case, others, feeds, turns, size)
    share = max(ratio(taken, "peak", "harmonet")) * operations(case, feeds[0], size) / conv_giga
    wall = {way: float(np.median(values[:, 0])) for way, values in taken.items()}
    over, memory = ratio(taken, "harmonet", "by hand"), lifted_mb(case, size)
    columns = [
        f"{1 / wall['harmonet']:.2f}",
        f"{1 / wall['by hand']:.2f}",
        *(f"{times:.3f}" for times in over),
        f"{1000 * (over[0] - 1) * wall['by hand']:.2f}",
        f"{share:.0%}",
        *(f"{megabytes:.0f}" for megabytes in memory.values()),
    ]
    print(line(name, columns), flush=True)
    weights = zip(trained.state_dict().values(), bare.state_dict().values(), strict=True)
    same = all(torch.equal(*pair) for pair in weights)
    print(f"  {name}, the same weights as by hand, to the last bit: {'holds' if same else 'MISSED'}")
    return verdict("training", f"{name}, step over that by hand", min(over), OVER_BARE, least=False) and same


def measure_recomputing(size: int, turns: int) -> bool:
    """Prints what reversible stacks that recompute take in harmonet's loop; whether bar 13 holds there."""
    feeds = feeds_of(RECOMPUTING, turns + 1, size)
    keeping = step_of(model_of(KEEPING), feeds[0].batches(0, size))
    taken, _ = in_turns(RECOMPUTING, {"keeping": keeping}, feeds, turns, size)
    memory = {way: lifted_mb(case, size)["harmonet"] for way, case in (("off", KEEPING), ("on", RECOMPUTING))}
    print(f"diqt of 8 layers per stack, MB: recompute off {memory['off']:.0f}, on {memory['on']:.0f}")
    slower = min(ratio(taken, "harmonet", "keeping"))
    held = verdict("13", "recomputing in harmonet's loop over keeping by hand, time", slower, SLOWER, least=False)
    return verdict("13", "recomputing, peak memory", memory["on"] / memory["off"], SMALLER, least=False) and held


def main() -> int:
    """Runs what was asked for; 1 where a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="batches of 2 and one turn: shows that it runs, judges nothing"
    )
    parser.add_argument("--rounds", type=int, default=15, help="turns of each loop")
    parser.add_argument("--only", nargs="*", choices=(*CASES, "recomputing"), help="names of cases")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    size, turns = (2, 1) if asked.quick else (12, asked.rounds)
    chosen = asked.only or (*CASES, "recomputing")
    print(f"batch {size}, {EDGE}³ x {CHANNELS}; load of the machine at the start: {os.getloadavg()[0]:.1f}")
    print("steps per second, harmonet over by hand in wall and CPU time, ms more per step, share of the peak, MB")
    print(line("case", ["harmonet", "by hand", "wall", "cpu", "ms", "peak", "harmonet", "by hand", "to end"]))
    held = [measure(name, size, turns) for name in CASES if name in chosen]
    if "recomputing" in chosen:
        held.append(measure_recomputing(size, turns))
    print(f"load of the machine at the end: {os.getloadavg()[0]:.1f}")
    return 0 if asked.quick or all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
