"""Which package brought each part of a run, so that another version of it is not taken for the same."""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from harmonet import plugins
from harmonet.build import is_folder
from harmonet.errors import RunError
from harmonet.files import write_whole
from harmonet.recipe import Recipe
from harmonet.registry import CONNECTIONS, FUSIONS, LOSSES, METHODS, NETWORKS, REPRESENTATIONS, WEIGHTINGS, Registry

PROVIDERS = "providers.json"  # of an unfinished run; a finished one has them in model.json
KINDS: Mapping[str, Registry[Any]] = {
    r.kind: r for r in (NETWORKS, FUSIONS, METHODS, REPRESENTATIONS, CONNECTIONS, LOSSES, WEIGHTINGS)
}
TRAINING = (LOSSES.kind, WEIGHTINGS.kind)  # what has done its work once a run is finished

Providers = Mapping[str, Mapping[str, str]]  # "network diqt" to {"package": ..., "version": ...}


def providers_of(recipe: Recipe, networks: Iterable[str] | None = None) -> dict[str, dict[str, str]]:
    """The package and version behind the recipe's fusion, method and representation, and behind networks.

    Connection networks, loss and weighting are told where they are not built in.

    What a script registered has no version: its module is named, and anything may have changed in it.

    Args:
        recipe: What is trained.
        networks: Their names, joined by `+` where a platform has several; all registered candidates where None.
    """
    if networks is None:
        networks = [name for names in recipe.model.candidates.values() for name in names if not is_folder(name)]
    names = {plugins.network(name).name for joined in networks for name in joined.split("+")}
    parts = [("network", name) for name in sorted(names)]
    parts += [("fusion", recipe.model.fusion)] if recipe.model.fusion is not None else []
    parts += [("method", recipe.model.method)] if recipe.model.method is not None else []
    parts += [("representation", recipe.representation.name)]
    found = {f"{kind} {name}": _provider(kind, name) for kind, name in parts}
    others = {f"{kind} {name}": _provider(kind, name) for kind, name in _smaller(recipe)}
    return found | {part: there for part, there in others.items() if there["package"] != plugins.BUILT_IN}


def _smaller(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """Kind and name of the parts that other parts are made of or trained with, as far as the recipe names them."""
    connection = recipe.model.options.get(recipe.model.fusion or "", {}).get("connection")
    if connection is not None:
        yield CONNECTIONS.kind, plugins.connection(connection).name
    yield LOSSES.kind, plugins.loss(recipe.loss.name).name
    yield WEIGHTINGS.kind, plugins.weighting(recipe.loss.weighting).name


def refuse_other_providers(folder: Path, recorded: Providers) -> None:
    """Refuse a finished run of which a part came from a package that is not here, or is here in another version.

    What it was trained with, its loss and weighting, may be gone. Built-in parts of another harmonet are let pass: what
    cannot be read any more is told by the run's format.

    Raises:
        RunError: Names the part and both versions.
    """
    _refuse_others(folder, {part: there for part, there in recorded.items() if part.split()[0] not in TRAINING})


def _refuse_others(folder: Path, recorded: Providers) -> None:
    """Refuse a run of which any part came from elsewhere than it would now."""
    plugins.load()
    for part, there in recorded.items():
        kind, _, name = part.partition(" ")
        wanted = f"{there['package']} {there['version']}".strip()
        if name not in KINDS[kind]:
            raise RunError(
                f"{folder} was trained with {part} of {wanted}, which is not here: {_to_get(there)}."
                f"{plugins.left_out()}"
            )
        here = _provider(kind, name)
        if here == there or here["package"] == there["package"] == plugins.BUILT_IN:
            continue
        if not (here["version"] or there["version"]):
            continue  # of two scripts, which module it was says nothing
        raise RunError(
            f"{folder} was trained with {part} of {wanted}, found that of {here['package']} {here['version']} here: "
            f"{_to_get(there)}, or train again."
        )


def keep_providers(folder: Path, providers: Providers) -> None:
    """Write down who brought the parts of a run that begins; of one that goes on, refuse others.

    Raises:
        RunError: A part now comes from elsewhere, so that the run would go on as another.
    """
    path = folder / PROVIDERS
    if path.is_file():
        try:
            recorded: Providers = json.loads(path.read_bytes())
            _refuse_others(folder, recorded)
        except (ValueError, KeyError, TypeError, AttributeError):
            raise RunError(f"{path} is damaged: delete it if no plugin has changed since this run began.") from None
    write_whole(path, (json.dumps(providers, indent=1) + "\n").encode())


def _provider(kind: str, name: str) -> dict[str, str]:
    return plugins.provider(KINDS[kind], name)


def _to_get(there: Mapping[str, str]) -> str:
    """How to come by what a run was trained with; a script can only be run again."""
    package, version = there["package"], there["version"]
    if package.endswith(".py"):
        return f"give --plugin {package} as it was then"
    return f"install {package}=={version}" if version else f"install it from {package} again"
