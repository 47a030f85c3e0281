"""The plugin door: real distributions in a folder on the path, harmonet in a process of its own.

Whatever a stranger's package does, the command ends with status 0, the built-ins and the other plugins are there, and
the user reads which package was left out and why.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import harmonet

ROOT = Path(harmonet.__file__).parents[1]
BUILT_IN = {"harmonet.networks", "harmonet.fusions", "harmonet.representations"}
CARD = 'hn.NetworkEntry(name="{}", build="nowhere:Odd", summary="{}")'


def hook(answer, name="harmonet_networks", mark="@hn.hookimpl", arguments=""):
    """Source of one hook, on top of which a plugin may do more."""
    return f"import harmonet as hn\n{mark}\ndef {name}({arguments}):\n    return {answer}\n"


def network(name, summary="an odd network"):
    return CARD.format(name, summary)


def install(folder, package, source, version="1.0", points=None, metadata=True):
    """A module and its distribution, as pip lays them out."""
    (folder / f"{package}.py").write_text(source)
    info = folder / f"{package}-{version}.dist-info"
    info.mkdir()
    if metadata:
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
    named = points or {package: package}
    lines = [f"{name} = {value}" for name, value in named.items()]
    (info / "entry_points.txt").write_text("\n".join(["[harmonet]", *lines, ""]))


def environment_of(folder, **settings):
    """The environment of a process that sees the folder's distributions; settings are HARMONET_<name>."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HARMONET_PLUGIN")}
    environment["PYTHONPATH"] = os.pathsep.join([str(folder), str(ROOT)])
    return environment | {f"HARMONET_{name}": str(value) for name, value in settings.items()}


def run(folder, *words, switch=None, **settings):
    """A Python process that sees the folder's distributions."""
    environment = environment_of(folder, **settings, **({} if switch is None else {"PLUGINS": switch}))
    words = [sys.executable, "-W", "always", *words]
    return subprocess.run(words, env=environment, cwd=folder, capture_output=True, text=True, timeout=120)


def listed(folder, what="plugins", switch=None, **settings):
    """The rows of `harmonet list`, by name, and what stderr said."""
    done = run(folder, "-m", "harmonet", "list", what, "--json", switch=switch, **settings)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return {row["plugin" if what == "plugins" else "name"]: row for row in json.loads(done.stdout)}, done.stderr


def warnings_of(stderr):
    return [line for line in stderr.splitlines() if "PluginWarning" in line]


# what is wrong: (source, why it is left out)
BAD = {
    "raises_at_import": ("raise OSError('no licence server')", "OSError: no licence server"),
    "needs_what_is_not_there": ("import a_missing_thing", "ModuleNotFoundError: No module named 'a_missing_thing'"),
    "exits_at_import": ("import sys; sys.exit(3)", "SystemExit: 3"),
    "has_a_syntax_error": ("def broken(:", "SyntaxError: invalid syntax"),
    "misspells_a_hook": (
        hook("[]", "harmonet_netwroks"),
        "it has harmonet_netwroks, which is no hook: did you mean harmonet_networks?",
    ),
    "misspells_an_unmarked_hook": (
        hook(f"[{network('lost')}]") + "def harmonet_fusion(): return []",
        "it has harmonet_fusion, which is no hook: did you mean harmonet_fusions?",
    ),
    "misspells_the_prefix": (
        hook(f"[{network('lost')}]") + "@hn.hookimpl\ndef harmnet_fusions(): return []",
        "unknown hook 'harmnet_fusions'",
    ),
    "forgets_the_mark": (
        hook("[]", mark=""),
        "its harmonet_networks is not marked: write @harmonet.hookimpl above it.",
    ),
    "forgets_one_mark_of_two": (
        hook(f"[{network('lost')}]") + "def harmonet_fusions(): return []",
        "its harmonet_fusions is not marked: write @harmonet.hookimpl above it.",
    ),
    "answers_nothing": ("VALUE = 1", "it answers no hook: mark one of harmonet_networks,"),
    "wants_an_argument": (
        hook("[]", arguments="device"),
        "Argument(s) {'device'} are declared in the hookimpl but can not be found",
    ),
    "raises_when_asked": (hook("1 / 0"), "ZeroDivisionError: division by zero"),
    "exits_when_asked": (hook("exit(0)"), "SystemExit: 0"),
    "answers_with_one_card": (
        hook(network("lost")),
        "harmonet_networks must return a list of NetworkEntry, found NetworkEntry(name='lost'",
    ),
    "answers_with_nothing": (hook("None"), "harmonet_networks must return a list of NetworkEntry, found None."),
    "answers_with_names": (hook("['lost']"), "harmonet_networks must return a list of NetworkEntry, found ['lost']."),
    "answers_with_the_wrong_kind": (
        hook("[hn.FusionEntry(name='lost', build='a:B', summary='x')]"),
        "harmonet_networks must return a list of NetworkEntry, found [FusionEntry(name='lost'",
    ),
    "has_a_bad_card": (hook(f"[{network('two words')}]"), "'two words' is no entry name"),
    "is_for_a_newer_harmonet": (
        "harmonet_api = 7\n" + hook("[]"),
        "it needs plugin API 7, this harmonet takes 1: upgrade harmonet.",
    ),
    "says_its_api_in_words": (
        "harmonet_api = '1'\n" + hook("[]"),
        "its harmonet_api is '1': write a whole number, such as harmonet_api = 1.",
    ),
    "raises_what_is_no_exception": ("class Odd(BaseException): pass\nraise Odd('so')", "Odd: so"),
    "brings_a_name_twice": (hook(f"[{network('lost')}] * 2"), "it brings network lost twice."),
    "registers_at_import": (
        "import harmonet as hn\n@hn.register_network('lost')\ndef build(in_channels, out_channels, upsampling): ...",
        "it lists or registers names while it is imported or asked",
    ),
    "asks_back": (hook("hn.list_networks()"), "it lists or registers names while it is imported or asked"),
    "cannot_say_why": ("class Mute(Exception):\n    def __str__(self): raise ValueError\nraise Mute", "Mute"),
    "says_too_much": ("raise ValueError('\\x1b[2J' + 'so\\n' * 5000)", "ValueError: [2Jso so so"),
}


@pytest.fixture(scope="module")
def bazaar(tmp_path_factory):
    """A folder with every bad plugin and, last, a good one."""
    folder = tmp_path_factory.mktemp("bazaar")
    for number, (fault, (source, _)) in enumerate(BAD.items()):
        install(folder, fault, source, version=f"2.{number}")
    install(folder, "zealous", hook(f"[{network('fine')}]"))
    return folder


@pytest.fixture(scope="module")
def listed_bazaar(bazaar):
    return listed(bazaar)


@pytest.mark.parametrize("fault", BAD)
def test_a_bad_plugin_is_left_out_whole_with_package_and_reason(listed_bazaar, fault):
    rows, stderr = listed_bazaar
    row, version, reason = rows[fault], f"2.{list(BAD).index(fault)}", BAD[fault][1]
    assert (row["package"], row["version"], row["state"], row["brings"]) == (fault, version, "left out", [])
    assert reason in row["problem"]
    assert len(row["problem"]) < 400
    assert row["problem"].isprintable()
    warning = f"harmonet: PluginWarning: plugin {fault} of {fault} {version} is left out: {row['problem']}"
    assert warnings_of(stderr).count(warning) == 1


def test_bad_plugins_hide_neither_the_built_ins_nor_the_good_one(bazaar, listed_bazaar):
    rows, stderr = listed_bazaar
    assert {name for name, row in rows.items() if row["state"] == "loaded"} >= BUILT_IN | {"zealous"}
    assert len(warnings_of(stderr)) == len(BAD)
    networks, _ = listed(bazaar, "networks")
    assert {"diqt", "shresnet", "fine"} <= set(networks)
    assert "lost" not in networks
    assert networks["diqt"]["from"] == "harmonet"


def test_a_lone_plugin_that_exits_at_import_does_not_end_the_command(tmp_path):
    install(tmp_path, "bad", BAD["exits_at_import"][0])
    rows, stderr = listed(tmp_path, "fusions")
    assert "msp" in rows
    assert warnings_of(stderr) == ["harmonet: PluginWarning: plugin bad of bad 1.0 is left out: SystemExit: 3"]


def test_a_good_plugin_is_listed_with_package_version_and_what_it_brings(tmp_path):
    source = hook(f"[{network('fine')}, {network('finer')}]") + "\n@hn.hookimpl\ndef harmonet_fusions():\n    return "
    source += "(hn.FusionEntry(name='fine', build='a:B', summary='same name, other kind'),)"
    install(tmp_path, "good", source, version="0.4", points={"nice": "good"})
    rows, stderr = listed(tmp_path)
    assert rows["nice"] == {
        "plugin": "nice",
        "package": "good",
        "version": "0.4",
        "file": None,
        "api": 1,
        "hooks": {"harmonet_networks": ["fine", "finer"], "harmonet_fusions": ["fine"]},
        "brings": ["fine", "finer", "fine"],
        "state": "loaded",
        "problem": "",
    }
    assert warnings_of(stderr) == []


def test_the_same_card_from_two_packages_is_no_harm(tmp_path):
    for package in ("alpha", "beta"):
        install(tmp_path, package, hook(f"[{network('same')}]"))
    rows, stderr = listed(tmp_path, "networks")
    assert rows["same"]["from"] == "alpha"
    assert warnings_of(stderr) == []


def test_of_one_package_the_sound_entry_points_are_kept(tmp_path):
    install(
        tmp_path,
        "half",
        hook(f"[{network('fine')}]"),
        points={"gone": "half:not_there", "lost": "nowhere", "sound": "half"},
    )
    rows, _ = listed(tmp_path)
    assert rows["gone"]["problem"] == "AttributeError: module 'half' has no attribute 'not_there'"
    assert rows["lost"]["problem"] == "ModuleNotFoundError: No module named 'nowhere'"
    assert rows["sound"]["brings"] == ["fine"]


def test_a_distribution_without_metadata_is_called_by_its_module(tmp_path):
    install(tmp_path, "bare", hook(f"[{network('fine')}]"), metadata=False)
    install(tmp_path, "good", hook(f"[{network('finer')}]"))
    rows, _ = listed(tmp_path)
    assert (rows["bare"]["package"], rows["bare"]["version"], rows["bare"]["brings"]) == ("bare", "", ["fine"])
    assert rows["good"]["state"] == "loaded"


def test_what_a_plugin_prints_does_not_reach_the_data_on_stdout(tmp_path):
    install(tmp_path, "loud", "print('Welcome!')\n" + hook(f"print('Asked!') or [{network('fine')}]"))
    rows, stderr = listed(tmp_path)  # the JSON could not be read otherwise
    assert rows["loud"]["state"] == "loaded"
    assert "Welcome!\n" in stderr
    assert "Asked!\n" in stderr


def test_asking_for_a_name_that_a_left_out_plugin_may_have_brought_says_so(tmp_path):
    install(tmp_path, "bad", BAD["raises_at_import"][0])
    asked = """
from harmonet import plugins
print(plugins.fusion("msp").name)
for ask in (plugins.network, plugins.fusion, plugins.representation):
    try:
        ask("lost")
    except LookupError as error:
        print(error)
"""
    found, *errors = run(tmp_path, "-c", asked).stdout.splitlines()
    assert found == "msp"  # what is there is found as ever
    for kind, error in zip(("network", "fusion", "representation"), errors, strict=True):
        assert error.startswith(f"no {kind} 'lost'. Known: ")
        assert error.endswith("Plugin bad of bad was left out (OSError: no licence server)")


@pytest.mark.parametrize(
    ("switch", "found"),
    [
        ("off", []),
        ("alpha", ["alpha"]),
        ("nick", ["beta"]),
        (" alpha, bad", ["alpha", "bad"]),
        ("", ["alpha", "bad", "beta"]),
    ],
    ids=repr,
)
def test_the_switch_lets_in_what_it_names_by_package_or_entry_point(tmp_path, switch, found):
    install(tmp_path, "alpha", hook(f"[{network('from_alpha')}]"))
    install(tmp_path, "beta", hook(f"[{network('from_beta')}]"), points={"nick": "beta"})
    install(tmp_path, "bad", BAD["raises_at_import"][0])
    rows, stderr = listed(tmp_path, switch=switch)
    assert rows.keys() >= BUILT_IN
    theirs = {row["package"]: row for row in rows.values() if row["package"] in ("alpha", "bad", "beta")}
    assert sorted(package for package, row in theirs.items() if row["state"] != "switched off") == found
    assert sorted(theirs) == ["alpha", "bad", "beta"]  # what is switched off is listed, with the switch
    for package in theirs.keys() - set(found):
        assert theirs[package]["problem"] == f"HARMONET_PLUGINS={switch.strip()} does not let it in"
    assert len(warnings_of(stderr)) == ("bad" in found)


@pytest.mark.parametrize(
    "words",
    [["--help"], ["--version"], ["list", "--help"], ["train", "--help"], ["plugin", "new", "--help"]],
    ids=" ".join,
)
def test_help_answers_with_a_broken_plugin_installed_and_imports_none(tmp_path, words):
    mark = tmp_path / "imported"
    install(tmp_path, "bad", f"open({str(mark)!r}, 'w'); raise OSError")
    done = run(tmp_path, "-m", "harmonet", *words)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout
    assert not mark.exists()


SCRIPT = '''
import torch
import harmonet as hn

@hn.register_network("my_net", tap="0", upsampling=(1, 2), summary="one convolution")
def build(in_channels, out_channels, upsampling, kernel=3):
    first = torch.nn.Conv3d(in_channels, 4, kernel, padding=2 - upsampling)
    last = torch.nn.Conv3d(4, out_channels, 1) if upsampling == 1 else torch.nn.ConvTranspose3d(4, out_channels, 3, 2)
    return torch.nn.Sequential(first, last)

@hn.register_fusion("mine")
class Mine(hn.Fusion):
    """Doubles the target's prediction.

    Further lines are not the summary.
    """
    def forward(self, first, features):
        assert features["b"]["features"].shape[1] == 4
        return [{self.target: 2 * first[self.target]}]

model = hn.compose({"a": "my_net", "b": "my_net"}, "mine", "a", upsampling={"a": 2}, channels=6)
first, refined = model(torch.ones(1, 6, 11, 11, 11))
assert torch.equal(refined["a"], 2 * first["a"]) and refined["a"].shape == (1, 6, 19, 19, 19)
from harmonet import plugins
print(hn.list_networks("my*"), hn.list_fusions("mi*"), plugins.fusion("mine").summary)
for name in ("my_net", "diqt"):
    try:
        hn.register_network(name)(Mine)
    except hn.HarmonetError as error:
        print(error)
'''


def test_a_script_registers_a_network_and_a_fusion_and_composes_them(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    done = run(tmp_path, "script.py")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "['my_net'] ['mine'] Doubles the target's prediction.",
        "network 'my_net' is taken by __main__: choose another name.",
        "network 'diqt' is taken by harmonet: choose another name.",
    ]
