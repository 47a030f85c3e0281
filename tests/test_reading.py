"""Every kind of data set and representation goes the whole way: read, train, evaluate, predict."""

import csv
import json
import os
import shutil
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
from conftest import TINY

import harmonet as hn
from harmonet.build import recipe_of, representation_of
from harmonet.data.cache import Cache
from harmonet.data.layout import open_dataset
from harmonet.data.scan import read_scan
from harmonet.errors import DataError, RecipeError, RunError
from harmonet.evaluation import evaluate
from harmonet.reading import Reading, read_heads, task_of
from harmonet.recipe import parse
from harmonet.runs.predict import predict, write_predictions
from harmonet.runs.train import train

TRAINING = {"epochs": 1, "joint_epochs": 1, "patches_per_subject": 6, "validation_patches": 4, "batch_size": 3}


def quiet(*_):
    """Shows nothing."""


def one_target(task, target="prisma_st"):
    return replace(task, targets=tuple(p for p in task.targets if p.name == target))


def plan(task, **changes):
    """A recipe of few steps for one small network."""
    training = TRAINING | changes.pop("training", {})
    split, standardise = changes.pop("split_table", None), changes.pop("standardise", None)
    recipe = recipe_of(task, {p: ["diqt"] for p in task.target_names}, options={"diqt": TINY["diqt"]}, **changes)
    tables = recipe.model_dump(exclude_none=True) | {"training": training}
    if split is not None:
        tables["split"] = split
    if standardise is not None:
        tables["representation"]["standardise"] = standardise
    return parse(tables, "of a test")


@pytest.fixture
def heads(tiny_heads, tmp_path):
    """A copy of the simulated heads, to spoil; its files are links, so they are replaced, never written."""
    return shutil.copytree(tiny_heads, tmp_path / "heads", copy_function=os.link)


@pytest.fixture(scope="module")
def scalars(tiny_heads, tmp_path_factory):
    """The b = 0 images of the heads as scalar images, in a manifest."""
    folder = tmp_path_factory.mktemp("scalars")
    with (folder / "acquisitions.tsv").open("w", newline="") as file:
        rows = csv.writer(file, delimiter="\t", lineterminator="\n")
        rows.writerow(["subject", "platform", "dwi", "bval", "bvec", "mask"])
        for (subject, platform), acquisition in sorted(open_dataset(tiny_heads).acquisitions.items()):
            image = nib.load(acquisition.dwi)
            name = f"{subject}_{platform}.nii.gz"
            nib.save(nib.Nifti1Image(image.get_fdata(dtype=np.float32)[..., 0], image.affine), folder / name)
            rows.writerow([subject, platform, name, "n/a", "n/a", os.path.relpath(acquisition.mask, folder)])
    return folder


@pytest.fixture(scope="module")
def two_shells(tiny_heads, tmp_path_factory):
    """The heads with a second shell, whose signal is what one exponential makes of the first."""
    folder = shutil.copytree(tiny_heads, tmp_path_factory.mktemp("shells") / "heads")
    for acquisition in open_dataset(folder).acquisitions.values():
        image, bvals = nib.load(acquisition.dwi), np.loadtxt(acquisition.bval)
        signal, weighted = image.get_fdata(dtype=np.float32), bvals > 0
        b0 = np.maximum(signal[..., ~weighted].mean(axis=-1, keepdims=True), 1e-3)
        more = b0 * np.clip(signal[..., weighted] / b0, 0.01, 1) ** 2
        nib.save(nib.Nifti1Image(np.concatenate([signal, more], axis=-1), image.affine), acquisition.dwi)
        np.savetxt(acquisition.bval, np.r_[bvals, 2 * bvals[weighted]][None], fmt="%g")
        vectors = np.loadtxt(acquisition.bvec)
        np.savetxt(acquisition.bvec, np.hstack([vectors, vectors[:, weighted]]), fmt="%.9f")
        for times in (acquisition.te, acquisition.tr):
            if times is not None:
                values = np.loadtxt(times)
                np.savetxt(times, np.r_[values, values[weighted]][None], fmt="%g")
        if acquisition.truth is not None:
            acquisition.truth.unlink()
    return folder


def whole_way(folder, recipe, out, subject=None):
    """Trained run, evaluation and names of the predicted files."""
    dataset = open_dataset(folder)
    run = train(recipe, dataset, out / "run", quiet)
    evaluation = evaluate([run], dataset, quiet)
    scan = read_scan(dataset.acquisition(run.split.test[0], "ge_st"))
    files = write_predictions(run, scan, predict(run, scan), out / "predicted", "new")
    return run, evaluation, {path.name for path in files}


def test_scalar_images_go_the_whole_way(scalars, tmp_path):
    from harmonet.report import write_report

    task = one_target(task_of(open_dataset(scalars), "ge_st"))
    assert (task.source.shells, task.source.directions) == ((), 0)
    run, evaluation, files = whole_way(scalars, plan(task, representation="intensity"), tmp_path)
    assert files == {f"new_space-prisma_st_{kind}" for kind in ("intensity.nii.gz", "intensity.json", "mask.nii.gz")}
    image = nib.load(tmp_path / "predicted" / "new_space-prisma_st_intensity.nii.gz")
    assert np.isfinite(image.get_fdata()).all()
    assert {score.method for score in evaluation.scores} == {"identity", "interpolation", "linear", "diqt"}
    assert all(list(score.by_group) == ["intensity"] for score in evaluation.scores)
    page = write_report(evaluation, [run], tmp_path / "report").read_text()
    assert "Mean squared error of intensity" in page


def test_two_shells_go_the_whole_way(two_shells, tmp_path):
    task = one_target(task_of(open_dataset(two_shells), "ge_st"))
    assert task.source.shells == (1200.0, 2400.0)
    run, evaluation, _ = whole_way(two_shells, plan(task, order=2), tmp_path)
    assert run.representation.channels == 12
    groups = ["b = 1200, l = 0", "b = 1200, l = 2", "b = 2400, l = 0", "b = 2400, l = 2"]
    assert list(evaluation.scores[0].by_group) == groups
    bvals = np.loadtxt(tmp_path / "predicted" / "new_space-prisma_st_dwi.bval")
    assert sorted(set(bvals)) == [0, 1200, 2400]
    shape = nib.load(tmp_path / "predicted" / "new_space-prisma_st_dwi.nii.gz").shape
    assert shape[3] == len(bvals) == 61


def test_one_of_two_shells_can_be_chosen(two_shells):
    task = task_of(open_dataset(two_shells), "ge_st", [2400])
    assert representation_of(plan(one_target(task), order=4)).channels == 15
    with pytest.raises(DataError, match=r"has no shell at b = 700 s/mm², only \[1200\.0, 2400\.0\]"):
        task_of(open_dataset(two_shells), "ge_st", [700])


@pytest.mark.parametrize("name", ["sh_sd", "csd"])
def test_deconvolved_signals_go_the_whole_way(name, tiny_heads, tmp_path):
    task = one_target(task_of(open_dataset(tiny_heads), "ge_st"))
    run, evaluation, files = whole_way(tiny_heads, plan(task, representation=name, order=4), tmp_path)
    assert "new_space-prisma_st_dwi.nii.gz" in files
    sidecar = json.loads((tmp_path / "predicted" / "new_space-prisma_st_dwi.json").read_text())
    assert ("Signal" in sidecar) is not run.representation.invertible
    assert all(np.isfinite(score.sh_mse) for score in evaluation.scores)


def test_a_subject_that_lacks_a_platform_trains_the_others(heads, tmp_path):
    dataset = open_dataset(heads)
    recipe = plan(task_of(dataset, "ge_st"), order=2)
    (trains,) = train(recipe, dataset, tmp_path / "whole", quiet).split.train
    shutil.copytree(heads / trains, heads / "part")
    for path in heads.glob("part/*/*/dwi.nii.gz"):  # another head: the same image twice would be refused
        image = nib.load(path)
        other = nib.Nifti1Image(np.asarray(image.dataobj)[::-1].copy(), image.affine)
        path.unlink()
        nib.save(other, path)
    shutil.rmtree(heads / "part" / "connectom")
    said = []
    run = train(recipe, open_dataset(heads), tmp_path / "run", quiet, reading=Reading(say=said.append))
    assert "part" in run.split.train
    assert "part" not in (*run.split.validation, *run.split.test)
    assert any("part was not scanned on connectom_sa, connectom_st" in line for line in said)


def test_the_papers_split_is_leaky_wherever_it_shows(tiny_heads, tmp_path):
    from harmonet.report import write_report

    dataset = open_dataset(tiny_heads)
    recipe = plan(one_target(task_of(dataset, "ge_st")), split="paper", order=2)
    said = []
    run = train(recipe, dataset, tmp_path / "run", quiet, reading=Reading(say=said.append))
    assert run.split.leaky
    assert any("LEAKY" in line for line in said)
    evaluation = evaluate([hn.load(tmp_path / "run")], dataset, quiet)
    assert evaluation.leaky
    assert "LEAKY" in write_report(evaluation, [run], tmp_path / "report").read_text()


def test_a_fold_can_be_named(tiny_heads, tmp_path):
    dataset = open_dataset(tiny_heads)
    task = one_target(task_of(dataset, "ge_st"))
    tests = [train(plan(task, split=f"{n}/3", order=2), dataset, tmp_path / str(n), quiet).split.test for n in (1, 2)]
    assert set(tests[0]).isdisjoint(tests[1])
    with pytest.raises(RecipeError, match="names no fold"):
        train(plan(task, split="4/3", order=2), dataset, tmp_path / "none", quiet)


def test_the_source_can_be_standardised_by_each_image(tiny_heads, tmp_path):
    dataset = open_dataset(tiny_heads)
    recipe = plan(one_target(task_of(dataset, "ge_st")), order=2, standardise="acquisition")
    run, _, _ = whole_way(tiny_heads, recipe, tmp_path)
    (head,) = read_heads(dataset, run.split.test, recipe, quiet)
    own = run.standardise_source.standardisation_for(head.source).apply(head.source)[head.source.mask]
    assert np.allclose(own.mean(axis=0), 0, atol=1e-3)
    assert np.allclose(own.std(axis=0), 1, atol=1e-3)


def test_augmentation_trains_on_other_patches_from_the_same_seed(tiny_heads, tmp_path):
    dataset = open_dataset(tiny_heads)
    task = one_target(task_of(dataset, "ge_st"))
    losses = {}
    for augment in ("none", "flips", "octahedral"):
        run = train(plan(task, order=2, training={"augment": augment}), dataset, tmp_path / augment, quiet)
        losses[augment] = json.loads((run.folder / "singles/prisma_st.diqt/history.jsonl").read_text())["loss"]
    assert len(set(losses.values())) == 3


def test_the_cache_gives_the_same_heads_and_is_outside_the_data(tiny_heads, tmp_path):
    dataset = open_dataset(tiny_heads)
    recipe = plan(task_of(dataset, "ge_st"), order=2)
    reading = Reading(cache=Cache(tmp_path / "cache"))
    plain, first, again = (
        read_heads(dataset, ["sim01"], recipe, quiet, how)[0] for how in (Reading(), reading, reading)
    )
    for head in (first, again):
        assert np.array_equal(head.source.channels, plain.source.channels)
        assert all(np.array_equal(v.channels, plain.targets[p].channels) for p, v in head.targets.items())
    assert len(list((tmp_path / "cache").iterdir())) == 4
    assert not again.source.channels.flags.owndata


def test_one_image_under_two_names_is_refused(heads, tmp_path):
    shutil.copytree(heads / "sim01", heads / "sim09")
    dataset = open_dataset(heads)
    with pytest.raises(DataError, match="subject sim01 and subject sim09 are one, who would train and test"):
        train(plan(one_target(task_of(dataset, "ge_st")), order=2), dataset, tmp_path / "run", quiet)
    assert not (tmp_path / "run").exists()


def test_a_head_that_trained_is_known_under_another_name(tiny_run, heads):
    run = hn.load(tiny_run)
    (trained,), (test,) = run.split.train, run.split.test
    shutil.rmtree(heads / test)
    shutil.copytree(heads / trained, heads / test)
    with pytest.raises(RunError, match=f"{test}, who is {trained} of the run, trained a run"):
        evaluate([run], open_dataset(heads), quiet)
    assert evaluate([run], open_dataset(heads), quiet, allow_leak=True).leaky


def test_a_run_is_not_continued_on_other_data_unless_that_is_accepted(heads, tmp_path):
    dataset = open_dataset(heads)
    recipe = plan(one_target(task_of(dataset, "ge_st")), order=2)
    run = train(recipe, dataset, tmp_path / "run", quiet)
    (run.folder / "model.json").unlink()  # as if interrupted before the end
    path = heads / run.split.train[0] / "prisma" / "st" / "mask.nii.gz"
    image = nib.load(path)
    mask = np.asarray(image.dataobj).copy()
    mask[tuple(np.argwhere(mask)[0])] = 0
    path.unlink()
    nib.save(nib.Nifti1Image(mask, image.affine), path)
    with pytest.raises(DataError, match=r"prisma_st changed since this run began: .*--accept inputs"):
        train(recipe, dataset, run.folder, quiet, resume=True)
    said = []
    reading = Reading(accept=frozenset({"inputs"}), say=said.append)
    train(recipe, dataset, run.folder, quiet, resume=True, reading=reading)
    assert any("accepted: " in line for line in said)


def test_a_target_that_does_not_nest_is_resampled_and_the_run_says_so(heads, tmp_path):
    for path in heads.glob("*/connectom/sa/*.nii.gz"):
        image = nib.load(path)
        affine = image.affine.copy()
        affine[:3, 3] += affine[:3, :3] @ [0.3, 0.3, 0.3]  # neither nodes nor cells coincide
        moved = nib.Nifti1Image(np.asarray(image.dataobj), affine)
        path.unlink()
        nib.save(moved, path)
    dataset = open_dataset(heads)
    recipe = plan(one_target(task_of(dataset, "ge_st"), "connectom_sa"), order=2)
    run, evaluation, _ = whole_way(heads, recipe, tmp_path)
    assert any("connectom_sa: resampled" in note for note in run.facts["notes"])
    assert any("connectom_sa: resampled" in note for note in evaluation.notes)


def test_a_network_that_predicts_cells_goes_the_whole_way(tiny_heads, tmp_path):
    task = one_target(task_of(open_dataset(tiny_heads), "ge_st"), "connectom_sa")
    options = {"espcn_shuffle": {"widths": [6, 8]}}
    recipe = recipe_of(task, {"connectom_sa": ["espcn_shuffle"]}, options=options, order=2)
    recipe = parse(recipe.model_dump(exclude_none=True) | {"training": TRAINING}, "of a test")
    run, evaluation, _ = whole_way(tiny_heads, recipe, tmp_path)
    assert any("to the cell-aligned 1.2 mm grid" in note for note in run.facts["notes"])
    source = nib.load(open_dataset(tiny_heads).acquisition(run.split.test[0], "ge_st").dwi)
    predicted = nib.load(tmp_path / "predicted" / "new_space-connectom_sa_sh.nii.gz")
    assert predicted.shape[:3] == tuple(2 * n for n in source.shape[:3])
    centre = (np.array(source.shape[:3]) - 1) / 2
    same = predicted.affine @ [*((np.array(predicted.shape[:3]) - 1) / 2), 1]
    assert np.allclose(source.affine @ [*centre, 1], same, atol=1e-4)  # one field of view
    assert all(np.isfinite(score.sh_mse) for score in evaluation.scores)


def test_candidates_that_predict_on_different_grids_are_refused(tiny_heads, tmp_path):
    task = one_target(task_of(open_dataset(tiny_heads), "ge_st"), "connectom_sa")
    recipe = recipe_of(task, {"connectom_sa": ["espcn_shuffle", "diqt"]}, order=2)
    with pytest.raises(RecipeError, match=r"espcn_shuffle \(cell\), diqt \(node\): choose of one kind"):
        train(recipe, open_dataset(tiny_heads), tmp_path / "run", quiet)


def test_a_network_in_raw_units_gets_the_statistics(tiny_heads, tmp_path):
    dataset = open_dataset(tiny_heads)
    task = one_target(task_of(dataset, "ge_st"))
    options = {"cnn_rish": {"mode": "rish", "width": 6}}
    recipe = recipe_of(task, {"prisma_st": ["cnn_rish"]}, options=options, order=2)
    tables = recipe.model_dump(exclude_none=True) | {"training": TRAINING}
    run, evaluation, _ = whole_way(tiny_heads, parse(tables, "of a test"), tmp_path)
    kept = {name: value.numpy() for name, value in run.model.singles["prisma_st"].named_buffers()}
    assert any(np.allclose(value, run.standardise["prisma_st"].mean, rtol=1e-5) for value in kept.values())
    assert all(np.isfinite(score.sh_mse) for score in evaluation.scores)
    tables["representation"]["standardise"] = "acquisition"
    with pytest.raises(RecipeError, match="cnn_rish reads raw units"):
        train(parse(tables, "of a test"), dataset, tmp_path / "refused", quiet)
