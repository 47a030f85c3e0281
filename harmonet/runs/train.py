"""From a recipe and a data set to a run folder."""

import json
import shutil
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from harmonet import plugins
from harmonet.blocks.committee import members_of
from harmonet.build import (
    build_members,
    model_for,
    network_for,
    representation_of,
    shells_of,
    takes_all,
    trains_in_unison,
)
from harmonet.data.layout import TravellingHeads
from harmonet.errors import DataError, OutputError
from harmonet.files import PARTIAL, foreign_in, sweep_partial, write_whole
from harmonet.model import Model
from harmonet.reading import INPUTS as INPUTS_CHECK
from harmonet.reading import Reading
from harmonet.recipe import Recipe, read_recipe, to_toml
from harmonet.runs.curves import CURVES, draw_curves
from harmonet.runs.fitting import error_alone, fit_composition, fit_single, fitted_lines, score, tell_statistics
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
from harmonet.runs.learning import check_method, learn
from harmonet.runs.lock import LOCK, locked
from harmonet.runs.material import FEED, Material, gather, split_of
from harmonet.runs.members import first_composition, pinned_runs, word_of
from harmonet.runs.providers import PROVIDERS, keep_providers, providers_of
from harmonet.runs.tuning import TUNING, adopted, as_json, is_tuned, refuse_untunable, tune, tuned
from harmonet.training.engine import ALONE, Engine, deterministic
from harmonet.training.loop import Watch
from harmonet.training.objective import check_objective
from harmonet.training.outcome import Outcome
from harmonet.training.trackers import check_trackers

SINGLES = "singles"
INPUTS = "inputs.json"  # SHA-256 of every file that was read
PARTS = (RECIPE, WEIGHTS, HISTORY, MODEL, CURVES, CHECKPOINTS, FEED, INPUTS, PROVIDERS, TUNING, LOCK)  # beside singles/


def train(
    recipe: Recipe,
    dataset: TravellingHeads,
    out: Path,
    watch: Watch,
    *,
    resume: bool = False,
    force: bool = False,
    reading: Reading = Reading(),  # noqa: B008  frozen
    engine: Engine = ALONE,
    measure: bool = False,
    found: Sequence[Path] = (),
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
        engine: Where it computes, and with whom; the process of rank 0 alone writes.
        found: Folders in which single networks of the very same recipe may lie, trained already.
        measure: Choose threads, optimiser and compiling by measuring, as `harmonet.runs.tuning` does.

    Raises:
        DataError: Subjects cannot be split, one of them is there twice, or a file is unusable.
        OutputError: `out` exists, and neither `resume` nor `force` was given; or another process trains there.
    """
    split = split_of(recipe, dataset)
    refuse_taken(out, recipe, resume=resume, force=force)
    if is_complete(out) and not force:
        return load(out)
    resume = resume and (out / RECIPE).is_file()  # what was killed before it had begun is begun
    recipe = adopted(out, recipe) if resume else recipe
    if measure:
        refuse_untunable(out, engine, resume=resume)
    check_method(recipe, measure=measure)
    check_trackers(recipe.training.trackers)
    check_objective(recipe.loss.model_dump(), representation_of(recipe).groups())
    if recipe.training.threads:
        torch.set_num_threads(recipe.training.threads)
    plan = first_composition(recipe)  # before anything is read or trained: what does not fit ends here
    material = gather(recipe, dataset, split, out, watch, reading, engine)  # bad data end here, with nothing written
    pinned = pinned_runs(material, reading)
    tuning = tune(material, plan[0]) if measure and not (resume and is_tuned(out)) else None
    if tuning is not None:
        reading.say(str(tuning))
        recipe = tuned(recipe, tuning)
        material = replace(material, recipe=recipe)
        torch.set_num_threads(recipe.training.threads)
    engine.wait()  # until all have seen the folder as it was
    with deterministic(recipe.training.deterministic), locked(out) if engine.leads else nullcontext():
        if engine.leads:
            refuse_taken(out, recipe, resume=resume, force=force)  # another may have begun since
            sweep_partial(out)
            if not resume:
                _empty(out)  # what `force` replaces, or what was written before the recipe of a run that never began
            _refuse_changed(out / INPUTS, material.inputs, reading)
            keep_providers(out, providers_of(recipe))
            if tuning is not None:
                write_whole(out / TUNING, as_json(tuning))  # first, since the recipe is compared with what it says
            write_whole(out / RECIPE, to_toml(recipe).encode())
            write_whole(out / INPUTS, (json.dumps(material.inputs, indent=1) + "\n").encode())
        engine.wait()
        if recipe.model.method is not None:
            learn(material, out)
            return load(out)
        return _train(material, out, plan, pinned, found)


def _train(
    material: Material,
    out: Path,
    plan: tuple[Model, dict[str, str], dict[str, list[Mapping[str, Any]]]],
    pinned: Mapping[tuple[str, str], Trained],
    found: Sequence[Path],
) -> Trained:
    """The parts of a run one after the other, each of which is done once."""
    recipe = material.recipe
    first, names, options = plan
    chosen: dict[str, dict[str, Trained]] = {}
    errors: dict[str, dict[str, float]] = {}
    for platform in first.singles:
        candidates = recipe.model.candidates[platform]
        runs = {c: pinned.get((platform, c)) or _candidate(material, platform, c, out, found) for c in candidates}
        errors[platform] = {name: error_alone(material, platform, run) for name, run in runs.items()}
        best = min(errors[platform], key=errors[platform].__getitem__)
        chosen[platform] = runs if takes_all(recipe) else {best: runs[best]}
        names[platform] = "+".join(word_of(candidate, run, platform) for candidate, run in chosen[platform].items())
        options[platform] = [given for run in chosen[platform].values() for given in run.options[platform]]
    trained = {p: [m for run in runs.values() for m in members_of(run.model.singles[p])] for p, runs in chosen.items()}
    unread = {p: build_members(recipe, p, names[p], options[p]) for p in names if p not in chosen}  # for their sizes
    model = model_for(recipe, {**trained, **unread}, names)
    model.lines.update(fitted_lines(material, list(model.lines)))
    if recipe.model.fusion is not None and trains_in_unison(recipe):
        outcome = fit_composition(material, model, out, recipe.model.fusion)
    else:
        outcome = Outcome(score(material, model, list(model.singles)))
    history = outcome.history or [line for runs in chosen.values() for run in runs.values() for line in _history(run)]
    choices = {} if takes_all(recipe) else {p: choice(scores) for p, scores in errors.items()}
    facts = {
        "validation": {
            "candidates": errors,
            "chosen": choices,
            "score": outcome.score,
            "best_epoch": outcome.best_epoch,
        }
    }
    _finish(material, out, recipe, model, names, history, facts, options)
    if material.engine.leads:
        shutil.rmtree(out / FEED, ignore_errors=True)
    return load(out)


def _empty(folder: Path) -> None:
    """Remove a run, but for the lock that is held."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.name != LOCK:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def choice(errors: Mapping[str, float]) -> dict[str, Any]:
    """The candidate of lowest validation error, and its margin: how far below the next one's that is, relative to it.

    >>> choice({"diqt": 0.5, "shresnet": 0.4})
    {'candidate': 'shresnet', 'margin': 0.2}
    >>> choice({"diqt": 0.5})
    {'candidate': 'diqt', 'margin': None}
    """
    best, *others = sorted(errors, key=errors.__getitem__)
    margin = round(1 - errors[best] / errors[others[0]], 6) if others and errors[others[0]] else None
    return {"candidate": best, "margin": margin}


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


def refuse_taken(out: Path, recipe: Recipe, *, resume: bool, force: bool) -> None:
    """Refuse a folder that is not new, unless it is to be resumed with the same recipe or replaced."""
    if out.exists() and not out.is_dir():
        raise OutputError(f"{out} is a file: choose a folder for the run.")
    partial = [path.name for path in out.glob(PARTIAL)] if out.is_dir() else []  # what a killed training left aside
    if out.is_dir() and foreign_in(out, (LOCK, PROVIDERS, TUNING, *partial)):
        if not (out / RECIPE).is_file():
            raise OutputError(f"{out} exists, is not empty and holds no run: choose another folder.")
        if force and (foreign := foreign_in(out, (*PARTS, SINGLES, *partial))):
            raise OutputError(f"{out} holds {foreign}, which is no part of a run: choose another folder.")
        if not (resume or force):
            raise OutputError(f"{out} holds a run: add --resume to continue it, --force to replace it.")
        if resume and read_recipe(out / RECIPE) != adopted(out, recipe):
            raise OutputError(
                f"{out} was begun with another recipe: resume with {out / RECIPE}, or choose another folder."
            )


def _candidate(material: Material, platform: str, candidate: str, out: Path, found: Sequence[Path]) -> Trained:
    """One candidate trained now, or found finished: a single network, a run of its own."""
    name = f"{platform}.{candidate}"
    folder, recipe = out / SINGLES / name, single_recipe(material.recipe, platform, candidate)
    if not is_complete(folder):
        for place in (place / name for place in found if is_complete(place / name)):
            run = load(place)
            if run.recipe == recipe and run.split == material.split and run.facts["images"] == material.facts["images"]:
                return run
        if material.engine.leads:
            sweep_partial(folder)
        network = network_for(material.recipe, platform, candidate)
        tell_statistics(network, candidate, material, platform)
        model = model_for(recipe, {platform: network}, {platform: candidate})
        model.lines.update(fitted_lines(material, list(model.lines)))
        outcome = fit_single(material, model, platform, folder, f"{candidate} for {platform}")
        facts = {"validation": {"score": outcome.score, "best_epoch": outcome.best_epoch}}
        _finish(material, folder, recipe, model, {platform: candidate}, outcome.history, facts)
    return load(folder)


def single_recipe(recipe: Recipe, platform: str, candidate: str) -> Recipe:
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
            "restandardise": [],
        }
    )
    # It reads the shells that all targets share, also where its own target has more.
    shells = list(shells_of(recipe.task))
    targets = [t.model_copy(update={"shells": shells}) for t in recipe.target if t.name == platform]
    # Of one network alone, nothing is weighed against anything: factors on losses and rates are the composition's.
    loss = recipe.loss.model_copy(update={"platforms": {}})
    training = recipe.training.model_copy(update={"rates": {}})
    return recipe.model_copy(update={"model": model, "target": targets, "loss": loss, "training": training})


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
    if material.engine.leads:
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
    material.engine.wait()  # then all can load it


def _history(run: Trained) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run.folder / HISTORY).read_text().splitlines()]
