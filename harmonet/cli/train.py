"""`harmonet train`: a recipe and a data set into a run folder."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harmonet.cli.console import Force, Progress, keep_out_of, note
from harmonet.errors import DataError, RecipeError, nearest

if TYPE_CHECKING:
    from harmonet.data.layout import TravellingHeads
    from harmonet.reading import Reading
    from harmonet.recipe import Recipe
    from harmonet.training.engine import Engine

AutoMask = Annotated[str | None, typer.Option("--mask", help="'auto': make a mask with dipy where there is none.")]
Accept = Annotated[
    list[str] | None, typer.Option(help="Override a check that refuses data: 'orientation' or 'inputs'.")
]


def train(
    recipe: Annotated[Path, typer.Argument(help="Recipe, as harmonet compose --out writes it.")],
    data: Annotated[Path, typer.Option(help="Travelling heads.")],
    out: Annotated[Path, typer.Option(help="Run folder to write; with folds or seeds, a folder of run folders.")],
    folds: Annotated[str | None, typer.Option(help="A run for each of so many folds, or 'loso'.")] = None,
    seeds: Annotated[int, typer.Option(help="Runs with so many seeds.")] = 1,
    part: Annotated[str | None, typer.Option(help="Only this machine's share of the runs, such as 2/8.")] = None,
    device: Annotated[str, typer.Option(help="'auto', 'cpu' or 'cuda'.")] = "auto",
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted run.")] = False,
    mask: AutoMask = None,
    accept: Accept = None,
    force: Force = False,
) -> None:
    """Train the single networks, choose among candidates on the validation subjects, train the composition.

    Example: harmonet train recipe.toml --data heads --out runs/msp

    Example: harmonet train recipe.toml --data heads --out runs/cv --folds 5 --seeds 3 --part 2/8

    Example: torchrun --nproc-per-node 2 -m harmonet train recipe.toml --data heads --out runs/msp
    """
    from harmonet.data.layout import open_dataset
    from harmonet.recipe import read_recipe
    from harmonet.runs.sweep import Part, share, sweep
    from harmonet.training.engine import launched

    keep_out_of(out, data)
    read = read_recipe(recipe)
    dataset = open_dataset(data)
    manner = read.training
    with launched(device, manner.precision, shard=manner.parallel == "fsdp") as engine:
        say = note if engine.leads else _silent
        if dataset.label:
            say(f"data: {dataset.label}")
        several = folds is not None or seeds != 1
        if part is not None and not several:
            raise RecipeError(f"--part {part} shares out folds and seeds, and there are none: add --folds or --seeds.")
        reading = reading_of(data, mask, accept, say)
        parts = share(sweep(read, dataset, folds, seeds), part) if several else [Part("", read)]
        for number, one in enumerate(parts, 1):
            if several:
                say(f"run {number} of {len(parts)}: {one.name}")
            _train_one(one.recipe, dataset, out / one.name, reading, engine, say, resume=resume, force=force)


def _train_one(
    recipe: "Recipe",
    dataset: "TravellingHeads",
    out: Path,
    reading: "Reading",
    engine: "Engine",
    say: Callable[[str], None],
    *,
    resume: bool,
    force: bool,
) -> None:
    """Train one run, and say what came of it."""
    from harmonet.runs.train import train as train_run

    with Progress() if engine.leads else nullcontext(_silent) as progress:
        try:
            run = train_run(recipe, dataset, out, progress, resume=resume, force=force, reading=reading, engine=engine)
        except SystemExit as end:
            word = "interrupted" if end.code == 130 else "terminated"
            say(f"harmonet: {word}; {out} is saved, and the same command with --resume goes on from there")
            raise
    for platform, errors in run.facts["validation"]["candidates"].items():
        scores = ", ".join(f"{name} {error:.4f}" for name, error in errors.items())
        margin = run.facts["validation"]["chosen"].get(platform, {}).get("margin")
        lead = f", {margin:.1%} below the next" if margin is not None else ""
        say(f"{platform}: {run.networks[platform]} is used{lead} (validation error {scores})")
    say(f"wrote {out}")


def _silent(*_: object) -> None:
    """Say nothing: another process speaks."""


def reading_of(
    data: Path, mask: str | None, accept: Sequence[str] | None, say: Callable[[str], None] = note
) -> "Reading":
    """How the acquisitions of a data set are read; says what is not as one might think."""
    from harmonet.data.cache import Cache, cache_folder
    from harmonet.reading import Reading

    folder = cache_folder(data)
    return Reading(
        auto_mask=wants_auto_mask(mask),
        accept=accepted(accept),
        cache=None if folder is None else Cache(folder, say),
        say=say,
    )


def accepted(names: Sequence[str] | None) -> frozenset[str]:
    """The checks that the user overrides; a name that is none is refused."""
    from harmonet.reading import ACCEPTABLE

    for name in names or ():
        if name not in ACCEPTABLE:
            raise DataError(f"--accept {name}: no check of that name can be overridden. {nearest(name, ACCEPTABLE)}")
    return frozenset(names or ())


def wants_auto_mask(mask: str | None) -> bool:
    """Whether masks are to be made; says so."""
    if mask not in (None, "auto"):
        raise DataError(
            f"--mask {mask!r} is not understood here: masks are read from the data set, or use --mask auto."
        )
    if mask == "auto":
        note("mask: made with dipy's median_otsu where there is none")
    return mask == "auto"
