"""A network called `package:name`, all the way: composed, written into a recipe, trained, loaded."""

import json

from test_plugins import hook, install, run

CARDS = """
import torch
{hook}
def build(in_channels, out_channels, upsampling, width=2):
    first = torch.nn.Conv3d(in_channels, width, 3, padding=2 - upsampling)
    last = torch.nn.Conv3d(width, out_channels, 1)
    up = torch.nn.ConvTranspose3d(width, out_channels, 3, 2)
    return torch.nn.Sequential(first, torch.nn.ReLU(), last if upsampling == 1 else up)
"""
CARD = "hn.NetworkEntry(name='odd', build='{0}:build', summary='of {0}', upsampling=(1, 2), taps={{'features': '1'}})"

WHOLE = """
import json, sys, tomllib
from pathlib import Path
import harmonet as hn
from harmonet.cli import app
from harmonet.data.layout import open_dataset
from harmonet.recipe import read_recipe
from harmonet.runs.train import train

names = ["alpha:odd", "beta:odd@2"]
words = ["--single", "beta:odd", "--single", f"prisma_st={names[0]},prisma_st={names[1]}", "--order", "4"]
words += ["--single", "connectom_st=beta:only"]
words += ["--option", "alpha:odd.width=3", "--tap", "beta:odd=0", "--tap", "prisma_st.alpha:odd=2"]
app(["compose", *words, "--fusion", "msp", "--out", "msp.toml"], standalone_mode=False)
msp = tomllib.loads(Path("msp.toml").read_text())["model"]
app(["compose", *words, "--fusion", "ensemble", "--out", "ensemble.toml"], standalone_mode=False)

recipe = read_recipe(Path("ensemble.toml"))
training = {"epochs": 1, "joint_epochs": 1, "patches_per_subject": 2, "validation_patches": 2, "batch_size": 2}
recipe = recipe.model_copy(update={"training": recipe.training.model_copy(update=training)})
out = Path("run")
train(recipe, open_dataset(Path(sys.argv[1])), out, lambda *_: None)
loaded = hn.load(out)
facts = json.loads((out / "model.json").read_text())
first = loaded.model.singles["prisma_st"]
print(json.dumps({
    "options": msp["options"],
    "taps": msp["taps"],
    "networks": facts["networks"],
    "providers": {part: told["package"] for part, told in facts["providers"].items()},
    "widths": sorted(p.shape[0] for n, p in first.named_parameters() if n.endswith("0.bias")),
    "again": list(hn.load(out / "singles" / f"prisma_st.{names[1]}").networks.values()),
}), file=sys.stderr)
"""


def test_a_network_of_a_claimed_name_is_composed_trained_and_loaded_by_package_and_name(tmp_path, tiny_heads):
    for package in ("alpha", "beta"):
        only = CARD.format(package).replace("'odd'", "'only'")
        cards = [CARD.format(package), *([only] if package == "beta" else [])]
        install(tmp_path, package, CARDS.format(hook=hook(f"[{', '.join(cards)}]")))
    (tmp_path / "whole.py").write_text(WHOLE)
    done = run(tmp_path, "whole.py", tiny_heads)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stderr.splitlines()[-1])
    assert {name: found["options"][name] for name in ("alpha:odd", "beta:odd")} == {
        "alpha:odd": {"width": 3},
        "beta:odd": {"width": 2},
    }
    assert found["taps"] == {"beta:odd": ["0"], "prisma_st.alpha:odd": ["2"]}
    assert found["networks"]["prisma_st"] == "alpha:odd+beta:odd@2"
    assert found["networks"]["connectom_sa"] == "beta:odd"
    assert found["networks"]["connectom_st"] == "beta:only"  # by its full name, though the short one would do
    assert (found["providers"]["network alpha:odd"], found["providers"]["network beta:odd"]) == ("alpha", "beta")
    assert found["widths"] == [2, 3]
    assert found["again"] == ["beta:odd@2"]
