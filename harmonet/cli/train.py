"""`harmonet train`: a recipe and a data set into a run folder."""

from pathlib import Path
from typing import Annotated

import typer

from harmonet.cli.console import Force, Progress, keep_out_of, note
from harmonet.errors import DataError

AutoMask = Annotated[str | None, typer.Option("--mask", help="'auto': make a mask with dipy where there is none.")]


def train(
    recipe: Annotated[Path, typer.Argument(help="Recipe, as harmonet compose --out writes it.")],
    data: Annotated[Path, typer.Option(help="Travelling heads.")],
    out: Annotated[Path, typer.Option(help="Run folder to write.")],
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted run.")] = False,
    mask: AutoMask = None,
    force: Force = False,
) -> None:
    """Train the single networks, choose among candidates on the validation subjects, train the composition.

    Example: harmonet train recipe.toml --data heads --out runs/msp
    """
    from harmonet.data.layout import open_dataset
    from harmonet.recipe import read_recipe
    from harmonet.runs.train import train as train_run

    keep_out_of(out, data)
    auto_mask = wants_auto_mask(mask)
    read = read_recipe(recipe)
    dataset = open_dataset(data)
    if dataset.label:
        note(f"data: {dataset.label}")
    with Progress() as progress:
        run = train_run(read, dataset, out, progress, resume=resume, force=force, auto_mask=auto_mask)
    for platform, errors in run.facts["validation"]["candidates"].items():
        scores = ", ".join(f"{name} {error:.4f}" for name, error in errors.items())
        note(f"{platform}: {run.networks[platform]} is used (validation error {scores})")
    note(f"wrote {out}")


def wants_auto_mask(mask: str | None) -> bool:
    """Whether masks are to be made; says so."""
    if mask not in (None, "auto"):
        raise DataError(
            f"--mask {mask!r} is not understood here: masks are read from the data set, or use --mask auto."
        )
    if mask == "auto":
        note("mask: made with dipy's median_otsu where there is none")
    return mask == "auto"
