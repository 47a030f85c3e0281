"""Finding travelling heads in a folder, and describing their platforms from what is there."""

import json
import shutil

import numpy as np
import pytest

from harmonet.data.gradients import write_gradients
from harmonet.data.layout import describe, open_dataset
from harmonet.data.nifti import write_nifti
from harmonet.data.scan import Scan, read_scan
from harmonet.errors import DataError, NotFoundError
from harmonet.platforms import Grid


@pytest.fixture
def root(tmp_path):
    """Two subjects, the second without the fine platform; files are empty: finding them reads none."""
    for subject, scanner, protocol in (("A", "GE", "st"), ("A", "Connectom", "sa"), ("B", "GE", "st")):
        add(tmp_path, subject, scanner, protocol)
    return tmp_path


def add(root, *parts, names=("dwi.nii.gz", "dwi.bval", "dwi.bvec", "mask.nii.gz")):
    folder = root.joinpath(*parts)
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()
    return folder


def test_the_challenges_layout_is_found(root):
    heads = open_dataset(str(root))
    assert heads.subjects == ("A", "B")
    assert heads.platforms == ("connectom_sa", "ge_st")
    found = heads.acquisition("A", "ge_st")
    folder = root / "A" / "GE" / "st"
    assert (found.dwi, found.bval, found.bvec, found.mask) == tuple(
        folder / name for name in ("dwi.nii.gz", "dwi.bval", "dwi.bvec", "mask.nii.gz")
    )
    assert (found.te, found.tr, found.truth) == (None, None, None)
    assert (heads.label, heads.simulated, dict(heads.facts)) == ("", False, {})


def test_optional_files_and_other_spellings_are_found(tmp_path):
    names = ("dwi.nii", "dwi.bval", "dwi.bvec", "dwi_mask.nii.gz", "dwi.TE", "dwi.TR", "truth.nii.gz")
    folder = add(tmp_path, "A", "Prisma", "ST", names=names)
    found = open_dataset(tmp_path).acquisition("A", "prisma_st")
    assert (found.dwi, found.mask) == (folder / "dwi.nii", folder / "dwi_mask.nii.gz")
    assert (found.te, found.tr, found.truth) == (folder / "dwi.TE", folder / "dwi.TR", folder / "truth.nii.gz")


def test_an_acquisition_without_a_mask_is_found_all_the_same(root):
    (root / "B" / "GE" / "st" / "mask.nii.gz").unlink()
    assert open_dataset(root).acquisition("B", "ge_st").mask is None


def test_what_is_no_acquisition_is_ignored(root):
    add(root, ".git", "annex", "objects")
    add(root, "A", ".hidden", "st")
    add(root, "not a subject", "notes", "old", names=("readme.txt",))
    add(root, "A", names=("mprage.nii.gz",))
    assert len(open_dataset(root).acquisitions) == 3


def test_a_link_without_content_is_an_acquisition_whose_reader_says_what_to_do(root):
    dwi = root / "B" / "GE" / "st" / "dwi.nii.gz"
    dwi.unlink()
    dwi.symlink_to("../../../.git/annex/objects/x")
    with pytest.raises(DataError, match="datalad get"):
        read_scan(open_dataset(root).acquisition("B", "ge_st"))


@pytest.mark.parametrize(
    ("subject", "platform", "words"),
    [
        ("a", "ge_st", "no subject 'a'.*Known: A, B"),
        ("A", "ge_sa", "no platform 'ge_sa' for subject A.*Did you mean ge_st"),
        ("B", "connectom_sa", "no platform 'connectom_sa' for subject B.*Known: ge_st"),
    ],
)
def test_an_unknown_name_is_answered_with_those_known(root, subject, platform, words):
    with pytest.raises(NotFoundError, match=words):
        open_dataset(root).acquisition(subject, platform)


def test_subjects_can_be_asked_for_by_the_platforms_that_they_have(root):
    heads = open_dataset(root)
    assert heads.subjects_with(["ge_st"]) == ("A", "B")
    assert heads.subjects_with(["ge_st", "connectom_sa"]) == ("A",)
    assert heads.subjects_with(["prisma_st"]) == ()


@pytest.mark.parametrize("name", ["dwi.bval", "dwi.bvec"])
def test_a_missing_table_is_named(root, name):
    (root / "B" / "GE" / "st" / name).unlink()
    with pytest.raises(DataError, match=f"{name} is missing"):
        open_dataset(root)


@pytest.mark.parametrize("what", ["missing", "empty", "one level too deep"])
def test_where_nothing_is_found_the_layout_is_shown(tmp_path, what):
    root = {"missing": tmp_path / "no", "empty": tmp_path, "one level too deep": tmp_path / "A"}[what]
    if what == "one level too deep":
        add(tmp_path, "A", "GE", "st")
    with pytest.raises(DataError, match="<subject>/<scanner>/<protocol>/dwi"):
        open_dataset(root)


def test_two_folders_of_one_platform_are_refused(root):
    add(root, "A", "ge", "ST")
    with pytest.raises(DataError, match=r"both are ge_st of subject A") as error:
        open_dataset(root)
    assert str(root / "A" / "GE" / "st") in str(error.value)


def test_two_images_in_one_folder_are_refused(root):
    add(root, "A", "GE", "st", names=("dwi.nii",))
    with pytest.raises(DataError, match=r"both dwi\.nii\.gz and dwi\.nii"):
        open_dataset(root)


def test_subjects_alike_but_for_case_are_refused(root):
    add(root, "b", "Prisma", "st")
    with pytest.raises(DataError, match="B and b"):
        open_dataset(root)


@pytest.mark.parametrize("parts", [("sub 01", "GE", "st"), ("C", "G E", "st"), ("x" * 65, "GE", "st")])
def test_names_unfit_for_folders_are_refused_with_the_folder(root, parts):
    folder = add(root, *parts)
    with pytest.raises(DataError, match="not a plain name") as error:
        open_dataset(root)
    assert str(folder) in str(error.value)


def test_facts_about_the_data_are_read(root):
    facts = {"simulated": True, "label": "two heads cut into slabs", "pseudo_subjects": True}
    (root / "dataset.json").write_text(json.dumps(facts))
    heads = open_dataset(root)
    assert (heads.label, heads.simulated, dict(heads.facts)) == ("two heads cut into slabs", True, facts)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "is not JSON"),
        ("[1]", "found list"),
        ('{"simulated": "yes"}', "true or false"),
        ('{"label": 3}', "text"),
        ("[" * 100_000, "is not JSON"),
        ("", "empty"),
    ],
)
def test_broken_facts_are_refused(root, text, words):
    (root / "dataset.json").write_text(text)
    with pytest.raises(DataError, match=words) as error:
        open_dataset(root)
    assert "dataset.json" in str(error.value)


def scan(subject="A", voxel=2.4, bvals=(0, 1200, 1200, 3000), platform="ge_st", te=89.0):
    grid = Grid((2, 2, 2), np.diag([voxel, voxel, voxel, 1.0]))
    bvals = np.array(bvals, dtype=float)
    directions = np.tile([0.0, 0, 1], (len(bvals), 1))
    signal = np.ones((2, 2, 2, len(bvals)), np.float32)
    return Scan(subject, platform, signal, bvals, directions, np.ones((2, 2, 2), bool), grid, grid, te)


def test_a_platform_is_described_from_its_scans():
    platform = describe(scan(subject, voxel) for subject, voxel in (("A", 2.4000001), ("B", 2.4)))
    assert (platform.name, platform.voxel_size) == ("ge_st", (2.4, 2.4, 2.4))
    assert (platform.shells, platform.directions, platform.te, platform.tr) == ((1200, 3000), 3, 89, None)


def test_small_differences_between_subjects_are_accepted_and_the_smaller_count_given():
    platform = describe([scan(), scan("B", bvals=(0, 1195, 2990), te=90.0)])
    assert (platform.shells, platform.directions, platform.te) == ((1200, 3000), 2, None)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"voxel": 2.5}, "voxel size in mm"),
        ({"bvals": (0, 1200, 1200)}, "b-values of the shells"),
        ({"bvals": (0, 1000, 3000)}, "b-values of the shells"),
        ({"platform": "ge_sa"}, "the name"),
    ],
)
def test_subjects_with_another_protocol_are_refused_with_both_named(other, words):
    with pytest.raises(DataError, match=f"{words} is .* for A, .* for B"):
        describe([scan(), scan("B", **other)])


def test_no_scan_describes_no_platform():
    with pytest.raises(DataError, match="at least one subject"):
        describe([])


def test_a_data_set_goes_from_folder_to_platform(tmp_path):
    folder = tmp_path / "A" / "Prisma" / "st"
    folder.mkdir(parents=True)
    affine = np.diag([-1.2, 1.2, 1.2, 1.0])
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(8, 3))
    directions[0] = 0
    directions[1:] /= np.linalg.norm(directions[1:], axis=1, keepdims=True)
    write_nifti(folder / "dwi.nii.gz", rng.random((3, 3, 3, 8)), affine)
    write_nifti(folder / "mask.nii.gz", np.eye(3, dtype=bool)[..., None] & np.ones(3, bool), affine)
    write_gradients(folder / "dwi.bval", folder / "dwi.bvec", np.array([0.0, *[1200.0] * 7]), directions)
    shutil.copytree(tmp_path / "A", tmp_path / "B")
    heads = open_dataset(tmp_path)
    platform = describe(read_scan(heads.acquisition(subject, "prisma_st")) for subject in heads.subjects)
    assert (platform.name, platform.voxel_size, platform.directions) == ("prisma_st", (1.2, 1.2, 1.2), 7)
