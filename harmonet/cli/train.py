"""`harmonet train`: a recipe and a data set into a run folder."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harmonet.cli.console import Force, Json, Progress, keep_out_of, note, print_json, print_table
from harmonet.errors import DataError, OutputError, RecipeError, RunError, nearest

if TYPE_CHECKING:
    from harmonet.data.layout import TravellingHeads
    from harmonet.reading import Reading
    from harmonet.recipe import Recipe
    from harmonet.runs.folder import Trained
    from harmonet.runs.sweep import Part, Result
    from harmonet.training.engine import Engine

AutoMask = Annotated[
    str | None, typer.Option("--mask", metavar="auto", help="'auto': make a mask with dipy where there is none.")
]
Accept = Annotated[
    list[str] | None,
    typer.Option(
        metavar="CHECK",
        help="Go on in spite of a check: 'orientation' of b-vectors, 'inputs' that changed since a run began.",
    ),
]


def train(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="TOML file, as harmonet compose --out writes it.")],
    data: Annotated[Path, typer.Option(metavar="DIR", help="Travelling heads to learn from.")],
    out: Annotated[
        Path, typer.Option(metavar="RUN", help="Run folder; with folds or seeds, the folder of all of them.")
    ],
    folds: Annotated[
        str | None,
        typer.Option(metavar="K|loso", help="A run for each of K folds, or for each subject left out."),
    ] = None,
    seeds: Annotated[
        int, typer.Option(metavar="N", help="Train each with N seeds: the recipe's and those after it.")
    ] = 1,
    part: Annotated[
        str | None, typer.Option(metavar="M/N", help="Of these runs, do this machine's share: the M-th of N.")
    ] = None,
    device: Annotated[
        str, typer.Option(metavar="NAME", help="'cpu', 'cuda', 'cuda:1', or 'auto' for a GPU where there is one.")
    ] = "auto",
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue what was interrupted; finished runs are kept.")
    ] = False,
    tune: Annotated[
        bool,
        typer.Option(
            "--tune", help="First measure which threads, optimiser and compiling train fastest here, and use them."
        ),
    ] = False,
    mask: AutoMask = None,
    accept: Accept = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Train the single networks, choose among candidates on the validation subjects, train the composition.

    Folds and seeds make several runs, RUN/fold-2of5_seed-0 and so on, and a table of them at the end. Machines may
    share one RUN, each with its own --part. A run that fails lets the others go on; the exit status is then 1.

    Example: harmonet train recipe.toml --data heads --out runs/msp

    Example: harmonet train recipe.toml --data heads --out runs/cv --folds 5 --seeds 3 --part 2/8

    Example: torchrun --nproc-per-node 2 -m harmonet train recipe.toml --data heads --out runs/msp
    """
    from harmonet.data.layout import open_dataset
    from harmonet.recipe import read_recipe
    from harmonet.runs.sweep import result_of
    from harmonet.training.engine import launched

    keep_out_of(out, data)
    if resume and force:
        raise OutputError("--resume continues what --force would replace: give one of them.")
    several = folds is not None or seeds != 1
    if part is not None and not several:
        raise RecipeError(f"--part {part} shares out folds and seeds, and there are none: add --folds or --seeds.")
    read = read_recipe(recipe)
    dataset = open_dataset(data)
    manner = read.training
    with launched(device, manner.precision, shard=manner.parallel == "fsdp") as engine:
        say = note if engine.leads else _silent
        if dataset.label:
            say(f"data: {dataset.label}")
        reading = reading_of(data, mask, accept, say)
        if several:
            results = _train_all(
                read, dataset, out, reading, engine, say, folds, seeds, part, resume=resume, force=force, tune=tune
            )
        else:
            run = _train_one(read, dataset, out, reading, engine, say, resume=resume, force=force, tune=tune)
            results = [result_of(out.name, run)]
    if not engine.leads:
        return
    if json:
        print_json([asdict(result) for result in results])
    elif several and results:
        _print(results, read.task.target_names)
    if failed := [result for result in results if result.failure]:
        for result in failed:
            note(f"{result.part} failed: {result.failure}")
        raise RunError(
            f"{len(failed)} of {len(results)} runs failed, for the reasons above: mend them and give the same command "
            "with --resume, which keeps what is finished."
        )


def _train_all(
    recipe: "Recipe",
    dataset: "TravellingHeads",
    out: Path,
    reading: "Reading",
    engine: "Engine",
    say: Callable[[str], None],
    folds: str | None,
    seeds: int,
    share_of: str | None,
    *,
    resume: bool,
    force: bool,
    tune: bool,
) -> list["Result"]:
    """Train this machine's share of the folds and seeds, all of which are looked at before the first begins."""
    from harmonet.runs.folder import is_complete
    from harmonet.runs.sweep import attempt, refuse_foreign, share, sweep
    from harmonet.runs.train import refuse_taken

    everyone = sweep(recipe, dataset, folds, seeds)
    mine = share(everyone, share_of)
    refuse_foreign(out, [part.name for part in everyone])
    if not mine:
        say(f"there are {len(everyone)} runs, none of which falls to --part {share_of}: nothing to do")
    finished = {part.name for part in mine if is_complete(out / part.name) and not force}
    for part in mine:
        refuse_taken(out / part.name, part.recipe, resume=resume or part.name in finished, force=force)
    results = []
    for number, part in enumerate(mine, 1):
        say(f"run {number} of {len(mine)}: {part.name}{', finished before' if part.name in finished else ''}")

        def train_part(part: "Part" = part) -> "Trained":
            """Train it, or load what is finished, perhaps by another machine since."""
            folder, again = out / part.name, resume or part.name in finished
            return _train_one(part.recipe, dataset, folder, reading, engine, say, resume=again, force=force, tune=tune)

        results.append(attempt(part, train_part, alone=engine.ranks == 1))
        if failure := results[-1].failure:
            say(f"{part.name} failed: {failure}")  # now, since what follows may take days
    return results


def _print(results: Sequence["Result"], platforms: Sequence[str]) -> None:
    rows = [result.cells(platforms) for result in results]
    title = "Validation error, standardised: of the network used for each platform before joint training, of the model"
    print_table(title, ["run", "test subjects", *platforms, "model"], rows, numbers=len(platforms) + 1)


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
    tune: bool,
) -> "Trained":
    """Train one run, and say what came of it."""
    from harmonet.runs.train import train as train_run

    with Progress() if engine.leads else nullcontext(_silent) as progress:
        try:
            run = train_run(
                recipe, dataset, out, progress, resume=resume, force=force, reading=reading, engine=engine, measure=tune
            )
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
    return run


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
        auto_mask=wants_auto_mask(mask, say),
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


def wants_auto_mask(mask: str | None, say: Callable[[str], None] = note) -> bool:
    """Whether masks are to be made; says so."""
    if mask not in (None, "auto"):
        raise DataError(
            f"--mask {mask!r} is not understood here: masks are read from the data set, or use --mask auto."
        )
    if mask == "auto":
        say("mask: made with dipy's median_otsu where there is none")
    return mask == "auto"
