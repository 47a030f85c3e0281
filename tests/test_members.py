"""Members of a composition: trained runs, frozen or not, chosen by validation error, refused where they do not fit."""

import json
import os
import shutil

import nibabel as nib
import numpy as np
import pytest
import safetensors.torch
import torch
from conftest import TINY

import harmonet as hn
from harmonet.blocks.restandardised import Restandardised
from harmonet.build import recipe_of, representation_of
from harmonet.data.layout import open_dataset
from harmonet.errors import RecipeError, RunError, ShapeError
from harmonet.fusion import Fusion
from harmonet.platforms import Task, preset
from harmonet.reading import Reading
from harmonet.recipe import parse
from harmonet.runs.agreement import restandardised
from harmonet.runs.export import export
from harmonet.runs.material import gather, split_of
from harmonet.runs.members import first_composition, pinned_runs
from harmonet.runs.train import choice, single_recipe, train
from harmonet.training.engine import ALONE

SMALL = TINY | {"shnet": {"width": 4}}


class Mean(Fusion):
    """The mean of all networks of the target."""

    default_taps = "none"
    takes_all = True

    def forward(self, first, features):
        return [{self.target: torch.stack(first.members[self.target]).mean(dim=0)}]


def quiet(*_):
    pass


def recipe_for(candidates, fusion=None, **model):
    """A recipe for the named platforms, with one short epoch."""
    task = preset("cdmri2017")
    task = Task(task.source, tuple(target for target in task.targets if target.name in candidates))
    used = {name for names in candidates.values() for name in names} & set(SMALL)
    tables = recipe_of(
        task, candidates, fusion=fusion, options={name: SMALL[name] for name in used}, **{"order": 2, **model}
    ).model_dump(exclude_none=True)
    tables["split"] = {"validation": ["sim02"], "test": ["sim03"]}
    tables["training"] = {
        "epochs": 1,
        "joint_epochs": 1,
        "patches_per_subject": 8,
        "validation_patches": 6,
        "batch_size": 4,
        "learning_rate": 1e-3,
    }
    return parse(tables, "of a test")


@pytest.fixture(scope="module")
def old_run(tiny_heads, tmp_path_factory):
    """A run of one platform, of two candidates, trained on one subject."""
    recipe = recipe_for({"prisma_st": ["diqt", "shresnet"]})
    return train(recipe, open_dataset(tiny_heads), tmp_path_factory.mktemp("runs") / "old", quiet)


@pytest.fixture(scope="module")
def more_heads(tiny_heads, tmp_path_factory):
    """The same heads and one more, whose signal is weaker, so that training statistics are others."""
    heads = shutil.copytree(tiny_heads, tmp_path_factory.mktemp("data") / "heads", copy_function=os.link)
    shutil.copytree(heads / "sim01", heads / "sim04")
    for path in (heads / "sim04").rglob("dwi.nii.gz"):
        image = nib.load(path)
        signal = np.asarray(image.dataobj) * np.where(np.loadtxt(path.with_name("dwi.bval")) < 50, 1.0, 0.7)
        nib.save(nib.Nifti1Image(signal.astype(np.float32), image.affine), path)
    return open_dataset(heads)


@pytest.fixture(scope="module")
def joint(old_run, more_heads, tmp_path_factory):
    """A composition over the old run, wrapped and frozen, a frozen network with batch norm and a trained one."""
    candidates = {"prisma_st": [str(old_run.folder)], "connectom_st": ["shnet"], "connectom_sa": ["diqt"]}
    recipe = recipe_for(candidates, "msp", restandardise=["prisma_st"], frozen=["prisma_st", "connectom_st"])
    said = []
    out = tmp_path_factory.mktemp("runs") / "joint"
    return train(recipe, more_heads, out, quiet, reading=Reading(say=said.append)), said


def weights_of(folder, platform):
    found = safetensors.torch.load_file(folder / "weights.safetensors")
    start = f"singles.{platform}."
    return {name.removeprefix(start): tensor for name, tensor in found.items() if name.startswith(start)}


def test_frozen_members_keep_weights_and_batch_norm_statistics_and_others_move(joint):
    run, _ = joint
    before = weights_of(run.folder / "singles" / "connectom_st.shnet", "connectom_st")
    after = weights_of(run.folder, "connectom_st")
    assert any("running_var" in name for name in before)
    assert all(torch.equal(after[name], before[name]) for name in before)
    before = weights_of(run.folder / "singles" / "connectom_sa.diqt", "connectom_sa")
    after = weights_of(run.folder, "connectom_sa")
    assert not any(torch.equal(after[name], before[name]) for name in before if name.endswith("weight"))


def test_a_member_standardised_otherwise_predicts_the_same_raw_values_once_wrapped(old_run, joint):
    run, said = joint
    assert any("maps between its standardisation and this run's" in words for words in said)
    wrapped = run.model.singles["prisma_st"]
    assert isinstance(wrapped, Restandardised)
    assert not np.allclose(run.standardise_source.std, old_run.standardise_source.std, rtol=0.01)
    rng = np.random.default_rng(0)
    raw = rng.normal(old_run.standardise_source.mean, old_run.standardise_source.std, (1, 11, 11, 11, 6))
    mask = rng.random((1, 11, 11, 11)) < 0.7  # outside it, both must see what they saw in training
    results = []
    for one in (old_run, run):
        x = torch.as_tensor(one.standardise_source.apply_to(raw.astype(np.float32), mask)).movedim(-1, 1)
        with torch.no_grad():
            y = one.model.singles["prisma_st"](x).movedim(1, -1).numpy()
        results.append(one.standardise["prisma_st"].invert(y))
    assert np.abs(results[0] - results[1]).max() < 1e-5
    assert np.abs(results[0]).max() > 0.01


def test_taps_of_a_wrapped_member_are_found_inside_it(joint):
    run, _ = joint
    (layer,) = run.model.taps["prisma_st"].values()
    assert layer.startswith("net.")


def test_a_wrapped_member_can_be_a_member_of_another_composition(joint, old_run):
    run, _ = joint
    twice = restandardised(old_run, "prisma_st", run).model.singles["prisma_st"]
    x = torch.randn(2, 6, 11, 11, 11)
    with torch.no_grad():
        assert torch.allclose(twice(x), old_run.model.singles["prisma_st"](x), atol=1e-5)
    model = hn.compose(
        {"prisma_st": run.folder, "connectom_st": run.folder, "connectom_sa": "diqt"},
        "msp",
        "connectom_st",
        channels=6,
        upsampling={"connectom_sa": 2},
        options=SMALL,
    )
    assert model.taps["prisma_st"] == run.model.taps["prisma_st"]


def test_another_standardisation_is_refused_unless_asked_for(old_run, more_heads, tmp_path):
    recipe = recipe_for({"prisma_st": [str(old_run.folder)]})
    with pytest.raises(RunError, match=r"ge_st, prisma_st of sim01, this run with that of sim01, sim04: .*restandard"):
        train(recipe, more_heads, tmp_path / "run", quiet)
    assert not (tmp_path / "run").exists()


def test_restandardising_a_platform_without_a_run_is_refused():
    with pytest.raises(RecipeError, match="candidates diqt are no trained runs"):
        first_composition(recipe_for({"prisma_st": ["diqt"]}, restandardise=["prisma_st"]))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"order": 4}, r"representation sh_signal \(.*order = 2\), but this recipe sh_signal \(.*order = 4\)"),
        ({"patch_size": 9}, "patch size 11, but this recipe 9"),
        ({"source": {"name": "other"}}, "source ge_st of 2.4 .* mm, but this recipe other of 2.4"),
        ({"source": {"shells": [1205.0]}}, "shells 1200, but this recipe 1205"),
        ({"target": {"voxel_size": [1.2, 1.2, 1.2]}}, "upsampling 1 of prisma_st, but this recipe 2"),
        ({"representation": {"standardise": "acquisition"}}, "source by training, but this recipe acquisition"),
    ],
)
def test_a_member_that_learned_from_something_else_is_refused_with_both_named(old_run, change, words):
    model = {key: value for key, value in change.items() if key in ("order", "patch_size")}
    tables = recipe_for({"prisma_st": [str(old_run.folder)]}, **model).model_dump(exclude_none=True)
    tables["source"] |= change.get("source", {})
    tables["target"][0] |= change.get("target", {})
    tables["representation"] |= change.get("representation", {})
    with pytest.raises(RunError, match=words):
        first_composition(parse(tables, "of a test"))


def test_runs_that_disagree_with_each_other_or_with_the_settings_are_refused(old_run, joint):
    run, _ = joint
    with pytest.raises(RunError, match=rf"{run.folder} was standardised with ge_st of .*, {old_run.folder} with"):
        hn.compose({"prisma_st": old_run.folder, "connectom_st": run.folder}, channels=6)
    with pytest.raises(ShapeError, match="trained for channels 6 of prisma_st, asked for 28: set channels=6"):
        hn.compose({"prisma_st": old_run.folder})
    with pytest.raises(ShapeError, match="patch_size 11 of prisma_st, asked for 9: set patch_size=11"):
        hn.compose({"prisma_st": old_run.folder}, channels=6, patch_size=9)


def test_several_runs_of_one_platform_are_members_of_a_fusion_that_takes_all(old_run):
    folders = [old_run.folder / "singles" / f"prisma_st.{name}" for name in ("diqt", "shresnet")]
    model = hn.compose({"prisma_st": folders}, Mean, channels=6)
    x = torch.randn(1, 6, 11, 11, 11)
    with torch.no_grad():
        alone = [hn.load(folder).model(x)[-1]["prisma_st"] for folder in folders]
        assert torch.allclose(model.eval()(x)[-1]["prisma_st"], torch.stack(alone).mean(dim=0), atol=1e-6)


def test_a_member_that_predicts_cells_keeps_its_grid(tiny_heads, tmp_path):
    data = open_dataset(tiny_heads)
    alone = train(recipe_for({"connectom_sa": ["espcn_shuffle"]}), data, tmp_path / "alone", quiet)
    pinned = train(recipe_for({"connectom_sa": [str(alone.folder)]}), data, tmp_path / "pinned", quiet)
    assert pinned.facts["validation"]["score"] == pytest.approx(alone.facts["validation"]["score"], rel=1e-5)


def test_a_composition_that_is_a_member_says_what_is_taken_of_it(joint, more_heads, tmp_path):
    run, _ = joint
    said = []
    recipe = recipe_for({"connectom_st": [str(run.folder)]})
    again = train(recipe, more_heads, tmp_path / "run", quiet, reading=Reading(say=said.append))
    assert said == [f"{run.folder} is a composition: its network for connectom_st is used, without the fusion"]
    assert again.networks == {"connectom_st": "shnet"}


def test_the_choice_among_candidates_and_its_margin_stand_in_the_run(old_run):
    validation = json.loads((old_run.folder / "model.json").read_text())["validation"]
    errors = validation["candidates"]["prisma_st"]
    best, other = sorted(errors, key=errors.get)
    assert validation["chosen"] == {
        "prisma_st": {"candidate": best, "margin": pytest.approx(1 - errors[best] / errors[other], abs=1e-6)}
    }
    assert old_run.networks["prisma_st"] == best


def test_the_best_candidate_is_the_one_of_lowest_error_whatever_their_order():
    assert choice({"a": 2.0, "b": 1.0, "c": 4.0}) == {"candidate": "b", "margin": 0.5}
    assert choice({"b": 1.0}) == {"candidate": "b", "margin": None}


def test_choosing_reads_no_test_subject(old_run, tiny_heads, tmp_path):
    heads = shutil.copytree(tiny_heads, tmp_path / "heads")
    for path in (heads / "sim03").rglob("dwi.nii.gz"):
        image = nib.load(path)
        nib.save(nib.Nifti1Image(np.full(image.shape, np.nan, dtype=np.float32), image.affine), path)
    again = train(old_run.recipe, open_dataset(heads), tmp_path / "run", quiet)
    assert again.facts["validation"] == old_run.facts["validation"]


@pytest.fixture(scope="module")
def travelled(old_run, tmp_path_factory):
    """The old run as it was given away, its subjects without names."""
    out = tmp_path_factory.mktemp("travelled") / "model"
    export(old_run, out)
    return out


def pinned(candidate, heads, out, **split):
    """What is said of a trained run as a member, where these subjects are held out."""
    recipe, dataset, said = recipe_for({"prisma_st": [str(candidate)]}), open_dataset(heads), []
    recipe = recipe.model_copy(update={"split": recipe.split.model_copy(update=split)})
    reading = Reading(say=said.append)
    pinned_runs(gather(recipe, dataset, split_of(recipe, dataset), out, quiet, reading, ALONE), reading)
    return said


@pytest.mark.parametrize("held", [{"test": ["sim01"]}, {"validation": ["sim01"]}])
def test_a_member_that_has_seen_who_is_held_out_is_refused_under_any_name(
    old_run, travelled, tiny_heads, held, tmp_path
):
    for candidate, who in ((old_run.folder, "sim01"), (travelled, r"sim01 \(there subject-1\)")):
        with pytest.raises(RunError, match=rf"was trained on {who}, who is held out here: split alike"):
            pinned(candidate, tiny_heads, tmp_path, **held)


def test_a_member_without_fingerprints_says_that_nobody_can_check_what_it_has_seen(travelled, tiny_heads, tmp_path):
    assert pinned(travelled, tiny_heads, tmp_path) == []
    bare = shutil.copytree(travelled, tmp_path / "bare")
    facts = json.loads((bare / "model.json").read_text())
    (bare / "model.json").write_text(json.dumps({key: value for key, value in facts.items() if key != "images"}))
    (said,) = pinned(bare, tiny_heads, tmp_path)
    assert "whether it has seen the subjects who are held out here cannot be checked" in said


def test_a_single_of_several_targets_reads_the_shells_that_all_of_them_share():
    tables = recipe_for({"prisma_st": ["diqt"], "connectom_st": ["diqt"]}).model_dump(exclude_none=True)
    tables["source"]["shells"] = [1200.0, 3000.0]
    tables["target"][0]["shells"] = [1200.0, 3000.0]  # the other target has 1200 alone
    recipe = parse(tables, "of a test")
    alone = single_recipe(recipe, "prisma_st", "diqt")
    assert representation_of(alone).channels == representation_of(recipe).channels == 6
