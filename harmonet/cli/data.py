"""`harmonet data check`: the doctor."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harmonet.cli.console import Json, Progress, note, print_json, print_table
from harmonet.cli.train import AutoMask, wants_auto_mask
from harmonet.errors import DataError, HarmonetError, nearest

if TYPE_CHECKING:
    from harmonet.data.acquisition import Acquisition
    from harmonet.data.layout import TravellingHeads
    from harmonet.data.scan import Scan

app = typer.Typer(help="Look at data sets.", no_args_is_help=True, rich_markup_mode=None)

COLUMNS = ("subject", "platform", "voxels", "mm", "b (s/mm²)", "directions", "b0", "mask", "verdict")


@app.callback()
def _data() -> None:
    """Look at data sets."""


@app.command()
def check(
    root: Annotated[Path, typer.Argument(metavar="DIR", help="Data set.")],
    source: Annotated[str, typer.Option(help="Platform that is read: the others must lie on its grid.")] = "ge_st",
    mask: AutoMask = None,
    json: Json = False,
) -> None:
    """Read every acquisition and say what is usable, what is wrong and how to mend it.

    Example: harmonet data check heads
    """
    from harmonet.data.layout import examine

    auto_mask = wants_auto_mask(mask)
    if not root.is_dir():
        raise DataError(f"{root} is no folder: name the folder of the data set.")
    rows: list[dict[str, Any]] = []
    try:
        dataset, wrong = examine(root)
    except DataError as error:  # nothing to look at: no acquisition at all, or unreadable facts
        problems = [str(error)]
    else:
        with Progress() as progress:
            rows, found = _read_all(dataset, source, auto_mask, progress)
        problems = [*map(str, wrong), *found]
    if json:
        print_json({"acquisitions": rows, "problems": problems})
    else:
        if rows:
            print_table(str(root), COLUMNS, [[str(row[c]) for c in COLUMNS] for row in rows])
        for problem in problems:
            typer.echo(f"problem: {problem}")
        typer.echo(
            f"{len(rows)} acquisitions, {len(problems)} problems"
            if problems
            else f"{len(rows)} acquisitions, all usable"
        )
    if problems:
        raise typer.Exit(1)


def _read_all(
    dataset: "TravellingHeads", source: str, auto_mask: bool, progress: Progress
) -> tuple[list[dict[str, Any]], list[str]]:
    """A row per acquisition, and everything that is wrong."""
    from harmonet.data.scan import read_scan
    from harmonet.platforms import Grid, align

    if dataset.label:
        note(f"data: {dataset.label}")
    rows, problems = [], []
    grids: dict[tuple[str, str], Grid] = {}
    for number, (key, acquisition) in enumerate(sorted(dataset.acquisitions.items())):
        progress("checking", number + 1, len(dataset.acquisitions), "/".join(key))
        try:
            scan = read_scan(acquisition, auto_mask=auto_mask)
        except HarmonetError as error:
            problems.append(str(error))
            rows.append(_row(acquisition, None, "unusable"))
        else:
            grids[key] = scan.grid
            rows.append(_row(acquisition, scan, "usable"))
    if source not in dataset.platforms:
        problems.append(
            f"{dataset.root} has no platform {source!r} to hold the other grids against: name it with --source. "
            f"{nearest(source, dataset.platforms)}"
        )
    for (subject, platform), grid in grids.items():
        if platform == source or (subject, source) not in grids:
            continue
        lattice = grids[subject, source]
        factor = max(1, round(lattice.voxel_size[0] / grid.voxel_size[0]))
        try:
            align(lattice, grid, factor)
        except HarmonetError as error:
            problems.append(f"{subject} {platform} against {source}: {error}")
    for subject in dataset.subjects:
        missing = [p for p in dataset.platforms if (subject, p) not in dataset.acquisitions]
        if missing:
            problems.append(f"{subject} lacks {', '.join(missing)}: it cannot be used for those platforms.")
    return rows, problems


def _row(acquisition: "Acquisition", scan: "Scan | None", verdict: str) -> dict[str, Any]:
    row = dict.fromkeys(COLUMNS, "") | {
        "subject": acquisition.subject,
        "platform": acquisition.platform,
        "verdict": verdict,
    }
    if scan is None:
        return row
    from harmonet.data.gradients import shells

    return row | {
        "voxels": " x ".join(map(str, scan.grid.shape)),
        "mm": " x ".join(f"{edge:.3g}" for edge in scan.grid.voxel_size),
        "b (s/mm²)": ", ".join(f"{b:g}" for b in shells(scan.bvals)),
        "directions": int(scan.is_dwi.sum()),
        "b0": int((~scan.is_dwi).sum()),
        "mask": f"{scan.mask.mean():.0%}",
    }
