"""`harmonet compose`: networks and a fusion into a verified recipe."""

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harmonet.cli.console import Force, Json, note, print_json, print_table
from harmonet.errors import NotFoundError, OutputError, RecipeError, nearest

if TYPE_CHECKING:
    from harmonet.platforms import Task


def compose(
    single: Annotated[
        list[str],
        typer.Option(help="Networks: NAME is a candidate for every platform, PLATFORM=NAME or PLATFORM=RUN pins one."),
    ],
    fusion: Annotated[str | None, typer.Option(help="Fusion that joins them; none for the networks alone.")] = None,
    target: Annotated[
        list[str] | None, typer.Option(help="Platform that the fusion refines; all where not given.")
    ] = None,
    tap: Annotated[list[str] | None, typer.Option(help="Layer to tap: [PLATFORM.]NETWORK=LAYER.")] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(help="Option of the fusion, KEY=VALUE, or of another part, NAME.KEY=VALUE."),
    ] = None,
    platforms: Annotated[str | None, typer.Option(help="Preset, or a TOML file with [source] and [[target]].")] = None,
    data: Annotated[Path | None, typer.Option(help="Read the platforms from this data set.")] = None,
    source: Annotated[str, typer.Option(help="With --data: the platform that is read.")] = "ge_st",
    shell: Annotated[
        list[float] | None, typer.Option(help="With --data: b-value to use (repeatable); all shared ones if not given.")
    ] = None,
    representation: Annotated[str, typer.Option(help="How signals become channels.")] = "sh_signal",
    order: Annotated[int | None, typer.Option(help="SH order of the representation; 6 where not given.")] = None,
    split: Annotated[
        str | None, typer.Option(help="Test on a fold such as 2/5; or 'paper', which leaks and is marked so.")
    ] = None,
    patch_size: Annotated[int, typer.Option(help="Edge of a source patch in voxels, odd.")] = 11,
    out: Annotated[Path | None, typer.Option(help="Write the recipe here.")] = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Compose networks and a fusion, verify the wiring by a dry run, and write a recipe.

    Example: harmonet compose --single diqt,shresnet --fusion msp --out recipe.toml

    Example: harmonet compose --single prisma_st=shresnet --single diqt --fusion msp --target connectom_sa
    """
    if out is not None and out.exists() and not force:
        raise OutputError(f"{out} exists: add --force to replace it, or choose another name.")
    task = _task(platforms, data, source, shell or ())

    from harmonet.build import recipe_of
    from harmonet.recipe import to_toml
    from harmonet.runs.members import wiring_of

    recipe = recipe_of(
        task,
        candidates_of(single, task.target_names),
        fusion=fusion,
        refine=target,
        taps=dict(_tap(text) for text in tap or ()),
        options=_options(option or (), fusion),
        representation=representation,
        order=order,
        split=split,
        patch_size=patch_size,
    )
    wires, parameters = wiring_of(recipe)
    if json:
        print_json({"wiring": [vars(wire) for wire in wires], "parameters": parameters})
    else:
        print_wiring(wires, parameters, fusion)
    if out is not None:
        from harmonet.files import write_whole

        write_whole(out, to_toml(recipe).encode())
        note(f"wrote {out}")


def candidates_of(singles: Sequence[str], targets: Sequence[str]) -> dict[str, list[str]]:
    """Candidates of each target platform: a bare name stands for all of them, `platform=name` pins one.

    >>> candidates_of(["diqt,shresnet", "b=diqt"], ["a", "b"])
    {'a': ['diqt', 'shresnet'], 'b': ['diqt']}
    """
    bare: list[str] = []
    pinned: dict[str, list[str]] = {}
    for word in (word.strip() for text in singles for word in text.split(",")):
        platform, is_pin, name = word.rpartition("=")
        if not name or (is_pin and not platform):
            raise RecipeError(f"--single {word!r} names no network: write NAME, PLATFORM=NAME or PLATFORM=RUN.")
        if not is_pin:
            bare.append(name)
        elif platform in targets:
            pinned.setdefault(platform, []).append(name)
        else:
            raise NotFoundError(f"--single {word}: {platform!r} is no target platform. {nearest(platform, targets)}")
    empty = [platform for platform in targets if not (bare or platform in pinned)]
    if empty:
        raise RecipeError(f"no network for {', '.join(empty)}: add --single NAME or --single {empty[0]}=NAME.")
    return {platform: pinned.get(platform, list(dict.fromkeys(bare))) for platform in targets}


def print_wiring(wires: Sequence[Any], parameters: int, fusion: str | None) -> None:
    """The wiring table: each candidate, what is tapped, and how that reaches the targets."""
    rows = []
    for wire in wires:
        tap = ", ".join(f"{layer} {_size(wire.features[name])}" for name, layer in wire.taps.items()) or "-"
        reaches = "\n".join(f"{target}: {layers}" for target, layers in wire.connections.items()) or "-"
        rows.append([wire.platform, wire.network, tap, _size(wire.prediction), reaches, f"{wire.parameters:,}"])
    print_table(
        f"Wiring, fusion {fusion or 'none'}",
        ["platform", "network", "tap (channels @ voxels)", "prediction", "connection networks", "parameters"],
        rows,
        numbers=1,
    )
    note(f"the composed model has {parameters:,} parameters with the first candidate of each platform")


def _size(size: Sequence[int]) -> str:
    return f"{size[0]} @ {' x '.join(map(str, size[1:]))}"


def _tap(text: str) -> tuple[str, list[str]]:
    name, given, layers = text.partition("=")
    if not (given and name and layers):
        raise RecipeError(f"--tap {text!r} names no layer: write [PLATFORM.]NETWORK=LAYER.")
    return name, layers.split(",")


def _options(texts: Sequence[str], fusion: str | None) -> dict[str, dict[str, Any]]:
    """Options by the name of what they belong to; without a name, to the fusion."""
    options: dict[str, dict[str, Any]] = {}
    for text in texts:
        key, given, value = text.partition("=")
        owner, _, key = key.rpartition(".")
        owner = owner or fusion or ""
        if not (given and key and owner):
            raise RecipeError(f"--option {text!r} is not understood: write KEY=VALUE (fusion) or NAME.KEY=VALUE.")
        options.setdefault(owner, {})[key] = option_value(value)
    return options


def option_value(text: str) -> Any:
    """The value as TOML reads it (3, 0.5, true, [1, 2]), or the text itself."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _task(platforms: str | None, data: Path | None, source: str, shells: Sequence[float]) -> "Task":
    from harmonet.platforms import PRESETS, preset

    if data is not None:
        if platforms is not None:
            raise RecipeError("--platforms and --data both say which platforms there are: give one of them.")
        from harmonet.data.layout import open_dataset
        from harmonet.reading import task_of

        return task_of(open_dataset(data), source, shells)
    if platforms is None or platforms in PRESETS:
        return preset(platforms or "cdmri2017")
    path = Path(platforms)
    if not path.is_file():
        raise NotFoundError(
            f"--platforms {platforms}: no such file, and no preset of that name. {nearest(platforms, PRESETS)}"
        )
    from harmonet.recipe import read_task

    return read_task(path)
