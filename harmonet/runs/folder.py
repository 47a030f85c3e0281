"""The run folder: one training on disk.

recipe.toml, weights.safetensors, model.json, history.jsonl, curves as PNG, checkpoints/. `model.json` is written last
and lists every artefact with its SHA-256: a folder without it is an unfinished run.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch

from harmonet.blocks.committee import members_of
from harmonet.blocks.restandardised import times_wrapped
from harmonet.build import build_members, model_for, options_of, representation_of
from harmonet.data.gradients import Gradients
from harmonet.data.splits import Split
from harmonet.data.standardise import PerAcquisition, Standardisation, Standardises
from harmonet.errors import NotFoundError, RunError
from harmonet.files import sha256, write_whole
from harmonet.methods.method import Method
from harmonet.model import Model
from harmonet.platforms import Task
from harmonet.recipe import Recipe, read_recipe, to_toml
from harmonet.representation import Representation
from harmonet.runs.method import as_tensors, methods_for, restore
from harmonet.runs.providers import providers_of, refuse_other_providers
from harmonet.training.difference import first_difference

FORMAT = 2  # raise it where a run of the one before could not be loaded, or would predict something else
MODEL, RECIPE, WEIGHTS, HISTORY = "model.json", "recipe.toml", "weights.safetensors", "history.jsonl"
CHECKPOINTS = "checkpoints"
PARTS = ("train", "validation", "test")
KEYS = ("providers", "networks", "options", "restandardised", "standardisation", "split", "gradients")


@dataclass(frozen=True, eq=False)
class Trained:
    """A trained model with what is needed to use it.

    Attributes:
        folder: Where it lies.
        recipe: What defined it.
        model: The model, in evaluation mode; empty where a method predicts that is no network.
        networks: Platform to the name of the network that was chosen for it; to all, joined by `+`, where a fusion
            takes all; to that of the method.
        options: Platform to each network's options; a pinned run brings its own, which the recipe does not hold.
        representation: How signals become channels.
        standardise_source: What knows the statistics of a source image.
        standardise: Target platform to statistics of the training subjects.
        split: Who trained, validated and tests.
        gradients: Platform to its gradient table in the shells, as the first training subject had it.
        facts: The rest of model.json.
        methods: Platform to the method that predicts it; empty where networks do.
    """

    folder: Path
    recipe: Recipe
    model: Model
    networks: Mapping[str, str]
    options: Mapping[str, Sequence[Mapping[str, Any]]]
    representation: Representation
    standardise_source: Standardises
    standardise: Mapping[str, Standardisation]
    split: Split
    gradients: Mapping[str, Gradients]
    facts: Mapping[str, Any]
    methods: Mapping[str, Method] = field(default_factory=dict)

    @property
    def task(self) -> Task:
        """Source and targets."""
        return self.recipe.task

    @property
    def label(self) -> str:
        """What everything made from this run must say of its data, such as that they are simulated."""
        return str(self.facts.get("label", ""))


def is_complete(folder: Path) -> bool:
    """Whether the folder holds a finished run."""
    return (folder / MODEL).is_file()


def write_run(
    folder: Path,
    recipe: Recipe,
    model: Model,
    history: Sequence[Mapping[str, Any]],
    *,
    networks: Mapping[str, str],
    options: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
    standardise_source: Standardises,
    standardise: Mapping[str, Standardisation],
    split: Split,
    gradients: Mapping[str, Gradients],
    facts: Mapping[str, Any],
    draw: Callable[[Path, Sequence[Mapping[str, Any]]], Sequence[Path]],
    methods: Mapping[str, Method] | None = None,
) -> None:
    """Write a finished run; model.json comes last, so a killed write leaves an unfinished run and never a wrong one.

    Args:
        folder: The run folder.
        recipe, model, history, networks, standardise_source, standardise, split, gradients: What the run is.
        options: Platform to the options of each of its networks; the recipe's where None.
        facts: Further keys of model.json.
        draw: Draws the curves into the folder and returns their files.
        methods: Platform to its method, in place of networks.
    """
    state = {name: tensor.detach().contiguous().cpu() for name, tensor in model.state_dict().items()}
    for name, tensor in state.items():
        if not torch.isfinite(tensor).all():
            raise RunError(f"weight {name} is not finite: the training diverged; lower the learning rate.")
    write_whole(folder / WEIGHTS, safetensors.torch.save(state | as_tensors(methods or {})))
    write_whole(folder / RECIPE, to_toml(recipe).encode())
    write_whole(folder / HISTORY, "".join(json.dumps(line) + "\n" for line in history).encode())
    pictures = draw(folder, history) if history else []
    artefacts = [folder / WEIGHTS, folder / RECIPE, folder / HISTORY, *pictures]
    content = {
        "format": FORMAT,
        "harmonet": version("harmonet"),
        "torch": torch.__version__,
        **facts,
        "providers": providers_of(recipe, networks.values()),
        "networks": dict(networks),
        "options": options or {p: [options_of(recipe, name)] for p, name in networks.items()},
        "restandardised": {p: [times_wrapped(m) for m in members_of(net)] for p, net in model.singles.items()},
        "representation": recipe.representation.model_dump() | {"sidecar": representation_of(recipe).sidecar()},
        "standardisation": {
            recipe.source.name: _as_json(standardise_source),
            **{name: _as_json(s) for name, s in standardise.items()},
        },
        "split": asdict(split),
        "gradients": {
            name: {"bvals": table.bvals.tolist(), "directions": table.directions.tolist()}
            for name, table in gradients.items()
        },
        "artefacts": {path.relative_to(folder).as_posix(): sha256(path) for path in artefacts},
    }
    write_whole(folder / MODEL, (json.dumps(content, indent=1) + "\n").encode())


def load(folder: Path | str) -> Trained:
    """The trained model in a run folder, every artefact held against its digest.

    Raises:
        NotFoundError: There is no run, or it is unfinished.
        RunError: A file was changed or damaged, or the run needs another harmonet, plugin or version of one.
    """
    folder = Path(folder)
    if folder.suffix == ".zip" and folder.is_file():
        raise NotFoundError(f"{folder} is a zip: unpack it, or open it with `harmonet.runs.export.opened`.")
    if not folder.is_dir():
        raise NotFoundError(f"there is no run folder {folder}: give a folder that `harmonet train` wrote.")
    if not is_complete(folder):
        raise NotFoundError(f"{folder} holds no finished run (no {MODEL}): finish it with `harmonet train --resume`.")
    facts = _read_facts(folder)
    refuse_other_providers(folder, facts["providers"])
    recipe = read_recipe(folder / RECIPE)
    networks: dict[str, str] = facts["networks"]
    options: dict[str, list[dict[str, Any]]] = facts["options"]
    maps: dict[str, list[int]] = facts["restandardised"]
    singles = {p: build_members(recipe, p, names, options[p], maps.get(p)) for p, names in networks.items()}
    model = model_for(recipe, singles, networks)
    methods, weights = methods_for(recipe), safetensors.torch.load_file(folder / WEIGHTS)
    restore(methods, weights, folder)
    if methods:
        weights = {}  # all of them
    if difference := first_difference(weights, model.state_dict()):
        raise RunError(
            f"the weights in {folder} do not fit the model that its recipe builds here, {difference}: undo what was "
            "changed in its networks or fusion, or train again."
        )
    model.load_state_dict(weights)
    model.eval()
    statistics = {name: _from_json(s, name) for name, s in facts["standardisation"].items()}
    return Trained(
        folder=folder,
        recipe=recipe,
        model=model,
        networks={p: name for p, name in networks.items() if p in model.singles}
        | dict.fromkeys(methods, str(recipe.model.method)),
        options=options,
        representation=representation_of(recipe),
        standardise_source=statistics.pop(recipe.source.name),
        standardise={name: s for name, s in statistics.items() if isinstance(s, Standardisation)},
        split=Split(**{part: tuple(facts["split"][part]) for part in PARTS}, scheme=facts["split"]["scheme"]),
        gradients={
            name: Gradients(np.asarray(table["bvals"]), np.asarray(table["directions"]).reshape(-1, 3))
            for name, table in facts["gradients"].items()
        },
        facts=facts,
        methods=methods,
    )


def _as_json(standardise: Standardises) -> dict[str, Any]:
    if isinstance(standardise, Standardisation):
        return {"mean": standardise.mean.tolist(), "std": standardise.std.tolist()}
    return {"by": "acquisition"}


def _from_json(content: Mapping[str, Any], platform: str) -> Standardises:
    if content.get("by") == "acquisition":
        return PerAcquisition(platform)
    return Standardisation(np.asarray(content["mean"]), np.asarray(content["std"]))


def _read_facts(folder: Path) -> dict[str, Any]:
    try:
        facts: dict[str, Any] = json.loads((folder / MODEL).read_bytes())
        known, artefacts = facts["format"], dict(facts["artefacts"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(
            f"{folder / MODEL} is damaged ({error}): train again, or copy the run from its source."
        ) from None
    if known != FORMAT:
        writer = f"harmonet {facts.get('harmonet', 'of unknown version')}"
        again = f", or train again from {folder / RECIPE}" if isinstance(known, int) and known < FORMAT else ""
        raise RunError(
            f"{folder} has run format {known} of {writer}, but this harmonet {version('harmonet')} reads format "
            f"{FORMAT}: use {writer}{again}."
        )
    if missing := [key for key in KEYS if key not in facts]:
        raise RunError(f"{folder / MODEL} is damaged (no {', '.join(missing)}): copy the run from its source.")
    for name, digest in artefacts.items():
        path = folder / name
        if not path.is_file():
            raise RunError(f"{path} is missing, but {MODEL} lists it: copy the run from its source.")
        if sha256(path) != digest:
            raise RunError(f"{path} was changed or damaged: its checksum is not the one in {MODEL}; copy it again.")
    return facts
