"""`harmonet data check`: the doctor."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harmonet.cli.console import Json, Progress, note, print_json, print_table
from harmonet.cli.train import AutoMask, wants_auto_mask
from harmonet.errors import DataError

if TYPE_CHECKING:
    from harmonet.data.doctor import Diagnosis

app = typer.Typer(help="Look at data sets.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def _data() -> None:
    """Look at data sets."""


@app.command()
def check(
    root: Annotated[Path, typer.Argument(metavar="DIR", help="Data set.")],
    source: Annotated[str, typer.Option(help="Platform that is read: the others must lie on its grid.")] = "ge_st",
    order: Annotated[int, typer.Option(help="SH order that is meant to be used.")] = 6,
    mask: AutoMask = None,
    json: Json = False,
) -> None:
    """Read every acquisition and say what is usable, what is wrong and how to mend it.

    Exit status 1 where anything is wrong, 0 where there are at most warnings.

    Example: harmonet data check heads
    """
    from harmonet.data.doctor import diagnose
    from harmonet.sh import n_coefficients

    auto_mask = wants_auto_mask(mask)
    n_coefficients(order)  # refuses an odd or negative one
    if not root.is_dir():
        raise DataError(f"{root} is no folder: name the folder of the data set.")
    with Progress() as progress:
        diagnosis = diagnose(root, source=source, order=order, auto_mask=auto_mask, watch=progress)
    if diagnosis.dataset is not None and diagnosis.dataset.label:
        note(f"data: {diagnosis.dataset.label}")
    if json:
        print_json(diagnosis.as_json())
    else:
        _print(diagnosis, root)
    if not diagnosis.healthy:
        raise typer.Exit(1)


def _print(diagnosis: "Diagnosis", root: Path) -> None:
    from harmonet.data.doctor import COLUMNS, LEVELS

    if diagnosis.rows:
        print_table(str(root), COLUMNS, (row.cells() for row in diagnosis.rows))
    if diagnosis.dataset is not None and (lacking := diagnosis.lacking):
        platforms = diagnosis.dataset.platforms
        rows = [[subject, *("-" if p in names else "yes" for p in platforms)] for subject, names in lacking.items()]
        print_table("subjects that lack a platform", ("subject", *platforms), rows)
    for level in LEVELS:
        if found := diagnosis.of(level):
            for finding in found:
                typer.echo(str(finding))
            typer.echo("")
    typer.echo(diagnosis.verdict)
