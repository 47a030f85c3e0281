"""`harmonet eval`: scores of runs on held-out subjects."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harmonet.cli.console import Force, Json, Progress, keep_out_of, note, print_json, print_table
from harmonet.cli.train import Accept, AutoMask, reading_of
from harmonet.errors import OutputError

if TYPE_CHECKING:
    from harmonet.evaluation import Evaluation


def eval_(
    runs: Annotated[list[Path], typer.Argument(help="Run folders.")],
    data: Annotated[Path, typer.Option(help="Travelling heads with the test subjects.")],
    out: Annotated[Path | None, typer.Option(help="Folder for scores, figures and the report.")] = None,
    allow_leak: Annotated[
        bool, typer.Option("--allow-leak", help="Score subjects that were trained on; every output is marked.")
    ] = False,
    mask: AutoMask = None,
    accept: Accept = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Score runs on their held-out test subjects, beside the single networks in them and the baselines.

    Example: harmonet eval runs/msp --data heads --out results
    """
    if out is not None:
        keep_out_of(out, data, *runs)
        if out.exists() and not force:
            raise OutputError(f"{out} exists: add --force to replace it, or choose another folder.")
    from harmonet.data.layout import open_dataset
    from harmonet.evaluation import evaluate
    from harmonet.report import refuse_foreign, write_report
    from harmonet.runs import load

    if out is not None:
        refuse_foreign(out)
    trained = [load(run) for run in runs]
    dataset = open_dataset(data)
    reading = reading_of(data, mask, accept)
    with Progress() as progress:
        evaluation = evaluate(trained, dataset, progress, allow_leak=allow_leak, reading=reading)
    if json:
        print_json(evaluation.as_json())
    else:
        print_scores(evaluation)
    if out is not None:
        page = write_report(evaluation, trained, out)
        note(f"wrote {page}")


def print_scores(evaluation: "Evaluation") -> None:
    """The table of errors: a row per method, mean and standard deviation over test subjects."""
    from harmonet.report import summary

    references = evaluation.references
    columns = [f"{platform}\nagainst {reference}" for platform in evaluation.platforms for reference in references]
    rows: list[list[Any]] = []
    for method in evaluation.methods:
        cells = [
            summary(evaluation.values(method, platform, reference))
            for platform in evaluation.platforms
            for reference in references
        ]
        rows.append([method, *cells])
    n = len(evaluation.subjects)
    title = f"Mean squared error of {evaluation.measure} in 1e-3, in-mask voxels of whole volumes, {n} test subject(s)"
    print_table(title, ["method", *columns], rows, numbers=len(columns))
    if evaluation.label:
        note(f"data: {evaluation.label}")
    if evaluation.leaky:
        note("LEAKY: test subjects were trained on; these numbers say nothing about new subjects")
