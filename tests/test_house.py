"""The house rules that no other tool keeps: layers, light imports, sizes, names, documents."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import harmonet

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted(
    path
    for folder in ("harmonet", "plugins")
    for path in (ROOT / folder).rglob("*.py")
    if "__pycache__" not in path.parts and "build" not in path.parts
)
LONGEST = 330  # lines: about what fits in one sitting
FORBIDDEN = {"utils", "util", "common", "helpers", "helper", "core", "base", "misc"}
LIGHT = ("errors", "files", "interruption", "sh", "platforms", "entries", "registry", "hookspecs", "tables", "recipe")
LIGHT += ("finding", "asking", "plugins", "cli")

IMPORT_EACH = """
import importlib, json, sys
guilty = {}
for name in sys.argv[1:]:
    importlib.import_module(name)
    if "torch" in sys.modules:
        guilty[name] = "torch"
        break
print(json.dumps(guilty))
"""


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


def tracked():
    """Text files under version control, by path."""
    found = subprocess.run(["git", "-C", ROOT, "ls-files", "-z"], capture_output=True, text=True)
    if found.returncode:
        pytest.skip("not a git checkout")
    paths = [ROOT / name for name in found.stdout.split("\0") if name]
    return {path: path.read_bytes().decode("utf-8", "replace") for path in paths if path.is_file()}


def light_modules():
    """The package itself and every module that `--help`, `list` and a wrong argument need."""
    cli = [f"harmonet.cli.{path.stem}" for path in sorted((ROOT / "harmonet" / "cli").glob("[a-z]*.py"))]
    return ["harmonet", *(f"harmonet.{name}" for name in LIGHT), *cli]


def test_every_module_imports_only_from_the_rows_below_its_own():
    command = Path(sys.executable).with_name("lint-imports")
    kept = subprocess.run([command, "--no-cache"], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert kept.returncode == 0, kept.stdout + kept.stderr
    assert "1 kept, 0 broken" in kept.stdout


def test_light_modules_import_no_torch():
    command = [sys.executable, "-c", IMPORT_EACH, *light_modules()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {}


def test_no_module_has_a_name_that_says_nothing():
    assert [path for path in SOURCES if {path.stem, path.parent.name} & FORBIDDEN] == []


def test_every_file_fits_in_one_sitting():
    lengths = {str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in SOURCES}
    assert len(lengths) > 50
    assert {name: length for name, length in lengths.items() if length > LONGEST} == {}


def test_the_public_names_are_what_they_promise_to_be():
    for name in harmonet.__all__:
        assert getattr(harmonet, name) is not None
    assert set(harmonet.__all__) <= set(dir(harmonet))


def test_version_is_the_same_in_code_project_and_changelog():
    version = tomllib.loads(read("pyproject.toml"))["project"]["version"]
    assert harmonet.__version__ == version
    assert re.search(rf"^## {re.escape(version)}\b", read("CHANGELOG.md"), re.MULTILINE)


def test_the_two_commands_of_the_readme_are_in_the_makefile():
    commands = set(re.findall(r"^make ([a-z]+)", read("README.md"), re.MULTILINE))
    targets = set(re.findall(r"^([a-z]+):", read("Makefile"), re.MULTILINE))
    assert commands == {"demo", "test"}
    assert commands <= targets


def test_continuous_integration_calls_the_test_command_of_the_readme():
    assert re.search(r"^\s*(exec )?make test\b", read(".ci/run"), re.MULTILINE)


def test_every_verb_in_the_readme_is_a_verb():
    from harmonet.cli import app

    verbs = {command.name for command in app.registered_commands} | {group.name for group in app.registered_groups}
    used = set(re.findall(r"^harmonet ([a-z]+)", read("README.md"), re.MULTILINE))
    assert {"compose", "train", "eval", "predict"} <= used <= verbs


def test_every_built_in_name_is_documented():
    from harmonet import plugins
    from harmonet.registry import CONNECTIONS, FUSIONS, LOSSES, METHODS, METRICS, NETWORKS, REPRESENTATIONS, WEIGHTINGS

    plugins.load()
    documents = read("README.md") + "".join(path.read_text(encoding="utf-8") for path in (ROOT / "docs").rglob("*.md"))
    names = [
        name
        for registry in (NETWORKS, FUSIONS, REPRESENTATIONS, CONNECTIONS, LOSSES, WEIGHTINGS, METRICS, METHODS)
        for name in registry.names()
        if registry.provider(name) == "harmonet"
    ]
    assert {"diqt", "shresnet", "msp", "sh_signal", "two_convs", "by_order", "gradnorm"} <= set(names)
    assert [name for name in names if f"`{name}`" not in documents] == []


def test_relative_links_in_the_documents_lead_somewhere():
    documents = [path for path in tracked() if path.suffix == ".md"] + [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
    broken = [
        f"{path.relative_to(ROOT)}: {link}"
        for path in sorted(set(documents))
        for link in re.findall(r"\]\(([^)#\s]+)", path.read_text(encoding="utf-8"))
        if "://" not in link and not link.startswith("mailto:") and not (path.parent / link).exists()
    ]
    assert broken == []


def test_no_tracked_file_names_a_place_on_one_machine():
    homes = ("work", "home", "root", "Users")
    place = re.compile(r"(?<![\w.~-])/(?:" + "|".join(homes) + r")/\w")
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path, text in tracked().items()
        for number, line in enumerate(text.splitlines(), 1)
        if place.search(line)
    ]
    assert found == []


def test_what_git_must_not_hold_is_not_there():
    names = [path.relative_to(ROOT).as_posix() for path in tracked()]
    assert len(names) > 50
    unwanted = re.compile(r"(\.nii(\.gz)?|\.safetensors|\.pt|\.pkl|\.pyc)$|(^|/)(__pycache__|\.venv|harmonet-demo)/")
    assert [name for name in names if unwanted.search(name)] == []
