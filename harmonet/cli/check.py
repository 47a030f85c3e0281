"""`harmonet check`: the conformance kit."""

from dataclasses import asdict
from typing import Annotated

import typer

from harmonet.cli.console import Json, Progress, print_json, print_table


def check(
    name: Annotated[str, typer.Argument(help="Name of a network, fusion or method.")],
    json: Json = False,
) -> None:
    """Check that a network, fusion or method keeps what harmonet promises of it.

    Exit status 1 where a check fails, 0 where all pass or fail as the card declares.

    Example: harmonet check shresnet
    """
    from harmonet.testing import checks_of, examine

    total, results = len(checks_of(name)), []
    with Progress() as progress:
        for result in examine(name):
            results.append(result)
            progress(f"check {name}", len(results), total, result.check)
    if json:
        print_json([asdict(result) for result in results])
    else:
        rows = [[r.check, r.result, f"{r.seconds:.1f}", r.words] for r in results]
        print_table(name, ["check", "result", "seconds", "words"], rows)
        kept = sum(result.result != "failed" for result in results)
        typer.echo(f"{name}: {kept} of {total} checks are kept")
    if any(result.result == "failed" for result in results):
        raise typer.Exit(1)
