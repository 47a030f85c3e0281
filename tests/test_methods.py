"""Methods that are no networks: what the built-in ones learn, and their road through train, eval and predict."""

import json
import re
import shutil
import tomllib
from dataclasses import replace
from pathlib import Path

import catalogue
import nibabel as nib
import numpy as np
import pytest
from bench import one_line
from heads import make_head

import harmonet as hn
from harmonet import plugins
from harmonet.build import recipe_of
from harmonet.data.layout import open_dataset
from harmonet.data.scan import read_scan
from harmonet.errors import NotFoundError, OutputError, RecipeError, RunError
from harmonet.evaluation import evaluate
from harmonet.evaluation.comparisons import comparisons
from harmonet.files import sha256
from harmonet.methods.identity import Identity
from harmonet.methods.interpolation import Interpolation, interpolated
from harmonet.methods.linear import Linear
from harmonet.methods.places import HeadSpace, voxels_of
from harmonet.methods.rish_linear import RishLinear
from harmonet.platforms import Grid, preset
from harmonet.reading import read_heads
from harmonet.recipe import parse, to_toml
from harmonet.registry import METHODS, MethodEntry
from harmonet.runs.export import export
from harmonet.runs.predict import predict
from harmonet.runs.sweep import result_of
from harmonet.runs.train import train
from harmonet.testing import examine, parametrize_with_checks

ROOT = Path(__file__).resolve().parent.parent
ORDERS = {"l = 0": slice(0, 1), "l = 2": slice(1, 6)}
NEAR, FINE = "prisma_st", "connectom_sa"


def quiet(*_):
    """Say nothing."""


def planted(make_target, seed, name="near"):
    """A pair whose target is made of the interpolated source."""
    head = make_head(f"h{seed}", seed=seed)
    target = head.targets[name]
    made = make_target(interpolated(head.source, target.grid).astype(np.float64)) * target.mask[..., None]
    return hn.Pair(head.subject, head.source, replace(target, channels=made.astype(np.float32)))


def taught(method, pairs):
    method.fit([method.learn(pair) for pair in pairs])
    return method


# ---- the built-in methods


@parametrize_with_checks(["identity", "interpolation", "linear", "rish_linear"])
def test_a_built_in_method_keeps_what_the_kit_asks(entry, check):
    check(entry)


def test_linear_finds_the_planted_line_of_each_channel():
    slope, offset = np.linspace(-1, 2, 6), np.linspace(3, 0, 6)
    pairs = [planted(lambda x: x * slope + offset, seed) for seed in range(3)]
    target = pairs[2].target
    said = taught(Linear(ORDERS), pairs[:2]).predict(pairs[2].source, target.grid)
    assert np.allclose(said[target.mask], target.channels[target.mask], atol=1e-4)


@pytest.mark.parametrize("name", ["near", "fine"])
@pytest.mark.parametrize(("gain", "scale"), [(1.5, 1.5), (0.8, 0.8), (3.0, 2.0), (0.1, 0.5)])
def test_rish_linear_finds_the_planted_gain_of_each_order_within_its_limits(gain, scale, name):
    gains = np.array([1.0, *[gain] * 5])
    pairs = [planted(lambda x: x * gains, seed, name) for seed in range(3)]
    source, target = pairs[2].source, pairs[2].target
    said = taught(RishLinear(ORDERS), pairs[:2]).predict(source, target.grid)
    wanted = interpolated(source, target.grid) * np.array([1.0, *[scale] * 5])
    assert np.allclose(said[target.mask], wanted[target.mask], atol=2e-3)
    assert not said[~interpolated(source, target.grid).any(axis=-1)].any()


def test_rish_linear_scales_each_place_by_what_was_seen_there():
    ramp = np.linspace(0.7, 1.8, 14)[:, None, None, None]
    pairs = [planted(lambda x: x * ramp, seed) for seed in range(3)]
    source, target = pairs[2].source, pairs[2].target
    said = taught(RishLinear(ORDERS), pairs[:2]).predict(source, target.grid)
    scales = said[target.mask][:, 3] / interpolated(source, target.grid)[target.mask][:, 3]
    assert np.corrcoef(scales, np.argwhere(target.mask)[:, 0])[0, 1] > 0.97


def test_rish_linear_meets_a_head_that_lies_elsewhere_and_is_larger():
    ramp = np.linspace(0.7, 1.8, 14)[:, None, None, None]
    pairs = [planted(lambda x: x * ramp, seed) for seed in range(3)]
    method = taught(RishLinear(ORDERS), pairs[:2])
    source = pairs[2].source
    moved = Grid(source.grid.shape, np.diag([1.2, 1.2, 1.2, 1.0]) @ source.grid.affine)
    moved.affine[:3, 3] += (30, -20, 10)
    here = method.predict(source, source.grid)
    assert np.allclose(method.predict(replace(source, grid=moved), moved), here, atol=1e-4)


def test_rish_linear_needs_orders():
    with pytest.raises(RecipeError, match="a scalar image does not have: use linear"):
        RishLinear({})


def test_identity_takes_the_nearest_voxel_and_interpolation_the_mask_alone_as_witness():
    head = make_head("h", seed=3)
    source, fine = head.source, head.targets["fine"].grid
    nearest = Identity({}).predict(source, fine)
    assert np.array_equal(nearest[::2, ::2, ::2], source.channels)
    said = Interpolation({}).predict(source, fine)
    assert np.allclose(said[::2, ::2, ::2], source.channels, atol=1e-6)
    flat = replace(source, channels=np.where(source.mask[..., None], np.float32(2), np.float32(0)))
    about = Interpolation({}).predict(flat, fine)
    assert set(np.unique(np.round(about, 5))) == {0, 2}  # no voxel is darkened by what lies outside the mask


def test_what_is_collected_in_the_space_of_heads_is_found_again():
    source = make_head("h", seed=0).source
    ramp = np.indices(source.mask.shape)[0][..., None].astype(float)
    space = HeadSpace.of(source)
    values, weights = space.collect(ramp, source.mask, source.grid)
    inside = np.argwhere(source.mask)[::7].T
    found, share = space.find(values, source.grid, inside), space.find(weights[..., None], source.grid, inside)
    assert np.allclose(found / share, inside[0][:, None], atol=0.35)  # of a voxel: the space is coarser in places
    assert voxels_of(source.grid).shape == (3, source.mask.size)


# ---- from a recipe to a table


@pytest.fixture(scope="module")
def recipe():
    return recipe_of(preset("cdmri2017"), {}, method="rish_linear", order=4, options={"rish_linear": {"fwhm": 4.0}})


@pytest.fixture(scope="module")
def run(recipe, tiny_heads, tmp_path_factory):
    return train(recipe, open_dataset(tiny_heads), tmp_path_factory.mktemp("method") / "rish", quiet)


def test_a_recipe_of_a_method_says_all_of_its_options_and_reads_back(recipe):
    assert recipe.model.options == {"rish_linear": {"fwhm": 4.0, "lowest": 0.5, "highest": 2.0}}
    assert parse(tomllib.loads(to_toml(recipe)), "again") == recipe


@pytest.mark.parametrize(
    "beside",
    [
        {"candidates": {"prisma_st": ["diqt"], "connectom_st": ["diqt"], "connectom_sa": ["diqt"]}},
        {"fusion": "msp", "refine": ["prisma_st"]},
        {"frozen": ["prisma_st"]},
        {"residual": "linear"},
    ],
)
def test_a_method_stands_alone_in_a_recipe(recipe, beside):
    tables = recipe.model_dump(exclude_none=True)
    with pytest.raises(RecipeError, match=r"model.method = 'rish_linear' stands in place of networks"):
        parse(tables | {"model": tables["model"] | beside}, "odd")


def test_a_method_that_is_not_known_or_cannot_be_built_ends_before_anything_is_read(recipe, tiny_heads, tmp_path):
    options = {"rish_linear": {"fwhm": "wide"}}
    odd = recipe.model_copy(update={"model": recipe.model.model_copy(update={"options": options})})
    with pytest.raises(RecipeError, match="method rish_linear cannot be built with its options"):
        train(odd, open_dataset(tiny_heads), tmp_path / "run", quiet)
    odd = recipe.model_copy(update={"model": recipe.model.model_copy(update={"method": "rish_linea"})})
    with pytest.raises(NotFoundError, match="Did you mean rish_linear"):
        train(odd, open_dataset(tiny_heads), tmp_path / "run", quiet)
    with pytest.raises(RecipeError, match="--tune measures networks"):
        train(recipe, open_dataset(tiny_heads), tmp_path / "run", quiet, measure=True)
    assert not (tmp_path / "run").exists()


def test_the_run_folder_of_a_method_is_an_ordinary_one(run, recipe, tiny_heads):
    facts = json.loads((run.folder / "model.json").read_text())
    assert facts["networks"] == {}
    assert "method rish_linear" in facts["providers"]
    assert set(facts["artefacts"]) == {"recipe.toml", "weights.safetensors", "history.jsonl"}
    assert set(facts["validation"]["candidates"][NEAR]) == {"rish_linear"}
    assert (run.folder / "history.jsonl").read_bytes() == b""
    assert run.label == open_dataset(tiny_heads).label
    assert dict(run.networks) == dict.fromkeys(recipe.task.target_names, "rish_linear")
    assert result_of("r", run).cells([NEAR])[2].startswith("rish_linear ")  # and its validation error
    with pytest.raises(OutputError, match="add --resume to continue it, --force to replace it"):
        train(recipe, open_dataset(tiny_heads), run.folder, quiet)
    again = train(recipe, open_dataset(tiny_heads), run.folder, quiet, resume=True)
    assert again.facts["created"] == run.facts["created"]


def test_a_loaded_run_predicts_what_the_method_learned_from_the_training_subjects(run, tiny_heads):
    dataset = open_dataset(tiny_heads)
    heads = read_heads(dataset, run.split.train, run.recipe, quiet)
    (head,) = read_heads(dataset, run.split.test, run.recipe, quiet)
    method = taught(
        RishLinear(run.representation.groups(), fwhm=4.0),
        [hn.Pair(h.subject, h.source, h.targets[FINE]) for h in heads],
    )
    grid = head.targets[FINE].grid
    loaded = hn.load(run.folder).methods[FINE]
    assert np.array_equal(loaded.predict(head.source, grid), method.predict(head.source, grid))


def test_methods_and_networks_stand_in_one_table(run, tiny_run, tiny_heads):
    found = evaluate([run, hn.load(tiny_run)], open_dataset(tiny_heads), quiet, metrics=["sh_mse"])
    assert found.kinds["rish: rish_linear"] == "method"
    assert found.kinds["rish_linear"] == "baseline"
    rows = list(found.methods)
    assert rows.index("the target itself") < rows.index("rish: rish_linear") < rows.index("msp: msp, stage 1")
    for platform in found.platforms:
        ours, default = (found.values(m, platform, "truth")[0] for m in ("rish: rish_linear", "rish_linear"))
        assert ours != default  # another width
        assert ours == pytest.approx(default, rel=0.2)
    roles = {r.role for r in comparisons(found, "truth") if r.method == "rish: rish_linear"}
    assert roles == {"the best single network", "the best linear baseline", "interpolation"}
    assert "rish: rish_linear" not in found.singles


def test_a_run_of_a_baseline_with_its_defaults_scores_like_the_baseline(tiny_heads, tmp_path):
    recipe = recipe_of(preset("cdmri2017"), {}, method="linear", order=4)
    run = train(recipe, open_dataset(tiny_heads), tmp_path / "mine", quiet)
    found = evaluate([run], open_dataset(tiny_heads), quiet, metrics=["sh_mse"])
    assert [m for m in found.methods if found.kinds[m] == "method"] == ["mine: linear"]
    for platform in found.platforms:
        ours, theirs = (found.values(m, platform, "truth")[0] for m in ("mine: linear", "linear"))
        assert ours == pytest.approx(theirs, rel=1e-5)
    assert [m.method for m in found.maps] == ["mine: linear"] * 3


# ---- a new subject


def test_a_method_writes_nifti_as_networks_do(run, tiny_heads, tmp_path, invoke):
    acquisition = open_dataset(tiny_heads).acquisition(run.split.test[0], "ge_st")
    given = ["--dwi", acquisition.dwi, "--bval", acquisition.bval, "--bvec", acquisition.bvec]
    done = invoke("predict", run.folder, *given, "--mask", acquisition.mask, "--out", tmp_path / "new", "--caution")
    assert done.status == 0, done.err
    scan = read_scan(acquisition)
    for platform, prediction in predict(run, scan).items():
        (image,) = (nib.load(path) for path in (tmp_path / "new").glob(f"*_space-{platform}_sh.nii.gz"))
        written = nib.as_closest_canonical(image).get_fdata()
        assert np.allclose(written, prediction.volume.channels, atol=1e-5)
        assert not written[~prediction.volume.mask].any()
        assert set(prediction.caution) == {"distance"}  # one stage, so that nobody disagrees


def test_a_method_predicts_on_the_grid_that_is_asked_for(run, tiny_heads, tmp_path):
    acquisition = open_dataset(tiny_heads).acquisition(run.split.test[0], "ge_st")
    onto = tmp_path / "grid.nii.gz"
    grid = np.diag([3.0, 3.0, 3.0, 1.0])
    nib.save(nib.Nifti1Image(np.zeros((10, 11, 12), np.float32), grid), onto)
    prediction = predict(run, read_scan(acquisition), [NEAR], onto=onto)[NEAR]
    assert prediction.volume.channels.shape[:3] == (10, 11, 12)
    assert prediction.volume.mask.any()


# ---- what a run of a method cannot do, and what it must refuse


def test_a_method_does_not_travel_and_is_no_member_of_a_composition(run, tmp_path):
    with pytest.raises(RunError, match="networks alone travel: copy the run"):
        export(run, tmp_path / "model")
    with pytest.raises(NotFoundError, match="has no network for prisma_st, only for none"):
        hn.compose({NEAR: run.folder}, channels=run.representation.channels)


def test_weights_of_another_method_are_refused(run, tmp_path):
    folder = shutil.copytree(run.folder, tmp_path / "run")
    other = run.recipe.model.model_copy(update={"method": "linear", "options": {}})
    (folder / "recipe.toml").write_text(to_toml(run.recipe.model_copy(update={"model": other})))
    facts = json.loads((folder / "model.json").read_text())
    facts["artefacts"]["recipe.toml"] = sha256(folder / "recipe.toml")
    (folder / "model.json").write_text(json.dumps(facts))
    with pytest.raises(RunError, match="are not what Linear keeps"):
        hn.load(folder)


# ---- a stranger's method


class Mean(hn.Method):
    """The mean of the training targets, which no source changes."""

    def learn(self, pair):
        return {"mean": pair.target.channels[pair.target.mask].mean(axis=0)}

    def fit(self, lessons):
        self.mean = np.mean([lesson["mean"] for lesson in lessons], axis=0)

    def state(self):
        return {"mean": self.mean}

    def restore(self, state):
        self.mean = state["mean"]

    def predict(self, source, target):
        return np.broadcast_to(self.mean, (*target.shape, len(self.mean))).astype(np.float32)


class Forgetful(Mean):
    """Keeps nothing of what it learned."""

    def state(self):
        return {}

    def restore(self, state):
        self.mean = np.zeros(6, np.float32)


class Divides(Mean):
    """Divides by the source, keeps the last subject alone, and says 64-bit numbers."""

    def fit(self, lessons):
        self.mean = lessons[-1]["mean"]

    def predict(self, source, target):
        return super().predict(source, target) / source.channels.sum()


@pytest.fixture
def registry(monkeypatch):
    """The registry of methods, left afterwards as it was."""
    plugins.load()
    monkeypatch.setattr(catalogue, "REGISTRY", catalogue.REGISTRY.copy())
    monkeypatch.setattr(METHODS, "_providers", dict(METHODS._providers))


def test_a_method_is_registered_from_a_script_and_goes_all_the_way(tiny_heads, tmp_path, registry):
    assert hn.register_method("mean")(Mean) is Mean
    assert plugins.method("mean").summary == "The mean of the training targets, which no source changes."
    assert "mean" in hn.list_methods()
    recipe = recipe_of(preset("cdmri2017"), {}, method="mean", order=2)
    run = train(recipe, open_dataset(tiny_heads), tmp_path / "run", quiet)
    found = evaluate([run], open_dataset(tiny_heads), quiet, metrics=["sh_mse"])
    assert found.values("run: mean", NEAR, "truth")[0] > found.values("linear", NEAR, "truth")[0]


def test_the_method_in_the_docs_is_registered_and_keeps_what_the_kit_asks(registry):
    page = (ROOT / "docs" / "reference" / "methods.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    found = {"__name__": "page"}
    exec(code, found)
    assert plugins.method("gain").build is found["Gain"]
    assert {r.check for r in examine("gain") if r.result == "failed"} == {"card"}  # a script has no card


@pytest.mark.parametrize(("build", "failed"), [(Forgetful, {"state"}), (Divides, {"finite", "order"})])
def test_the_kit_finds_a_promise_that_is_not_kept(build, failed):
    entry = MethodEntry(name="odd", build=build, summary="odd", our_choice="all of it")
    with np.errstate(all="ignore"):
        assert {r.check for r in examine(entry) if r.result == "failed"} == failed


# ---- the command line


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--method", "linear", "--single", "diqt", "--fusion", "msp"], "--single, --fusion is theirs"),
        (["--method", "linear", "--preset", "recommended"], "--preset is theirs"),
        ([], "there is nothing to compose"),
        (["--method", "rish_linear", "--representation", "intensity"], "use linear"),
        (["--method", "rish_linear", "--option", "fwmh=3"], "no option 'fwmh'. Did you mean fwhm?"),
    ],
)
def test_compose_refuses_in_one_sentence_what_is_no_recipe_of_a_method(invoke, args, words):
    ended = invoke("compose", *args)
    assert ended.status == 2
    assert words in one_line(ended)


def test_compose_list_show_and_check_know_methods(invoke, tmp_path):
    out = tmp_path / "r.toml"
    done = invoke("compose", "--method", "rish_linear", "--option", "fwhm=4", "--out", out)
    assert done.status == 0, done.err
    assert "fwhm = 4" in done.out
    assert 'method = "rish_linear"' in out.read_text()
    listed = invoke("list", "methods", "--json")
    assert {"identity", "interpolation", "linear", "rish_linear"} <= {row["name"] for row in json.loads(listed.out)}
    assert "lowest = 0.5" in invoke("show", "rish_linear").out
    assert "identity: 8 of 8 checks are kept" in invoke("check", "identity").out
