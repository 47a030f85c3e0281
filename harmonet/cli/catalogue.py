"""`harmonet list` and `harmonet show`: what is registered."""

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harmonet.cli.console import Json, note, print_json, print_table
from harmonet.errors import NotFoundError, nearest

if TYPE_CHECKING:
    from harmonet.registry import Entry, Registry


class Kind(StrEnum):
    """What can be listed."""

    networks = "networks"
    fusions = "fusions"
    representations = "representations"
    plugins = "plugins"


def _registries() -> "dict[Kind, Registry[Any]]":
    from harmonet.registry import FUSIONS, NETWORKS, REPRESENTATIONS

    return {Kind.networks: NETWORKS, Kind.fusions: FUSIONS, Kind.representations: REPRESENTATIONS}


def list_(
    kind: Annotated[Kind, typer.Argument(help="What to list.")],
    pattern: Annotated[str, typer.Argument(help="Wildcard pattern of names.")] = "*",
    json: Json = False,
) -> None:
    """List what is registered, from whom, with which paper.

    Example: harmonet list networks '*res*'
    """
    from harmonet import plugins

    found = plugins.load()
    if kind is Kind.plugins:
        rows = [
            {
                "plugin": plugin.name,
                "package": plugin.package,
                "version": plugin.version,
                "state": "left out" if plugin.problem else "loaded",
                "brings": list(plugin.entries),
                "problem": plugin.problem or "",
            }
            for plugin in found
        ]
    else:
        registry = _registries()[kind]
        rows = [
            {
                "name": name,
                "from": registry.provider(name),
                "summary": registry.get(name).summary,
                "paper": str(registry.get(name).paper or ""),
            }
            for name in registry.names(pattern)
        ]
    if json:
        print_json(rows)
    elif rows:
        columns = list(rows[0])
        print_table(kind.value, columns, [[_cell(row[c]) for c in columns] for row in rows])
    else:
        note(f"no {kind.value} match {pattern!r}")


def _cell(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def show(
    name: Annotated[str, typer.Argument(help="Name of a network, fusion or representation.")],
    upsampling: Annotated[int, typer.Option(help="For a network: 1 or 2.")] = 1,
    json: Json = False,
) -> None:
    """Show a card: paper, options, and for a network the layers that can be tapped with their measured sizes.

    Example: harmonet show shresnet
    """
    from harmonet.registry import NetworkEntry

    entry, kind = _find(name)
    card: dict[str, Any] = {
        "name": entry.name,
        "kind": kind,
        "summary": entry.summary,
        "paper": str(entry.paper or ""),
        "published": entry.published,
        "our choice": entry.our_choice,
        "options": entry.options(),
    }
    layers: list[dict[str, Any]] = []
    if isinstance(entry, NetworkEntry):
        from harmonet.blocks.connection import count_parameters
        from harmonet.build import create_network
        from harmonet.taps import tappable_layers

        network = create_network(name, upsampling=upsampling)
        card |= {
            "upsampling": list(entry.upsampling),
            "taps": dict(entry.taps),
            "parameters": count_parameters(network),
        }
        layers = [{"layer": path, "size": list(size)} for path, size in tappable_layers(network, 28, 11).items()]
    if json:
        print_json(card | ({"layers": layers} if layers else {}))
        return
    print_table(f"{kind} {name}", ["card", ""], [[key, _shown(value)] for key, value in card.items() if value != ""])
    if layers:
        default = set(entry.taps.values()) if isinstance(entry, NetworkEntry) else set()
        rows = [
            [row["layer"] + (" (default tap)" if row["layer"] in default else ""), " x ".join(map(str, row["size"]))]
            for row in layers
        ]
        print_table("Layers that can be tapped, 28 channels, patch of 11 voxels", ["layer", "C x X x Y x Z"], rows)


def _find(name: str) -> "tuple[Entry, str]":
    from harmonet import plugins

    broken = plugins.left_out()
    for registry in _registries().values():
        if name in registry.names():
            return registry.get(name), registry.kind
    known = [known for registry in _registries().values() for known in registry.names()]
    raise NotFoundError(f"nothing is registered as {name!r}. {nearest(name, known)}{broken}")


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} = {item}" for key, item in value.items())
    return f"{value:,}" if isinstance(value, int) else _cell(value)
