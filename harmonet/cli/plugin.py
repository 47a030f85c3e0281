"""`harmonet plugin new`: the beginning of a package that brings a network or a fusion."""

import re
from enum import StrEnum
from importlib import resources
from keyword import iskeyword
from pathlib import Path
from string import Template
from typing import Annotated

import typer

from harmonet.cli.console import note
from harmonet.errors import OutputError, RegistrationError

# Fit for an entry, a module and a distribution at once.
NAME = re.compile(r"[a-z](?:[a-z0-9]|_(?=[a-z0-9])){0,39}")

app = typer.Typer(help="Extend harmonet.", no_args_is_help=True, rich_markup_mode=None)


class Kind(StrEnum):
    """What a new package can bring."""

    network = "network"
    fusion = "fusion"


WORDS = {
    Kind.network: {
        "what": "3x3x3 convolution, ReLU, 1x1x1 convolution, ReLU, 3x3x3 convolution (transposed at upsampling 2)",
        "options": "`width = 32`: channels between the convolutions",
        "compose": "--single $name",
    },
    Kind.fusion: {
        "what": "the target's own prediction plus a learned gain times a correction from each other network's features",
        "options": "`gain = 0.1`: the gain at the beginning",
        "compose": "--single diqt --fusion $name",
    },
}


@app.callback()
def _plugin() -> None:
    """Extend harmonet."""


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="Name of the network or fusion, such as my_net.")],
    kind: Annotated[Kind, typer.Option(help="What the package brings.")] = Kind.network,
    out: Annotated[Path | None, typer.Option(help="Folder to make; harmonet-NAME in this one if not given.")] = None,
) -> None:
    """Write a complete package with a working network or fusion, its card and its tests, to make your own.

    Example: harmonet plugin new my_net --kind network
    """
    folder = out if out is not None else Path(distribution(name))
    for path in write(name, kind, folder):
        note(f"wrote {path}")
    note(f"next: pip install -e {folder} && python -m pytest {folder}")


def distribution(name: str) -> str:
    """The distribution of a plugin of this name.

    Raises:
        RegistrationError: The name could not be typed, imported or published.

    >>> distribution("my_net")
    'harmonet-my-net'
    """
    if not NAME.fullmatch(name):
        raise RegistrationError(
            f"{name!r} cannot name a plugin: use lower-case letters, digits and single _ between them, beginning with "
            "a letter, at most 40, such as my_net."
        )
    if iskeyword(_class_name(name)):
        raise RegistrationError(
            f"{name!r} cannot name a plugin: its class would be {_class_name(name)}: choose another."
        )
    return f"harmonet-{name.replace('_', '-')}"


def write(name: str, kind: Kind, folder: Path) -> list[Path]:
    """Writes the package and gives its files.

    Args:
        name: Name of the network or fusion.
        kind: What it is.
        folder: Place of the package; it must not exist, or be empty.

    Raises:
        OutputError: The folder holds something, or cannot be written.
        RegistrationError: The name is taken or no name.
    """
    from harmonet import plugins
    from harmonet.registry import FUSIONS, NETWORKS

    package = distribution(name)
    plugins.load()
    registry = NETWORKS if kind is Kind.network else FUSIONS
    if name in registry:
        raise RegistrationError(f"{kind} {name!r} is taken by {registry.provider(name)}: choose another name.")
    module = package.replace("-", "_")
    words = {
        "name": name,
        "kind": kind.value,
        "distribution": package,
        "module": module,
        "class_name": _class_name(name),
    }
    words |= {key: Template(text).substitute(words) for key, text in WORDS[kind].items()}
    templates = resources.files("harmonet") / "templates" / "plugin"
    files = {
        "pyproject.toml": "both/pyproject.toml",
        "README.md": "both/README.md",
        ".gitignore": "both/gitignore",
        f"src/{module}/__init__.py": f"{kind}/__init__.py",
        f"src/{module}/{kind}.py": f"{kind}/{kind}.py",
        "tests/test_conformance.py": "both/test_conformance.py",
    }
    texts = {
        place: Template((templates / f"{source}.template").read_text(encoding="utf-8")).substitute(words)
        for place, source in files.items()
    }
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise OutputError(f"{folder} exists already and is left as it is: name another folder with --out.")
        for place, text in texts.items():
            (folder / place).parent.mkdir(parents=True, exist_ok=True)
            (folder / place).write_text(text, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{folder} cannot be written ({error.strerror}): choose another folder with --out.") from None
    return [folder / place for place in texts]


def _class_name(name: str) -> str:
    """The class of a network or fusion of this name.

    >>> _class_name("my_net2")
    'MyNet2'
    """
    return "".join(part[:1].upper() + part[1:] for part in name.split("_"))
