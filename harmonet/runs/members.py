"""Members of a composition: registered names, trained run folders, modules."""

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from harmonet.blocks.committee import members_of
from harmonet.build import (
    is_folder,
    layers_of,
    model_for,
    options_of,
    takes_all,
    taps_for,
)
from harmonet.composer import Single
from harmonet.composer import compose as compose_modules
from harmonet.data.duplicates import fingerprint
from harmonet.errors import NotFoundError, RecipeError, RunError, ShapeError
from harmonet.fusion import Fusion
from harmonet.model import Model
from harmonet.reading import Reading
from harmonet.recipe import Recipe
from harmonet.runs.agreement import other_statistics, refuse_other_terms, restandardised, terms_of, terms_of_run
from harmonet.runs.folder import Trained, load
from harmonet.runs.material import Material


def single_of(folder: Path | str, platform: str) -> tuple[nn.Module, str, Trained]:
    """The trained network for one platform in a run, its registered name, and the run.

    Raises:
        NotFoundError: The run has no network for that platform.
    """
    run = load(folder)
    if platform not in run.model.singles:
        raise NotFoundError(
            f"{folder} has no network for {platform}, only for {', '.join(run.model.singles) or 'none'}."
        )
    return run.model.singles[platform], run.networks[platform], run


def compose(
    singles: Mapping[str, Single | Path | Sequence[Single | Path]],
    fusion: str | Callable[..., Fusion] | None = None,
    target: str | Sequence[str] | None = None,
    **settings: Any,
) -> Model:
    """`harmonet.composer.compose`, with run folders among the single networks.

    A run folder stands for its trained network for that platform, with the tap that its recipe names; of a
    composition, as the joint training left it.

    Raises:
        RunError: Two runs learned from channels that differ in meaning or in standardisation.
        ShapeError: A run was trained for other channels, patches or upsampling than are asked for.
    """
    modules: dict[str, list[Single]] = {}
    taps = dict(settings.pop("taps", None) or {})
    pinned: list[tuple[str, str, Trained]] = []  # folder, platform, run
    for platform, given in singles.items():
        modules[platform] = []
        for single in [given] if isinstance(given, str | Path | nn.Module) else given:
            if isinstance(single, nn.Module) or not (isinstance(single, Path) or is_folder(single)):
                modules[platform].append(single)
                continue
            network, name, run = single_of(single, platform)
            _refuse_other_sizes(str(single), run, platform, settings)
            for folder, other, before in pinned:
                _refuse_disagreement(str(single), run, folder, before, [platform] if platform == other else [])
            pinned.append((str(single), platform, run))
            if not modules[platform]:  # taps are read from a platform's first network
                layers = taps_for(run.recipe, platform, name.split("+")[0], fusion) or {}
                taps.setdefault(platform, layers_of(layers, members_of(network)))
            modules[platform] += members_of(network)
    model = compose_modules(modules, fusion, target, taps=taps, **settings)
    model.lines.update({p: run.model.lines[p] for _, p, run in pinned if p in run.model.lines and p in model.singles})
    return model


def _refuse_other_sizes(folder: str, run: Trained, platform: str, settings: Mapping[str, Any]) -> None:
    """Refuse a run that was trained for other sizes than `compose` is asked for."""
    factor = run.task.upsampling[platform]
    for what, trained, asked, setting in (
        ("upsampling", factor, (settings.get("upsampling") or {}).get(platform, 1), {platform: factor}),
        ("channels", run.representation.channels, settings.get("channels", 28), run.representation.channels),
        ("patch_size", run.recipe.model.patch_size, settings.get("patch_size", 11), run.recipe.model.patch_size),
    ):
        if trained != asked:
            raise ShapeError(
                f"{folder} was trained for {what} {trained} of {platform}, asked for {asked}: set {what}={setting!r}."
            )


def _refuse_disagreement(folder: str, run: Trained, before: str, other: Trained, targets: Collection[str]) -> None:
    """Refuse two runs that cannot read the same channels, or predict a common target in the same ones."""
    refuse_other_terms(folder, run, before, terms_of_run(other))
    if names := other_statistics(run.task.source.name, targets, run, other):
        raise RunError(
            f"{folder} was standardised with {', '.join(names)} of {', '.join(run.split.train)}, {before} with that of "
            f"{', '.join(other.split.train)}: train one of them again on the other's subjects, or train a recipe of "
            "both with [model] restandardise."
        )


def first_composition(
    recipe: Recipe, number: int = 0
) -> tuple[Model, dict[str, str], dict[str, list[Mapping[str, Any]]]]:
    """The composition of each platform's candidate of that number (else its last), or of all for one that takes all.

    Returns:
        The model with fresh or loaded weights; platform to its network's name; platform to the options of each network.

    Raises:
        RunError: A run folder was trained for something else.
    """
    terms = terms_of(recipe)
    _refuse_unpinned(recipe)
    singles: dict[str, list[Single]] = {}
    names: dict[str, str] = {}
    options: dict[str, list[Mapping[str, Any]]] = {}
    for platform, candidates in recipe.model.candidates.items():
        chosen = candidates if takes_all(recipe) else [candidates[min(number, len(candidates) - 1)]]
        words: list[str] = []
        singles[platform], options[platform] = [], []
        for candidate in chosen:
            if is_folder(candidate):
                network, name, run = single_of(candidate, platform)
                refuse_other_terms(candidate, run, "this recipe", terms)
                _refuse_other_upsampling(candidate, run, recipe, platform)
                singles[platform] += members_of(network)
                options[platform] += run.options[platform]
                words.append(name)
            else:
                options[platform].append(options_of(recipe, candidate))
                singles[platform].append(candidate)
                words.append(candidate)
        names[platform] = "+".join(words)
    return model_for(recipe, singles, names), names, options


def _refuse_other_upsampling(candidate: str, run: Trained, recipe: Recipe, platform: str) -> None:
    theirs, ours = run.task.upsampling[platform], recipe.task.upsampling[platform]
    if theirs != ours:
        raise RunError(
            f"{candidate} has upsampling {theirs} of {platform}, but this recipe {ours}: train it again with this "
            "recipe's."
        )


def _refuse_unpinned(recipe: Recipe) -> None:
    for platform in recipe.model.restandardise:
        if not any(map(is_folder, recipe.model.candidates[platform])):
            raise RecipeError(
                f"model.restandardise names {platform}, whose candidates "
                f"{', '.join(recipe.model.candidates[platform])} are no trained runs: leave it out, or name a "
                "run folder."
            )


def word_of(candidate: str, run: Trained, platform: str) -> str:
    """What a candidate's network is called: the registered name of a folder's."""
    return run.networks[platform] if is_folder(candidate) else candidate


def pinned_runs(material: Material, reading: Reading) -> dict[tuple[str, str], Trained]:
    """Platform and candidate to the run that it names, refused where it cannot be a member, made to fit if asked."""
    recipe, found = material.recipe, {}
    for platform, candidates in recipe.model.candidates.items():
        for candidate in filter(is_folder, candidates):
            _, _, run = single_of(candidate, platform)
            _refuse_seen(material, candidate, run)
            if not _trained_on(run):
                reading.say(
                    f"{candidate} keeps no fingerprint of the images that trained it: whether it has seen the subjects "
                    "who are held out here cannot be checked"
                )
            if run.recipe.model.fusion is not None:
                reading.say(f"{candidate} is a composition: its network for {platform} is used, without the fusion")
            names = other_statistics(recipe.source.name, [platform], material, run)
            if names and platform not in recipe.model.restandardise:
                raise RunError(
                    f"{candidate} was standardised with {', '.join(names)} of {', '.join(run.split.train)}, this run "
                    f"with that of {', '.join(material.split.train)}: train it again on the same subjects, or set "
                    f"[model] restandardise = [{platform!r}]."
                )
            if names:
                reading.say(f"{candidate}: maps between its standardisation and this run's are put around its network")
                run = restandardised(material, platform, run)
            found[platform, candidate] = run
    return found


def _refuse_seen(material: Material, candidate: str, run: Trained) -> None:
    """Refuse a member that was trained on our held-out subjects, under their own or another name."""
    images, trained = _trained_on(run), () if "export" in run.facts else run.split.train  # an export numbers subjects
    source = material.recipe.source.name
    for name in sorted({*material.split.validation, *material.split.test}):
        other = images.get(fingerprint(material.dataset.acquisition(name, source).dwi)) if images else None
        if name not in trained and other is None:
            continue
        who = name if other in (None, name) else f"{name} (there {other})"
        raise RunError(f"{candidate} was trained on {who}, who is held out here: split alike.")


def _trained_on(run: Trained) -> dict[str, str]:
    """Fingerprint to name of each source image that trained the run, as far as the run still knows them."""
    return {image: name for name, image in run.facts.get("images", {}).items() if name in run.split.train}
