"""Finding travelling heads in a folder, however they are laid out, and describing their platforms."""

import json
import os
import shutil
import tempfile
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from harmonet.data.gradients import write_gradients
from harmonet.data.layout import describe, examine, open_dataset
from harmonet.data.nifti import write_nifti
from harmonet.data.protocol import read_protocol
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


def test_the_layout_has_a_name(root):
    assert open_dataset(root).layout == "challenge"


@pytest.mark.parametrize(
    ("folders", "names"),
    [
        (("Prisma", "ST"), ("dwi.nii", "dwi.bval", "dwi.bvec", "dwi_mask.nii.gz", "dwi.TE", "dwi.TR", "truth.nii.gz")),
        (("prisma", "st"), ("DWI.nii.gz", "dwi.BVAL", "DWI.bvec", "Mask.nii.gz", "dwi.te", "dwi.Tr", "Truth.nii")),
        (("PRISMA", "St"), ("Dwi.NII.GZ", "Dwi.bval", "Dwi.Bvec", "DWI_MASK.NII", "DWI.TE", "DWI.TR", "TRUTH.NII.GZ")),
    ],
)
def test_folders_and_files_are_found_in_any_case_packed_or_not(tmp_path, folders, names):
    folder = add(tmp_path, "A", *folders, names=names)
    found = open_dataset(tmp_path).acquisition("A", "prisma_st")
    paths = (found.dwi, found.bval, found.bvec, found.mask, found.te, found.tr, found.truth)
    assert paths == tuple(folder / name for name in names)


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


@pytest.mark.parametrize("what", ["missing", "empty", "one level too deep"])
def test_where_nothing_is_found_the_layouts_are_shown(tmp_path, what):
    root = {"missing": tmp_path / "no", "empty": tmp_path, "one level too deep": tmp_path / "A"}[what]
    if what == "one level too deep":
        add(tmp_path, "A", "GE", "st")
    with pytest.raises(DataError) as error:
        open_dataset(root)
    for layout in (
        "DIR/<subject>/<scanner>/<protocol>/dwi",
        "DIR/sub-<subject>/ses-<platform>/",
        "DIR/acquisitions.tsv",
    ):
        assert layout in str(error.value)


FAULTS = {
    "no b-values": (lambda at: (at / "dwi.bval").unlink(), "dwi.bval", "copy it there"),
    "no b-vectors": (lambda at: (at / "dwi.bvec").unlink(), "dwi.bvec", "copy it there"),
    "an image packed and not": (lambda at: (at / "dwi.nii").touch(), "dwi.nii and dwi.nii.gz", "keep the one"),
    "two images but for case": (lambda at: (at / "DWI.nii.gz").touch(), "DWI.nii.gz and dwi.nii.gz", "keep the one"),
    "two tables but for case": (lambda at: (at / "dwi.BVAL").touch(), "dwi.BVAL and dwi.bval", "keep the one"),
    "masks of two names": (lambda at: (at / "dwi_mask.nii").touch(), "dwi_mask.nii and mask.nii.gz", "keep the one"),
    "two echo times": (lambda at: [(at / f"dwi.{x}").touch() for x in ("TE", "te")], "dwi.TE and dwi.te", "keep the"),
    "a link to itself": (lambda at: (at / "loop").symlink_to("loop"), "st/loop", "remove it"),
    "a folder that links to itself": (lambda at: (at.parent / "sa").symlink_to("sa"), "GE/sa", "remove it"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_named_with_its_file_and_remedy_and_the_rest_is_kept(root, fault):
    harm, file, remedy = FAULTS[fault]
    harm(root / "B" / "GE" / "st")
    heads, problems = examine(root)
    (message,) = map(str, problems)
    assert file in message
    assert remedy in message
    assert str(root / "B" / "GE") in message
    assert "\n" not in message
    assert set(heads.acquisitions) >= {("A", "connectom_sa"), ("A", "ge_st")}


@contextmanager
def as_nobody():
    """What root may read, a user may not."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize(
    ("parts", "closed"),
    [
        (("C", "GE", "st"), ""),
        (("C", "GE", "st"), "C"),
        (("C", "GE", "st"), "C/GE/st"),
        (("sub-01", "ses-x", "dwi"), "sub-01"),
        (("sub-01", "ses-x", "dwi"), "sub-01/ses-x/dwi"),
    ],
)
def test_a_folder_that_cannot_be_read_is_named(parts, closed):
    with tempfile.TemporaryDirectory() as folder:  # pytest's own are closed to others
        root = Path(folder)
        root.chmod(0o755)
        add(root, *parts)
        if parts[0] == "sub-01":
            add(root, "sub-02", "ses-x", "dwi", names=[f"sub-02_ses-x_dwi.{e}" for e in ("nii.gz", "bval", "bvec")])
        (root / closed).chmod(0)
        try:
            with as_nobody():
                heads, problems = examine(root)
        except DataError as error:
            problems = [error]
        finally:
            (root / closed).chmod(0o755)
        (message,) = map(str, problems)
        assert message == f"{root / closed} cannot be listed (Permission denied): check its permissions."
        assert parts[0] != "sub-01" or set(heads.acquisitions) == {("02", "x")}


@pytest.mark.parametrize(
    ("there", "layout", "subjects"),
    [
        (["A/GE/st/dwi"], "challenge", ("A",)),
        (["sub-01/GE/st/dwi"], "challenge", ("sub-01",)),
        (["sub-01/ses-x/dwi/sub-01_ses-x_dwi"], "bids", ("01",)),
        (["sub-01/ses-x/dwi/sub-01_ses-x_dwi", "derivatives/old/st/dwi", "code/a/b/dwi"], "bids", ("01",)),
        (["acquisitions.tsv", "B/GE/st/dwi"], "manifest", ("A",)),
        (["acquisitions.tsv", "sub-01/ses-x/dwi/sub-01_ses-x_dwi", "B/GE/st/dwi"], "manifest", ("A",)),
    ],
)
def test_which_layout_it_is_follows_one_rule(tmp_path, there, layout, subjects):
    for name in there:
        path = tmp_path / name
        if path.suffix:
            (tmp_path / "a").touch()
            path.write_text("subject\tplatform\tdwi\tbval\tbvec\tmask\nA\tge_st\ta\tn/a\tn/a\tn/a\n")
        else:
            add(path.parent, names=[f"{path.name}{ending}" for ending in (".nii.gz", ".bval", ".bvec")])
    heads = open_dataset(tmp_path)
    assert (heads.layout, heads.subjects) == (layout, subjects)


def test_bids_beside_the_challenges_layout_is_refused_with_both_named(tmp_path):
    names = [f"sub-01_ses-x_dwi{ending}" for ending in (".nii.gz", ".bval", ".bvec")]
    add(tmp_path, "sub-01", "ses-x", "dwi", names=names)
    add(tmp_path, "A", "GE", "st")
    with pytest.raises(DataError, match=r"both sub-01, .* and A/GE/st/dwi\.nii\.gz, .*acquisitions\.tsv"):
        open_dataset(tmp_path)


def linked(source, target):
    """Another name for the same bytes."""
    target.parent.mkdir(parents=True, exist_ok=True)
    os.link(source, target)


def as_bids(heads, out):
    """The same files in BIDS: masks of one subject in the tree, of the others under derivatives."""
    for number, ((subject, platform), files) in enumerate(sorted(heads.acquisitions.items())):
        place = Path(f"sub-{subject}", f"ses-{platform}", "dwi")
        stem = f"sub-{subject}_ses-{platform}"
        linked(files.dwi, out / place / f"{stem}_dwi.nii.gz")
        linked(files.bval, out / place / f"{stem}_dwi.bval")
        linked(files.bvec, out / place / f"{stem}_dwi.bvec")
        masks = out if number < len(heads.platforms) else out / "derivatives" / "masks"
        linked(files.mask, masks / place / f"{stem}_desc-brain_mask.nii.gz")
        echo_time = float(files.te.read_text().split()[0]) / 1000
        (out / place / f"{stem}_dwi.json").write_text(json.dumps({"EchoTime": echo_time}))


def as_manifest(heads, out):
    """The same files under names that mean nothing, and a table that says what they are."""
    lines = ["mask\tsubject\tplatform\tbvec\tdwi\tbval\tte"]
    for number, ((subject, platform), files) in enumerate(sorted(heads.acquisitions.items())):
        paths = [f"files/{number}{ending}" for ending in ("_m.nii.gz", ".v", "_d.nii.gz", ".b")]
        for source, path in zip((files.mask, files.bvec, files.dwi, files.bval), paths, strict=True):
            linked(source, out / path)
        te = files.te.read_text().split()[0]
        lines.append("\t".join([paths[0], subject, platform, *paths[1:], te]))
    (out / "acquisitions.tsv").write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize(("write", "layout"), [(as_bids, "bids"), (as_manifest, "manifest")])
def test_three_ways_in_lead_to_one_result(tiny_heads, tmp_path, write, layout):
    challenge = open_dataset(tiny_heads)
    write(challenge, tmp_path)
    other = open_dataset(tmp_path)
    assert (challenge.layout, other.layout) == ("challenge", layout)
    assert other.subjects == challenge.subjects
    assert other.platforms == challenge.platforms
    assert set(other.acquisitions) == set(challenge.acquisitions)
    for key, files in challenge.acquisitions.items():
        mine, theirs = read_scan(files), read_scan(other.acquisitions[key])
        assert (theirs.subject, theirs.platform) == key
        assert (theirs.te, theirs.tr) == (mine.te, mine.tr)
        assert mine.te is not None
        for name in ("signal", "bvals", "directions", "mask"):
            np.testing.assert_array_equal(getattr(theirs, name), getattr(mine, name))
        assert theirs.grid.same_as(mine.grid, tolerance=0)


def test_two_folders_of_one_platform_are_refused(root):
    add(root, "A", "ge", "ST")
    with pytest.raises(DataError, match=r"both are ge_st of subject A") as error:
        open_dataset(root)
    assert str(root / "A" / "GE" / "st") in str(error.value)


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


@pytest.mark.parametrize("bvals", [(), (0,)])
def test_a_platform_of_scalar_images_has_neither_shells_nor_directions(bvals):
    platform = describe([replace(scan(), bvals=np.array(bvals, dtype=float))])
    assert (platform.shells, platform.directions, platform.voxel_size) == ((), 0, (2.4, 2.4, 2.4))


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
    acquisitions = [heads.acquisition(subject, "prisma_st") for subject in heads.subjects]
    platform = describe(read_scan(acquisition) for acquisition in acquisitions)
    assert (platform.name, platform.voxel_size, platform.directions) == ("prisma_st", (1.2, 1.2, 1.2), 7)
    assert describe(read_protocol(acquisition) for acquisition in acquisitions) == platform  # no image is read
