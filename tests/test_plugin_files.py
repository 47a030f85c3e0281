"""Plugins that are a single file, named by `--plugin FILE.py` or by the environment."""

import hashlib
import json
import os

import pytest
from test_plugins import hook, install, listed, network, run

DECORATED = """
import harmonet as hn

@hn.register_network("my_net", tap="0", upsampling=(1, 2))
def build(in_channels, out_channels, upsampling, width=2):
    '''One convolution.'''
    import torch
    return torch.nn.Conv3d(in_channels, out_channels, 1)

@hn.register_fusion("my_fusion", summary="theirs")
def fuse(sources, target): ...
"""


def networks(folder, *words, **settings):
    done = run(folder, "-m", "harmonet", *words, "--json", **settings)
    assert done.returncode == 0, done.stderr
    return {row["name"]: row["from"] for row in json.loads(done.stdout)}


@pytest.mark.parametrize(
    "words",
    [
        ["--plugin", "mine.py", "list", "networks", "my*"],
        ["--plugin=mine.py", "list", "networks", "my*"],
        ["list", "--plugin", "mine.py", "networks", "my*"],
        ["list", "networks", "my*", "--plugin=mine.py"],
    ],
    ids=" ".join,
)
def test_a_file_is_taken_before_and_after_the_verb(tmp_path, words):
    (tmp_path / "mine.py").write_text(DECORATED)
    assert networks(tmp_path, *words) == {"my_net": "mine"}


def test_several_files_answer_hooks_or_use_decorators_and_the_environment_hands_them_on(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "mine.py").write_text(DECORATED)
    told = "import os, sys\nprint(os.environ['HARMONET_PLUGIN_FILES'], file=sys.stderr)\n"
    (tmp_path / "sub" / "other.py").write_text(told + hook(f"[{network('theirs')}]"))
    rows, stderr = listed(tmp_path, PLUGIN_FILES=f"mine.py{os.pathsep}sub/other.py{os.pathsep}")
    done = run(tmp_path, "-m", "harmonet", "list", "plugins", "--json", "--plugin", "mine.py", "--plugin=sub/other.py")
    assert {row["plugin"]: row for row in json.loads(done.stdout)} == rows
    assert f"{tmp_path / 'mine.py'}{os.pathsep}{tmp_path / 'sub' / 'other.py'}\n" in done.stderr
    digest = hashlib.sha256(DECORATED.encode()).hexdigest()
    assert rows["mine"] == {
        "plugin": "mine",
        "package": "mine",
        "version": digest,
        "file": str(tmp_path / "mine.py"),
        "api": 1,
        "hooks": {"harmonet_networks": ["my_net"], "harmonet_fusions": ["my_fusion"]},
        "brings": ["my_net", "my_fusion"],
        "state": "loaded",
        "problem": "",
    }
    assert rows["other"]["hooks"] == {"harmonet_networks": ["theirs"]}
    assert f"mine, {digest[:12]}" not in stderr


def test_a_file_beside_installed_plugins_that_are_switched_off_is_taken(tmp_path):
    (tmp_path / "mine.py").write_text(DECORATED)
    install(tmp_path, "theirs", hook(f"[{network('lost')}]"))
    found = networks(tmp_path, "list", "networks", "[ml][yo]*", "--plugin", "mine.py", switch="off")
    assert found == {"my_net": "mine"}


def test_a_network_of_a_file_is_built_by_its_short_and_its_full_name_also_when_given_as_text(tmp_path):
    text = DECORATED + "\n" + hook("[hn.NetworkEntry(name='as_text', build='mine:build', summary='the same')]")
    (tmp_path / "mine.py").write_text(text)
    asked = "import harmonet as hn\nfor n in ('my_net', 'mine:my_net', 'as_text'): print(hn.create_network(n, 2, 3))"
    done = run(tmp_path, "-c", asked, PLUGIN_FILES="mine.py")
    assert done.stdout.splitlines() == ["Conv3d(2, 3, kernel_size=(1, 1, 1), stride=(1, 1, 1))"] * 3, done.stderr


# what is wrong with mine.py: (source, words)
WRONG = {
    "raises": ("x = 1\n\n1 / 0\n", "line 3: ZeroDivisionError: division by zero."),
    "raises in a function": ("def f():\n    raise OSError('no')\n\n\nf()\n", "line 2: OSError: no."),
    "is no Python": ("x = 1\ndef broken(:\n", "line 2: SyntaxError: invalid syntax."),
    "exits": ("import sys\nsys.exit(3)\n", "line 2: SystemExit: 3."),
    "is not text": ("x = '\0'", "SyntaxError: source code string cannot contain null bytes."),
    "registers nothing": ("x = 1", "it answers no hook: mark one of harmonet_networks,"),
    "brings a name twice": (
        "import harmonet as hn\nfor _ in 'ab': hn.register_network('odd', summary='odd')(lambda: 1)",
        "it brings network odd twice.",
    ),
    "has a bad card": ("import harmonet as hn\nhn.register_network('two words')(print)", "line 2: 'two words' is no"),
    "is for a newer harmonet": (f"harmonet_api = 2\n{DECORATED}", "it needs plugin API 2, this harmonet takes 1:"),
}


@pytest.mark.parametrize("fault", WRONG)
def test_what_is_wrong_with_a_file_ends_the_work_with_one_sentence(tmp_path, fault):
    source, words = WRONG[fault]
    (tmp_path / "mine.py").write_text(source)
    done = run(tmp_path, "-m", "harmonet", "--plugin", "mine.py", "list", "networks")
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"harmonet: plugin {tmp_path / 'mine.py'} cannot be used: {words}")


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (["nowhere.py"], "plugin {0}/nowhere.py cannot be read (No such file or directory): give --plugin FILE.py."),
        (["text.txt"], "plugin {0}/text.txt is no NAME.py, with letters, digits, _ and -: rename it."),
        (["two words.py"], "plugin {0}/two words.py is no NAME.py, with letters, digits, _ and -: rename it."),
        (["json.py"], "plugin {0}/json.py has the name of another module, json: rename it."),
        (["statistics.py"], "plugin {0}/statistics.py has the name of another module, statistics: rename it."),
        (["sub/harmonet.py"], "plugin {0}/sub/harmonet.py has the name of another module, harmonet: rename it."),
        (["mine.py", "sub/mine.py"], "plugin {0}/sub/mine.py has the name of another plugin, mine: rename it."),
        (["theirs.py"], "plugin {0}/theirs.py has the name of another plugin, theirs: rename it."),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_file_that_cannot_be_told_from_others_or_read_is_refused(tmp_path, files, words):
    install(tmp_path, "theirs", hook("[]"))
    asked = tmp_path / "asked"
    for name in files:
        if name != "nowhere.py":
            (asked / name).parent.mkdir(parents=True, exist_ok=True)
            (asked / name).write_text(DECORATED)
    named = os.pathsep.join(str(asked / name) for name in files)
    done = run(tmp_path, "-m", "harmonet", "list", "networks", PLUGIN_FILES=named)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"harmonet: {words.format(asked)}\n")


@pytest.mark.parametrize("words", [["--help"], ["list", "--help"], ["--version"]], ids=" ".join)
def test_help_runs_no_file(tmp_path, words):
    (tmp_path / "mine.py").write_text("raise OSError")
    done = run(tmp_path, "-m", "harmonet", "--plugin", "mine.py", *words)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_plugin_option_without_a_file_is_refused(tmp_path):
    for words in (["--plugin"], ["list", "networks", "--plugin"], ["list", "networks", "--plugin", "nowhere.py"]):
        done = run(tmp_path, "-m", "harmonet", *words)
        assert (done.returncode, done.stdout) == (2, "")
        assert "--plugin" in done.stderr


RECORDED = """
import json, sys
from pathlib import Path
from harmonet.build import recipe_of
from harmonet.errors import RunError
from harmonet.platforms import preset
from harmonet.runs.providers import providers_of, refuse_other_providers

record = Path("record.json")
if not record.exists():
    task = preset("cdmri2017")
    made = recipe_of(task, {name: ["my_net", "mine:my_net"] for name in task.target_names}, fusion="my_fusion")
    record.write_text(json.dumps(providers_of(made)))
try:
    refuse_other_providers("run", json.loads(record.read_text()))
    print("taken")
except RunError as error:
    print(error)
"""


def test_a_run_records_the_file_and_is_loaded_with_the_same_file_alone(tmp_path):
    (tmp_path / "mine.py").write_text(DECORATED)
    (tmp_path / "script.py").write_text(RECORDED)
    assert run(tmp_path, "script.py", PLUGIN_FILES="mine.py").stdout == "taken\n"
    digest = hashlib.sha256(DECORATED.encode()).hexdigest()
    recorded = json.loads((tmp_path / "record.json").read_text())
    there = {"package": "mine.py", "version": digest}
    assert {part for part in recorded if recorded[part] == there} == {
        "network my_net",
        "network mine:my_net",
        "fusion my_fusion",
    }
    told = f"run was trained with network mine:my_net of mine.py {digest}"
    how = "give --plugin mine.py as it was then"
    assert run(tmp_path, "script.py").stdout == f"{told}, which is not here: {how}.\n"
    (tmp_path / "mine.py").write_text(DECORATED + "# changed")
    changed = hashlib.sha256(f"{DECORATED}# changed".encode()).hexdigest()
    found = run(tmp_path, "script.py", PLUGIN_FILES="mine.py").stdout
    assert found == f"{told}, found that of mine.py {changed} here: {how}, or train again.\n"
