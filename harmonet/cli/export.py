"""`harmonet export`: a trained model as one folder or file for others."""

from pathlib import Path
from typing import Annotated

import typer

from harmonet.cli.console import Force, note, print_json, print_table
from harmonet.errors import RunError


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write, or a file where it ends in .zip.")],
    licence: Annotated[str, typer.Option(metavar="TEXT", help="Of the weights, such as CC-BY-4.0.")] = "",
    failure: Annotated[
        list[str] | None, typer.Option(metavar="TEXT", help="A known failure, for the card. May be given twice.")
    ] = None,
    scores: Annotated[
        Path | None, typer.Option(metavar="FILE", help="scores.json of `harmonet eval --out`, for the card.")
    ] = None,
    program: Annotated[
        Path | None, typer.Option(metavar="FILE.pt2", help="Also write it as a program of torch.export.")
    ] = None,
    force: Force = False,
) -> None:
    """Write a model that travels: weights, recipe, card, and a test input with the expected output.

    Subjects' names and paths of this machine stay behind. Whoever gets it checks it with `harmonet show OUT --verify`
    and uses it in place of a run folder.

    Example: harmonet export runs/msp msp.zip --licence CC-BY-4.0 --scores results/scores.json
    """
    from harmonet.runs import load
    from harmonet.runs.export import export as export_run
    from harmonet.runs.export import opened
    from harmonet.runs.program import write_program

    with opened(run) as folder:
        trained = load(folder)
        export_run(trained, out, licence=licence, failures=failure or (), scores=scores, force=force)
        if program is not None:
            platforms = write_program(trained, program, force=force)
            note(f"wrote {program}: standardised patches in, standardised {', '.join(platforms)} out")
    if not licence:
        note("no licence was given: the card tells others to ask you, or use --licence")
    if scores is None:
        note("no scores were given: the card says so, or use --scores")
    note(f"wrote {out}")


def show_model(path: Path, *, verify: bool, json: bool) -> None:
    """Show what a model is, and with `verify` hold it against its expected output.

    Raises:
        RunError: It gives something else here.
    """
    from harmonet.runs import load
    from harmonet.runs.card import summary
    from harmonet.runs.export import TOLERANCE, opened
    from harmonet.runs.export import verify as differences

    with opened(path) as folder:
        run = load(folder)
        apart = differences(run) if verify else {}
    told = summary(run)
    if json:
        print_json(told | ({"differences": apart, "tolerance": TOLERANCE} if verify else {}))
    else:
        rows = [[f"{platform}, difference", f"{value:.2e} of RMS"] for platform, value in apart.items()]
        print_table(f"model {path}", ["card", ""], [*map(list, told.items()), *rows])
    if wrong := [platform for platform, value in apart.items() if not value <= TOLERANCE]:
        raise RunError(
            f"{path} does not reproduce its expected output of {', '.join(wrong)} within {TOLERANCE:g} of RMS: do not "
            "use it here; copy it again, or use the versions of harmonet and torch that it names."
        )
    if verify:
        note(f"{path} reproduces its expected output within {TOLERANCE:g} of RMS")
