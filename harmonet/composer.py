"""How networks, taps and a fusion are joined into one model: names are declared, sizes are measured."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from torch import nn

from harmonet import plugins
from harmonet.blocks.committee import Committee, members_of
from harmonet.blocks.connection import fitting_edges
from harmonet.errors import NotFoundError, ShapeError, nearest
from harmonet.fusion import Fusion, Source
from harmonet.model import Model
from harmonet.platforms import KINDS, check_name, target_patch_size
from harmonet.registry import NetworkEntry
from harmonet.taps import Size, empty_patch, layer_names, measure, tappable_layers

Single = str | nn.Module
Singles = Mapping[str, Single | Sequence[Single]]
NAMED = 5  # layers in the message of a refusal
Taps = str | Sequence[str] | Mapping[str, str]  # layers, or feature names to layers


def compose(
    singles: Singles,
    fusion: str | Callable[..., Fusion] | None = None,
    target: str | Sequence[str] | None = None,
    *,
    upsampling: Mapping[str, int] | None = None,
    channels: int = 28,
    patch_size: int = 11,
    taps: Mapping[str, Taps] | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    frozen: Collection[str] = (),
) -> Model:
    """A model of single networks joined by a fusion, its wiring verified by a dry run.

    Args:
        singles: Platform to the name of a registered network or an `nn.Module`, trained or not; to several of them for
            a fusion that takes all, such as an ensemble.
        fusion: Name of a registered fusion or a `Fusion` subclass; None for the single networks alone.
        target: The platform or platforms that the fusion refines; all where None.
        upsampling: Platform to 1 or 2; 1 where absent.
        channels: Channels in and out.
        patch_size: Edge of a source patch in voxels.
        taps: Platform to layer name or names, or to names of taps of its card; the card's default tap where absent.
            A dict gives each layer the name under which the fusion reads it.
        options: Name of a network or fusion to its options; of a class, under `fusion`.
        frozen: Platforms whose networks are not trained on.

    Raises:
        NotFoundError: A name, layer, platform or option is not known.
        ShapeError: Sizes do not fit.

    >>> import torch
    >>> model = compose({"a": "diqt", "b": "diqt"}, "msp", "a", options={"diqt": {"layers": 1}})
    >>> [sorted(stage) for stage in model(torch.zeros(1, 28, 11, 11, 11))]
    [['a', 'b'], ['a']]
    """
    factors = {platform: (upsampling or {}).get(platform, 1) for platform in singles}
    chosen = options or {}
    _refuse_unknown(upsampling or {}, singles, "upsampling")
    _refuse_unknown(taps or {}, singles, "taps")
    _refuse_unknown(frozen, singles, "frozen")
    networks: dict[str, nn.Module] = {}
    layers: dict[str, dict[str, str]] = {}
    sources: dict[str, Source] = {}
    for platform, single in singles.items():
        _check_platform(platform)
        several = [single] if isinstance(single, str | nn.Module) else list(single)
        built = [build_single(one, channels, factors[platform], chosen) for one in several]
        layers[platform] = tap_layers(platform, several[0], built[0], (taps or {}).get(platform), fusion)
        network = built[0] if len(built) == 1 else _committee(platform, built, layers[platform], fusion)
        try:
            sources[platform] = measure_single(network, layers[platform], channels, patch_size, factors[platform])
        except ShapeError as error:
            raise ShapeError(f"{platform}: {error}") from None
        networks[platform] = network
    targets = _targets(target, singles)
    fusions = {} if fusion is None else _build_fusions(fusion, networks, sources, targets, chosen)
    read = {platform for f in fusions.values() for platform in f.reads} if fusions else set(networks)
    _refuse_unknown(read, networks, f"fusion {fusion}")
    kept = {platform: network for platform, network in networks.items() if platform in read}
    model = Model(kept, fusions, {p: layers[p] for p in kept}, sources, [p for p in frozen if p in kept])
    _dry_run(model, {p: s.prediction for p, s in sources.items()}, targets, channels, patch_size)
    return model


def _refuse_unknown(given: Iterable[str], platforms: Mapping[str, Any], what: str) -> None:
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
    entry = plugins.network(single)
    return build_network(entry, channels, channels, upsampling, options.get(entry.name, {}))


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


def _committee(
    platform: str, networks: Sequence[nn.Module], layers: dict[str, str], fusion: str | Callable[..., Fusion] | None
) -> Committee:
    """The networks of a platform that has several; `layers` are led to the first."""
    if not networks:
        raise NotFoundError(f"{platform} has no network: name one.")
    if not getattr(_build_of(fusion), "takes_all", False):
        raise ShapeError(
            f"{platform} has {len(networks)} networks, and {'no fusion' if fusion is None else fusion} joins one for "
            "each platform: choose one, or a fusion such as ensemble."
        )
    layers.update({name: f"members.0.{layer}" for name, layer in layers.items()})
    return Committee(networks)


def _build_of(fusion: str | Callable[..., Fusion] | None) -> Callable[..., Fusion] | None:
    return plugins.fusion(fusion).load() if isinstance(fusion, str) else fusion


def default_taps(card: Mapping[str, str], fusion: str | Callable[..., Fusion] | None) -> dict[str, str]:
    """The taps of a network's card that a fusion reads where nobody names any.

    >>> default_taps({"features": "body", "side": "head"}, "msp")
    {'features': 'body'}
    """
    wish = "none" if fusion is None else getattr(_build_of(fusion), "default_taps", Fusion.default_taps)
    return dict(list(card.items())[: {"none": 0, "first": 1, "all": None}[wish]])


def tap_layers(
    platform: str, single: Single, network: nn.Module, asked: Taps | None, fusion: str | Callable[..., Fusion] | None
) -> dict[str, str]:
    """Feature name to layer for one network: what was asked for, or those of the card that the fusion reads."""
    card = plugins.network(single).taps if isinstance(single, str) else {}
    if asked is None:
        if fusion is None or getattr(_build_of(fusion), "default_taps", Fusion.default_taps) == "none":
            return {}
        if not card:
            shown = ", ".join(layer_names(network)[:20])
            raise NotFoundError(
                f"{platform}: {_label(single)} has no default tap: name a layer with --tap or taps=. Layers: {shown}."
            )
        return default_taps(card, fusion)
    if isinstance(asked, Mapping):
        return dict(asked)
    names = [asked] if isinstance(asked, str) else list(asked)
    return {name: card.get(name, name) for name in names}


def measure_single(
    network: nn.Module, layers: Mapping[str, str], channels: int, patch_size: int, upsampling: int
) -> Source:
    """Measured sizes of a network, its prediction held against the patch it must give."""
    try:
        measured = measure(network, layers, channels, patch_size)
    except RuntimeError as error:  # what torch says of sizes that a layer cannot take
        raise ShapeError(
            f"{type(network).__name__} cannot take a patch of {_size((channels,) + (patch_size,) * 3)} (channels @ "
            f"voxels): {str(error).splitlines()[0]}; make it fit with hn.adapt, or choose another network."
        ) from None
    edges = {kind: target_patch_size(patch_size, upsampling, kind) for kind in KINDS}
    fitting = [(channels, edge, edge, edge) for edge in dict.fromkeys(edges.values())]
    if measured.prediction not in fitting:
        raise ShapeError(
            f"{type(network).__name__} gives {_size(measured.prediction)} from a patch of {patch_size} voxels, but "
            f"upsampling {upsampling} needs {' or '.join(map(_size, fitting))} (channels @ voxels): choose a network "
            "for that grid, or make this one fit with hn.adapt."
        )
    return Source(measured.prediction, measured.features, (channels, patch_size, patch_size, patch_size))


def _build_fusions(
    fusion: str | Callable[..., Fusion],
    networks: Mapping[str, nn.Module],
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
    fusions: dict[str, Fusion] = {}
    for target in targets:
        if any(target in other.refines for other in fusions.values()):
            continue  # one that refines several platforms at once is built once
        try:
            fusions[target] = build(sources, target, **chosen)
        except ShapeError as error:
            raise ShapeError(f"{str(error).removesuffix('.')}{_fitting_layers(networks, sources, target)}.") from None
        if not isinstance(fusions[target], Fusion):
            raise ShapeError(f"fusion {fusion} builds a {type(fusions[target]).__name__}, not a harmonet.Fusion.")
    return fusions


def _fitting_layers(networks: Mapping[str, nn.Module], sources: Mapping[str, Source], target: str) -> str:
    """Of each network whose features have no road to the target, layers that have one, as --tap names them."""
    wanted = fitting_edges(sources[target].prediction[1])
    words = []
    for platform, source in sources.items():
        if platform == target or source.patch is None or all(_fits(size, wanted) for size in source.features.values()):
            continue
        channels, patch_size, *_ = source.patch
        layers = tappable_layers(members_of(networks[platform])[0], channels, patch_size)
        fitting = [name for name, size in layers.items() if _fits(size, wanted)]
        told = ", ".join(f"--tap {platform}={name}" for name in fitting[-NAMED:])  # the last have seen the most
        words.append(f"; layers of {platform} that fit {target}: {told or 'none'}")
    return "".join(words)


def _fits(size: Size, edges: Collection[int]) -> bool:
    """Whether (C, X, Y, Z) is a cube of one of the edges."""
    return len(size) == 4 and len(set(size[1:])) == 1 and size[1] in edges


def _dry_run(
    model: Model, expected: Mapping[str, Size], targets: Sequence[str], channels: int, patch_size: int
) -> None:
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
    if missing := [target for target in targets if model.fusions and target not in stages[-1]]:
        raise ShapeError(f"the last stage does not predict {', '.join(missing)}: a fusion predicts its target there.")


def _label(single: Single) -> str:
    return single if isinstance(single, str) else type(single).__name__


def _size(size: Size) -> str:
    """Channels @ voxels, as the wiring table shows it."""
    voxels = sorted(set(size[1:]))
    return f"{size[0]} @ {voxels[0]}³" if len(voxels) == 1 and len(size) == 4 else " x ".join(map(str, size))
