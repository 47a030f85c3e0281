"""A run is loaded with the packages that made it, or refused with both versions named."""

import json
import shutil

import pytest

import harmonet as hn
from harmonet import plugins
from harmonet.build import recipe_of
from harmonet.errors import RunError
from harmonet.files import write_whole
from harmonet.platforms import preset
from harmonet.runs.providers import keep_providers, providers_of, refuse_other_providers

TASK = preset("cdmri2017")
HERE = {"package": "harmonet", "version": hn.__version__}


@pytest.fixture
def plugin_name(monkeypatch):
    """A network of another package than harmonet, which the name of an installed one stands for."""
    from harmonet.registry import NETWORKS

    monkeypatch.setitem(NETWORKS._providers, "diqt", "pluggy")
    return "network diqt"


def test_a_run_remembers_who_brought_each_part():
    made = recipe_of(TASK, {name: ["diqt", "shresnet@2"] for name in TASK.target_names}, fusion="msp")
    assert providers_of(made) == {
        "network diqt": HERE,
        "network shresnet": HERE,
        "fusion msp": HERE,
        "representation sh_signal": HERE,
    }
    assert set(providers_of(made, ["diqt+diqt@3"])) == {"network diqt", "fusion msp", "representation sh_signal"}


@pytest.fixture
def strange_parts(monkeypatch):
    """A loss, a weighting and a connection network that the name of another installed package stands for."""
    from harmonet import registry

    plugins.load()
    for kind, name in (("LOSSES", "huber"), ("WEIGHTINGS", "uncertainty"), ("CONNECTIONS", "two_convs")):
        monkeypatch.setitem(getattr(registry, kind)._providers, name, "pluggy")
    options = {"msp": {"connection": "two_convs"}}
    made = recipe_of(TASK, {name: ["diqt"] for name in TASK.target_names}, fusion="msp", options=options)
    loss = made.loss.model_copy(update={"name": "huber", "weighting": "uncertainty"})
    return made.model_copy(update={"loss": loss})


def test_a_run_remembers_who_brought_loss_weighting_and_connection_where_they_are_strange(strange_parts):
    found = providers_of(strange_parts)
    strange = {part: there["package"] for part, there in found.items() if there["package"] != "harmonet"}
    parts = ["connection two_convs", "loss huber", "weighting uncertainty"]
    assert strange == dict.fromkeys(parts, "pluggy")
    assert all(found[part]["version"] for part in parts)


@pytest.mark.parametrize("part", ["loss huber", "weighting uncertainty"])
def test_a_finished_run_needs_no_loss_and_one_that_goes_on_does(strange_parts, tmp_path, part):
    recorded = {part: {"package": "pluggy", "version": "0.9"}}
    refuse_other_providers(tmp_path, recorded)
    keep_providers(tmp_path, recorded)
    with pytest.raises(RunError, match=f"{part} of pluggy 0.9, found that of pluggy"):
        keep_providers(tmp_path, providers_of(strange_parts))


def test_a_run_needs_its_connection_network(strange_parts, tmp_path):
    with pytest.raises(RunError, match=r"connection two_convs of pluggy 0.9, found"):
        refuse_other_providers(tmp_path, {"connection two_convs": {"package": "pluggy", "version": "0.9"}})


def test_built_in_parts_of_another_harmonet_are_let_pass(tmp_path):
    refuse_other_providers(tmp_path, {"network diqt": {"package": "harmonet", "version": "0.0.1"}})


@pytest.mark.parametrize(
    ("there", "words"),
    [
        (
            {"package": "pluggy", "version": "0.9"},
            r"network diqt of pluggy 0.9, found that of pluggy \d.* install pluggy==0.9",
        ),
        (
            {"package": "other", "version": "2.0"},
            r"network diqt of other 2.0, found that of pluggy .* install other==2.0",
        ),
    ],
)
def test_another_version_or_package_is_refused_with_both_named(plugin_name, tmp_path, there, words):
    with pytest.raises(RunError, match=words):
        refuse_other_providers(tmp_path, {plugin_name: there})


def test_a_part_that_is_not_here_is_refused_with_what_to_install(tmp_path):
    recorded = {"network gone": {"package": "their-nets", "version": "1.2"}}
    with pytest.raises(RunError, match=r"network gone of their-nets 1.2, which is not here: install their-nets==1.2"):
        refuse_other_providers(tmp_path, recorded)


def test_a_part_may_be_asked_for_by_its_package_and_name(plugin_name, tmp_path):
    here = providers_of(recipe_of(TASK, {name: ["pluggy:diqt"] for name in TASK.target_names}))
    assert here["network pluggy:diqt"]["package"] == "pluggy"
    refuse_other_providers(tmp_path, here)


def test_an_unfinished_run_goes_on_with_the_same_version_only(plugin_name, tmp_path):
    keep_providers(tmp_path, {plugin_name: {"package": "pluggy", "version": "0.9"}})
    with pytest.raises(RunError, match=r"of pluggy 0.9, found"):
        keep_providers(tmp_path, {})
    (tmp_path / "providers.json").write_text("{")
    with pytest.raises(RunError, match=r"providers.json is damaged"):
        keep_providers(tmp_path, {})


def changed(run, tmp_path, **changes):
    copy = shutil.copytree(run, tmp_path / "run")
    facts = json.loads((copy / "model.json").read_text()) | changes
    write_whole(copy / "model.json", json.dumps(facts).encode())
    return copy


def test_a_run_of_another_format_or_plugin_says_what_to_do(tiny_run, tmp_path):
    old = changed(tiny_run, tmp_path / "old", format=1, harmonet="0.0.9")
    with pytest.raises(
        RunError,
        match=r"run format 1 of harmonet 0.0.9, but this harmonet .* reads format 2: use harmonet 0.0.9, or train",
    ):
        hn.load(old)
    new = changed(tiny_run, tmp_path / "new", format=99, harmonet="9.0")
    with pytest.raises(RunError, match=r"run format 99 of harmonet 9.0.* use harmonet 9.0\.$"):
        hn.load(new)
    gone = changed(tiny_run, tmp_path / "gone", providers={"fusion gone": {"package": "x", "version": "1"}})
    with pytest.raises(RunError, match=r"fusion gone of x 1, which is not here: install x==1"):
        hn.load(gone)
