"""How a recipe's words become objects: options, representation, data, networks, models."""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from harmonet import plugins
from harmonet.blocks.residual import Line
from harmonet.blocks.restandardised import times_wrapped, wrapped
from harmonet.composer import Single, Singles, build_network, build_single, compose, default_taps
from harmonet.data.gradients import SHELL_TOLERANCE
from harmonet.errors import DataError, HarmonetError, NotFoundError, RecipeError
from harmonet.fusion import Fusion
from harmonet.model import Model
from harmonet.platforms import Kind, Task
from harmonet.presets import preset as preset_of
from harmonet.recipe import Recipe, parse
from harmonet.representation import Representation
from harmonet.tables import FOLD, PlatformTable


def create_network(
    name: str, in_channels: int = 28, out_channels: int = 28, upsampling: int = 1, **options: Any
) -> nn.Module:
    """A registered single network, with fresh weights.

    >>> sum(p.numel() for p in create_network("shresnet").parameters())
    2927876
    """
    return build_network(plugins.network(name), in_channels, out_channels, upsampling, options)


def representation_of(recipe: Recipe) -> Representation:
    """The recipe's representation, of the shells that source and targets share."""
    entry = plugins.representation(recipe.representation.name)
    entry.check_options(recipe.representation.options)
    shells = shells_of(recipe.task)
    try:
        built: Representation = entry.load()(shells, **recipe.representation.options)
    except HarmonetError:
        raise
    except (TypeError, ValueError) as error:  # an option of the wrong kind, such as text for a number
        raise RecipeError(f"representation {entry.name} cannot be built with its options: {error}.") from None
    if built.uses_gradients and not shells:
        found = ", ".join(f"{p.name} {list(p.shells)}" for p in (recipe.task.source, *recipe.task.targets))
        raise RecipeError(f"source and targets must share a shell, found {found}: leave a platform out.")
    return built


def shells_of(task: Task) -> tuple[float, ...]:
    """The b-values (s/mm²) that source and targets share, as the source has them."""
    return tuple(
        shell
        for shell in task.source.shells
        if all(any(abs(shell - b) <= SHELL_TOLERANCE for b in target.shells) for target in task.targets)
    )


def kinds_of(recipe: Recipe) -> dict[str, Kind]:
    """Platform to how its networks' predictions lie on the source, as their cards say.

    Raises:
        RecipeError: Candidates of one platform differ, so that they need different images to learn from.
    """
    found: dict[str, Kind] = {}
    for platform in recipe.model.candidates or recipe.task.target_names:
        names = recipe.model.candidates.get(platform, ())  # none where a method predicts: it fills any grid
        words = [word for name in names for word in _networks_of(name, platform)]
        kinds = {word: plugins.network(word).alignment for word in words}
        if len(set(kinds.values())) > 1 and recipe.task.upsampling[platform] > 1:
            told = ", ".join(f"{name} ({kind})" for name, kind in kinds.items())
            raise RecipeError(f"the candidates of {platform} predict on different grids, {told}: choose of one kind.")
        found[platform] = next(iter(kinds.values()), "node")
    return found


def is_folder(candidate: str) -> bool:
    """Whether a candidate names a run folder and not a registered network."""
    return "/" in candidate or Path(candidate).is_dir()


def _networks_of(candidate: str, platform: str) -> list[str]:
    """The registered networks of a candidate: itself, or those that a run folder's model.json names."""
    if not is_folder(candidate):
        return [candidate]
    try:
        names: str = json.loads((Path(candidate) / "model.json").read_bytes())["networks"][platform]
    except (OSError, ValueError, KeyError, TypeError):
        return []  # what is wrong with it is said when it is loaded
    return names.split("+")


def seed_for(recipe: Recipe, *words: str) -> int:
    """A seed for one purpose, so that no part's draws depend on which other parts exist."""
    text = "/".join((str(recipe.seed), *words))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")


def network_for(recipe: Recipe, platform: str, name: str) -> nn.Module:
    """A fresh candidate network for one platform; its weights depend on the recipe's seed, platform and name only."""
    channels = representation_of(recipe).channels
    with torch.random.fork_rng([]):
        torch.manual_seed(seed_for(recipe, platform, name))
        return build_single(name, channels, recipe.task.upsampling[platform], recipe.model.options)


def takes_all(recipe: Recipe) -> bool:
    """Whether all candidates of a platform take part, and not only the best."""
    return recipe.model.fusion is not None and getattr(plugins.fusion(recipe.model.fusion).load(), "takes_all", False)


def trains_in_unison(recipe: Recipe) -> bool:
    """Whether the composition is trained once its networks are."""
    return recipe.model.fusion is not None and getattr(plugins.fusion(recipe.model.fusion).load(), "in_unison", True)


def options_of(recipe: Recipe, name: str) -> dict[str, Any]:
    """The recipe's options of a network."""
    return recipe.model.options.get(plugins.network(name).name, {})


def build_members(
    recipe: Recipe,
    platform: str,
    names: str,
    options: Sequence[Mapping[str, Any]],
    restandardised: Sequence[int] | None = None,
) -> list[Single]:
    """A platform's networks with fresh weights.

    Args:
        recipe, platform: What they are for.
        names: Of the networks, joined by `+`.
        options: Of each.
        restandardised: How many maps between standardisations are around each; none where None.
    """
    channels, factor = representation_of(recipe).channels, recipe.task.upsampling[platform]
    words = names.split("+")
    return [
        wrapped(build_single(name, channels, factor, {plugins.network(name).name: given}), channels, times)
        for name, given, times in zip(words, options, restandardised or [0] * len(words), strict=True)
    ]


def taps_for(
    recipe: Recipe, platform: str, network: str, fusion: str | Callable[..., Fusion] | None
) -> dict[str, str] | None:
    """Feature name to layer: the platform's own setting, else the network's, else what the fusion reads by default."""
    entry = plugins.network(network)
    asked = recipe.model.taps.get(f"{platform}.{entry.name}", recipe.model.taps.get(entry.name))
    if asked is None:
        return default_taps(entry.taps, fusion) or None
    return {name: entry.taps.get(name, name) for name in asked}


def layers_of(layers: Mapping[str, str], singles: Single | Sequence[Single]) -> dict[str, str]:
    """Feature name to layer of a platform's first network, where that has maps between standardisations around it."""
    first = singles if isinstance(singles, str | nn.Module) else singles[0]
    inner = "net." * times_wrapped(first) if isinstance(first, nn.Module) else ""
    return {name: inner + layer for name, layer in layers.items()}


def model_for(recipe: Recipe, singles: Singles, names: Mapping[str, str]) -> Model:
    """The composed model over the given single networks.

    Args:
        recipe: The recipe.
        singles: Platform to a name or a module, or to several.
        names: Platform to the name of its network, for taps; of several, joined by `+`.
    """
    fusion = recipe.model.fusion
    taps = {p: taps_for(recipe, p, names[p].split("+")[0], fusion) for p in singles} if fusion else {}
    found = {p: layers_of(layers, singles[p]) for p, layers in taps.items() if layers is not None}
    if not singles:
        return Model({}, {}, {})  # of a method, which is no network
    with torch.random.fork_rng([]):
        torch.manual_seed(seed_for(recipe, "fusion"))
        model = compose(
            singles,
            fusion,
            recipe.model.refine or None,
            upsampling={p: f for p, f in recipe.task.upsampling.items() if p in singles},
            channels=representation_of(recipe).channels,
            patch_size=recipe.model.patch_size,
            taps=found,
            options=recipe.model.options,
            frozen=recipe.model.frozen,
        )
    model.lines.update(lines_for(recipe, model.singles))
    return model


def lines_for(recipe: Recipe, platforms: Iterable[str]) -> dict[str, Line]:
    """What the recipe adds to predictions of each platform, not fitted yet; nothing where it adds nothing."""
    if recipe.model.residual == "none":
        return {}
    channels, factors = representation_of(recipe).channels, recipe.task.upsampling
    return {platform: Line(channels, factors[platform]) for platform in platforms}


def recipe_of(
    task: Task,
    candidates: Mapping[str, list[str]],
    *,
    fusion: str | None = None,
    method: str | None = None,
    refine: Iterable[str] | None = None,
    taps: Mapping[str, list[str]] | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    representation: str = "sh_signal",
    order: int | None = None,
    split: str | None = None,
    patch_size: int = 11,
    frozen: Iterable[str] = (),
    restandardise: Iterable[str] = (),
    residual: str | None = None,
    loss: str | None = None,
    weighting: str | None = None,
    gradients: str | None = None,
    rates: Mapping[str, float] | None = None,
    preset: str | None = None,
    note: str = "",
) -> Recipe:
    """A complete recipe: names and options are known, and every default is filled in.

    Args:
        task: Source and targets.
        candidates: Target platform to names of networks or run folders.
        fusion: Name of a fusion.
        method: Name of a method that is no network, in place of candidates and fusion.
        refine: Platforms that the fusion predicts in later stages; all where None.
        taps: Network, or `platform.network`, to layer names.
        options: Name of a network, the fusion, the representation, the loss or the weighting to its options.
        representation: Its name.
        order: Its option `order`, for one that has it.
        split: `paper`, or a fold such as `2/5`; the recipe's default where None.
        patch_size: Edge of a source patch in voxels.
        frozen, restandardise: Platforms, as in `[model]`.
        residual, loss, weighting, gradients: Of `[model]` and `[loss]`; the preset's, else the recipe's defaults.
        rates: Platform, or `fusion`, to a factor on its learning rate when the composition is trained.
        preset: What the tables begin with, such as `recommended`; the recipe's defaults where None.
        note: For people; the preset's name where there is none.

    Raises:
        NotFoundError: A network, fusion, loss, weighting, preset, platform or option is not known.
        RecipeError: The parts contradict each other.
    """
    if split not in (None, "paper") and not re.fullmatch(FOLD, str(split)):
        raise RecipeError(f"--split {split!r} is no split: write a fold such as 2/5 (the second of five), or paper.")
    begin = preset_of(preset) if preset is not None else {}
    chosen = {name: dict(given) for name, given in (options or {}).items()}
    named = [plugins.network(name) for names in candidates.values() for name in names if not is_folder(name)]
    entries = {entry.name: entry for entry in named}
    used: dict[str, Any] = dict(entries)
    used[representation] = plugins.representation(representation)
    cards = {"fusion": fusion, "method": method, "loss": loss, "weighting": weighting}
    used |= {name: getattr(plugins, kind)(name) for kind, name in cards.items() if name is not None}
    if order is not None:
        chosen.setdefault(representation, {})["order"] = order
    begin_model = dict(begin.get("model", {}))
    for name, given in begin_model.pop("options", {}).items():
        if name in used:
            chosen[name] = given | chosen.get(name, {})
    for name in chosen:
        if name not in used:
            raise NotFoundError(f"options are given for {name!r}, which this recipe does not use: {', '.join(used)}.")
    for name, entry in entries.items():
        if "shells" in entry.options():  # a network that reads SH orders must know how often they repeat
            chosen.setdefault(name, {}).setdefault("shells", max(len(shells_of(task)), 1))
    for name, entry in used.items():
        entry.check_options(chosen.get(name, {}))
        defaults = {key: value for key, value in entry.options().items() if _plain(value)}
        chosen[name] = {
            **{k: list(v) if isinstance(v, tuple) else v for k, v in defaults.items()},
            **chosen.get(name, {}),
        }
    tables = {
        "note": note or ("" if preset is None else f"preset {preset}"),
        "source": PlatformTable.of(task.source).model_dump(),
        "target": [PlatformTable.of(platform).model_dump() for platform in task.targets],
        "representation": {"name": representation, "options": chosen.pop(representation)},
        "split": {} if split is None else {"scheme": "paper"} if split == "paper" else {"test": split},
        "loss": begin.get("loss", {})
        | _given(
            name=loss,
            options=chosen.pop(loss or "", None),
            weighting=weighting,
            weighting_options=chosen.pop(weighting or "", None),
            gradients=gradients,
        ),
        "training": begin.get("training", {}) | _given(rates=rates),
        "model": {
            "candidates": {platform: list(names) for platform, names in candidates.items()},
            "fusion": fusion,
            "method": method,
            "refine": [] if fusion is None else list(refine or task.target_names),
            "taps": {name: list(layers) for name, layers in (taps or {}).items()},
            "options": {name: given for name, given in chosen.items() if given},
            "patch_size": patch_size,
            "frozen": list(frozen),
            "restandardise": list(restandardise),
            **begin_model,
            **_given(residual=residual),
        },
    }
    recipe = parse(tables, "of this command")
    encoder = representation_of(recipe)
    for platform in (task.source, *task.targets):
        if len(platform.shells) == 1:  # with several, how many lie on each is known from the files only
            try:
                encoder.check_count(platform.directions)
            except DataError as error:
                raise RecipeError(f"{platform.name}: {error}") from None
    return recipe


def _given(**words: Any) -> dict[str, Any]:
    """The words that were given; the recipe has defaults for the others."""
    return {key: value for key, value in words.items() if value is not None}


def _plain(value: Any) -> bool:
    """Whether a default can stand in TOML; None (no value) cannot and stays the code's default."""
    return isinstance(value, bool | int | float | str | list | tuple)
