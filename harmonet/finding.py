"""Which plugins there are: installed packages and files that the user names. Nothing is imported until `load`.

The switch `HARMONET_PLUGINS` helps to find a culprit among the installed: `off` loads none, `a,b` loads only those.
`HARMONET_PLUGIN_FILES` names files, apart by `:` as in PATH (`;` on Windows); `harmonet --plugin FILE` adds to it, so
that processes begun by this one have the same plugins.
"""

import hashlib
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.machinery import PathFinder
from importlib.metadata import EntryPoint, PackageNotFoundError, entry_points, version
from pathlib import Path
from types import ModuleType
from typing import Any

from harmonet import hookspecs
from harmonet.errors import RegistrationError
from harmonet.platforms import NAME
from harmonet.registry import BUILT_IN

SWITCH = "HARMONET_PLUGINS"
FILES = "HARMONET_PLUGIN_FILES"


@dataclass(frozen=True)
class Candidate:
    """A plugin that can be loaded.

    Attributes:
        name: Of the entry point; of a file, its stem.
        package: Distribution; of a file, its stem.
        version: Of the package; of a file, its SHA-256.
        load: Imports it.
        off: Why it is not to be loaded; empty where it is.
        file: Where it is a single file.
    """

    name: str
    package: str
    version: str
    load: Callable[[], Any]
    off: str = ""
    file: Path | None = None


def version_of(package: str) -> str:
    """The version of an installed package; empty where it is not installed but found on the path."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def installed() -> list[Candidate]:
    """Plugins of installed packages, in an order that does not depend on the file system."""
    found = sorted(map(_candidate, entry_points(group=hookspecs.GROUP)), key=lambda c: (c.package, c.name))
    switch = os.environ.get(SWITCH, "").strip()
    if switch in ("", "on", "all"):
        return found
    chosen = set() if switch in ("off", "none", "0") else {name.strip() for name in switch.split(",")}
    off = f"{SWITCH}={switch} does not let it in"
    return [
        c if c.name in chosen or c.package in chosen else Candidate(c.name, c.package, c.version, c.load, off)
        for c in found
    ]


def _candidate(point: EntryPoint) -> Candidate:
    """The entry point with its package; where a damaged installation has lost the package's name, with its module's."""
    try:
        package, version = (point.dist.name, point.dist.version) if point.dist is not None else ("", "")
    except Exception:  # without metadata, newer Pythons raise where older ones say None
        package, version = "", ""
    return Candidate(point.name, package or point.value.partition(":")[0], version or "", point.load)


def files() -> list[Candidate]:
    """The single files that the user names, each once.

    Raises:
        RegistrationError: A file cannot be read, or its name is no name for a plugin.
    """
    named = [Path(text).resolve() for text in os.environ.get(FILES, "").split(os.pathsep) if text]
    packages = {candidate.package for candidate in installed()}
    found: dict[str, Candidate] = {}
    for path in dict.fromkeys(named):
        if path.stem in found or path.stem in packages:
            raise RegistrationError(f"plugin {path} has the name of another plugin, {path.stem}: rename it.")
        found[path.stem] = _file(path)
    return list(found.values())


def _file(path: Path) -> Candidate:
    if path.suffix != ".py" or not NAME.fullmatch(path.stem):
        raise RegistrationError(f"plugin {path} is no NAME.py, with letters, digits, _ and -: rename it.")
    try:
        source = path.read_bytes()
    except OSError as error:
        raise RegistrationError(f"plugin {path} cannot be read ({error.strerror}): give --plugin FILE.py.") from None
    if path.stem == BUILT_IN or path.stem in sys.modules or _other_module(path):
        raise RegistrationError(f"plugin {path} has the name of another module, {path.stem}: rename it.")
    digest = hashlib.sha256(source).hexdigest()
    return Candidate(path.stem, path.stem, digest, partial(_run, path, source), file=path)


def _other_module(path: Path) -> bool:
    """Whether `import` of that name would find something else than the file."""
    if path.stem in sys.builtin_module_names:
        return True
    spec = PathFinder.find_spec(path.stem)
    return spec is not None and (spec.origin is None or Path(spec.origin).resolve() != path)


def _run(path: Path, source: bytes) -> ModuleType:
    """The module that the file's text gives; `import` finds it from then on, as cards that name it as text need."""
    module = ModuleType(path.stem)
    module.__file__ = str(path)
    sys.modules[path.stem] = module
    try:
        exec(compile(source, str(path), "exec"), module.__dict__)  # the user named this file to be run
    except BaseException:
        del sys.modules[path.stem]
        raise
    return module
