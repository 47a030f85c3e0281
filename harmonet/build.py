"""How a recipe's words become objects: options, representation, data, networks, models."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from harmonet import plugins
from harmonet.composer import Model, Single, build_network, build_single, compose
from harmonet.data.gradients import SHELL_TOLERANCE
from harmonet.data.layout import TravellingHeads, describe
from harmonet.data.represent import represent
from harmonet.data.scan import Scan, read_scan
from harmonet.data.volumes import Head, bring_together
from harmonet.errors import DataError, NotFoundError, RecipeError, nearest
from harmonet.platforms import Platform, Task
from harmonet.recipe import PlatformTable, Recipe, parse
from harmonet.representation import Representation
from harmonet.training.loop import Watch


def create_network(
    name: str, in_channels: int = 28, out_channels: int = 28, upsampling: int = 1, **options: Any
) -> nn.Module:
    """A registered single network, with fresh weights.

    >>> sum(p.numel() for p in create_network("shresnet").parameters())
    2927876
    """
    return build_network(plugins.network(name), in_channels, out_channels, upsampling, options)


def representation(recipe: Recipe) -> Representation:
    """The recipe's representation, of the shells that source and targets share."""
    entry = plugins.representation(recipe.representation.name)
    entry.check_options(recipe.representation.options)
    shells = shells_of(recipe.task)
    built: Representation = entry.load()(shells, **recipe.representation.options)
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


def is_folder(candidate: str) -> bool:
    """Whether a candidate names a run folder and not a registered network."""
    return "/" in candidate or Path(candidate).is_dir()


def seed_for(recipe: Recipe, *words: str) -> int:
    """A seed for one purpose, so that no part's draws depend on which other parts exist."""
    text = "/".join((str(recipe.seed), *words))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")


def network_for(recipe: Recipe, platform: str, name: str) -> nn.Module:
    """A fresh candidate network for one platform; its weights depend on the recipe's seed, platform and name only."""
    channels = representation(recipe).channels
    with torch.random.fork_rng([]):
        torch.manual_seed(seed_for(recipe, platform, name))
        return build_single(name, channels, recipe.task.upsampling[platform], recipe.model.options)


def taps_for(recipe: Recipe, platform: str, network: str) -> dict[str, str] | None:
    """Feature name to layer: the platform's own setting, else the network's, else the default tap of its card."""
    card = plugins.network(network).taps
    asked = recipe.model.taps.get(f"{platform}.{network}", recipe.model.taps.get(network))
    if asked is None:
        return dict(list(card.items())[:1]) or None
    return {name: card.get(name, name) for name in asked}


def model_for(recipe: Recipe, singles: Mapping[str, Single], names: Mapping[str, str]) -> Model:
    """The composed model over the given single networks.

    Args:
        recipe: The recipe.
        singles: Platform to a name or a module.
        names: Platform to the name of its network, for taps.
    """
    taps = {p: taps_for(recipe, p, names[p]) for p in singles} if recipe.model.fusion else {}
    with torch.random.fork_rng([]):
        torch.manual_seed(seed_for(recipe, "fusion"))
        return compose(
            singles,
            recipe.model.fusion,
            recipe.model.refine or None,
            upsampling={p: f for p, f in recipe.task.upsampling.items() if p in singles},
            channels=representation(recipe).channels,
            patch_size=recipe.model.patch_size,
            taps={p: layers for p, layers in taps.items() if layers is not None},
            options=recipe.model.options,
        )


def task_of(dataset: TravellingHeads, source: str, shells: Sequence[float] = ()) -> Task:
    """The platforms of a data set, as the files of their first subject have them.

    Args:
        dataset: Travelling heads.
        source: The platform that is read.
        shells: The b-values to use, in s/mm²; all where none are given.
    """
    if source not in dataset.platforms:
        raise NotFoundError(f"{dataset.root} has no platform {source!r}. {nearest(source, dataset.platforms)}")
    platforms = {}
    for name in dataset.platforms:
        subject = dataset.subjects_with([name])[0]
        platform = describe([read_scan(dataset.acquisition(subject, name))])
        for shell in shells:
            if not any(abs(b - shell) <= SHELL_TOLERANCE for b in platform.shells):
                raise DataError(f"{subject} {name} has no shell at b = {shell:g} s/mm², only {list(platform.shells)}.")
        if shells:
            platform = replace(platform, shells=tuple(shells))
        platforms[name] = platform
    targets = tuple(platform for name, platform in platforms.items() if name != source)
    return Task(platforms[source], targets)


def recipe_of(
    task: Task,
    candidates: Mapping[str, list[str]],
    *,
    fusion: str | None = None,
    refine: Iterable[str] | None = None,
    taps: Mapping[str, list[str]] | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    order: int = 6,
    patch_size: int = 11,
    note: str = "",
) -> Recipe:
    """A complete recipe: names and options are known, and every default is filled in.

    Raises:
        NotFoundError: A network, fusion, platform or option is not known.
        RecipeError: The parts contradict each other.
    """
    chosen = {name: dict(given) for name, given in (options or {}).items()}
    entries = {name: plugins.network(name) for names in candidates.values() for name in names if not is_folder(name)}
    used: dict[str, Any] = dict(entries)
    if fusion is not None:
        used[fusion] = plugins.fusion(fusion)
    for name in chosen:
        if name not in used:
            raise NotFoundError(f"options are given for {name!r}, which this recipe does not use: {', '.join(used)}.")
    for name, entry in used.items():
        entry.check_options(chosen.get(name, {}))
        defaults = {key: value for key, value in entry.options().items() if _plain(value)}
        chosen[name] = {
            **{k: list(v) if isinstance(v, tuple) else v for k, v in defaults.items()},
            **chosen.get(name, {}),
        }
    tables = {
        "note": note,
        "source": PlatformTable.of(task.source).model_dump(),
        "target": [PlatformTable.of(platform).model_dump() for platform in task.targets],
        "representation": {"options": plugins.representation("sh_signal").options() | {"order": order}},
        "model": {
            "candidates": {platform: list(names) for platform, names in candidates.items()},
            "fusion": fusion,
            "refine": [] if fusion is None else list(refine or task.target_names),
            "taps": {name: list(layers) for name, layers in (taps or {}).items()},
            "options": {name: given for name, given in chosen.items() if given},
            "patch_size": patch_size,
        },
    }
    recipe = parse(tables, "of this command")
    for platform in (task.source, *task.targets):
        try:
            representation(recipe).check_count(platform.directions)
        except DataError as error:
            raise RecipeError(f"{platform.name}: {error}") from None
    return recipe


def _plain(value: Any) -> bool:
    """Whether a default can stand in TOML; None (no value) cannot and stays the code's default."""
    return isinstance(value, bool | int | float | str | list | tuple)


def read_heads(
    dataset: TravellingHeads, subjects: Iterable[str], recipe: Recipe, watch: Watch, *, auto_mask: bool = False
) -> list[Head]:
    """The subjects' volumes, represented and brought together; not yet standardised."""
    task, encoder = recipe.task, representation(recipe)
    shells = shells_of(task)
    expected = {platform.name: platform for platform in (task.source, *task.targets)}
    names = list(subjects)
    heads = []
    for number, subject in enumerate(names):
        volumes = {}
        for platform in (task.source.name, *task.target_names):
            scan = read_scan(dataset.acquisition(subject, platform), auto_mask=auto_mask)
            check_voxels(scan, expected[platform])
            volumes[platform] = represent(scan, encoder, shells)
        source = volumes.pop(task.source.name)
        heads.append(bring_together(subject, source, volumes, task.upsampling))
        watch("reading", number + 1, len(names), subject)
    return heads


def check_voxels(scan: Scan, platform: Platform) -> None:
    """Refuse a scan whose voxels are not those that the recipe was made for."""
    found, wanted = np.asarray(scan.grid.voxel_size), np.asarray(platform.voxel_size)
    if np.abs(found - wanted).max() > 0.01 * wanted.max():
        raise DataError(
            f"{scan.subject} {scan.platform} has voxels of {_mm(found)}, the recipe says {_mm(wanted)}: "
            "make the recipe from these data (harmonet compose --data)."
        )


def _mm(size: Iterable[float]) -> str:
    return " x ".join(f"{edge:.3g}" for edge in size) + " mm"
