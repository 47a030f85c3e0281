"""Which package brought each part of a run, so that another version of it is not taken for the same."""

import json
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from harmonet import plugins
from harmonet.build import is_folder
from harmonet.errors import RunError
from harmonet.files import write_whole
from harmonet.recipe import Recipe
from harmonet.registry import FUSIONS, NETWORKS, REPRESENTATIONS, Registry

PROVIDERS = "providers.json"  # of an unfinished run; a finished one has them in model.json
KINDS: Mapping[str, Registry] = {r.kind: r for r in (NETWORKS, FUSIONS, REPRESENTATIONS)}  # type: ignore[type-arg]

Providers = Mapping[str, Mapping[str, str]]  # "network diqt" to {"package": ..., "version": ...}


def providers_of(recipe: Recipe, networks: Iterable[str] | None = None) -> dict[str, dict[str, str]]:
    """The package and version behind the recipe's fusion and representation, and behind networks.

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
    parts += [("representation", recipe.representation.name)]
    return {f"{kind} {name}": _provider(kind, name) for kind, name in parts}


def refuse_other_providers(folder: Path, recorded: Providers) -> None:
    """Refuse a run of which a part came from a package that is not here, or is here in another version.

    Built-in parts of another harmonet are let pass: what cannot be read any more is told by the run's format.

    Raises:
        RunError: Names the part and both versions.
    """
    plugins.load()
    for part, there in recorded.items():
        kind, _, name = part.partition(" ")
        wanted = f"{there['package']} {there['version']}".strip()
        if name not in KINDS[kind].names():
            raise RunError(
                f"{folder} was trained with {part} of {wanted}, which is not here: install {_pinned(there)}."
                f"{plugins.left_out()}"
            )
        here = _provider(kind, name)
        if here == there or here["package"] == there["package"] == plugins.BUILT_IN:
            continue
        if not (here["version"] or there["version"]):
            continue  # of two scripts, which module it was says nothing
        raise RunError(
            f"{folder} was trained with {part} of {wanted}, found that of {here['package']} {here['version']} here: "
            f"install {_pinned(there)}, or train again."
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
            refuse_other_providers(folder, recorded)
        except (ValueError, KeyError, TypeError, AttributeError):
            raise RunError(f"{path} is damaged: delete it if no plugin has changed since this run began.") from None
    write_whole(path, (json.dumps(providers, indent=1) + "\n").encode())


def _provider(kind: str, name: str) -> dict[str, str]:
    package = KINDS[kind].provider(name)
    try:
        return {"package": package, "version": version(package)}
    except PackageNotFoundError:
        return {"package": package, "version": ""}


def _pinned(there: Mapping[str, str]) -> str:
    """What to install, as pip writes it; a script can only be run again."""
    return f"{there['package']}=={there['version']}" if there["version"] else f"it from {there['package']} again"
