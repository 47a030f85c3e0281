"""`harmonet train`: a recipe and a data set into a run folder."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harmonet.cli.console import Force, Progress, keep_out_of, note
from harmonet.errors import DataError, nearest

if TYPE_CHECKING:
    from harmonet.reading import Reading

AutoMask = Annotated[str | None, typer.Option("--mask", help="'auto': make a mask with dipy where there is none.")]
Accept = Annotated[
    list[str] | None, typer.Option(help="Override a check that refuses data: 'orientation' or 'inputs'.")
]


def train(
    recipe: Annotated[Path, typer.Argument(help="Recipe, as harmonet compose --out writes it.")],
    data: Annotated[Path, typer.Option(help="Travelling heads.")],
    out: Annotated[Path, typer.Option(help="Run folder to write.")],
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted run.")] = False,
    mask: AutoMask = None,
    accept: Accept = None,
    force: Force = False,
) -> None:
    """Train the single networks, choose among candidates on the validation subjects, train the composition.

    Example: harmonet train recipe.toml --data heads --out runs/msp
    """
    from harmonet.data.layout import open_dataset
    from harmonet.recipe import read_recipe
    from harmonet.runs.train import train as train_run

    keep_out_of(out, data)
    read = read_recipe(recipe)
    dataset = open_dataset(data)
    if dataset.label:
        note(f"data: {dataset.label}")
    reading = reading_of(data, mask, accept)
    with Progress() as progress:
        run = train_run(read, dataset, out, progress, resume=resume, force=force, reading=reading)
    for platform, errors in run.facts["validation"]["candidates"].items():
        scores = ", ".join(f"{name} {error:.4f}" for name, error in errors.items())
        note(f"{platform}: {run.networks[platform]} is used (validation error {scores})")
    note(f"wrote {out}")


def reading_of(data: Path, mask: str | None, accept: Sequence[str] | None) -> "Reading":
    """How the acquisitions of a data set are read; says what is not as one might think."""
    from harmonet.data.cache import Cache, cache_folder
    from harmonet.reading import Reading

    folder = cache_folder(data)
    return Reading(
        auto_mask=wants_auto_mask(mask),
        accept=accepted(accept),
        cache=None if folder is None else Cache(folder, note),
        say=note,
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
