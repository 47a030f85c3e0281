"""`harmonet benchmark`: the paper's Table 1 on any data set."""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harmonet.cli.console import Force, Json, Progress, keep_out_of, note, print_json, print_table
from harmonet.cli.train import Accept, AutoMask, reading_of
from harmonet.errors import OutputError, RecipeError, RunError

if TYPE_CHECKING:
    from harmonet.evaluation import Evaluation
    from harmonet.evaluation.forms import Table
    from harmonet.reading import Reading
    from harmonet.recipe import Recipe
    from harmonet.runs.benchmark import Row, Unit

RECIPE, REPORT, TABLES = "recipe.toml", "report", "tables"  # beside the runs


def benchmark(
    data: Annotated[Path, typer.Option(metavar="DIR", help="Travelling heads.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for runs, tables and report; continued if there.")],
    recipe: Annotated[
        Path | None,
        typer.Option(help="A recipe whose platforms, split, loss, training and options are those of all rows."),
    ] = None,
    models: Annotated[
        str, typer.Option(help="Single networks and fusions to compare, joined by commas.")
    ] = "diqt,cnn_rish,shresnet,cpm,hned,msp",
    control: Annotated[
        str | None,
        typer.Option(metavar="NETWORK", help="The network that is trained longer, and wider too; the first."),
    ] = None,
    controls: Annotated[bool, typer.Option(help="Train the control rows.")] = True,
    matrix: Annotated[
        bool, typer.Option("--matrix", help="Also leave out each platform in turn: does another platform help?")
    ] = False,
    folds: Annotated[
        str | None, typer.Option(metavar="K|loso", help="Folds over subjects; the recipe's split alone if not given.")
    ] = None,
    seeds: Annotated[int, typer.Option(metavar="N", help="Seeds of each row: the recipe's and those after it.")] = 1,
    part: Annotated[
        str | None,
        typer.Option(metavar="M/N", help="Train this machine's share of folds and seeds, no tables yet."),
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help="Without --recipe: the budget, paper or recommended; paper if not given.")
    ] = None,
    source: Annotated[str, typer.Option(help="Without --recipe: the platform that is read.")] = "ge_st",
    metrics: Annotated[
        str, typer.Option(help="Names of `harmonet list metrics`, joined by commas; 'routine' or 'all'.")
    ] = "routine",
    device: Annotated[str, typer.Option(metavar="NAME", help="'cpu', 'cuda', 'cuda:1', or 'auto'.")] = "auto",
    mask: AutoMask = None,
    accept: Accept = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """The paper's Table 1 on your heads: networks, fusions, baselines and controls under one budget, with statistics.

    Each fold and seed trains every network once, and the fusions and controls over them. What is finished is kept: the
    same command goes on after an interruption. Machines that share OUT each take a --part; the command without --part
    then makes the tables.

    Example: harmonet benchmark --data heads --out bench --folds 5 --seeds 3

    Example: harmonet benchmark --data heads --out bench --recipe recipe.toml --models diqt,shresnet,msp --part 2/8
    """
    from harmonet.data.layout import open_dataset
    from harmonet.runs.benchmark import rows_of, train_row, units_of
    from harmonet.runs.sweep import share
    from harmonet.training.engine import launched

    keep_out_of(out, data)
    networks, fusions = _kinds(models)
    budget = _budget(recipe, data, source, preset, networks, "msp" if "msp" in fusions else None)
    _take(out, budget, force=force)
    rows = rows_of(budget, networks, fusions, control=control, controls=controls, subsets=matrix)
    dataset = open_dataset(data)
    units = units_of(rows, dataset, folds, seeds)
    mine = share(units, part)
    _tell(rows, units, mine)
    _write_recipe(out, budget)
    with launched(device, budget.training.precision) as engine:
        if engine.ranks > 1:
            raise RunError("a benchmark trains in one process: share folds and seeds out with --part, not by torchrun.")
        reading = reading_of(data, mask, accept)
        for number, unit in enumerate(mine, 1):
            for row in rows:
                note(f"{number} of {len(mine)}, {unit.name}: {row.label}")
                with Progress() as progress:
                    train_row(out, row, rows, unit, dataset, progress, reading=reading, engine=engine)
    if part is not None:
        note(f"part {part} is trained; the same command without --part makes the tables when all parts are")
        return
    wanted = [word.strip() for word in metrics.split(",") if word.strip()]
    _report(out, rows, units, data, wanted, reading_of(data, mask, accept), json=json)


def _budget(
    recipe: Path | None, data: Path, source: str, preset: str | None, networks: list[str], fusion: str | None
) -> "Recipe":
    """The recipe that all rows share."""
    from harmonet.build import recipe_of
    from harmonet.data.layout import open_dataset
    from harmonet.reading import task_of
    from harmonet.recipe import read_recipe

    if recipe is not None:
        if preset is not None:
            raise RecipeError("--recipe and --preset both give the budget: give one of them.")
        return read_recipe(recipe)
    task = task_of(open_dataset(data), source, ())
    return recipe_of(task, dict.fromkeys(task.target_names, networks), fusion=fusion, preset=preset)


def _kinds(models: str) -> tuple[list[str], list[str]]:
    """Which of the names are networks and which fusions."""
    from harmonet import plugins

    names = [word.strip() for word in models.split(",") if word.strip()]
    fusions = [name for name in names if name in plugins.list_fusions()]
    networks = [name for name in names if name not in fusions]
    for name in networks:
        plugins.network(name)
    if not networks:
        raise RecipeError(f"--models {models!r} names no single network: name one or more, such as diqt,shresnet,msp.")
    return networks, fusions


def _take(out: Path, budget: "Recipe", *, force: bool) -> None:
    """Refuse a folder that is no benchmark's, or one of another budget."""
    import shutil

    from harmonet.files import foreign_in
    from harmonet.recipe import read_recipe
    from harmonet.runs.benchmark import RUNS

    if not out.exists():
        return
    if not out.is_dir() or (foreign := foreign_in(out, (RECIPE, REPORT, TABLES, RUNS))):
        found = f"it holds {foreign}" if out.is_dir() else "it is a file"
        raise OutputError(f"{out} is no benchmark of harmonet ({found}): choose another folder.")
    if force:
        shutil.rmtree(out)
    elif (out / RECIPE).is_file() and read_recipe(out / RECIPE) != budget:
        raise OutputError(
            f"{out} was begun with another budget: give --recipe {out / RECIPE}, or --force to begin anew."
        )


def _write_recipe(out: Path, budget: "Recipe") -> None:
    from harmonet.files import write_whole
    from harmonet.recipe import to_toml

    if not (out / RECIPE).is_file():
        write_whole(out / RECIPE, to_toml(budget).encode())


def _tell(rows: "list[Row]", units: "list[Unit]", mine: "list[Unit]") -> None:
    share = "" if len(mine) == len(units) else f", of which {len(mine)} here"
    note(f"{len(rows)} rows: {', '.join(row.label for row in rows)}")
    note(f"{len(units)} folds and seeds{share}; test subjects: {', '.join(sorted({s for u in units for s in u.test}))}")


def _report(
    out: Path,
    rows: "list[Row]",
    units: "list[Unit]",
    data: Path,
    metrics: list[str],
    reading: "Reading",
    *,
    json: bool,
) -> None:
    """Score every run, print the tables, write them and the report."""
    from harmonet.data.layout import open_dataset
    from harmonet.evaluation import evaluate
    from harmonet.evaluation.benchmark import budget_table, by_row, gains_table, helpers_table, table_one
    from harmonet.evaluation.forms import comma, latex, markdown
    from harmonet.files import write_whole
    from harmonet.report import Section, write_report
    from harmonet.runs import load
    from harmonet.runs.benchmark import folder_of, unfinished

    if missing := unfinished(out, rows, units):
        raise RunError(f"{len(missing)} runs are not finished, such as {missing[0]}: train their part first.")
    dataset = open_dataset(data)
    runs = {row.name: [load(folder_of(out, row.name, unit)) for unit in units] for row in rows}

    def scored(chosen: "list[Row]") -> "Evaluation":
        with Progress() as progress:
            found = evaluate(
                [run for row in chosen for run in runs[row.name]], dataset, progress, reading=reading, metrics=metrics
            )
        return by_row(found, chosen, runs)

    full = scored([row for row in rows if row.role != "subset"])
    fewer = {}
    for row in rows:
        if row.role == "subset":
            (left_out,) = set(full.platforms) - set(row.recipe.task.target_names)
            fewer[left_out] = scored([row])
    against = full.references[-1]
    tables = [table_one(full), *(gains_table(full, rows, reference) for reference in reversed(full.references))]
    if fewer:
        fusion = next(row for row in rows if row.role == "subset").recipe.model.fusion or ""
        alone = next((row.label for row in rows if row.name == "chosen"), rows[0].label)
        tables.append(helpers_table(full, fewer, fusion, alone, against))
    tables.append(budget_table(rows, {name: found[0] for name, found in runs.items()}))
    if json:
        print_json({table.name: _as_json(table) for table in tables} | {"evaluation": full.as_json()})
    else:
        for table in tables:
            _print(table)
    forms = {"md": markdown, "tex": latex, "csv": comma}
    for table in tables:
        for end, form in forms.items():
            write_whole(out / TABLES / f"{table.name}.{end}", form(table).encode())
    chosen = [row for row in rows if row.role == "fusion"] or rows  # whose answers the page judges
    everyone = [run for row in chosen for run in runs[row.name]]
    sections = [Section(table.title, tables=[table]) for table in tables]
    page = write_report(full, everyone, out / REPORT, command=shlex.join(["harmonet", *sys.argv[1:]]), extra=sections)
    note(f"wrote {page}")


def _as_json(table: "Table") -> dict[str, object]:
    return {
        "title": table.title,
        "rows": [dict(zip(table.columns, [cell.text for cell in row], strict=True)) for row in table.rows],
        "notes": list(table.notes),
    }


def _print(table: "Table") -> None:
    rows = [[cell.text for cell in row] for row in table.rows]
    bold = {(i, j) for i, row in enumerate(table.rows) for j, cell in enumerate(row) if cell.best}
    print_table(table.title, table.columns, rows, numbers=len(table.columns) - table.words, bold=bold)
    for sentence in table.notes:
        note(sentence)
