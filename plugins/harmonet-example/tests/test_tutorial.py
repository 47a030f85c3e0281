"""The tutorial shows this package as it is: every line of code, in order, and how many lines there are."""

import ast
import re
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent.parent
SOURCE = HERE / "src" / "harmonet_example"
PAGE = HERE.parent.parent / "docs" / "tutorials" / "first-plugin.md"
SHOWN = ["pyproject.toml", *(f"src/harmonet_example/{name}.py" for name in ("__init__", "network", "fusion"))]
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

pytestmark = pytest.mark.skipif(not PAGE.is_file(), reason="the tutorial is in harmonet's repository")


def sections():
    """Heading, without its backticks, to the blocks of code (language, text) below it."""
    parts = re.split(r"^## (.*)$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {title.strip("`"): FENCED.findall(text) for title, text in zip(parts[1::2], parts[2::2], strict=True)}


def without_blank(text):
    return [line for line in text.splitlines() if line.strip()]


def code_lines(text):
    """Numbers of the lines that are neither blank nor comment nor docstring."""
    passed = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            passed |= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    kept = [n for n, line in enumerate(text.splitlines(), 1) if line.strip() and not line.strip().startswith("#")]
    return [n for n in kept if n not in passed]


@pytest.mark.parametrize("name", SHOWN)
def test_a_section_shows_its_file_from_the_first_line_to_the_last(name):
    blocks, text = sections()[name], (HERE / name).read_text(encoding="utf-8")
    assert {language for language, _ in blocks} == {"toml" if name.endswith("toml") else "python"}
    assert all(block in text for _, block in blocks)
    assert [line for _, block in blocks for line in without_blank(block)] == without_blank(text)


def test_no_other_section_shows_python_or_toml():
    others = {title: blocks for title, blocks in sections().items() if title not in SHOWN}
    assert [title for title, blocks in others.items() if any(language for language, _ in blocks)] == []


def test_its_commands_name_what_there_is():
    from harmonet.cli import app

    (_, commands), *more = sections()["Use it"]
    verbs = {c.name for c in app.registered_commands} | {g.name for g in app.registered_groups}
    assert more == []
    for line in commands.splitlines():
        words = line.split()
        assert words[0] == "harmonet" or words == ["pip", "install", "plugins/harmonet-example"]
        assert words[0] == "pip" or words[1] in verbs


def test_its_table_counts_the_lines():
    init = (SOURCE / "__init__.py").read_text(encoding="utf-8")
    first, second = (n for n, line in enumerate(init.splitlines(), 1) if line.startswith("@hn.hookimpl"))
    lines = code_lines(init)
    counted = {
        "the network": len(code_lines((SOURCE / "network.py").read_text(encoding="utf-8"))),
        "its card": sum(first <= n < second for n in lines),
        "the fusion": len(code_lines((SOURCE / "fusion.py").read_text(encoding="utf-8"))),
        "import and API number": sum(n < first for n in lines),
        "the package": len(without_blank((HERE / "pyproject.toml").read_text(encoding="utf-8"))),
    }
    cards = [counted["its card"], sum(n >= second for n in lines)]
    page = PAGE.read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([\w ]+) \| `[\w.]+` \| (\d+) \|$", page, re.MULTILINE)
    assert [int(lines) for part, lines in rows if part == "its card"] == cards
    assert {part: int(lines) for part, lines in reversed(rows)} == counted
    network, fusion = counted["the network"] + cards[0], counted["the fusion"] + cards[1]
    around = counted["import and API number"] + counted["the package"]
    said = re.search(r"one file and (\d+) lines, a fusion one file and (\d+);.* is (\d+) lines, once", page)
    assert [int(number) for number in said.groups()] == [network, fusion, around]
