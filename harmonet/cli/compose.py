"""`harmonet compose`: networks and a fusion into a verified recipe."""

import sys
import tomllib
from collections.abc import Mapping, Sequence
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from harmonet.cli.console import Force, Json, keep_out_of, note, print_json, print_table
from harmonet.errors import NotFoundError, OutputError, RecipeError, nearest

if TYPE_CHECKING:
    from harmonet.platforms import Task
    from harmonet.recipe import Recipe
    from harmonet.report.wiring import Outline

DRAWINGS = (".svg", ".mmd")


def compose(
    single: Annotated[
        list[str] | None,
        typer.Option(help="Networks: NAME is a candidate for every platform, PLATFORM=NAME or PLATFORM=RUN pins one."),
    ] = None,
    method: Annotated[str | None, typer.Option(help="In place of networks: a method that is none.")] = None,
    fusion: Annotated[str | None, typer.Option(help="Fusion that joins them; none for the networks alone.")] = None,
    target: Annotated[
        list[str] | None, typer.Option(help="Platform that the fusion refines; all where not given.")
    ] = None,
    tap: Annotated[list[str] | None, typer.Option(help="Layer to tap: [PLATFORM.]NETWORK=LAYER.")] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(help="Option of the fusion or method, KEY=VALUE, or of another part, NAME.KEY=VALUE."),
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
    freeze: Annotated[
        list[str] | None, typer.Option(help="Platform whose network keeps its weights in the composition's training.")
    ] = None,
    restandardise: Annotated[
        list[str] | None, typer.Option(help="Platform whose trained run may have another standardisation.")
    ] = None,
    loss: Annotated[str | None, typer.Option(help="Loss of one prediction; mse where not given.")] = None,
    weighting: Annotated[str | None, typer.Option(help="What weighs the losses; equal where not given.")] = None,
    gradients: Annotated[
        str | None, typer.Option(help="How the losses' gradients become one: sum, pcgrad, cagrad or upgrad.")
    ] = None,
    rate: Annotated[
        list[str] | None,
        typer.Option(help="Factor on a learning rate in the composition's training, PLATFORM=FACTOR or fusion=FACTOR."),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            help="Begin with a schedule: paper, or recommended, which is ours and faster; paper if not given."
        ),
    ] = None,
    graph: Annotated[Path | None, typer.Option(help="Draw the wiring here, as .svg or .mmd (Mermaid).")] = None,
    out: Annotated[Path | None, typer.Option(help="Write the recipe here.")] = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Compose networks and a fusion, verify the wiring by a dry run, and write a recipe.

    NAME@N is the network NAME with another seed. --tap, --freeze and other options of several values are repeated.

    Example: harmonet compose --single diqt,shresnet --fusion msp --out recipe.toml

    Example: harmonet compose --single diqt,shresnet --fusion msp --preset recommended --out recipe.toml

    Example: harmonet compose --single prisma_st=shresnet --single diqt --fusion msp --target connectom_sa

    Example: harmonet compose --single diqt --fusion msp --freeze prisma_st --rate fusion=10 --graph wiring.svg

    Example: harmonet compose --method rish_linear --option fwhm=4 --out recipe.toml
    """
    from harmonet.recipe import to_toml
    from harmonet.tables import LossTable

    _check_places(out, graph, data, force)
    ways = get_args(LossTable.model_fields["gradients"].annotation)
    if gradients is not None and gradients not in ways:
        raise NotFoundError(f"--gradients {gradients} is not known. {nearest(gradients, ways)}")
    if method is not None:
        theirs: dict[str, object] = {
            "--single": single,
            "--fusion": fusion,
            "--target": target,
            "--tap": tap,
            "--freeze": freeze,
        }
        theirs |= {"--restandardise": restandardise, "--rate": rate, "--preset": preset, "--graph": graph}
        _refuse_beside(method, theirs)
    elif not single:
        raise RecipeError("there is nothing to compose: name networks with --single, or a method with --method.")
    task = _task(platforms, data, source, shell or ())
    for asked, given in (("--freeze", freeze), ("--restandardise", restandardise)):
        for name in given or ():
            if name not in task.target_names:
                raise NotFoundError(f"{asked} {name} is no target platform. {nearest(name, task.target_names)}")
    rates = rates_of(rate or (), task.target_names)

    from harmonet.build import recipe_of

    recipe = recipe_of(
        task,
        candidates_of(single, task.target_names) if single else {},
        fusion=fusion,
        method=method,
        refine=target,
        taps=dict(_tap(text) for text in tap or ()),
        options=_options(option or (), fusion or method),
        representation=representation,
        order=order,
        split=split,
        patch_size=patch_size,
        frozen=freeze or (),
        restandardise=restandardise or (),
        loss=loss,
        weighting=weighting,
        gradients=gradients,
        rates=rates,
        preset=preset,
    )
    if method is None:
        _show_wiring(recipe, graph, json)
    else:
        _show_method(recipe, method, json)
    if out is not None:
        _write(out, to_toml(recipe))


def _refuse_beside(method: str, given: Mapping[str, object]) -> None:
    """Refuse options of networks beside a method."""
    if unfit := [option for option, value in given.items() if value]:
        raise RecipeError(
            f"--method {method} stands in place of networks, and {', '.join(unfit)} is theirs: give one or the other."
        )


def _show_wiring(recipe: "Recipe", graph: Path | None, json: bool) -> None:
    """Verify the wiring by a dry run, print it, and draw it where that is asked for."""
    from harmonet.report.wiring import facts, outline, total_text, wiring_of

    wiring = wiring_of(recipe)
    if json:
        print_json(facts(wiring))
    else:
        print_tree(outline(wiring))
        note(total_text(wiring))
    if graph is not None:
        from harmonet.report.graph import mermaid, svg

        _write(graph, {".svg": svg, ".mmd": mermaid}[graph.suffix](wiring))


def _show_method(recipe: "Recipe", method: str, json: bool) -> None:
    """Build the method, and print what will be learned for each platform."""
    from harmonet import plugins
    from harmonet.runs.method import methods_for

    options, source = recipe.model.options.get(method, {}), recipe.source.name
    told = ", ".join(f"{key} = {value}" for key, value in options.items())
    groups = {platform: list(built.groups) for platform, built in methods_for(recipe).items()}
    if json:
        print_json({"method": method, "options": options, "source": source, "groups": groups})
        return
    rows = [[platform, source, ", ".join(names) or "one channel", told] for platform, names in groups.items()]
    title = f"{method}: {plugins.method(method).summary}"
    print_table(title, ["platform", "learned from", "channels", "options"], rows)


def _check_places(out: Path | None, graph: Path | None, data: Path | None, force: bool) -> None:
    """Refuse a place for recipe or drawing that is taken, is the other's, or lies in the data set."""
    if graph is not None and graph.suffix not in DRAWINGS:
        raise OutputError(f"--graph {graph} names no kind of drawing: write NAME.svg, or NAME.mmd for Mermaid.")
    if graph is not None and out is not None and graph.resolve() == out.resolve():
        raise OutputError(f"--graph and --out both name {out}: give the drawing a name of its own.")
    for place in (place for place in (out, graph) if place is not None):
        if place.exists() and not force:
            raise OutputError(f"{place} exists: add --force to replace it, or choose another name.")
        if data is not None:
            keep_out_of(place, data)


def _write(place: Path, text: str) -> None:
    from harmonet.files import write_whole

    write_whole(place, text.encode())
    note(f"wrote {place}")


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


def rates_of(texts: Sequence[str], targets: Sequence[str]) -> dict[str, float]:
    """Factors on learning rates, by platform or `fusion`.

    >>> rates_of(["a=0.1", "fusion=10"], ["a", "b"])
    {'a': 0.1, 'fusion': 10.0}
    """
    rates: dict[str, float] = {}
    parts = [*targets, "fusion"]
    for text in texts:
        part, _, factor = text.partition("=")
        value = option_value(factor)
        if not (part and type(value) in (int, float) and 0 < value < inf):
            raise RecipeError(f"--rate {text!r} is not understood: write PLATFORM=FACTOR or fusion=FACTOR, above 0.")
        if part not in parts:
            raise NotFoundError(
                f"--rate {text}: {part!r} is neither a target platform nor fusion. {nearest(part, parts)}"
            )
        rates[part] = float(value)
    return rates


def print_tree(outline: "Outline") -> None:
    """A tree of lines on stdout. Lines are data, never markup, and away from a terminal none is folded."""
    from rich.console import Console
    from rich.text import Text
    from rich.tree import Tree

    def hang(tree: Tree, branches: "list[Outline]") -> Tree:
        for line, more in branches:
            hang(tree.add(Text(line)), more)
        return tree

    line, branches = outline
    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else 10_000, highlight=False)
    console.print(hang(Tree(Text(line)), branches))


def _tap(text: str) -> tuple[str, list[str]]:
    name, given, layers = text.partition("=")
    if not (given and name and layers):
        raise RecipeError(f"--tap {text!r} names no layer: write [PLATFORM.]NETWORK=LAYER.")
    return name, layers.split(",")


def _options(texts: Sequence[str], fusion: str | None) -> dict[str, dict[str, Any]]:
    """Options by the name of what they belong to; without a name, to the fusion or method."""
    options: dict[str, dict[str, Any]] = {}
    for text in texts:
        key, given, value = text.partition("=")
        owner, _, key = key.rpartition(".")
        owner = owner or fusion or ""
        if not (given and key and owner):
            raise RecipeError(
                f"--option {text!r} is not understood: write KEY=VALUE (fusion or method) or NAME.KEY=VALUE."
            )
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
