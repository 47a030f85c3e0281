"""The reference pages that are written from the code: `python docs/generate.py` writes all of them.

`tests/test_docs_site.py` holds the committed pages against this.
"""

import dataclasses
import inspect
import re
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

DOCS = Path(__file__).resolve().parent
SECTIONS = ("Args", "Attributes", "Returns", "Raises", "Yields")

# Keys whose class says nothing of them.
MEANINGS = {
    ("Recipe", "format"): "Of this file; 1 is the only one.",
    ("Recipe", "seed"): "Of weights, split and patches.",
    ("Recipe", "note"): "For people; it is shown with every result.",
    ("ModelTable", "patch_size"): "Edge of a source patch in voxels, odd.",
    ("TrainingTable", "decay"): 'Of `schedule = "steps"`: what the learning rate is multiplied by.',
    ("TrainingTable", "decay_every"): 'Of `schedule = "steps"`: after how many epochs.',
    ("TrainingTable", "warm_up"): 'Of `schedule = "cosine"`: the fraction of the steps in which the rate rises.',
}


# ---------------------------------------------------------------- the command line

CLI = """# Command line

Written from the verbs by `python docs/generate.py`; a test compares it with them. `harmonet VERB --help` says the same.

Data go to stdout, notes and progress to stderr. A verb that writes refuses to overwrite unless `--force`, and never
writes into its input. Exit status:

| status | means |
|---|---|
| 0 | done |
| 1 | a check or a run failed |
| 2 | the input is wrong: one sentence says what was asked, what was found and what to do |
| 130, 143 | interrupted, terminated; both after saving |

What may be said before every verb:

"""


def cli_page() -> str:
    """Every verb with its help, arguments and options."""
    from typer.main import get_command

    from harmonet.cli import app

    top = get_command(app)
    parts = [CLI + _option_table(top), ""]
    for words, command in _commands("harmonet", top):
        said, examples = _help(command.help or "")
        parts += [f"## `{words}`\n", *said, _usage(words, command)]
        arguments = [p for p in command.params if p.param_type_name == "argument"]
        if arguments:
            rows = [[f"`{_argument(p)}`", p.help or ""] for p in arguments]
            parts += [_table(["argument", "is"], rows), ""]
        parts += [_option_table(command), "", *examples]
    return _joined(parts)


def _commands(words: str, group: Any) -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _commands(f"{words} {name}", command)
        else:
            yield f"{words} {name}", command


def _shown(command: Any) -> list[Any]:
    return [p for p in command.params if p.param_type_name == "option" and not getattr(p, "hidden", False)]


def _argument(parameter: Any) -> str:
    name = parameter.metavar or parameter.name.upper()
    return f"{name}..." if parameter.nargs == -1 else f"[{name}]" if not parameter.required else str(name)


def _usage(words: str, command: Any) -> str:
    said = [_argument(p) for p in command.params if p.param_type_name == "argument"]
    kinds = get_type_hints(inspect.unwrap(command.callback))
    said += [f"{p.opts[0]} {_value(p, kinds)}" for p in _shown(command) if p.required]
    return f"    {' '.join([words, *said])} [OPTIONS]\n"


def _help(text: str) -> tuple[list[str], list[str]]:
    """Its paragraphs, and its examples as one block of commands."""
    paragraphs = [" ".join(p.split()) for p in text.split("\n\n")]
    examples = [p.removeprefix("Example: ") for p in paragraphs if p.startswith("Example: ")]
    said = [f"{_plain(p)}\n" for p in paragraphs if not p.startswith("Example: ")]
    if not examples:
        return said, []
    return said, ["\n".join(["<!-- not run: examples of --help -->", "```sh", *examples, "```", ""])]


def _value(option: Any, kinds: Mapping[str, Any]) -> str:
    """What follows an option, from the annotation of the verb's function."""
    if getattr(option, "is_flag", False):
        return ""
    if option.metavar:
        return str(option.metavar)
    kind = kinds[option.name]
    while get_args(kind):
        kind = get_args(kind)[0]
    if issubclass(kind, Enum):
        return "|".join(str(choice.value) for choice in kind)
    return {Path: "PATH", int: "N", float: "NUMBER"}.get(kind, "TEXT")


def _option_table(command: Any) -> str:
    kinds = get_type_hints(inspect.unwrap(command.callback))
    rows = []
    for option in _shown(command):
        names = " / ".join([", ".join(option.opts), *option.secondary_opts])
        words = " ".join(filter(None, [names, _value(option, kinds)]))
        default = option.default
        if option.required:
            says = "required"
        elif getattr(option, "is_flag", False):
            says = "on" if default is True else ""
        elif default is None or default == "":
            says = ""
        else:
            says = f"`{' '.join(map(str, default)) if isinstance(default, list | tuple) else default}`"
        repeatable = " (repeatable)" if option.multiple and "repeatable" not in (option.help or "") else ""
        rows.append([f"`{words}`", says, _plain((option.help or "").rstrip(".") + repeatable)])
    return _table(["option", "default", "does"], rows) if rows else ""


def _joined(parts: Iterable[str]) -> str:
    return re.sub(r"\n{3,}", "\n\n", "\n".join(parts)).rstrip() + "\n"


# ---------------------------------------------------------------- the recipe

RECIPE = """# Recipe

Written from the code by `python docs/generate.py`; a test compares it. A recipe is a TOML file that defines a model and
its training completely. It is data: nothing in it is evaluated. Keys are strict, so that a mistyped one is refused with
the nearest name, and a number has the type that stands here. `harmonet compose --out` writes every default out, so that
a recipe means the same next year.

"""


def recipe_page() -> str:
    """Every table and key of a recipe."""
    from harmonet.platforms import Platform
    from harmonet.recipe import Recipe

    parts = [RECIPE + "## At the top\n", _keys(Recipe, _told(Recipe), skip_tables=True)]
    for name, field in Recipe.model_fields.items():
        table = _table_of(field.annotation)
        if table is None:
            continue
        said = _told(Platform) if table.__name__ == "PlatformTable" else _told(table)
        heading = f"`[[{name}]]`" if get_origin(field.annotation) is list else f"`[{name}]`"
        first = _blocks(inspect.getdoc(table) or "")[0][1]
        parts += [f"\n## {heading}\n", _plain(first) + "\n", _keys(table, said, skip_tables=False)]
    return _joined(parts)


def _table_of(annotation: Any) -> Any:
    from pydantic import BaseModel

    for kind in (annotation, *get_args(annotation)):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
    return None


def _told(kind: type) -> dict[str, str]:
    """Key to what the class's docstring says of it."""
    found = {}
    for title, body in _blocks(inspect.getdoc(kind) or ""):
        if title == "Attributes":
            for names, text in _items(body):
                found.update(dict.fromkeys((name.strip() for name in names.split(",")), text))
    return found


def _keys(model: Any, told: Mapping[str, str], *, skip_tables: bool) -> str:
    rows = []
    for name, field in model.model_fields.items():
        if skip_tables and _table_of(field.annotation) is not None:
            continue
        meaning = told.get(name) or MEANINGS.get((model.__name__, name))
        if meaning is None:
            raise SystemExit(f"docs/generate.py: {model.__name__}.{name} has no meaning: say it in the docstring.")
        words = _kind(field.annotation, field.metadata)
        default = "required" if field.is_required() else _toml(field.get_default(call_default_factory=True))
        rows.append([f"`{name}`", words, default, _plain(meaning)])
    return _table(["key", "type", "default", "meaning"], rows) + "\n"


def _kind(annotation: Any, metadata: Iterable[Any] = ()) -> str:
    """A type in words of TOML."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if hasattr(annotation, "__metadata__"):
        return _kind(inner[0], annotation.__metadata__)
    if origin is Literal:
        return " or ".join(f"`{_toml_text(value)}`" for value in inner)
    if origin in (Union, types.UnionType):
        return " or ".join(_kind(kind) for kind in inner if kind is not types.NoneType)
    if origin is list:
        return f"list of {_kind(inner[0])}{_bounds(metadata)}"
    if origin is dict:
        return f"table of {_kind(inner[1])}"
    if annotation is Any:
        return "any"
    plain = {int: "integer", float: "number", str: "text", bool: "true or false"}[annotation]
    return plain + _bounds(metadata)


def _bounds(metadata: Iterable[Any]) -> str:
    """Limits in words."""
    found = {}
    for limit in metadata:
        for one in [limit, *getattr(limit, "metadata", ())]:
            names = ("gt", "ge", "lt", "le", "min_length", "max_length", "pattern")
            found.update({n: getattr(one, n) for n in names if getattr(one, n, None) is not None})
    words = []
    for name, text in (("gt", "above {}"), ("ge", "{} or more"), ("lt", "below {}"), ("le", "at most {}")):
        if name in found:
            words.append(text.format(found[name]))
    least, most = found.get("min_length"), found.get("max_length")
    if least is not None:
        words.append(f"{least} of them" if least == most else f"{least} or more")
    if "pattern" in found:
        words.append("such as 2/5")
    return f" ({', '.join(words)})" if words else ""


def _toml_text(value: object) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value)


def _toml(value: object) -> str:
    if value is None:
        return "absent"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, float):
        return f"`{value:.4g}`"
    return "empty" if value in ("", [], {}) else f"`{_toml_text(value)}`"


# ---------------------------------------------------------------- Python

PYTHON = """# Python

Written from the docstrings by `python docs/generate.py`; a test compares it. These names are all of `import harmonet as
hn`, and they stay. Importing harmonet is light: torch comes with the first name that needs it.

"""


def python_page() -> str:
    """Every public name with its docstring."""
    import harmonet

    parts = [PYTHON]
    for name in harmonet.__all__:
        given = getattr(harmonet, name)
        parts += [f"## `{name}`\n", f"*{_sort(given)}, `{given.__module__}`*\n", *_signature(name, given)]
        parts += _markdown(inspect.getdoc(given) or "")
        if inspect.isclass(given):
            for method, function in _methods(given):
                parts += [f"### `{name}.{method}`\n", *_signature(method, function)]
                parts += _markdown(inspect.getdoc(function) or "")
    return _joined(parts)


def _sort(given: Any) -> str:
    if not inspect.isclass(given):
        return "function" if inspect.isfunction(given) else "decorator"
    if issubclass(given, BaseException):
        return "warning" if issubclass(given, Warning) else "error"
    return "data class" if dataclasses.is_dataclass(given) else "class"


def _methods(kind: type) -> list[tuple[str, Any]]:
    """Public functions and properties that the class itself defines."""
    found = []
    for name, given in vars(kind).items():
        function = given.fget if isinstance(given, property) else getattr(given, "__func__", given)
        if not name.startswith("_") and inspect.isfunction(function):
            found.append((name, given))
    return found


def _signature(name: str, given: Any) -> list[str]:
    """Names and defaults; types stand in the text where they say more than the name."""
    if isinstance(given, property):
        return []
    try:
        signature = inspect.signature(getattr(given, "__func__", given))
    except (TypeError, ValueError):
        return []
    plain = [
        p.replace(annotation=p.empty, default=p.default if p.default is p.empty else _Default(p.default))
        for p in signature.parameters.values()
        if p.name != "self"
    ]
    return [f"    {name}{signature.replace(parameters=plain, return_annotation=signature.empty)}\n"]


class _Default:
    """A default as it is written, without an address in memory."""

    def __init__(self, value: object) -> None:
        self.value = value

    def __repr__(self) -> str:
        if type(self.value).__name__ in ("_HAS_DEFAULT_FACTORY_CLASS", "mappingproxy"):
            return "{}"
        return re.sub(r" at 0x[0-9a-f]+", "", repr(self.value))


# ---------------------------------------------------------------- docstrings


def _blocks(doc: str) -> list[tuple[str, str]]:
    """Paragraphs of a docstring, each with the title of its section, "" outside of one."""
    found = []
    for paragraph in doc.split("\n\n"):
        first, _, rest = paragraph.partition("\n")
        title = first.strip().removesuffix(":")
        if title in SECTIONS and first.endswith(":"):
            found.append((title, inspect.cleandoc(rest)))
        else:
            found.append(("", paragraph))
    return found


def _items(body: str) -> list[tuple[str, str]]:
    """Names and texts of a section; lines further in belong to the item before."""
    found: list[tuple[str, str]] = []
    for line in body.splitlines():
        if line.startswith(" ") and found:
            found[-1] = (found[-1][0], f"{found[-1][1]} {line.strip()}")
        else:
            name, colon, text = line.partition(": ")
            found.append((name, text) if colon else ("", f"{line}"))
    return found


def _markdown(doc: str) -> list[str]:
    parts = []
    for title, body in _blocks(doc):
        if body.lstrip().startswith(">>>"):
            parts.append(f"```pycon\n{inspect.cleandoc(body)}\n```\n")
        elif body.startswith("    "):
            parts.append(f"{body}\n")
        elif title in ("Returns", "Yields") or (title and not all(name for name, _ in _items(body))):
            parts.append(f"**{title}:** {_plain(' '.join(body.split()))}\n")
        elif title:
            rows = [f"- `{name}`: {_plain(text)}" for name, text in _items(body)]
            parts.append("\n".join([f"**{title}**\n", *rows, ""]))
        else:
            parts.append(f"{_plain(body)}\n")
    return parts


def _plain(text: str) -> str:
    """Text that Markdown shows as it stands: what is not in backticks is escaped."""
    pieces = text.split("`")
    pieces[::2] = [re.sub(r"([*<>\[\]])", r"\\\1", piece) for piece in pieces[::2]]
    return "`".join(pieces)


def _table(columns: list[str], rows: Iterable[list[str]]) -> str:
    lines = [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    for row in rows:
        cells = (" ".join(cell.replace("|", "\\|").split()) for cell in row)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def zoo_page() -> str:
    """The zoo, which harmonet writes itself."""
    from harmonet.report.zoo import page

    return page()


PAGES: Mapping[str, Callable[[], str]] = {
    "reference/cli.md": cli_page,
    "reference/recipe.md": recipe_page,
    "reference/python.md": python_page,
    "reference/zoo.md": zoo_page,
}

if __name__ == "__main__":
    import os

    os.environ["HARMONET_PLUGINS"] = "off"  # what harmonet itself brings, whatever is installed
    for place, write in PAGES.items():
        (DOCS / place).write_text(write(), encoding="utf-8")
        print(f"wrote docs/{place}")
