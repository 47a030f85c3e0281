"""The wiring of a composition, measured: networks, taps, fusions and stages, with sizes, parameters and FLOPs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from harmonet.anatomy import count_flops
from harmonet.blocks.committee import Committee
from harmonet.blocks.connection import count_parameters
from harmonet.build import representation_of, takes_all
from harmonet.fusion import Fusion
from harmonet.model import Model, aligned
from harmonet.recipe import Recipe
from harmonet.runs.members import first_composition
from harmonet.stages import Prediction, Stage
from harmonet.taps import Size, empty_patch, forward_with_taps


@dataclass(frozen=True)
class Network:
    """A single network in its place.

    Attributes:
        platform: What it predicts.
        network: Its name or run folder.
        role: `alone` for the platform; a `candidate`, of which training keeps one; a `member` of several, all read.
        frozen: Whether the composition's training leaves its weights alone.
        taps: Feature name to layer.
        features: Feature name to size.
        prediction: Size of what it gives.
        connections: Target to the layers that lead there.
        parameters: Their number.
        flops: Floating-point operations for one patch.
    """

    platform: str
    network: str
    role: Literal["alone", "candidate", "member"]
    frozen: bool
    taps: Mapping[str, str]
    features: Mapping[str, Size]
    prediction: Size
    connections: Mapping[str, str]
    parameters: int
    flops: int


@dataclass(frozen=True)
class Join:
    """A fusion in its place.

    Attributes:
        refines: Platforms that its last stage predicts.
        gives: What it refines, and platforms of which some stage has what it made, not what their network said.
        reads: Platform whose network it runs to the layers that lead from there, empty where it names none.
        parameters: Their number.
        flops: What it adds for one patch to one pass of each network; networks run on an altered patch are in it.
    """

    refines: Sequence[str]
    gives: Sequence[str]
    reads: Mapping[str, str]
    parameters: int
    flops: int


@dataclass(frozen=True)
class Wiring:
    """What a composition is made of; where a platform has candidates, joins and totals are those of the first.

    Attributes:
        source: The platform that is read.
        patch: Size of a patch of it.
        targets: The platforms that a recipe names, in its order.
        networks: Every network, those of a platform together; without those that no fusion reads.
        fusion: Its name, None for single networks alone.
        joins: One for each time that it is built.
        stages: Platform to the size of its prediction, for each stage, from a dry run.
        parameters: Their number in all.
        flops: Floating-point operations for one patch in all.
    """

    source: str
    patch: Size
    targets: Sequence[str]
    networks: Sequence[Network]
    fusion: str | None
    joins: Sequence[Join]
    stages: Sequence[Mapping[str, Size]]
    parameters: int
    flops: int

    @property
    def platforms(self) -> list[str]:
        """Targets that have a network here or are predicted."""
        return [name for name in self.targets if self.networks_of(name) or self.predicted(name)]

    @property
    def unread(self) -> list[str]:
        """Targets whose networks the fusion leaves out."""
        return [name for name in self.targets if not self.networks_of(name)]

    def predicted(self, platform: str) -> dict[int, Size]:
        """The stages that predict a platform; the last is its answer."""
        return {number: stage[platform] for number, stage in enumerate(self.stages) if platform in stage}

    @property
    def answers(self) -> dict[str, tuple[int, Size]]:
        """Platform to its last stage and the size of that; without platforms that are only read."""
        return {name: max(found.items()) for name in self.platforms if (found := self.predicted(name))}

    def networks_of(self, platform: str) -> list[Network]:
        """The networks of a platform."""
        return [network for network in self.networks if network.platform == platform]


def wiring_of(recipe: Recipe) -> Wiring:
    """The wiring of a recipe with every candidate, each verified by a dry run."""
    channels, edge = representation_of(recipe).channels, recipe.model.patch_size
    patch = (channels, edge, edge, edge)
    candidates, all_at_once = recipe.model.candidates, takes_all(recipe)
    networks: dict[tuple[str, str], Network] = {}
    first: Model | None = None
    for number in range(1 if all_at_once else max(map(len, candidates.values()))):
        model, *_ = first_composition(recipe, number)
        first = first or model
        for platform, single in model.singles.items():
            names = candidates[platform]
            shown = names if all_at_once else [names[min(number, len(names) - 1)]]
            parts = list(single.members) if len(shown) > 1 and isinstance(single, Committee) else [single]
            role: Any = "alone" if len(names) == 1 else "member" if all_at_once else "candidate"
            for place, (name, part) in enumerate(zip(shown, parts, strict=True)):
                if (platform, name) not in networks:
                    tapped = place == 0  # of several that are all read, taps are the first one's
                    networks[platform, name] = _network(model, platform, name, role, part, patch, tapped)
    assert first is not None  # a recipe has a candidate for each platform
    joins, stages, run = _joined(first, patch)
    passes = [count_flops(first.singles[platform], channels, edge) for platform in sorted(run)]
    return Wiring(
        recipe.source.name,
        patch,
        list(candidates),
        sorted(networks.values(), key=lambda network: list(candidates).index(network.platform)),
        recipe.model.fusion,
        joins,
        [{platform: stage[platform] for platform in candidates if platform in stage} for stage in stages],
        count_parameters(first),
        sum(passes) + sum(join.flops for join in joins),
    )


def _network(
    model: Model,
    platform: str,
    name: str,
    role: Literal["alone", "candidate", "member"],
    module: nn.Module,
    patch: Size,
    tapped: bool,
) -> Network:
    sizes = model.sizes[platform]
    ways = {target: words for target, fusion in _fusions(model).items() if (words := fusion.wiring().get(platform))}
    return Network(
        platform,
        name,
        role,
        platform in model.frozen,
        model.taps[platform] if tapped else {},
        sizes.features if tapped else {},
        sizes.prediction,
        ways if tapped else {},
        count_parameters(module),
        count_flops(module, patch[0], patch[1]),
    )


def _joined(model: Model, patch: Size) -> tuple[list[Join], list[dict[str, Size]], set[str]]:
    """Each fusion, the size of each prediction of each stage, and platforms whose network runs on the patch itself."""
    with empty_patch(model, patch[0], patch[1]) as empty:
        if not model.fusions:
            return [], [_sizes(stage) for stage in model(empty)], set(model.singles)
        # Outside what is counted: these passes are the networks' own, whichever fusion asks first.
        found = {p: forward_with_taps(single, model.taps[p], empty) for p, single in model.singles.items()}
        asked: set[str] = set()

        def run(platform: str, x: Tensor) -> tuple[Prediction, dict[str, Tensor]]:
            if x is empty:
                asked.add(platform)
                return found[platform]
            return forward_with_taps(model.singles[platform], model.taps[platform], x)

        joins, stages = [], []
        for fusion in _fusions(model).values():
            with FlopCounterMode(display=False) as counter:
                stages.append(fusion.stages(empty, run))
            words = fusion.wiring()
            reads = {platform: words.get(platform, "") for platform in fusion.reads}
            own = {p: _shown(prediction) for p, (prediction, _) in found.items() if p not in fusion.refines}
            gives = {p for stage in stages[-1] for p, y in stage.items() if y is not own.get(p)}
            flops = int(counter.get_total_flops())
            joins.append(Join(list(fusion.refines), sorted(gives), reads, count_parameters(fusion), flops))
        return joins, [_sizes(stage) for stage in aligned(stages)], asked


def _shown(prediction: Prediction) -> Tensor:
    """What a stage shows of a network's prediction."""
    stage = Stage()
    stage.add("", prediction)
    return stage[""]


def _fusions(model: Model) -> dict[str, Fusion]:
    return {target: fusion for target, fusion in model.fusions.items() if isinstance(fusion, Fusion)}


def _sizes(stage: Mapping[str, Tensor]) -> dict[str, Size]:
    return {platform: tuple(prediction.shape[1:]) for platform, prediction in stage.items()}


def size_text(size: Size) -> str:
    """A size as people read it.

    >>> size_text((28, 11, 11, 11))
    '28 @ 11 x 11 x 11'
    """
    return f"{size[0]} @ {' x '.join(map(str, size[1:]))}"


def flops_text(flops: int) -> str:
    """Floating-point operations with a prefix.

    >>> flops_text(7_804_000_000), flops_text(12_000), flops_text(7)
    ('7.8 GFLOP', '12 kFLOP', '7 FLOP')
    """
    for factor, prefix in ((10**12, "T"), (10**9, "G"), (10**6, "M"), (10**3, "k")):
        if flops >= factor:
            return f"{flops / factor:.3g} {prefix}FLOP"
    return f"{flops} FLOP"


def facts(wiring: Wiring) -> dict[str, Any]:
    """The wiring, JSON-ready."""
    return {
        "source": wiring.source,
        "patch": wiring.patch,
        "wiring": [vars(network) for network in wiring.networks],
        "targets": wiring.targets,
        "unread": wiring.unread,
        "fusion": wiring.fusion,
        "joins": [vars(join) for join in wiring.joins],
        "stages": wiring.stages,
        "answers": {name: {"stage": last, "size": size} for name, (last, size) in wiring.answers.items()},
        "parameters": wiring.parameters,
        "flops": wiring.flops,
    }


def cost_text(part: Network | Join | Wiring) -> str:
    """Parameters and FLOPs of a part."""
    return f"{part.parameters:,} parameters, {flops_text(part.flops)}"


def total_text(wiring: Wiring) -> str:
    """Parameters and FLOPs of all."""
    chosen = (
        ", with the first candidate of each platform" if any(n.role == "candidate" for n in wiring.networks) else ""
    )
    return f"in all {cost_text(wiring)} for one patch{chosen}"


def joins_text(names: Sequence[str]) -> str:
    """Names as a sentence lists them.

    >>> joins_text(["a", "b", "c"])
    'a, b and c'
    """
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last


Outline = tuple[str, list["Outline"]]  # a line, and the lines that hang on it


def outline(wiring: Wiring) -> Outline:
    """The wiring as a tree of lines: the source, and on it networks, fusion, stages and targets."""
    branches: list[Outline] = [("networks", [_of_network(network) for network in wiring.networks])]
    branches[0][1].extend((f"{platform}: left out, no fusion reads it", []) for platform in wiring.unread)
    if wiring.fusion is not None:
        joins: list[Outline] = [
            (f"for {joins_text(join.refines)}: {cost_text(join)}, reads {joins_text(list(join.reads))}", [])
            for join in wiring.joins
        ]
        branches.append((f"fusion {wiring.fusion}", joins))
    stages = [", ".join(f"{name} {size_text(size)}" for name, size in stage.items()) for stage in wiring.stages]
    branches.append(("stages", [(f"stage {number}: {text}", []) for number, text in enumerate(stages)]))
    answers: list[Outline] = [
        (f"{name}: {size_text(size)}, stage {last}", []) for name, (last, size) in wiring.answers.items()
    ]
    branches.append(("targets", answers))
    return (f"source {wiring.source}: {size_text(wiring.patch)} (channels @ voxels)", branches)


def _of_network(network: Network) -> Outline:
    words = [network.network, *([network.role] if network.role != "alone" else []), *(["frozen"] * network.frozen)]
    taps = [f"tap {network.taps[name]}: {size_text(size)}" for name, size in network.features.items()]
    ways = [f"to {target}: {layers}" for target, layers in network.connections.items()]
    line = f"{network.platform}: {', '.join(words)}, {cost_text(network)}, gives {size_text(network.prediction)}"
    return (line, [(text, []) for text in (*taps, *ways)])
