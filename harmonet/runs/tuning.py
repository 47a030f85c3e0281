"""Speed on what is there: threads, fused optimiser and compiled steps, chosen by measuring before a training begins.

What is chosen stands in the run's recipe, and what was measured in `tuning.json` beside it: another machine would have
chosen otherwise, and sums in another order give other last bits.
"""

import copy
import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain, islice, repeat
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import nn

from harmonet.blocks.committee import members_of
from harmonet.data.patches import Batch
from harmonet.errors import OutputError, RecipeError, RunError
from harmonet.model import Model
from harmonet.recipe import Recipe, read_recipe
from harmonet.runs.folder import RECIPE
from harmonet.runs.material import Material
from harmonet.training.batches import to_tensors
from harmonet.training.engine import Engine
from harmonet.training.loss import loss_terms
from harmonet.training.randomness import random_states_kept

TUNING = "tuning.json"
KEYS = ("threads", "fused", "compile")  # of [training]
STEPS = 4  # measured of each setting, in each of two rounds, after one that is not
GAIN = 1.05  # what is not clearly faster is left as it is


@dataclass(frozen=True)
class Setting:
    """What is tried; each field means what it means in the recipe's [training]."""

    threads: int
    fused: bool = False
    compile: bool = False

    def __str__(self) -> str:
        """The setting in words."""
        words = [f"{self.threads} thread{'s' if self.threads > 1 else ''}"]
        return ", ".join([*words, *(word for word in ("fused", "compile") if getattr(self, word))])


@dataclass(frozen=True)
class Tuning:
    """What was measured.

    Attributes:
        network: Of which platform's first candidate.
        seconds: Setting, in words, to the time of one step.
        chosen: The fastest.
        notes: What could not be measured, and what is fast but does not pay.
    """

    network: str
    seconds: Mapping[str, float]
    chosen: Setting
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        """A line for people."""
        times = "; ".join(f"{setting} {1000 * seconds:.1f} ms" for setting, seconds in self.seconds.items())
        return " - ".join([f"tuned on {self.network}: {times} a step: {self.chosen} is used", *self.notes])


def refuse_untunable(out: Path, engine: Engine, *, resume: bool) -> None:
    """Refuse to tune where several processes would each choose for themselves, or a run has begun untuned."""
    if engine.ranks > 1:
        raise RecipeError(
            f"--tune measures in one process, found {engine.ranks}: tune a run in one, and start these with the "
            "recipe in its folder."
        )
    if resume and (out / RECIPE).is_file() and not is_tuned(out):
        raise OutputError(f"--tune chooses before a training begins, and {out} began without: leave out --tune.")


def is_tuned(out: Path) -> bool:
    """Whether the run in `out` was tuned; one that was ended before it had a recipe was not."""
    return (out / TUNING).is_file() and (out / RECIPE).is_file()


def adopted(out: Path, recipe: Recipe) -> Recipe:
    """The recipe with what was chosen when the run in `out` was tuned; itself where none was."""
    if not is_tuned(out):
        return recipe
    before = read_recipe(out / RECIPE).training
    return _with(recipe, {key: getattr(before, key) for key in KEYS})


def tune(material: Material, model: Model) -> Tuning:
    """What trains the first candidate fastest on this machine; torch and the model are left as they are.

    Threads come first, on a CPU; then a fused Adam; then a compiled network, which must win back what compiling takes.

    Args:
        material: What is trained on, and where.
        model: The first composition, as `first_composition` gives it.

    Raises:
        RunError: Nothing could be measured.
    """
    platform, single = next(iter(model.singles.items()))
    network = members_of(single)[0]
    table, before = material.recipe.training, torch.get_num_threads()
    try:
        with random_states_kept():
            best = Setting(before)
            counts = _threads(before) if material.engine.device.type == "cpu" else [before]
            found = _measured(material, platform, network, [replace(best, threads=count) for count in counts])
            best = _faster(found, best)
            found |= _measured(material, platform, network, [best, replace(best, fused=True)])
            best = _faster({s: found[s] for s in (best, replace(best, fused=True))}, best)
            best, notes = _compiled(material, platform, network, best, found, table.epochs)
    finally:
        torch.set_num_threads(before)
    name = f"{material.recipe.model.candidates[platform][0]} for {platform}"
    return Tuning(name, {str(setting): seconds for setting, seconds in found.items()}, best, notes)


def tuned(recipe: Recipe, tuning: Tuning) -> Recipe:
    """The recipe with what was chosen."""
    return _with(recipe, vars(tuning.chosen))


def as_json(tuning: Tuning) -> bytes:
    """What `tuning.json` holds."""
    told = {**vars(tuning), "chosen": vars(tuning.chosen), "torch": torch.__version__}
    return (json.dumps(told, indent=1) + "\n").encode()


def _with(recipe: Recipe, values: Mapping[str, Any]) -> Recipe:
    return recipe.model_copy(update={"training": recipe.training.model_copy(update=dict(values))})


def _threads(now: int) -> list[int]:
    """Numbers of threads to try: what torch has now, 1, 2, 4 and so on, and as many as there are cores for us."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return sorted({now, cores, *(2**power for power in range(cores.bit_length()) if 2**power <= cores)})


def _faster(found: Mapping[Setting, float], usual: Setting) -> Setting:
    """The fastest, if it is clearly faster than the usual."""
    best = min(found, key=found.__getitem__)
    return best if found[usual] > GAIN * found[best] else usual


def _measured(material: Material, platform: str, network: nn.Module, settings: list[Setting]) -> dict[Setting, float]:
    """Seconds of a step under each setting, the better of two rounds: a neighbour's work slows down one of them."""
    rounds = [[_trial(material, platform, network, setting)[1] for setting in settings] for _ in range(2)]
    return {setting: min(times) for setting, times in zip(settings, zip(*rounds, strict=True), strict=True)}


def _compiled(
    material: Material, platform: str, network: nn.Module, best: Setting, found: dict[Setting, float], epochs: int
) -> tuple[Setting, tuple[str, ...]]:
    """The setting, compiled where that pays over the whole training, and why not where it does not."""
    if not material.engine.can_compile:
        return best, ("compiling was not tried, since there is no C++ compiler",)
    compiled = replace(best, compile=True)
    try:
        first, found[compiled] = _trial(material, platform, network, compiled)
    except Exception as error:  # whatever a compiler may meet in a network and a machine
        return best, (f"compiling failed ({type(error).__name__})",)
    steps = material.training((platform,)).steps(material.recipe.training.batch_size) * epochs
    if found[best] > GAIN * found[compiled] and first < (found[best] - found[compiled]) * steps:
        return compiled, ()
    return best, (f"compiling took {first:.0f} s and does not pay in {steps} steps",)


def _trial(material: Material, platform: str, network: nn.Module, setting: Setting) -> tuple[float, float]:
    """Seconds of the first step, and the median of those after it."""
    engine, table = material.engine, material.recipe.training
    torch.set_num_threads(setting.threads)
    model = Model({platform: copy.deepcopy(network).requires_grad_(True)}, {}, {}).to(engine.device).train()
    if setting.compile:
        engine.compile(model.singles[platform])
    optimiser = torch.optim.Adam(model.parameters(), lr=table.learning_rate, fused=setting.fused or None)
    times = []
    for batch in islice(_batches(material, platform, max(table.batch_size // table.accumulate, 1)), STEPS + 1):
        began = time.perf_counter()
        source, targets, inside = to_tensors(batch, engine.device)
        with engine.autocast():
            stages = model(source)
        torch.autograd.backward(list(loss_terms(stages, targets, inside).values()))
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        if engine.device.type == "cuda":
            torch.cuda.synchronize(engine.device)
        times.append(time.perf_counter() - began)
    if len(times) < 2:
        raise RunError(f"--tune found no patches of {platform} to measure with: leave it out.")
    return times[0], median(times[1:])


def _batches(material: Material, platform: str, size: int) -> Iterator[Batch]:
    """Batches without end."""
    feed = material.training((platform,))
    return chain.from_iterable(feed.batches(0, size) for _ in repeat(None))
