"""Training steps of composed networks beside the sum of their parts: time, memory, how often each network runs.

    python benchmarks/composition.py [--quick] [--rounds 3] [--batch 12] [--only NAME ...]

One thread, batches of 12 patches of 11³ voxels and 28 channels, Adam, alpha 0.5. "Singles" are the single networks,
each with its own loss; "parts" are these and every connection network on noise of its features' size, with a loss of
its own; "re-run" is the composition with the networks run anew for each target, which must say the same to the last
bit. Ratios are the smaller of those in wall and in processor time.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Mapping

from networks import CHANNELS, EDGE, batch, peak_mb, verdict  # first: sets the number of threads

# isort: split
import torch
from timing import ratio, rounds
from torch import Tensor, nn

import harmonet as hn
from harmonet.fusions.msp import MSP
from harmonet.model import Model
from harmonet.taps import forward_with_taps

PAPER = {"prisma_st": "shresnet", "connectom_st": "shresnet", "connectom_sa": "diqt"}
RISH = dict.fromkeys(("prisma_st", "connectom_st", "connectom_b"), "cnn_rish")
# name: networks, target or all
COMPOSITIONS: dict[str, tuple[dict[str, str], str | None]] = {
    "rish": (RISH, "prisma_st"),
    "rish-all": (RISH, None),
    "paper-st": (PAPER, "prisma_st"),
    "paper-sa": (PAPER, "connectom_sa"),
    "paper-all": (PAPER, None),
}
OVER_PARTS, OVER_SINGLES = 1.10, 1.35  # bar 9
KEPT = 1.0  # of what the parts keep for the backward pass


def composed(name: str) -> Model:
    """A composition at full width, the same at each call."""
    torch.manual_seed(0)
    networks, target = COMPOSITIONS[name]
    upsampling = {platform: 2 for platform in networks if platform == "connectom_sa"}
    options = {"msp": {"schedule": "fixed", "final": 0.5}}
    return hn.compose(
        networks, "msp", target, upsampling=upsampling, channels=CHANNELS, patch_size=EDGE, options=options
    )


def fusions(model: Model) -> dict[str, MSP]:
    """Target to fusion."""
    return {target: fusion for target, fusion in model.fusions.items() if isinstance(fusion, MSP)}


def step_of(module: nn.Module, predict: Callable[[], list[Tensor]]) -> Callable[[], int]:
    """One training step, to be called again and again."""
    optimiser = torch.optim.Adam(module.parameters())

    def step() -> int:
        optimiser.zero_grad(set_to_none=True)
        torch.stack([y.square().mean() for y in predict()]).sum().backward()
        optimiser.step()
        return 1

    return step


def stages_of(model: Model, x: Tensor) -> Callable[[], list[Tensor]]:
    """Every prediction of every stage."""
    return lambda: [y for stage in model(x) for y in stage.values()]


def singles_of(model: Model, x: Tensor) -> Callable[[], list[Tensor]]:
    """The prediction of each single network."""
    return lambda: [network(x) for network in model.singles.values()]


def parts_of(model: Model, x: Tensor) -> Callable[[], list[Tensor]]:
    """The prediction of each single network and of each connection network."""
    given: list[tuple[nn.Module, list[Tensor]]] = []
    for fusion in fusions(model).values():
        for platform, net in fusion.connections[0].named_children():
            sizes = model.sizes[platform].features.values()
            layout = torch.channels_last_3d
            noise = [torch.randn(len(x), *size).to(memory_format=layout).requires_grad_() for size in sizes]
            given.append((net, noise))

    def predict() -> list[Tensor]:
        for _, noise in given:
            for z in noise:
                z.grad = None
        return [*singles_of(model, x)(), *(net(*noise) for net, noise in given)]

    return predict


def rerun_of(model: Model, x: Tensor) -> Callable[[], dict[str, list[Mapping[str, Tensor]]]]:
    """Target to its stages, networks run anew for each."""

    def predict() -> dict[str, list[Mapping[str, Tensor]]]:
        def run(platform: str, patches: Tensor) -> tuple[Tensor, Mapping[str, Tensor]]:
            prediction, features = forward_with_taps(model.singles[platform], model.taps[platform], patches)
            assert isinstance(prediction, Tensor)
            return prediction, features

        return {target: list(fusion.stages(x, run)) for target, fusion in fusions(model).items()}

    return predict


def flat(stages: Mapping[str, list[Mapping[str, Tensor]]]) -> list[Tensor]:
    """The refined predictions of all targets."""
    return [y for later in stages.values() for stage in later for y in stage.values()]


def says_the_same(model: Model, x: Tensor) -> bool:
    """Whether the composition and the re-run agree to the last bit."""
    with torch.no_grad():
        shared, anew = model(x), rerun_of(model, x)()
    later = [(shared[n][p], stages[n][p]) for stages in anew.values() for n in range(len(stages)) for p in stages[n]]
    return all(torch.equal(a, b) for a, b in later)


def calls(model: Model, x: Tensor) -> Counter[str]:
    """How often each single network and each connection network runs in one step."""
    counted: Counter[str] = Counter()
    modules = dict(model.singles.items())
    modules |= {
        f"{platform} to {target}": net
        for target, fusion in fusions(model).items()
        for platform, net in fusion.connections[0].named_children()
    }
    handles = [net.register_forward_hook(lambda *_, name=name: counted.update([name])) for name, net in modules.items()]
    step_of(model, stages_of(model, x))()
    for handle in handles:
        handle.remove()
    return Counter({name: counted[name] for name in modules})


def kept_mb(predict: Callable[[], list[Tensor]]) -> float:
    """MB that the forward pass keeps for the backward one, each memory once; exact, which the peak is not."""
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        outcome = predict()
    total = sum(tensor.untyped_storage().nbytes() for tensor in kept.values()) / 2**20
    del outcome
    return total


def measure(name: str, size: int, repeats: int) -> bool:
    """Prints the line of one composition and its bars; whether they hold."""
    model, x = composed(name).train(), batch(size, torch.channels_last_3d)
    ways = {
        "shared": step_of(model, stages_of(model, x)),
        "parts": step_of(model, parts_of(model, x)),
        "singles": step_of(model, singles_of(model, x)),
        "re-run": step_of(model, lambda: flat(rerun_of(model, x)())),
    }
    taken = rounds(ways, repeats)
    memory = {way: peak_mb(work) for way, work in ways.items()}
    over = {way: min(ratio(taken, "shared", way)) for way in ("parts", "singles", "re-run")}
    milliseconds = 1000 * float(sorted(taken["shared"][:, 1])[repeats // 2])
    print(
        f"{name:<12}{milliseconds:>9.0f}{over['parts']:>9.2f}{over['singles']:>9.2f}{over['re-run']:>9.2f}"
        f"{memory['shared']:>9.0f}{memory['parts']:>9.0f}{memory['singles']:>9.0f}{memory['re-run']:>9.0f}",
        flush=True,
    )
    held = [verdict("9", f"{name}, step over its parts", over["parts"], OVER_PARTS, least=False)]
    if len(model.fusions) == 1:
        held.append(verdict("9", f"{name}, step over the singles", over["singles"], OVER_SINGLES, least=False))
    kept = kept_mb(stages_of(model, x)) / kept_mb(parts_of(model, x))
    held.append(verdict("9", f"{name}, memory kept for the backward pass, over its parts", kept, KEPT, least=False))
    most = max(calls(model, x).values())
    held.append(verdict("9", f"{name}, most runs of a network in a step", most, 1, least=False))
    same = says_the_same(model.eval(), x)
    print(f"  bar 9: {name}, bitwise the re-run: {'holds' if same else 'MISSED'}", flush=True)
    return all(held) and same


def main() -> int:
    """Runs what was asked for; 1 where a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="batches of 2 and one round: shows that it runs, judges nothing"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=12)
    parser.add_argument("--only", nargs="*", choices=COMPOSITIONS, help="names of compositions")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    size, repeats = (2, 1) if asked.quick else (asked.batch, asked.rounds)
    print(
        f"batch {size}, {EDGE}³ x {CHANNELS}; ms of a step, its ratio to three others, MB above the start of all four"
    )
    heads = ("ms", "/parts", "/singles", "/re-run", "shared", "parts", "singles", "re-run")
    print(f"{'composition':<12}" + "".join(f"{head:>9}" for head in heads))
    held = [measure(name, size, repeats) for name in asked.only or COMPOSITIONS]
    return 0 if asked.quick or all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
