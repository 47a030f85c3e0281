"""The main job on real acquisitions, where HARMONET_REAL_DATA names a folder that holds them."""

import json

import numpy as np
import pytest

import harmonet as hn
from harmonet.build import recipe_of
from harmonet.data.acquisition import Acquisition
from harmonet.data.degrade import degrade
from harmonet.data.layout import open_dataset
from harmonet.data.scan import read_scan
from harmonet.evaluation import evaluate
from harmonet.reading import task_of
from harmonet.recipe import parse
from harmonet.runs.predict import predict, write_predictions
from harmonet.runs.train import train

pytestmark = [pytest.mark.real, pytest.mark.slow]

TRAINING = {
    "epochs": 2,
    "joint_epochs": 2,
    "patches_per_subject": 48,
    "validation_patches": 8,
    "batch_size": 4,
    "learning_rate": 2e-3,
}


def acquisition_in(folder):
    return Acquisition(
        "head", "real", folder / "dwi.nii.gz", folder / "dwi.bval", folder / "dwi.bvec", folder / "mask.nii.gz"
    )


# head, SH order that half of its directions carry, patch edge and so gap between slabs, in source voxels
HEADS = [("achieva_32dir", 4, 11), ("prisma_rescan/scan1", 2, 7)]


@pytest.mark.parametrize(("head", "order", "patch_size"), HEADS)
def test_a_real_head_goes_the_whole_way(real_data, tmp_path, head, order, patch_size):
    degrade(tmp_path / "heads", acquisition_in(real_data / head), slabs=3, gap=patch_size)
    dataset = open_dataset(tmp_path / "heads")
    assert "stand in for subjects" in dataset.label
    task = task_of(dataset, "ge_st")
    assert task.upsampling == {"connectom_sa": 2, "connectom_st": 1, "prisma_st": 1}
    recipe = recipe_of(
        task,
        {"connectom_sa": ["diqt"], "connectom_st": ["shresnet"], "prisma_st": ["diqt"]},
        fusion="msp",
        options={"diqt": {"layers": 1, "widths": [8, 12]}, "shresnet": {"blocks": 1, "width": 8}},
        order=order,
        patch_size=patch_size,
    )
    recipe = parse(recipe.model_dump(exclude_none=True) | {"training": TRAINING}, "test")
    run = train(recipe, dataset, tmp_path / "run", lambda *_: None)
    assert hn.load(run.folder).label == dataset.label

    evaluation = evaluate([run], dataset, lambda *_: None)
    assert evaluation.references == ["target"]  # a real head has no noise-free truth
    for platform in task.target_names:
        for method in ("identity", "interpolation", "msp, stage 0", "msp, stage 1"):
            (error,) = evaluation.values(method, platform, "target")
            assert 0 < error < 1

    scan = read_scan(dataset.acquisition(run.split.test[0], "ge_st"))
    written = write_predictions(run, scan, predict(run, scan), tmp_path / "out", "new")
    assert len(written) == 21
    sidecar = json.loads((tmp_path / "out" / "new_space-prisma_st_sh.json").read_text())
    assert sidecar["Model"]["TrainingData"] == dataset.label
    again = read_scan(
        Acquisition(
            "new",
            "connectom_sa",
            *(tmp_path / "out" / f"new_space-connectom_sa_{k}" for k in ("dwi.nii.gz", "dwi.bval", "dwi.bvec")),
            tmp_path / "out" / "new_space-connectom_sa_mask.nii.gz",
        )
    )
    assert np.allclose(again.grid.voxel_size, task.target("connectom_sa").voxel_size, atol=1e-3)
