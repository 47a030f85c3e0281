"""`harmonet plugin new`: the package that it writes works as it is, in an environment of its own, offline."""

import ast
import json
import os
import re
import subprocess
import sysconfig
import tomllib
import venv
from pathlib import Path

import pytest
from bench import one_line

from harmonet.hookspecs import API

KINDS = {"network": "my_net", "fusion": "my_fusion"}


def written(folder):
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def new(tmp_path, invoke, monkeypatch):
    """Runs `harmonet plugin new` in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return lambda *words: invoke("plugin", "new", *words)


@pytest.mark.parametrize(("kind", "name"), KINDS.items())
def test_every_file_of_a_package_is_there_and_no_placeholder_is_left(kind, name, new, tmp_path):
    ended = new(name, "--kind", kind)
    assert (ended.status, ended.out) == (0, "")
    distribution = f"harmonet-{name.replace('_', '-')}"
    module = f"harmonet_{name}"
    files = written(tmp_path / distribution)
    code = f"src/{module}/{kind}.py"
    assert set(files) == {
        "pyproject.toml",
        "README.md",
        ".gitignore",
        f"src/{module}/__init__.py",
        code,
        "tests/test_conformance.py",
    }
    for path, text in files.items():
        assert f"wrote {distribution}/{path}" in ended.err
        assert not re.search(r"\$\w|\$\{", text), path
    project = tomllib.loads(files["pyproject.toml"])["project"]
    assert (project["name"], project["entry-points"]["harmonet"]) == (distribution, {name: module})
    assert len(files[code].splitlines()) <= 60
    assert f"\nharmonet_api = {API} " in files[f"src/{module}/__init__.py"]
    assert "licence" in files["README.md"].lower()
    assert "license" not in project  # the author's to choose


def test_a_network_is_the_default_and_the_place_can_be_chosen(new, tmp_path):
    (tmp_path / "here").mkdir()  # an empty folder is no harm
    assert new("my_net", "--out", tmp_path / "here").status == 0
    assert (tmp_path / "here" / "src" / "harmonet_my_net" / "network.py").is_file()


def test_what_is_there_is_never_overwritten(new, tmp_path):
    assert new("my_net").status == 0
    mine = tmp_path / "harmonet-my-net" / "README.md"
    mine.write_text("mine")
    assert "harmonet-my-net exists already and is left as it is" in one_line(new("my_net"))
    assert mine.read_text() == "mine"
    (tmp_path / "file").write_text("mine")
    assert "file exists already" in one_line(new("my_net", "--out", "file"))
    assert "file/x cannot be written" in one_line(new("my_net", "--out", "file/x"))
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("", "cannot name a plugin"),
        ("2d", "beginning with a letter"),
        ("MyNet", "lower-case letters"),
        ("my-net", "digits and single _"),
        ("my__net", "digits and single _"),
        ("net_", "digits and single _"),
        ("_net", "beginning with a letter"),
        ("../net", "cannot name a plugin"),
        ("näht", "cannot name a plugin"),
        ("n" * 41, "at most 40"),
        ("none", "its class would be None"),
        ("diqt", "network 'diqt' is taken by harmonet: choose another name"),
    ],
)
def test_a_name_that_could_not_be_typed_imported_published_or_registered_is_refused(name, words, new, tmp_path):
    assert words in one_line(new(name))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "kind"), [("tensor", "network"), ("nn", "network"), ("torch", "network"), ("mapping", "fusion")]
)
def test_a_name_that_the_module_imports_too_shadows_nothing(name, kind, new, tmp_path):
    assert new(name, "--kind", kind, "--out", tmp_path / "out").status == 0
    tree = ast.parse((tmp_path / "out" / "src" / f"harmonet_{name}" / f"{kind}.py").read_text())
    imports = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    classes = {node.name for node in tree.body if isinstance(node, ast.ClassDef)}
    assert classes == {name.capitalize()}
    assert classes.isdisjoint(alias.asname or alias.name for node in imports for alias in node.names)


@pytest.mark.slow
def test_a_network_and_a_fusion_install_pass_their_own_tests_and_are_listed(new, tmp_path):
    for kind, name in KINDS.items():
        assert new(name, "--kind", kind, "--out", tmp_path / name).status == 0
    python = environment(tmp_path / "venv")
    pip = ["-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-index", "--no-deps"]
    places = [word for name in KINDS.values() for word in ("-e", tmp_path / name)]
    run(python, *pip, "--no-build-isolation", *places, cwd=tmp_path)
    plugins = {row["plugin"]: row for row in listed(python, "plugins", tmp_path)}
    for kind, name in KINDS.items():
        assert (plugins[name]["state"], plugins[name]["brings"]) == ("loaded", [name])
        assert name in {row["name"] for row in listed(python, f"{kind}s", tmp_path)}
        tested = run(python, "-m", "pytest", "-q", "-p", "no:cacheprovider", cwd=tmp_path / name)
        assert re.search(r"\b[1-9]\d* passed", tested)
        assert not re.search(r"failed|error|xfailed|skipped", tested.splitlines()[-1]), tested


def environment(folder):
    """The Python of a fresh environment that sees the packages of this one, but installs into its own folder."""
    venv.create(folder, symlinks=True)  # without pip: this environment's installs for it
    own = sysconfig.get_path("purelib", "venv", vars={"base": str(folder), "platbase": str(folder)})
    ours = {sysconfig.get_path(place) for place in ("purelib", "platlib")}
    lines = [f"import site; site.addsitedir({place!r})" for place in sorted(ours)]  # reads their .pth files too
    (Path(own) / "of_the_tests.pth").write_text("\n".join([*lines, ""]))
    return folder / ("Scripts" if os.name == "nt" else "bin") / "python"


def run(python, *words, cwd):
    """What the command printed; it must end well."""
    environment = {
        k: v for k, v in os.environ.items() if not k.startswith(("PYTEST", "PYTHONPATH", "HARMONET_PLUGINS"))
    }
    done = subprocess.run([python, *words], cwd=cwd, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def listed(python, what, cwd):
    return json.loads(run(python, "-m", "harmonet", "list", what, "--json", cwd=cwd))
