"""The rows of a benchmark: every network, fusion and control as one recipe each, trained over the same folds and seeds.

All rows share data, split, representation, loss and budget, which one recipe gives. The single networks of a fold and
seed are trained once; fusions and controls take them as they are.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from harmonet import plugins
from harmonet.blocks.connection import count_parameters
from harmonet.build import recipe_of
from harmonet.data.layout import TravellingHeads
from harmonet.errors import NotFoundError, RecipeError
from harmonet.recipe import Recipe
from harmonet.runs.folder import Trained, is_complete
from harmonet.runs.members import first_composition
from harmonet.runs.sweep import Part, sweep
from harmonet.runs.train import SINGLES, train
from harmonet.training.loop import Watch

NETWORKS, FUSIONS = ("diqt", "cnn_rish", "shresnet"), ("cpm", "hned", "msp")
RUNS = "runs"  # folder of the rows
WIDTHS = ("width", "widths", "hidden")  # options by which a network of more parameters is made
NEAR = 0.02  # of the parameters that a network is to have

Role = Literal["single", "fusion", "control", "subset"]


@dataclass(frozen=True)
class Row:
    """One row of the benchmark.

    Attributes:
        name: Of the folder that holds its runs.
        label: In tables.
        role: A single network, a fusion, a control, or a fusion that some platforms are left out of.
        recipe: What each run of it trains, but for fold and seed.
        says: What a reader must know of it.
    """

    name: str
    label: str
    role: Role
    recipe: Recipe
    says: str = ""


def rows_of(
    budget: Recipe,
    networks: Sequence[str] = NETWORKS,
    fusions: Sequence[str] = FUSIONS,
    *,
    control: str | None = None,
    controls: bool = True,
    subsets: bool = False,
) -> list[Row]:
    """All rows: networks, fusions over all of them (validation keeps the best for each platform), controls.

    Args:
        budget: Its platforms, split, representation, loss, training, options and patch size are those of every row.
        networks: Names of single networks; those of `budget` are not looked at.
        fusions: Names of fusions.
        control: The network that is trained longer, and wider; the first where None.
        controls: Whether there are control rows.
        subsets: Whether the last fusion is also trained without each platform in turn.

    Raises:
        NotFoundError: There is no such network, fusion or control.
        RecipeError: A name is given twice.
    """
    for given in (networks, fusions):
        if twice := {name for name in given if list(given).count(name) > 1}:
            raise RecipeError(f"--models names {', '.join(sorted(twice))} twice: name it once.")
    if control is not None and control not in networks:
        raise NotFoundError(f"--control {control} is none of the networks compared: {', '.join(networks)}.")
    rows = [Row(name, name, "single", _recipe(budget, [name])) for name in networks]
    if len(networks) > 1:
        words = "the network of lowest validation error, for each platform"
        rows.append(Row("chosen", "best single on validation", "control", _recipe(budget, networks), words))
    rows += [Row(name, name, "fusion", _recipe(budget, networks, name)) for name in fusions]
    if controls:
        rows += _controls(budget, networks, fusions, control or networks[0])
    if subsets and fusions:
        rows += _subsets(budget, networks, fusions[-1])
    return rows


def _controls(budget: Recipe, networks: Sequence[str], fusions: Sequence[str], control: str) -> list[Row]:
    rows = []
    table = budget.training
    if len(networks) > 1:
        words = "the mean of what the networks say, each trained alone"
        rows.append(
            Row("ensemble", "ensemble of the networks", "control", _recipe(budget, networks, "ensemble"), words)
        )
    seeds = [control, *(f"{control}@{n}" for n in range(1, len(budget.target)))]
    if len(seeds) > 1:
        words = "as many of one network as a fusion joins: the mean of what they say, at the same cost"
        label = f"ensemble of {len(seeds)} seeds of {control}"
        rows.append(Row(f"{control}_seeds", label, "control", _recipe(budget, seeds, "ensemble"), words))
    longer = {"epochs": table.epochs + table.joint_epochs, "steps": table.steps + table.joint_steps}
    trained = budget.model_copy(update={"training": table.model_copy(update=longer)})
    words = "alone for as many epochs as a fusion's networks are trained alone and jointly"
    rows.append(Row(f"{control}_longer", f"{control}, trained longer", "control", _recipe(trained, [control]), words))
    if "msp" in fusions:
        first = first_composition(_recipe(budget, networks, "msp"))[0]
        wide = _widened(budget, control, count_parameters(first) // len(budget.target))
        if wide is not None:
            words = "as wide as gives it its share of msp's parameters"
            rows.append(Row(f"{control}_wider", f"{control}, wider", "control", _recipe(wide, [control]), words))
        still = _recipe(budget, networks, "msp", {"final": 0.0})
        words = "the networks are trained on, and alpha stays 0: no network hears of another"
        rows.append(Row("msp_alpha_0", "msp, alpha 0", "control", still, words))
        options = {name: given for name, given in budget.model.options.items() if name != "msp"}
        plain = budget.model_copy(update={"model": budget.model.model_copy(update={"options": options})})
        published = _recipe(plain, networks, "msp")
        if published != _recipe(budget, networks, "msp"):
            words = "equation (1) with the options that harmonet has for it by default"
            rows.append(Row("msp_published", "msp, as published", "control", published, words))
        frozen = [table.name for table in budget.target]
        words = "the networks stay as they were alone"
        rows.append(Row("msp_frozen", "msp, members frozen", "control", _frozen(budget, networks, frozen), words))
    return rows


def _recipe(
    budget: Recipe,
    networks: Sequence[str],
    fusion: str | None = None,
    fusion_options: Mapping[str, Any] | None = None,
    frozen: Sequence[str] = (),
) -> Recipe:
    """The budget's recipe with other networks and another fusion."""
    model = budget.model
    used = [*(plugins.network(name).name for name in networks), *([fusion] if fusion else [])]
    options = {name: dict(given) for name, given in model.options.items() if name in used}
    if fusion is not None:
        options[fusion] = {**options.get(fusion, {}), **(fusion_options or {})}
    composed = recipe_of(
        budget.task,
        {platform: list(networks) for platform in budget.task.target_names},
        fusion=fusion,
        taps={name: layers for name, layers in model.taps.items() if name.rpartition(".")[2] in used} if fusion else {},
        options=options,
        patch_size=model.patch_size,
        frozen=frozen,
        residual=model.residual,
    )
    rates = {} if fusion is None else budget.training.rates
    training = budget.training.model_copy(update={"rates": rates})
    return budget.model_copy(update={"model": composed.model, "training": training, "note": ""})


def _frozen(budget: Recipe, networks: Sequence[str], platforms: Sequence[str]) -> Recipe:
    return _recipe(budget, networks, "msp", frozen=platforms)


def _widened(budget: Recipe, network: str, parameters: int) -> Recipe | None:
    """The budget with the network's widths scaled until it has about so many; None where it has no such option."""
    entry = plugins.network(network)
    defaults = {k: v for k, v in entry.options().items() if k in WIDTHS}
    given = {**defaults, **{k: v for k, v in budget.model.options.get(entry.name, {}).items() if k in WIDTHS}}
    if not given:
        return None

    def scaled(factor: float) -> Recipe:
        wider = {
            k: [max(1, round(factor * n)) for n in v] if isinstance(v, Iterable) else max(1, round(factor * v))
            for k, v in given.items()
        }
        options = budget.model.options | {entry.name: budget.model.options.get(entry.name, {}) | wider}
        return budget.model_copy(update={"model": budget.model.model_copy(update={"options": options})})

    def size(recipe: Recipe) -> int:
        return count_parameters(first_composition(_recipe(recipe, [network]))[0]) // len(budget.target)

    low, high = 1.0, 1.0
    while size(scaled(high)) < parameters and high < 64:
        low, high = high, 2 * high
    for _ in range(12):
        middle = (low + high) / 2
        low, high = (middle, high) if size(scaled(middle)) < parameters else (low, middle)
        if abs(size(scaled(high)) / parameters - 1) < NEAR:
            break
    return scaled(high)


def _subsets(budget: Recipe, networks: Sequence[str], fusion: str) -> list[Row]:
    """The fusion without each platform in turn; with two platforms that leaves the networks alone."""
    if len(budget.target) < 3:
        return []
    rows = []
    for left_out in budget.task.target_names:
        fewer = _without(budget, left_out)
        rows.append(
            Row(
                f"{fusion}_without_{left_out}",
                f"{fusion} without {left_out}",
                "subset",
                _recipe(fewer, networks, fusion),
            )
        )
    return rows


def _without(budget: Recipe, platform: str) -> Recipe:
    """The budget for the other platforms, read in the shells that all of them share."""
    targets = [table for table in budget.target if table.name != platform]
    loss = {name: factor for name, factor in budget.loss.platforms.items() if name != platform}
    rates = {name: factor for name, factor in budget.training.rates.items() if name != platform}
    return budget.model_copy(
        update={
            "target": targets,
            "loss": budget.loss.model_copy(update={"platforms": loss}),
            "training": budget.training.model_copy(update={"rates": rates}),
        }
    )


@dataclass(frozen=True)
class Unit:
    """One fold and seed: the runs of every row, of which fusions and controls need those of the networks."""

    name: str
    test: tuple[str, ...]
    parts: Mapping[str, Part]  # row to its run


def units_of(rows: Sequence[Row], dataset: TravellingHeads, folds: str | None, seeds: int) -> list[Unit]:
    """The folds and seeds, each with a run of every row.

    Raises:
        RecipeError, DataError: As `sweep` does.
    """
    swept = {row.name: sweep(row.recipe, dataset, folds, seeds) for row in rows}
    parts = next(iter(swept.values()))
    return [
        Unit(part.name, part.test, {name: found[number] for name, found in swept.items()})
        for number, part in enumerate(parts)
    ]


def folder_of(out: Path, row: str, unit: Unit) -> Path:
    """Where the run of a row lies."""
    return out / RUNS / row / unit.name


def unfinished(out: Path, rows: Sequence[Row], units: Iterable[Unit]) -> list[str]:
    """Which runs are still to be trained, as row/unit."""
    return [f"{row.name}/{u.name}" for u in units for row in rows if not is_complete(folder_of(out, row.name, u))]


def train_row(
    out: Path, row: Row, rows: Sequence[Row], unit: Unit, dataset: TravellingHeads, watch: Watch, **how: Any
) -> Trained:
    """The run of a row for one fold and seed: as it is where it is finished, continued where it was begun.

    Args:
        out: Folder of the benchmark.
        row, rows: What is trained, and all rows: the single networks of those before it are used.
        unit, dataset: On whom.
        watch: Shows the work.
        how: Further words of `train`.
    """
    singles = [folder_of(out, each.name, unit) / SINGLES for each in rows if each.role == "single"]
    folder = folder_of(out, row.name, unit)
    return train(unit.parts[row.name].recipe, dataset, folder, watch, resume=folder.exists(), found=singles, **how)
