"""The page on hooks says what harmonet asks, with what it calls, and what it takes back."""

import inspect
import re
from dataclasses import fields
from importlib import import_module
from pathlib import Path

import pytest

from harmonet import hookspecs, plugins
from harmonet.asking import HOOKS, SECONDS, TIMEOUT
from harmonet.entries import Entry, MetricEntry

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE = (DOCS / "reference" / "hooks.md").read_text(encoding="utf-8")
HOW_TO = (DOCS / "how-to" / "write-a-plugin.md").read_text(encoding="utf-8")
COMMON = {field.name for field in fields(Entry)}


def rows_of(text):
    """The cells of each table row, without heads and rules."""
    lines = [line for line in text.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def section(title):
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert found, title
    return found[1]


def names_in(cell):
    return re.findall(r"`([^`]+)`", cell)


OVERVIEW = {names_in(row[0])[0]: row[1:] for row in rows_of(PAGE.split("\n## ")[0])}


def test_every_hook_that_is_asked_has_a_row_and_a_section_and_no_other_has():
    asked = [name for name in vars(hookspecs) if name.startswith("harmonet_")]
    assert list(OVERVIEW) == asked == list(HOOKS)
    assert re.findall(r"^## `(\w+)`$", PAGE, re.MULTILINE) == asked


@pytest.mark.parametrize("hook", HOOKS)
def test_a_hook_takes_nothing_and_returns_a_list_of_the_cards_that_the_page_says(hook):
    kind = HOOKS[hook][1]
    signature = inspect.signature(getattr(hookspecs, hook))
    assert (dict(signature.parameters), signature.return_annotation) == ({}, list[kind])
    assert names_in(OVERVIEW[hook][0]) == [kind.__name__]


@pytest.mark.parametrize("hook", HOOKS)
def test_build_is_called_with_the_arguments_that_the_page_says(hook):
    kind = HOOKS[hook][1]
    call = OVERVIEW[hook][1]
    told = [name for row in rows_of(section(f"`{hook}`").split("\n| field")[0]) for name in names_in(row[0])]
    assert tuple(told) == kind.supplied
    if kind is MetricEntry:
        assert call == "`build()`, or `build(group=group)` where `grouped`"
    else:
        assert call == f"`build({', '.join(kind.supplied)}, **options)`"


@pytest.mark.parametrize("hook", HOOKS)
def test_the_built_in_entries_of_a_hook_can_be_called_so(hook):
    plugins.load()
    registry, _ = HOOKS[hook]
    names = [name for name in registry.names() if registry.provider(name) == plugins.BUILT_IN]
    assert names
    for name in names:
        entry = registry.get(name)
        if isinstance(entry, MetricEntry):
            inspect.signature(entry.load()).bind(**({"group": "l = 2"} if entry.grouped else {}))
        else:
            inspect.signature(entry.load()).bind(*entry.supplied)


@pytest.mark.parametrize("hook", HOOKS)
def test_what_build_gives_is_a_class_that_is_there_or_a_function(hook):
    gives = OVERVIEW[hook][2]
    if gives != "a function":
        module, _, name = names_in(gives)[0].rpartition(".")
        assert inspect.isclass(getattr(import_module(module), name))


@pytest.mark.parametrize("hook", HOOKS)
def test_every_field_of_a_card_is_told_with_its_default(hook):
    text, kind = section(f"`{hook}`"), HOOKS[hook][1]
    own = {field.name: field for field in fields(kind) if field.name not in COMMON}
    rows = {names_in(row[0])[0]: row[1:] for row in rows_of(text.partition("\n| field")[2])}
    words = set(re.findall(r"`(\w+)`", text))
    assert own.keys() <= words
    assert rows.keys() == (own.keys() if len(own) > 1 else set())
    for name, (_, default) in rows.items():
        if names_in(default):
            assert names_in(default)[0].replace('"', "'") == repr(own[name].default)


def test_the_fields_of_every_card_are_told():
    assert {names_in(row[0])[0] for row in rows_of(section("Every card"))} == COMMON


def test_the_api_and_the_time_are_the_ones_that_are_kept():
    text = section("What a plugin may rely on")
    assert f"`harmonet_api = {hookspecs.API}`" in text
    assert f"without it, {hookspecs.FIRST_API}" in text
    assert f"{SECONDS:g} s" in text
    assert TIMEOUT in text


def test_the_how_to_names_every_hook():
    assert [hook for hook in HOOKS if f"`{hook}`" not in HOW_TO] == []
