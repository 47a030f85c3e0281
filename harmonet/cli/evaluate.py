"""`harmonet eval`: scores of runs on held-out subjects."""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harmonet.cli.console import Force, Json, Progress, keep_out_of, note, print_json, print_table
from harmonet.cli.train import Accept, AutoMask, reading_of
from harmonet.errors import NotFoundError, OutputError, nearest

if TYPE_CHECKING:
    from harmonet.evaluation import Evaluation
    from harmonet.evaluation.forms import Table

ROUTINE = "routine"


def eval_(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, or folders of a sweep's run folders.")],
    data: Annotated[Path, typer.Option(help="Travelling heads with the test subjects.")],
    out: Annotated[Path | None, typer.Option(help="Folder for scores, tables, figures and the report.")] = None,
    metrics: Annotated[
        str, typer.Option(help="Names of `harmonet list metrics`, joined by commas; 'routine' or 'all'.")
    ] = ROUTINE,
    labels: Annotated[
        str | None, typer.Option(help="Label maps for regional errors: a path with {subject} and perhaps {platform}.")
    ] = None,
    protocol: Annotated[
        str, typer.Option(help="'subjects', or 'paper': also the paper's test over patches, which proves nothing.")
    ] = "subjects",
    allow_leak: Annotated[
        bool, typer.Option("--allow-leak", help="Score subjects that were trained on; every output is marked.")
    ] = False,
    mask: AutoMask = None,
    accept: Accept = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Score runs on their held-out test subjects, beside the single networks in them and the baselines.

    Folds and seeds of a sweep share their rows: seeds are averaged within each subject, and each subject is predicted
    by the runs that held it out.

    Example: harmonet eval runs/msp --data heads --out results

    Example: harmonet eval runs/cv --data heads --metrics sh_mse,fa_mse,md_mse
    """
    if out is not None:
        keep_out_of(out, data, *runs)
        if out.exists() and not force:
            raise OutputError(f"{out} exists: add --force to replace it, or choose another folder.")
    from harmonet.data.layout import open_dataset
    from harmonet.evaluation import evaluate, run_folders
    from harmonet.evaluation.score import PROTOCOLS
    from harmonet.report import refuse_foreign, write_report
    from harmonet.runs import load

    if protocol not in PROTOCOLS:
        raise NotFoundError(f"--protocol {protocol!r} is none. {nearest(protocol, PROTOCOLS)}")
    if out is not None:
        refuse_foreign(out)
    trained = [load(run) for run in run_folders(runs)]
    dataset = open_dataset(data)
    reading = reading_of(data, mask, accept)
    wanted = [word.strip() for word in metrics.split(",") if word.strip()]
    with Progress() as progress:
        evaluation = evaluate(
            trained,
            dataset,
            progress,
            allow_leak=allow_leak,
            reading=reading,
            metrics=wanted,
            labels=labels,
            protocol=protocol,
        )
    if json:
        print_json(evaluation.as_json())
    else:
        print_scores(evaluation, [name for name in wanted if name in evaluation.metrics])
    if out is not None:
        page = write_report(evaluation, trained, out, command=typed())
        note(f"wrote {page}")


def typed() -> str:
    """The command as it was typed, quoted for a shell."""
    return shlex.join(["harmonet", *sys.argv[1:]])


def print_scores(evaluation: "Evaluation", named: list[str] | None = None) -> None:
    """The table of errors, that of each metric that was asked for by name, and what can be said of differences."""
    from harmonet.evaluation.result import MAIN
    from harmonet.evaluation.tables import comparison_table, patch_table, scores_table

    shown = list(dict.fromkeys([MAIN, *(named or ())]))
    notes: dict[str, None] = {}
    for metric in shown:
        notes |= _print(scores_table(evaluation, metric))
    for metric in shown:
        notes |= _print(comparison_table(evaluation, evaluation.references[-1], metric))
    if evaluation.patched:
        notes |= _print(patch_table(evaluation))
    for sentence in notes:
        note(sentence)
    more = len(evaluation.metrics) - len(shown)
    if more:
        note(f"{more} more metrics were measured: see --json or --out, or name them with --metrics")


def _print(table: "Table") -> dict[str, None]:
    """Print a table, the best in bold; gives back the sentences that belong to it."""
    if table.rows:
        rows = [[cell.text for cell in row] for row in table.rows]
        bold = {(i, j) for i, row in enumerate(table.rows) for j, cell in enumerate(row) if cell.best}
        print_table(table.title, table.columns, rows, numbers=len(table.columns) - table.words, bold=bold)
    return dict.fromkeys(table.notes)
