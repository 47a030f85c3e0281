"""A run folder from end to end: trained, chosen, loaded, scored, predicted; damage and leaks refused."""

import json
import shutil

import nibabel as nib
import numpy as np
import pytest
import torch

import harmonet as hn
from harmonet.build import representation_of, shells_of
from harmonet.data.layout import open_dataset
from harmonet.data.scan import read_scan
from harmonet.errors import DataError, NotFoundError, OutputError, RecipeError, RunError
from harmonet.evaluation import evaluate
from harmonet.files import sha256
from harmonet.methods.identity import Identity
from harmonet.methods.interpolation import interpolated
from harmonet.platforms import Platform, Task
from harmonet.recipe import read_recipe
from harmonet.runs.predict import predict, write_predictions
from harmonet.runs.train import train

TARGETS = {"prisma_st", "connectom_st", "connectom_sa"}


def quiet(*_):
    pass


@pytest.fixture
def run_copy(tiny_run, tmp_path):
    return shutil.copytree(tiny_run, tmp_path / "run")


def test_the_folder_holds_what_the_surface_says(tiny_run, tiny_recipe):
    assert read_recipe(tiny_run / "recipe.toml") == tiny_recipe
    facts = json.loads((tiny_run / "model.json").read_text())
    assert set(facts["artefacts"]) == {"recipe.toml", "weights.safetensors", "history.jsonl", "curves.png"}
    for name, digest in facts["artefacts"].items():
        assert sha256(tiny_run / name) == digest
    assert facts["label"].startswith("simulated")
    assert set(facts["standardisation"]) == {"ge_st", *TARGETS}
    history = [json.loads(line) for line in (tiny_run / "history.jsonl").read_text().splitlines()]
    assert [record["epoch"] for record in history] == [1, 2, 3]


def test_the_candidate_of_lowest_validation_error_is_used(tiny_run):
    run = hn.load(tiny_run)
    errors = run.facts["validation"]["candidates"]
    assert set(errors["prisma_st"]) == {"diqt", "shresnet"}
    for platform, scores in errors.items():
        assert run.networks[platform] == min(scores, key=scores.get)


def test_every_single_network_is_a_run_of_its_own(tiny_run):
    folders = sorted(path.name for path in (tiny_run / "singles").iterdir())
    assert folders == ["connectom_sa.diqt", "connectom_st.shresnet", "prisma_st.diqt", "prisma_st.shresnet"]
    single = hn.load(tiny_run / "singles" / "connectom_sa.diqt")
    assert single.task.target_names == ("connectom_sa",)
    assert len(single.model(torch.zeros(1, 15, 11, 11, 11))) == 1


def test_no_subject_is_in_two_parts(tiny_run):
    split = hn.load(tiny_run).split
    assert len({*split.train, *split.validation, *split.test}) == 3


def test_statistics_come_from_the_training_subjects_only(tiny_run, tiny_heads):
    from harmonet.data.represent import represent

    run = hn.load(tiny_run)
    (subject,) = run.split.train
    scan = read_scan(open_dataset(tiny_heads).acquisition(subject, "prisma_st"))
    volume = represent(scan, run.representation, [1200])
    inside = volume.channels[volume.mask].astype(np.float64)
    assert np.allclose(run.standardise["prisma_st"].mean, inside.mean(axis=0), atol=1e-6)
    assert np.allclose(run.standardise["prisma_st"].std, inside.std(axis=0), rtol=1e-4)


def test_test_subjects_are_not_even_read_in_training(tiny_heads, tiny_recipe, tiny_run, tmp_path):
    heads = shutil.copytree(tiny_heads, tmp_path / "heads")
    (test_subject,) = hn.load(tiny_run).split.test
    for image in (heads / test_subject).rglob("dwi.nii.gz"):
        image.write_bytes(b"not an image")
    again = train(tiny_recipe, open_dataset(heads), tmp_path / "run", quiet)
    assert sha256(again.folder / "weights.safetensors") == sha256(tiny_run / "weights.safetensors")


def test_a_trained_single_can_be_composed_from_its_folder(tiny_run):
    folder = tiny_run / "singles" / "connectom_st.shresnet"
    model = hn.compose(
        {"connectom_st": folder, "prisma_st": "diqt"}, "msp", "prisma_st", channels=15, options={"diqt": {"layers": 0}}
    )
    trained = hn.load(folder).model.singles["connectom_st"].state_dict()
    for name, tensor in model.singles["connectom_st"].state_dict().items():
        assert torch.equal(tensor, trained[name])


def test_a_recipe_can_pin_a_trained_run(tiny_run, tiny_recipe, tiny_heads, tmp_path):
    folder = str(tiny_run / "singles" / "connectom_sa.diqt")
    tables = tiny_recipe.model.model_copy(
        update={"candidates": tiny_recipe.model.candidates | {"connectom_sa": [folder], "prisma_st": ["diqt"]}}
    )
    # the pinned network's options are its run's: the recipe need not know them
    tables = tables.model_copy(update={"candidates": tables.candidates | {"prisma_st": ["shresnet"]}})
    tables = tables.model_copy(update={"options": {k: v for k, v in tables.options.items() if k != "diqt"}})
    recipe = tiny_recipe.model_copy(update={"model": tables})
    run = train(recipe, open_dataset(tiny_heads), tmp_path / "run", quiet)
    assert run.networks["connectom_sa"] == "diqt"
    assert not (tmp_path / "run" / "singles" / "connectom_sa.diqt").exists()


def test_an_existing_folder_is_refused_and_kept(tiny_recipe, tiny_heads, tiny_run, tmp_path):
    dataset = open_dataset(tiny_heads)
    before = sha256(tiny_run / "model.json")
    with pytest.raises(OutputError, match="holds a run: add --resume"):
        train(tiny_recipe, dataset, tiny_run, quiet)
    assert sha256(tiny_run / "model.json") == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.doc").write_text("precious")
    for settings in ({}, {"force": True}, {"resume": True}):
        with pytest.raises(OutputError, match="holds no run: choose another folder"):
            train(tiny_recipe, dataset, tmp_path / "mine", quiet, **settings)
    assert (tmp_path / "mine" / "thesis.doc").read_text() == "precious"


def test_resuming_a_finished_run_does_nothing_and_another_recipe_is_refused(tiny_recipe, tiny_heads, tiny_run):
    dataset = open_dataset(tiny_heads)
    before = (tiny_run / "weights.safetensors").stat().st_mtime_ns
    train(tiny_recipe, dataset, tiny_run, quiet, resume=True)
    assert (tiny_run / "weights.safetensors").stat().st_mtime_ns == before
    with pytest.raises(OutputError, match="begun with another recipe"):
        train(tiny_recipe.model_copy(update={"seed": 9}), dataset, tiny_run, quiet, resume=True)


@pytest.mark.parametrize("phase", ["diqt for connectom_sa", "msp"])
def test_an_interrupted_run_resumes_to_the_same_weights(tiny_recipe, tiny_heads, tiny_run, tmp_path, phase):
    def interrupt(what, done, *_):
        if what == phase and done == 5:
            raise KeyboardInterrupt

    dataset = open_dataset(tiny_heads)
    with pytest.raises(KeyboardInterrupt):
        train(tiny_recipe, dataset, tmp_path / "run", interrupt)
    with pytest.raises(NotFoundError, match="no finished run"):
        hn.load(tmp_path / "run")
    run = train(tiny_recipe, dataset, tmp_path / "run", quiet, resume=True)
    assert sha256(run.folder / "weights.safetensors") == sha256(tiny_run / "weights.safetensors")


def test_bad_data_leave_no_run_folder(tiny_recipe, tiny_heads, tmp_path):
    heads = shutil.copytree(tiny_heads, tmp_path / "heads")
    for image in heads.rglob("prisma/st/dwi.nii.gz"):
        image.write_bytes(image.read_bytes()[:-100])
    with pytest.raises(DataError, match="truncated"):
        train(tiny_recipe, open_dataset(heads), tmp_path / "run", quiet)
    assert not (tmp_path / "run").exists()


def test_a_recipe_for_other_voxels_is_refused(tiny_recipe, tiny_heads, tmp_path):
    source = tiny_recipe.source.model_copy(update={"voxel_size": [1.2, 1.2, 1.2]})
    targets = [table for table in tiny_recipe.target if table.name == "connectom_sa"]
    model = tiny_recipe.model.model_copy(
        update={"candidates": {"connectom_sa": ["diqt"]}, "fusion": None, "refine": []}
    )
    recipe = tiny_recipe.model_copy(update={"source": source, "target": targets, "model": model})
    with pytest.raises(DataError, match=r"voxels of 2\.4 x 2\.4 x 2\.4 mm, the recipe says 1\.2"):
        train(recipe, open_dataset(tiny_heads), tmp_path / "run", quiet)


@pytest.mark.parametrize("name", ["weights.safetensors", "recipe.toml", "history.jsonl", "curves.png"])
def test_a_changed_file_is_found_by_its_checksum(run_copy, name):
    content = bytearray((run_copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (run_copy / name).write_bytes(content)
    with pytest.raises(RunError, match=f"{name} was changed or damaged"):
        hn.load(run_copy)


def test_a_missing_file_or_damaged_model_json_is_named(run_copy):
    (run_copy / "curves.png").unlink()
    with pytest.raises(RunError, match=r"curves\.png is missing"):
        hn.load(run_copy)
    (run_copy / "model.json").write_text("{")
    with pytest.raises(RunError, match=r"model\.json is damaged"):
        hn.load(run_copy)


def test_an_unknown_folder_is_no_run(tmp_path):
    with pytest.raises(NotFoundError, match="no run folder"):
        hn.load(tmp_path / "none")


@pytest.fixture(scope="module")
def evaluation(tiny_run, tiny_heads):
    return evaluate([hn.load(tiny_run)], open_dataset(tiny_heads), quiet)


def test_every_method_is_scored_on_every_platform_that_it_predicts(evaluation):
    assert list(evaluation.methods) == [
        "identity",
        "interpolation",
        "linear",
        "rish_linear",
        "the target itself",
        "diqt",
        "shresnet",
        "mean of singles",
        "msp, stage 0",
        "msp, stage 1",
    ]
    for platform in TARGETS:
        for method in ("identity", "interpolation", "linear", "rish_linear", "msp, stage 0", "msp, stage 1"):
            assert len(evaluation.values(method, platform, "target")) == 1
            assert len(evaluation.values(method, platform, "truth")) == 1
    assert len(evaluation.values("shresnet", "connectom_sa", "truth")) == 0
    has_candidates = [platform for platform in TARGETS if evaluation.values("mean of singles", platform, "truth")]
    assert has_candidates == ["prisma_st"]
    assert not evaluation.leaky


def test_identity_is_the_source_itself_where_grids_are_the_same(evaluation, tiny_run, tiny_heads):
    from harmonet.reading import read_heads

    run = hn.load(tiny_run)
    (head,) = read_heads(open_dataset(tiny_heads), run.split.test, run.recipe, quiet)
    mask = head.targets["prisma_st"].mask
    both = mask & head.source.mask
    grid = head.targets["prisma_st"].grid
    identity = Identity({}).predict(head.source, grid)
    assert np.array_equal(identity[both], head.source.channels[both])
    assert np.allclose(interpolated(head.source, grid)[both], head.source.channels[both], atol=1e-5)
    error = np.mean((identity - head.targets["prisma_st"].channels)[mask] ** 2)
    assert evaluation.values("identity", "prisma_st", "target")[0] == pytest.approx(float(error), rel=1e-5)


def test_interpolation_beats_the_nearest_voxel_on_the_finer_grid(evaluation):
    (nearest,) = evaluation.values("identity", "connectom_sa", "truth")
    (linear,) = evaluation.values("interpolation", "connectom_sa", "truth")
    assert linear < nearest


def test_orders_add_up_to_the_whole(evaluation):
    for score in evaluation.scores:
        weighted = sum((2 * int(name[4:]) + 1) * error for name, error in score.by_group.items()) / 15
        assert weighted == pytest.approx(score.sh_mse, rel=1e-6)


def test_a_subject_that_was_trained_on_is_refused_unless_allowed_and_then_marked(run_copy, tiny_heads):
    facts = json.loads((run_copy / "model.json").read_text())
    facts["split"]["test"] = facts["split"]["train"]
    (run_copy / "model.json").write_text(json.dumps(facts))
    run, dataset = hn.load(run_copy), open_dataset(tiny_heads)
    with pytest.raises(RunError, match="trained a run: test on others, or use --allow-leak"):
        evaluate([run], dataset, quiet)
    assert evaluate([run], dataset, quiet, allow_leak=True).leaky


def test_runs_of_one_name_are_not_mixed_in_one_table(tiny_run, run_copy, tiny_heads):
    dataset, other = open_dataset(tiny_heads), run_copy.rename(run_copy.with_name("other"))
    evaluation = evaluate([hn.load(tiny_run), hn.load(other)], dataset, quiet)
    assert {"msp: msp, stage 1", "other: msp, stage 1"} <= set(evaluation.methods)
    assert len(evaluation.values("other: msp, stage 1", "prisma_st", "target")) == 1
    with pytest.raises(RunError, match=r"need different names, found .*msp, .*msp: rename a folder"):
        evaluate([hn.load(tiny_run), hn.load(tiny_run)], dataset, quiet)


def test_a_test_subject_that_is_not_there_is_named(tiny_run, tiny_heads, tmp_path):
    heads = shutil.copytree(tiny_heads, tmp_path / "heads")
    run = hn.load(tiny_run)
    shutil.rmtree(heads / run.split.test[0])
    with pytest.raises(DataError, match=f"lacks the test subjects {run.split.test[0]}"):
        evaluate([run], open_dataset(heads), quiet)


@pytest.fixture(scope="module")
def predicted(tiny_run, tiny_heads, tmp_path_factory):
    run = hn.load(tiny_run)
    acquisition = open_dataset(tiny_heads).acquisition(run.split.test[0], "ge_st")
    scan = read_scan(acquisition)
    out = tmp_path_factory.mktemp("out") / "new"
    predictions = predict(run, scan)
    write_predictions(run, scan, predictions, out, "new")
    return run, acquisition, scan, predictions, out


def test_predictions_lie_exactly_on_the_inputs_grid_or_its_refinement(predicted):
    _, acquisition, _, _, out = predicted
    source = nib.load(acquisition.dwi)
    for platform, factor in (("prisma_st", 1), ("connectom_st", 1), ("connectom_sa", 2)):
        for kind in ("sh", "dwi", "mask"):
            image = nib.load(out / f"new_space-{platform}_{kind}.nii.gz")
            assert image.shape[:3] == tuple(factor * (n - 1) + 1 for n in source.shape[:3])
            expected = source.affine @ np.diag([1 / factor, 1 / factor, 1 / factor, 1])
            assert np.allclose(image.affine, expected, atol=1e-5)
            assert image.dataobj.slope == 1
            assert image.get_data_dtype() == (np.uint8 if kind == "mask" else np.float32)
        assert np.array_equal(nib.load(out / f"new_space-{platform}_sh.nii.gz").affine, image.affine)


def test_the_dwi_read_back_gives_the_predicted_coefficients(predicted):
    """Table, axes and signs of the written DWI agree: reading it like any acquisition leads back to the SH."""
    from harmonet.data.acquisition import Acquisition
    from harmonet.data.represent import decoded, represent
    from harmonet.representations.sh_signal import SHSignal

    run, _, _, predictions, out = predicted
    stem = out / "new_space-connectom_sa"
    files = [f"{stem}_{kind}" for kind in ("dwi.nii.gz", "dwi.bval", "dwi.bvec", "mask.nii.gz")]
    from pathlib import Path

    scan = read_scan(Acquisition("new", "connectom_sa", *map(Path, files)))
    volume = represent(scan, SHSignal([1200], order=4, laplace_beltrami=0.0), [1200])
    signal = decoded(run.representation, predictions["connectom_sa"].volume, run.gradients["connectom_sa"])
    unclipped = volume.mask & (signal.min(axis=-1) >= 0) & (signal.max(axis=-1) <= 1) & ~scan.dark()
    assert unclipped.sum() > 500
    expected = predictions["connectom_sa"].volume.channels
    assert np.allclose(volume.channels[unclipped], expected[unclipped], atol=2e-3)


def test_the_sidecars_say_basis_degree_and_origin(predicted):
    run, acquisition, _, _, out = predicted
    sidecar = json.loads((out / "new_space-prisma_st_sh.json").read_text())
    assert sidecar["OrientationEncoding"]["SphericalHarmonicDegree"] == 4
    assert sidecar["HarmonetBasis"]["legacy"] is False
    assert {"File": "dwi.nii.gz", "SHA256": sha256(acquisition.dwi)} in sidecar["Sources"]
    assert sidecar["Model"]["TrainingData"] == run.label
    assert sidecar["Model"]["SHA256"] == sha256(run.folder / "model.json")


def test_evaluation_and_prediction_agree(predicted, evaluation, tiny_heads):
    """The NIfTI road gives the error that `eval` reports."""
    run, _, _, predictions, _ = predicted
    from harmonet.metrics.sh_error import sh_mse
    from harmonet.reading import read_heads

    (head,) = read_heads(open_dataset(tiny_heads), run.split.test, run.recipe, quiet)
    target = head.targets["prisma_st"]
    both = target.mask & predictions["prisma_st"].volume.mask
    error = sh_mse(predictions["prisma_st"].volume.channels, target.channels, both)
    assert evaluation.values("msp, stage 1", "prisma_st", "target")[0] == pytest.approx(error, rel=0.02)


def test_existing_predictions_are_kept_unless_forced(predicted):
    run, _, scan, predictions, out = predicted
    before = sha256(out / "new_space-prisma_st_sh.nii.gz")
    with pytest.raises(OutputError, match="exists: add --force"):
        write_predictions(run, scan, predictions, out, "new")
    assert sha256(out / "new_space-prisma_st_sh.nii.gz") == before
    write_predictions(run, scan, predictions, out, "new", force=True)
    assert sorted(path.name for path in out.parent.iterdir()) == [out.name]  # nothing left aside


def test_a_scan_of_another_kind_is_refused(predicted, tiny_heads):
    run, *_ = predicted
    scan = read_scan(open_dataset(tiny_heads).acquisition(run.split.test[0], "connectom_sa"))
    with pytest.raises(DataError, match=r"voxels of 1\.2 x 1\.2 x 1\.2 mm, the recipe says 2\.4"):
        predict(run, scan)
    with pytest.raises(NotFoundError, match="Did you mean prisma_st"):
        predict(run, scan, ["prisma_sa"])


def test_all_shells_that_are_shared_are_used_within_a_tolerance():
    a, b = (Platform(name, (2.0, 2.0, 2.0), shells, 60) for name, shells in (("a", (1200, 3000)), ("b", (1000, 2980))))
    assert shells_of(Task(a, (a,))) == (1200, 3000)
    assert shells_of(Task(a, (b,))) == (3000,)


def test_platforms_without_a_shared_shell_are_refused(tiny_recipe):
    source = tiny_recipe.source.model_copy(update={"shells": [700.0]})
    with pytest.raises(RecipeError, match="must share a shell"):
        representation_of(tiny_recipe.model_copy(update={"source": source}))
