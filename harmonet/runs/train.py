"""From a recipe and a data set to a run folder."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from harmonet import plugins
from harmonet.build import build_members, is_folder, model_for, network_for, seed_for, takes_all, trains_in_unison
from harmonet.data.layout import TravellingHeads
from harmonet.data.standardise import Standardisation
from harmonet.errors import DataError, OutputError, RecipeError, RunError
from harmonet.files import foreign_in, write_whole
from harmonet.model import Model
from harmonet.reading import INPUTS as INPUTS_CHECK
from harmonet.reading import Reading
from harmonet.recipe import Recipe, read_recipe, to_toml
from harmonet.runs.curves import CURVES, draw_curves
from harmonet.runs.folder import (
    CHECKPOINTS,
    HISTORY,
    MODEL,
    RECIPE,
    WEIGHTS,
    Trained,
    is_complete,
    load,
    write_run,
)
from harmonet.runs.material import FEED, Material, gather, split_of
from harmonet.runs.members import first_composition, single_of, word_of
from harmonet.training.loop import Outcome, Watch, fit, mean_of_answers, validate

SINGLES = "singles"
INPUTS = "inputs.json"  # SHA-256 of every file that was read
PARTS = (RECIPE, WEIGHTS, HISTORY, MODEL, CURVES, CHECKPOINTS, FEED, INPUTS)  # beside singles/


def train(
    recipe: Recipe,
    dataset: TravellingHeads,
    out: Path,
    watch: Watch,
    *,
    resume: bool = False,
    force: bool = False,
    reading: Reading = Reading(),  # noqa: B008  frozen
) -> Trained:
    """Train the singles, choose among candidates by validation error, train the composition.

    Of test subjects nothing is read but whether an image is one that trains, under another name.

    Args:
        recipe: What to train.
        dataset: Travelling heads.
        out: Run folder.
        watch: Called as the work goes on.
        resume: Continue an interrupted run of the same recipe.
        force: Replace a finished or unfinished run.
        reading: How acquisitions are read.

    Raises:
        DataError: Subjects cannot be split, one of them is there twice, or a file is unusable.
        OutputError: `out` exists, and neither `resume` nor `force` was given.
    """
    split = split_of(recipe, dataset)
    _refuse_taken(out, recipe, resume=resume, force=force)
    if is_complete(out) and not force:
        return load(out)
    if recipe.training.threads:
        torch.set_num_threads(recipe.training.threads)
    material = gather(recipe, dataset, split, out, watch, reading)  # bad data end here, with nothing written
    if force:
        shutil.rmtree(out, ignore_errors=True)
    _refuse_changed(out / INPUTS, material.inputs, reading)
    write_whole(out / RECIPE, to_toml(recipe).encode())
    write_whole(out / INPUTS, (json.dumps(material.inputs, indent=1) + "\n").encode())
    plan, names, options = first_composition(recipe)
    chosen: dict[str, dict[str, Trained]] = {}
    errors: dict[str, dict[str, float]] = {}
    for platform in plan.singles:
        runs = {c: _candidate(material, platform, c, out) for c in recipe.model.candidates[platform]}
        errors[platform] = {name: _validation_error(material, platform, run) for name, run in runs.items()}
        best = min(errors[platform], key=errors[platform].__getitem__)
        chosen[platform] = runs if takes_all(recipe) else {best: runs[best]}
        names[platform] = "+".join(word_of(candidate, run, platform) for candidate, run in chosen[platform].items())
        options[platform] = [given for run in chosen[platform].values() for given in run.options[platform]]
    trained = {p: [run.model.singles[p] for run in runs.values()] for p, runs in chosen.items()}
    unread = {p: build_members(recipe, p, names[p], options[p]) for p in names if p not in chosen}  # for their sizes
    model = model_for(recipe, {**trained, **unread}, names)
    targets, fusion = recipe.task.target_names, recipe.model.fusion
    if fusion is not None and trains_in_unison(recipe):
        outcome = _fit(material, model, targets, out, recipe.training.joint_epochs, fusion)
    else:
        outcome = Outcome(_score(material, model, list(model.singles)))
    history = outcome.history or [line for runs in chosen.values() for run in runs.values() for line in _history(run)]
    facts = {"validation": {"candidates": errors, "score": outcome.score, "best_epoch": outcome.best_epoch}}
    _finish(material, out, recipe, model, names, history, facts, options)
    shutil.rmtree(out / FEED, ignore_errors=True)
    return load(out)


def _refuse_changed(path: Path, inputs: Mapping[str, Mapping[str, str]], reading: Reading) -> None:
    """Refuse to continue a run on other data than it began with, unless that is accepted."""
    if not path.is_file():
        return
    try:
        before = json.loads(path.read_bytes())
    except ValueError:
        before = {}
    changed = sorted(name for name in {*before, *inputs} if before.get(name) != inputs.get(name))
    if not changed:
        return
    words = f"{', '.join(changed)} changed since this run began"
    if INPUTS_CHECK not in reading.accept:
        raise DataError(f"{words}: start a new run, put the files back, or use `--accept {INPUTS_CHECK}`.")
    reading.say(f"accepted: {words}")


def _refuse_taken(out: Path, recipe: Recipe, *, resume: bool, force: bool) -> None:
    """Refuse a folder that is not new, unless it is to be resumed with the same recipe or replaced."""
    if out.exists() and not out.is_dir():
        raise OutputError(f"{out} is a file: choose a folder for the run.")
    if out.is_dir() and any(out.iterdir()):
        if not (out / RECIPE).is_file():
            raise OutputError(f"{out} exists, is not empty and holds no run: choose another folder.")
        if force and (foreign := foreign_in(out, (*PARTS, SINGLES))):
            raise OutputError(f"{out} holds {foreign}, which is no part of a run: choose another folder.")
        if not (resume or force):
            raise OutputError(f"{out} holds a run: add --resume to continue it, --force to replace it.")
        if resume and read_recipe(out / RECIPE) != recipe:
            raise OutputError(
                f"{out} was begun with another recipe: resume with {out / RECIPE}, or choose another folder."
            )


def _candidate(material: Material, platform: str, candidate: str, out: Path) -> Trained:
    """One trained candidate: a finished run that was named, or a single network trained now, a run of its own."""
    if is_folder(candidate):
        _, _, run = single_of(candidate, platform)
        _refuse_foreign(material, platform, candidate, run)
        return run
    folder = out / SINGLES / f"{platform}.{candidate}"
    if not is_complete(folder):
        recipe = _single_recipe(material.recipe, platform, candidate)
        network = network_for(material.recipe, platform, candidate)
        _tell_statistics(network, candidate, material, platform)
        model = model_for(recipe, {platform: network}, {platform: candidate})
        epochs = material.recipe.training.epochs
        outcome = _fit(material, model, (platform,), folder, epochs, f"{candidate} for {platform}")
        facts = {"validation": {"score": outcome.score, "best_epoch": outcome.best_epoch}}
        _finish(material, folder, recipe, model, {platform: candidate}, outcome.history, facts)
    return load(folder)


def _tell_statistics(network: Any, name: str, material: Material, platform: str) -> None:
    """Give a network that reads raw units the statistics that its channels were standardised with."""
    if not hasattr(network, "set_statistics"):
        return
    source, target = material.standardise_source, material.standardise[platform]
    if not isinstance(source, Standardisation):
        raise RecipeError(
            f"{name} reads raw units, which a source standardised by each acquisition does not have: "
            "set [representation] standardise = 'training'."
        )
    parts = (source.mean, source.std, target.mean, target.std)
    network.set_statistics(*(torch.as_tensor(part, dtype=torch.float32) for part in parts))


def _single_recipe(recipe: Recipe, platform: str, candidate: str) -> Recipe:
    """The recipe of one single network alone."""
    card = plugins.network(candidate).name
    options = {card: recipe.model.options[card]} if card in recipe.model.options else {}
    model = recipe.model.model_copy(
        update={
            "candidates": {platform: [candidate]},
            "fusion": None,
            "refine": [],
            "options": options,
            "taps": {},
            "frozen": [],
        }
    )
    targets = [table for table in recipe.target if table.name == platform]
    return recipe.model_copy(update={"model": model, "target": targets})


def _refuse_foreign(material: Material, platform: str, candidate: str, run: Trained) -> None:
    """Refuse a member whose channels mean something else here, or that saw our held-out subjects."""
    ours, theirs = material.recipe, run.recipe
    for what, a, b in (
        ("representation", ours.representation, theirs.representation),
        ("source", ours.source.name, theirs.source.name),
        ("patch size", ours.model.patch_size, theirs.model.patch_size),
    ):
        if a != b:
            raise RunError(f"{candidate} has {what} {b}, this recipe {a}: train it again with this recipe's.")
    pairs = {platform: (material.standardise[platform], run.standardise[platform])}
    here, there = material.standardise_source, run.standardise_source
    if isinstance(here, Standardisation) and isinstance(there, Standardisation):
        pairs[ours.source.name] = (here, there)
    for name, (here, there) in pairs.items():
        if not (np.allclose(here.mean, there.mean, rtol=1e-4) and np.allclose(here.std, there.std, rtol=1e-4)):
            raise RunError(
                f"{candidate} was standardised with {name} of {', '.join(run.split.train)}, this run with that of "
                f"{', '.join(material.split.train)}: train it again on the same subjects."
            )
    seen = set(run.split.train) & {*material.split.validation, *material.split.test}
    if seen:
        raise RunError(f"{candidate} was trained on {', '.join(sorted(seen))}, who are held out here: split alike.")


def _validation_error(material: Material, platform: str, run: Trained) -> float:
    return _score(material, Model({platform: run.model.singles[platform]}, {}, {}), (platform,))


def _score(material: Material, model: Model, platforms: Sequence[str]) -> float:
    batches = material.validating(platforms).batches(0, material.recipe.training.batch_size)
    return mean_of_answers(validate(model, batches))


def _fit(material: Material, model: Model, platforms: Sequence[str], folder: Path, epochs: int, phase: str) -> Outcome:
    training = material.recipe.training
    return fit(
        model,
        material.training(platforms),
        material.validating(platforms),
        epochs=epochs,
        batch_size=training.batch_size,
        learning_rate=training.learning_rate,
        decay=training.decay,
        decay_every=training.decay_every,
        seed=seed_for(material.recipe, phase),
        phase=phase,
        checkpoint=folder / CHECKPOINTS / "last.pt",
        watch=material.watch,
    )


def _finish(
    material: Material,
    folder: Path,
    recipe: Recipe,
    model: Model,
    networks: Mapping[str, str],
    history: Sequence[Mapping[str, Any]],
    facts: Mapping[str, Any],
    options: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
) -> None:
    write_run(
        folder,
        recipe,
        model,
        history,
        networks=networks,
        options=options,
        standardise_source=material.standardise_source,
        standardise={name: material.standardise[name] for name in recipe.task.target_names},
        split=material.split,
        gradients={name: material.gradients[name] for name in recipe.task.target_names},
        facts={**material.facts, **facts},
        draw=draw_curves,
    )


def _history(run: Trained) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run.folder / HISTORY).read_text().splitlines()]
