"""How networks, taps and a fusion are joined into one model.

A model turns (B, C, X, Y, Z) into stages, a stage is a dict from platform to prediction. Stage 0 is the single
networks, the fusion adds later ones; the last stage that has a platform is its answer. A model without a fusion has
one stage, so training and evaluation know one kind of model only.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor, nn

from harmonet import plugins
from harmonet.blocks.connection import count_parameters
from harmonet.errors import NotFoundError, ShapeError, nearest
from harmonet.fusion import Fusion, Source, Stage
from harmonet.platforms import KINDS, check_name, target_patch_size
from harmonet.registry import NetworkEntry
from harmonet.taps import Size, empty_patch, forward_with_taps, layer_names, measure

Single = str | nn.Module
Taps = str | Sequence[str] | Mapping[str, str]  # layers, or feature names to layers


@dataclass(frozen=True)
class Wire:
    """One row of the wiring table: a single network and how it reaches the targets."""

    platform: str
    network: str
    taps: Mapping[str, str]  # feature name -> layer
    features: Mapping[str, Size]
    prediction: Size
    connections: Mapping[str, str]  # target -> the layers that lead there
    parameters: int


class Model(nn.Module):
    """Single networks, and where there is one a fusion for each refined target.

    Attributes:
        singles: Platform to single network.
        fusions: Target to fusion; empty for single networks alone.
        taps: Platform to tap name to layer.
        sizes: Platform to the measured sizes of its network; empty where nothing was measured.
    """

    def __init__(
        self,
        singles: Mapping[str, nn.Module],
        fusions: Mapping[str, Fusion],
        taps: Mapping[str, Mapping[str, str]],
        sizes: Mapping[str, Source] | None = None,
    ) -> None:
        super().__init__()
        self.singles = nn.ModuleDict(singles)
        self.fusions = nn.ModuleDict(fusions)
        self.taps = {platform: dict(layers) for platform, layers in taps.items()}
        self.sizes = dict(sizes or {})

    @property
    def fusion(self) -> nn.Module:
        """The fusion, where there is exactly one target."""
        if len(self.fusions) != 1:
            raise NotFoundError(
                f"this model has {len(self.fusions)} fusions: use model.fusions[platform], "
                f"one of: {', '.join(self.fusions) or 'none'}."
            )
        return next(iter(self.fusions.values()))

    @property
    def device(self) -> torch.device:
        """Where the model computes; the CPU for one without parameters."""
        return next(self.parameters(), torch.zeros(())).device

    def forward(self, x: Tensor) -> list[Stage]:
        """All stages.

        Args:
            x: Source patches (B, C, n, n, n), standardised.

        Returns:
            One dict per stage, platform to (B, C, t, t, t), t = n, or at upsampling 2 2n - 3 (node) or 2n (cell).
            Networks with uncertainty put their variances beside.
        """
        first = Stage()
        features: dict[str, dict[str, Tensor]] = {}
        for platform, network in self.singles.items():
            prediction, features[platform] = forward_with_taps(network, self.taps.get(platform, {}), x)
            first.add(platform, prediction)
        later = [fusion(first, features) for fusion in self.fusions.values()]
        return [first, *(_merged(stages) for stages in zip_longest(*later, fillvalue={}))]

    def advance(self, done: float) -> None:
        """Tell every fusion how far the training is, 0 to 1."""
        for fusion in self.fusions.values():
            assert isinstance(fusion, Fusion)
            fusion.advance(done)


def _merged(stages: Iterable[Mapping[str, Tensor]]) -> Stage:
    """One stage of what the fusions of several targets give at the same time."""
    merged = Stage()
    for stage in stages:
        merged.update(stage)
        merged.variances.update(stage.variances if isinstance(stage, Stage) else {})
    return merged


def answers(stages: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Platform to its answer: the last stage that has it.

    >>> answers([{"a": 1, "b": 2}, {"a": 3}])
    {'a': 3, 'b': 2}
    """
    return {platform: prediction for stage in stages for platform, prediction in stage.items()}


def compose(
    singles: Mapping[str, Single],
    fusion: str | Callable[..., Fusion] | None = None,
    target: str | Sequence[str] | None = None,
    *,
    upsampling: Mapping[str, int] | None = None,
    channels: int = 28,
    patch_size: int = 11,
    taps: Mapping[str, Taps] | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
) -> Model:
    """A model of single networks joined by a fusion, its wiring verified by a dry run.

    Args:
        singles: Platform to the name of a registered network or an `nn.Module`, trained or not.
        fusion: Name of a registered fusion or a `Fusion` subclass; None for the single networks alone.
        target: The platform or platforms that the fusion refines; all where None.
        upsampling: Platform to 1 or 2; 1 where absent.
        channels: Channels in and out.
        patch_size: Edge of a source patch in voxels.
        taps: Platform to layer name or names, or to names of taps of its card; the card's default tap where absent.
            A dict gives each layer the name under which the fusion reads it.
        options: Name of a network or fusion to its options.

    Raises:
        NotFoundError: A name, layer, platform or option is not known.
        ShapeError: Sizes do not fit.

    >>> model = compose({"a": "diqt", "b": "diqt"}, "msp", "a", options={"diqt": {"layers": 1}})
    >>> [sorted(stage) for stage in model(torch.zeros(1, 28, 11, 11, 11))]
    [['a', 'b'], ['a']]
    """
    factors = {platform: (upsampling or {}).get(platform, 1) for platform in singles}
    chosen = options or {}
    _refuse_unknown(upsampling or {}, singles, "upsampling")
    _refuse_unknown(taps or {}, singles, "taps")
    networks: dict[str, nn.Module] = {}
    layers: dict[str, dict[str, str]] = {}
    sources: dict[str, Source] = {}
    for platform, single in singles.items():
        _check_platform(platform)
        network = build_single(single, channels, factors[platform], chosen)
        layers[platform] = tap_layers(platform, single, network, (taps or {}).get(platform), wanted=fusion is not None)
        try:
            sources[platform] = measure_single(network, layers[platform], channels, patch_size, factors[platform])
        except ShapeError as error:
            raise ShapeError(f"{platform}: {error}") from None
        networks[platform] = network
    fusions = {} if fusion is None else _build_fusions(fusion, sources, _targets(target, singles), chosen)
    model = Model(networks, fusions, layers, sources)
    _dry_run(model, {p: s.prediction for p, s in sources.items()}, channels, patch_size)
    return model


def _refuse_unknown(given: Mapping[str, Any], platforms: Mapping[str, Any], what: str) -> None:
    for name in given:
        if name not in platforms:
            raise NotFoundError(f"{what} names the platform {name!r}, which has no network. {nearest(name, platforms)}")


def _check_platform(platform: str) -> None:
    check_name(platform, "platform")
    if hasattr(nn.ModuleDict, platform):  # torch could not hold a layer of that name
        raise NotFoundError(f"platform {platform!r} has the name of a torch function: call it something else.")


def _targets(target: str | Sequence[str] | None, platforms: Mapping[str, Any]) -> list[str]:
    wanted = list(platforms) if target is None else [target] if isinstance(target, str) else list(target)
    for name in wanted:
        if name not in platforms:
            raise NotFoundError(f"target {name!r} has no single network. {nearest(name, platforms)}")
    return wanted


def build_single(single: Single, channels: int, upsampling: int, options: Mapping[str, Mapping[str, Any]]) -> nn.Module:
    """The module itself, or the registered network of that name, built."""
    if isinstance(single, nn.Module):
        return single
    return build_network(plugins.network(single), channels, channels, upsampling, options.get(single, {}))


def build_network(
    entry: NetworkEntry, in_channels: int, out_channels: int, upsampling: int, options: Mapping[str, Any]
) -> nn.Module:
    """The network of a card, its options checked."""
    if upsampling not in entry.upsampling:
        able = " or ".join(map(str, entry.upsampling))
        raise ShapeError(f"{entry.name} is built for upsampling {able}, not {upsampling}: choose another network.")
    entry.check_options(options)
    built = entry.load()(in_channels, out_channels, upsampling, **options)
    if not isinstance(built, nn.Module):
        raise ShapeError(f"network {entry.name} builds a {type(built).__name__}, not an nn.Module.")
    return built


def tap_layers(
    platform: str, single: Single, network: nn.Module, asked: Taps | None, *, wanted: bool
) -> dict[str, str]:
    """Feature name to layer for one network: what was asked for, or the card's default tap."""
    card = plugins.network(single).taps if isinstance(single, str) else {}
    if asked is None:
        if not wanted:
            return {}
        if not card:
            shown = ", ".join(layer_names(network)[:20])
            raise NotFoundError(
                f"{platform}: {_label(single)} has no default tap: name a layer with --tap or taps=. Layers: {shown}."
            )
        return dict(list(card.items())[:1])
    if isinstance(asked, Mapping):
        return dict(asked)
    names = [asked] if isinstance(asked, str) else list(asked)
    return {name: card.get(name, name) for name in names}


def measure_single(
    network: nn.Module, layers: Mapping[str, str], channels: int, patch_size: int, upsampling: int
) -> Source:
    """Measured sizes of a network, its prediction held against the patch it must give."""
    measured = measure(network, layers, channels, patch_size)
    edges = {kind: target_patch_size(patch_size, upsampling, kind) for kind in KINDS}
    fitting = [(channels, edge, edge, edge) for edge in dict.fromkeys(edges.values())]
    if measured.prediction not in fitting:
        raise ShapeError(
            f"{type(network).__name__} gives {_size(measured.prediction)} from a patch of {patch_size} voxels, but "
            f"upsampling {upsampling} needs {' or '.join(map(_size, fitting))} (channels @ voxels): choose a network "
            "for that grid."
        )
    return Source(measured.prediction, measured.features)


def _build_fusions(
    fusion: str | Callable[..., Fusion],
    sources: Mapping[str, Source],
    targets: Sequence[str],
    options: Mapping[str, Mapping[str, Any]],
) -> dict[str, Fusion]:
    if isinstance(fusion, str):
        entry = plugins.fusion(fusion)
        build, chosen = entry.load(), options.get(fusion, {})
        entry.check_options(chosen)
    else:
        build, chosen = fusion, options.get("fusion", {})
    fusions = {}
    for target in targets:
        fusions[target] = build(sources, target, **chosen)
        if not isinstance(fusions[target], Fusion):
            raise ShapeError(f"fusion {fusion} builds a {type(fusions[target]).__name__}, not a harmonet.Fusion.")
    return fusions


def _dry_run(model: Model, expected: Mapping[str, Size], channels: int, patch_size: int) -> None:
    """Run the model on an empty patch and hold every prediction of every stage against its platform's size."""
    with empty_patch(model, channels, patch_size) as x:
        stages = model(x)
    for number, stage in enumerate(stages):
        for platform, prediction in stage.items():
            if platform not in expected:
                raise NotFoundError(f"stage {number} predicts {platform!r}. {nearest(platform, expected)}")
            found = tuple(prediction.shape[1:])
            if found != expected[platform]:
                raise ShapeError(
                    f"stage {number} gives {_size(found)} for {platform}, whose patch is {_size(expected[platform])}."
                )


def wiring(model: Model, names: Mapping[str, str]) -> list[Wire]:
    """The wiring table of a composed model; `names` says what the network of each platform is called."""
    connections: dict[str, dict[str, str]] = {platform: {} for platform in model.singles}
    for target, fusion in model.fusions.items():
        assert isinstance(fusion, Fusion)
        for platform, words in fusion.wiring().items():
            connections[platform][target] = words
    return [
        Wire(
            platform,
            names[platform],
            model.taps[platform],
            model.sizes[platform].features,
            model.sizes[platform].prediction,
            connections[platform],
            count_parameters(network),
        )
        for platform, network in model.singles.items()
    ]


def _label(single: Single) -> str:
    return single if isinstance(single, str) else type(single).__name__


def _size(size: Size) -> str:
    """Channels @ voxels, as the wiring table shows it."""
    voxels = sorted(set(size[1:]))
    return f"{size[0]} @ {voxels[0]}³" if len(voxels) == 1 and len(size) == 4 else " x ".join(map(str, size))
