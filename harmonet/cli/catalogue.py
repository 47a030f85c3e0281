"""`harmonet list` and `harmonet show`: what is registered, and what it is made of."""

import sys
from enum import StrEnum
from pathlib import Path
from shutil import get_terminal_size
from textwrap import fill
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harmonet.cli.compose import option_value
from harmonet.cli.console import Json, note, print_json, print_table
from harmonet.cli.export import show_model
from harmonet.errors import NotFoundError, RecipeError, nearest

if TYPE_CHECKING:
    from harmonet.registry import ConnectionEntry, Entry, Registry

MOST_NAMES = 3  # that the table of plugins spells out for one hook
VERSION_LENGTH = 12  # of a file's SHA-256 in that table


class Kind(StrEnum):
    """What can be listed."""

    networks = "networks"
    fusions = "fusions"
    representations = "representations"
    connections = "connections"
    losses = "losses"
    weightings = "weightings"
    metrics = "metrics"
    methods = "methods"
    plugins = "plugins"


def _registries() -> "dict[Kind, Registry[Any]]":
    from harmonet.registry import CONNECTIONS, FUSIONS, LOSSES, METHODS, METRICS, NETWORKS, REPRESENTATIONS, WEIGHTINGS

    return {
        Kind.networks: NETWORKS,
        Kind.fusions: FUSIONS,
        Kind.representations: REPRESENTATIONS,
        Kind.connections: CONNECTIONS,
        Kind.losses: LOSSES,
        Kind.weightings: WEIGHTINGS,
        Kind.metrics: METRICS,
        Kind.methods: METHODS,
    }


def list_(
    kind: Annotated[Kind, typer.Argument(help="What to list.")],
    pattern: Annotated[str, typer.Argument(help="Wildcard pattern of names.")] = "*",
    json: Json = False,
) -> None:
    """List what is registered, from whom, with which paper.

    Example: harmonet list networks '*res*'
    """
    rows = _plugin_rows(pattern) if kind is Kind.plugins else _entry_rows(kind, pattern)
    if json:
        print_json(rows)
    elif rows and kind is Kind.plugins:
        _print_plugins(rows)
    elif rows:
        columns = list(rows[0])
        print_table(kind.value, columns, [[_shown(row[c]) for c in columns] for row in rows])
    else:
        note(f"no {kind.value} match {pattern!r}")


def _plugin_rows(pattern: str) -> list[dict[str, Any]]:
    from fnmatch import fnmatchcase

    from harmonet import plugins

    return [
        {
            "plugin": plugin.name,
            "package": plugin.package,
            "version": plugin.version,
            "file": None if plugin.file is None else str(plugin.file),
            "api": plugin.api,
            "hooks": {hook: list(names) for hook, names in plugin.hooks.items()},
            "brings": list(plugin.entries),
            "state": plugin.state,
            "problem": plugin.problem or "",
        }
        for plugin in plugins.load()
        if fnmatchcase(plugin.name, pattern) or fnmatchcase(plugin.package, pattern)
    ]


def _print_plugins(rows: list[dict[str, Any]]) -> None:
    """A table of plugins, and below it a paragraph for each that is not loaded: a reason is too long for a cell."""
    print_table(
        "plugins",
        ["plugin", "package", "brings", "state"],
        [[row["plugin"], _package_words(row), _brings_words(row), row["state"]] for row in rows],
    )
    for row in rows:
        if row["problem"]:
            words = f"{row['plugin']} of {row['package']} is {row['state']}: {row['problem']}"
            # Away from a terminal a paragraph is one line, for programs to read.
            width = get_terminal_size().columns if sys.stdout.isatty() else sys.maxsize
            typer.echo(fill(words, width, subsequent_indent="  ", break_on_hyphens=False))


def _package_words(row: dict[str, Any]) -> str:
    """Package, version and plugin API of a plugin, in two lines."""
    version = row["version"][: VERSION_LENGTH if row["file"] else None]
    api = None if row["api"] is None else f"API {row['api']}"
    return f"{row['package']}\n{', '.join(filter(None, [version, api]))}"


def _brings_words(row: dict[str, Any]) -> str:
    """A line for each hook that a plugin answers: the names of its entries, or how many where they are many.

    >>> _brings_words({"hooks": {"harmonet_networks": ["tiny"], "harmonet_losses": [f"l{i}" for i in range(9)]}})
    'networks: tiny\\nlosses: 9'
    """
    return "\n".join(
        f"{hook.removeprefix('harmonet_')}: {', '.join(names) if 0 < len(names) <= MOST_NAMES else len(names)}"
        for hook, names in row["hooks"].items()
    )


def _entry_rows(kind: Kind, pattern: str) -> list[dict[str, Any]]:
    from harmonet import plugins
    from harmonet.registry import MetricEntry, NetworkEntry

    plugins.load()
    registry, rows = _registries()[kind], []
    for name in registry.names(pattern):
        entry = registry.get(name)
        row: dict[str, Any] = {"name": name, "from": registry.provider(name), "summary": entry.summary}
        if isinstance(entry, NetworkEntry):
            row |= {"upsampling": list(entry.upsampling), "parameters": entry.parameters}
        if isinstance(entry, MetricEntry):
            row |= {"unit": entry.unit, "best": entry.best, "routine": entry.routine}
        rows.append(row | {"paper": str(entry.paper or "")})
    return rows


def show(
    name: Annotated[
        str, typer.Argument(help="Name of whatever `harmonet list` lists but a plugin; or a run or exported model.")
    ],
    channels: Annotated[int, typer.Option(min=1, help="Channels in and out.")] = 28,
    patch_size: Annotated[int, typer.Option(min=1, help="Edge of a source patch in voxels.")] = 11,
    upsampling: Annotated[int, typer.Option(help="For a network: 1 or 2.")] = 1,
    option: Annotated[list[str] | None, typer.Option(help="Option to build it with, KEY=VALUE (repeatable).")] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Hold an exported model against its expected output.")
    ] = False,
    json: Json = False,
) -> None:
    """Show a card and what was measured: for a network its layers with sizes, FLOPs and receptive field.

    A fusion is measured between three networks of the preset cdmri2017, a representation on the shell of that, a
    connection from features of a source patch to a prediction.

    Example: harmonet show shresnet --upsampling 2 --option blocks=1

    Example: harmonet show msp.zip --verify
    """
    if verify or _is_model(name):
        show_model(Path(name), verify=verify, json=json)
        return
    entry, kind = _find(name)
    chosen = dict(_option(text) for text in option or ())
    entry.check_options(chosen)
    card: dict[str, Any] = {
        "name": entry.name,
        "kind": kind,
        "summary": entry.summary,
        "paper": str(entry.paper or ""),
        "published": entry.published,
        "our choice": entry.our_choice,
        "options": entry.options() | chosen,
    }
    measured = _measured(entry, channels, patch_size, upsampling, chosen)
    layers = measured.pop("layers", ())
    card |= measured
    if json:
        print_json(card | ({"layers": layers} if layers else {}))
        return
    print_table(f"{kind} {name}", ["card", ""], [row for row in map(_card_row, card, card.values()) if row[1]])
    if layers:
        print_table(
            f"layers; sizes C x X x Y x Z of those that can be tapped, {channels} channels, patch of {patch_size} "
            f"voxels, upsampling {upsampling}",
            ["layer", "class", "tap", "size", "parameters"],
            [_layer_row(layer) for layer in layers],
            numbers=1,
        )


def _measured(
    entry: "Entry", channels: int, patch_size: int, upsampling: int, options: dict[str, Any]
) -> dict[str, Any]:
    from harmonet.registry import ConnectionEntry, FusionEntry, MetricEntry, NetworkEntry, RepresentationEntry
    from harmonet.report import zoo

    try:
        if isinstance(entry, NetworkEntry):
            return zoo.of_network(entry, channels, patch_size, upsampling, options)
        if isinstance(entry, FusionEntry):
            return zoo.of_fusion(entry, channels, patch_size, options)
        if isinstance(entry, RepresentationEntry):
            return zoo.of_representation(entry, options)
        if isinstance(entry, ConnectionEntry):
            return _of_connection(entry, channels, patch_size, upsampling, options)
        if isinstance(entry, MetricEntry):
            return {"unit": entry.unit, "best": entry.best, "routine": entry.routine}
        return {}  # a loss, a weighting or a method is no more than its card
    except (TypeError, ValueError) as error:  # an option of the wrong kind, such as text for a number
        if not options:
            raise
        told = ", ".join(f"{key}={value!r}" for key, value in options.items())
        raise RecipeError(f"{entry.name} cannot be built with {told}: {error}.") from None


def _of_connection(
    entry: "ConnectionEntry", channels: int, patch_size: int, upsampling: int, options: dict[str, Any]
) -> dict[str, Any]:
    """What is measured of a connection network from one feature of a source patch's size."""
    from harmonet.blocks.connection import count_parameters
    from harmonet.platforms import target_patch_size
    from harmonet.report.zoo import times

    edge = target_patch_size(patch_size, upsampling)
    feature, prediction = (channels, *[patch_size] * 3), (channels, *[edge] * 3)
    built = entry.load()([feature], prediction, **options)
    return {
        "measured between": f"{times(feature)} and {times(prediction)}",
        "parameters": count_parameters(built),
    }


def _is_model(name: str) -> bool:
    """Whether a place is meant: written as one, or there and not a registered name."""
    from harmonet import plugins

    if "/" in name or name.endswith(".zip"):
        return True
    plugins.load()
    return Path(name).is_dir() and not any(name in registry for registry in _registries().values())


def _option(text: str) -> tuple[str, Any]:
    key, given, value = text.partition("=")
    if not (given and key):
        raise RecipeError(f"--option {text!r} is not understood: write KEY=VALUE.")
    return key, option_value(value)


def _layer_row(layer: dict[str, Any]) -> list[str]:
    size = "" if layer["size"] is None else " x ".join(map(str, layer["size"]))
    return [
        "  " * layer["layer"].count(".") + layer["layer"],
        layer["class"],
        layer["tap"],
        size,
        f"{layer['parameters']:,}" if layer["parameters"] else "",
    ]


def _find(name: str) -> "tuple[Entry, str]":
    from harmonet import plugins

    broken = plugins.left_out()
    for registry in _registries().values():
        if name in registry:
            return registry.get(name), registry.kind
    known = [known for registry in _registries().values() for known in registry.names()]
    raise NotFoundError(f"nothing is registered as {name!r}. {nearest(name, known)}{broken}")


def _card_row(key: str, value: Any) -> list[str]:
    from harmonet.report.zoo import field_text, times

    if key == "receptive field":
        return [key, field_text(value)]
    if key == "prediction":
        return [key, times(value)]
    if key == "tap sizes":
        value = {name: times(size) for name, size in value.items()}
    if isinstance(value, dict):
        link = " = " if key == "options" else ": "
        return [key, ", ".join(f"{name}{link}{item}" for name, item in value.items())]
    return [key, _shown(value)]


def _shown(value: object) -> str:
    """A value as a cell shows it: thousands set apart, lists on one line."""
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if value is None else f"{value:,}" if isinstance(value, int) else str(value)
