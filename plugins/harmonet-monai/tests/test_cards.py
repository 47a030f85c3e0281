"""What needs no MONAI: the cards, listing, and that a class is asked for by name only where the recipe allows it."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch
from harmonet_monai import harmonet_networks
from harmonet_monai.by_name import torch_module

import harmonet as hn
from harmonet.composer import build_network
from harmonet.recipe import parse, read_recipe, to_toml
from harmonet.testing import parametrize_with_checks

HERE = Path(__file__).resolve().parent.parent
CARDS = {entry.name: entry for entry in harmonet_networks()}
TWICE = {"cls": "torch.nn:Conv3d", "allow": ["torch.nn"], "arguments": {"kernel_size": 3, "padding": 1}}


def batch(edge=11, channels=28):
    return torch.randn((1, channels, edge, edge, edge), generator=torch.Generator().manual_seed(edge))


def recipe_with(options):
    """A recipe that predicts one platform by `torch_module`."""
    return parse(
        {
            "source": {"name": "a", "voxel_size": [2.0, 2.0, 2.0]},
            "target": [{"name": "b", "voxel_size": [2.0, 2.0, 2.0]}],
            "model": {"candidates": {"b": ["torch_module"]}, "options": {"torch_module": options}},
        },
        "of a test",
    )


@parametrize_with_checks([CARDS["torch_module"]])
def test_it_keeps_what_harmonet_promises(entry, check):
    check(entry)


@parametrize_with_checks([CARDS["torch_module"]], {"torch_module": TWICE})
def test_a_class_of_torch_by_name_keeps_it_too(entry, check):
    check(entry)


def test_the_project_says_how_it_is_found_and_what_it_needs():
    project = tomllib.loads((HERE / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["harmonet"] == {"monai": "harmonet_monai"}
    assert [need.split(">")[0] for need in project["dependencies"]] == ["harmonet", "monai", "einops"]
    assert "Apache License" in (HERE / "LICENSE").read_text()


def test_the_readme_has_a_card_of_each_network_with_its_parameters_and_options():
    words = (HERE / "README.md").read_text()
    for name, card in CARDS.items():
        text = words.split(f"## Card: `{name}`")[1].split("\n## ")[0]
        assert f"| parameters | {card.parameters:,} at" in text
        assert [option for option in card.options() if f"`{option} = " not in text] == []
        assert card.paper is None or card.paper.doi in text
        assert ("known failure" in text) == bool(card.unsupported)


def test_listing_imports_neither_monai_nor_torch_nor_the_networks():
    asked = (
        "import sys; sys.path.insert(0, sys.argv[1]); import harmonet_monai;"
        "print([e.name for e in harmonet_monai.harmonet_networks()]);"
        "print({'torch', 'monai', 'harmonet_monai.networks', 'harmonet_monai.by_name'} & set(sys.modules))"
    )
    told = subprocess.run([sys.executable, "-c", asked, HERE / "src"], capture_output=True, text=True, check=True)
    assert told.stdout.splitlines() == [str(list(CARDS)), "set()"]


def test_a_class_outside_of_the_list_is_refused_before_anything_is_imported(tmp_path, monkeypatch):
    (tmp_path / "never_imported.py").write_text("raise SystemExit('it ran')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        hn.HarmonetError, match=r'lies under nothing that this recipe allows .*allow = \["never_imported'
    ):
        torch_module(28, 28, cls="never_imported:Net")
    assert "never_imported" not in sys.modules
    with pytest.raises(SystemExit, match="it ran"):  # so that the test can fail
        torch_module(28, 28, cls="never_imported:Net", allow=["never_imported"])


@pytest.mark.parametrize(
    ("cls", "allow", "words"),
    [
        ("torch.nn:Conv3d", [], "lies under nothing"),
        ("torch.nn:Conv3d", ["torch.nn.modules"], "lies under nothing"),
        ("torch.nn:Conv3d", ["torch.n"], "lies under nothing"),
        ("torch.nn:Conv3d", ["*"], "lies under nothing"),
        ("torch.nn:Conv3d", [""], "lies under nothing"),
        ("torch.nn:Conv3d", "torch.nn", "lies under nothing"),
        ("torch.nn.Conv3d", ["torch"], "names no class: write package.module:Class"),
        ("torch.nn:Conv3d.forward", ["torch"], "names no class"),
        ("torch.nn:__import__('os')", ["torch"], "names no class"),
        ("..nn:Conv3d", ["torch"], "names no class"),
        ("torch.nn:functional", ["torch"], "is no torch.nn.Module class"),
        ("os:system", ["os"], "is no torch.nn.Module class"),
        ("torch.nn:Conv9d", ["torch"], "importing torch.nn:Conv9d gave AttributeError"),
        ("no_such_package:Net", ["no_such_package"], "gave ModuleNotFoundError"),
        ("torch.nn:Conv3d", ["torch"], r"cannot be built with in_channels, out_channels \(TypeError"),
    ],
)
def test_what_names_no_allowed_class_is_refused_in_one_sentence(cls, allow, words):
    with pytest.raises(hn.HarmonetError, match=words) as refused:
        torch_module(28, 28, cls=cls, allow=allow)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("value", [print, {"a": [object()]}, {1: 2}])
def test_arguments_are_data_alone(value):
    with pytest.raises(hn.HarmonetError, match=r"argument width is a .*: give numbers, text, lists and tables"):
        torch_module(28, 28, arguments={"width": value})


def test_an_argument_that_harmonet_fills_in_is_not_given_twice():
    with pytest.raises(hn.HarmonetError, match="arguments has 'in_channels', which harmonet fills in"):
        torch_module(28, 28, arguments={"in_channels": 3})


def test_a_table_of_arguments_comes_back_from_a_recipe(tmp_path):
    options = TWICE | {"arguments": {"kernel_size": [3, 3, 3], "padding": 1, "padding_mode": "replicate"}}
    (tmp_path / "recipe.toml").write_text(to_toml(recipe_with(options)))
    found = read_recipe(tmp_path / "recipe.toml").model.options["torch_module"]
    assert found == options
    network = build_network(CARDS["torch_module"], 28, 28, 1, found)
    assert network.net.padding_mode == "replicate"


def test_a_class_that_takes_no_channels_is_led_to_by_convolutions():
    options = {"cls": "torch.nn:Conv3d", "allow": ["torch.nn"], "in_argument": "", "out_argument": ""}
    arguments = {"in_channels": 1, "out_channels": 2, "kernel_size": 3, "padding": 1}
    network = torch_module(15, 28, upsampling=2, arguments=arguments, **options)
    assert network(batch(channels=15)).shape == (1, 28, 19, 19, 19)
    assert (network.entry.out_channels, network.exit.in_channels) == (1, 2)


def test_it_is_a_member_beside_the_built_ins_on_both_grids():
    small = {"diqt": {"layers": 1, "widths": (4, 6)}, "shresnet": {"blocks": 1, "width": 4}}
    torch.manual_seed(0)
    members = {"a": build_network(CARDS["torch_module"], 28, 28, 1, {}), "b": "diqt", "c": "shresnet"}
    members["d"] = build_network(CARDS["torch_module"], 28, 28, 2, {})
    model = hn.compose(members, "msp", upsampling={"b": 2, "d": 2}, taps={"a": "net.body", "d": "grid"}, options=small)
    assert {p: y.shape[2] for p, y in model(batch())[-1].items()} == {"a": 11, "b": 19, "c": 11, "d": 19}
    assert model.sizes["d"].features["grid"] == (28, 19, 19, 19)
