"""The command line: one file per verb, and one place where errors become exit statuses.

Data go to stdout, notes and progress to stderr. Exit status: 0 done; 1 a check or run failed; 2 the user's input is
wrong; 130 interrupted, 143 terminated.
"""

import os
import signal
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from harmonet.cli import (
    benchmark,
    catalogue,
    check,
    compose,
    data,
    demo,
    evaluate,
    export,
    plugin,
    predict,
    simulate,
    train,
)
from harmonet.errors import HarmonetError
from harmonet.interruption import Stopped

PLUGIN = "--plugin"
PLUGIN_FILES = "HARMONET_PLUGIN_FILES"  # as `harmonet.finding` reads it, which is imported when plugins are needed


class _Verbs(TyperGroup):
    """The verbs; `--plugin FILE` is understood after a verb as before it."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, plugins_first(args))


def plugins_first(words: list[str]) -> list[str]:
    """The words with every `--plugin FILE` before the others.

    >>> plugins_first(["show", "odd", "--plugin", "mine.py", "--", "--plugin"])
    ['--plugin', 'mine.py', 'show', 'odd', '--', '--plugin']
    """
    first: list[str] = []
    others: list[str] = []
    rest = iter(words)
    for word in rest:
        if word == "--":
            others += [word, *rest]
        elif word == PLUGIN:
            file = next(rest, None)
            if file is None:
                return [word]  # is refused, since it wants a file
            first += [word, file]
        else:
            (first if word.startswith(f"{PLUGIN}=") else others).append(word)
    return first + others


app = typer.Typer(
    name="harmonet",
    cls=_Verbs,
    help="Learn from travelling heads to turn diffusion MRI of one scanner into that of another.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("demo")(demo.demo)
app.command("simulate")(simulate.simulate)
app.add_typer(data.app, name="data")
app.command("list")(catalogue.list_)
app.command("show")(catalogue.show)
app.command("compose")(compose.compose)
app.command("train")(train.train)
app.command("eval")(evaluate.eval_)
app.command("predict")(predict.predict)
app.command("export")(export.export)
app.command("benchmark")(benchmark.benchmark)
app.command("check")(check.check)
app.add_typer(plugin.app, name="plugin")


@app.callback(invoke_without_command=True)
def _options(
    version: Annotated[bool, typer.Option("--version", help="Print the version and end.")] = False,
    plugin: Annotated[
        list[Path] | None,
        typer.Option(
            PLUGIN,
            metavar="FILE.py",
            exists=True,
            dir_okay=False,
            help="Use what this file registers; it is run as it is (repeatable, and after a verb too).",
        ),
    ] = None,
) -> None:
    if plugin:  # by the environment, so that processes begun by this one have it too
        before = filter(None, [os.environ.get(PLUGIN_FILES)])
        os.environ[PLUGIN_FILES] = os.pathsep.join([*before, *(str(file.resolve()) for file in plugin)])
    if version:
        from harmonet import __version__

        typer.echo(__version__)
        raise typer.Exit


def main() -> NoReturn:
    """Run the command line; a user's mistake ends with one sentence and no traceback."""
    # Idle OpenMP threads sleep instead of spinning: on a busy machine that is the difference between hours and minutes.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # an ASCII terminal shows ? for what it cannot show
    warnings.showwarning = _one_line
    signal.signal(signal.SIGTERM, _stop)
    if hasattr(signal, "SIGUSR1"):
        signal.signal(signal.SIGUSR1, _stop)  # a cluster's word that time is nearly up
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # a shell lets background jobs ignore it
        signal.signal(signal.SIGINT, _stop)  # a KeyboardInterrupt would end inside typer, without a word
    try:
        app()
    except HarmonetError as error:
        # Of several processes all find the same fault in the user's input, and one says so.
        if error.exit_status != 2 or os.environ.get("LOCAL_RANK", "0") == "0":
            typer.echo(f"harmonet: {error}", err=True)
        sys.exit(error.exit_status)
    sys.exit(0)


def _one_line(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    typer.echo(f"harmonet: {category.__name__}: {message}", err=True)


def _stop(number: int, *_: Any) -> NoReturn:
    typer.echo(f"harmonet: {'interrupted' if number == signal.SIGINT else 'terminated'}", err=True)
    raise Stopped(128 + number)
