"""BIDS: what is found, what applies to it, and what is refused."""

import json

import pytest

from harmonet.data.layout import examine, open_dataset
from harmonet.errors import DataError

AT = "sub-01/ses-ge/dwi"
STEM = f"{AT}/sub-01_ses-ge_dwi"


def put(root, *names, text=""):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def sidecar(root, name, **facts):
    put(root, name, text=json.dumps(facts))


@pytest.fixture
def root(tmp_path):
    """Two subjects, the first on two platforms; images are empty: finding them reads none."""
    for subject, session in (("01", "ge"), ("01", "Prisma"), ("02", "ge")):
        stem = f"sub-{subject}/ses-{session}/dwi/sub-{subject}_ses-{session}"
        put(tmp_path, *(f"{stem}_dwi.{ending}" for ending in ("nii.gz", "bval", "bvec")))
        put(tmp_path, f"{stem}_desc-brain_mask.nii.gz")
        sidecar(tmp_path, f"{stem}_dwi.json", EchoTime=0.0524, RepetitionTime=7.2)
    return tmp_path


def the_one(root):
    return open_dataset(root).acquisition("01", "ge")


def test_subjects_sessions_and_what_belongs_to_them_are_found(root):
    heads = open_dataset(root)
    assert (heads.layout, heads.subjects, heads.platforms) == ("bids", ("01", "02"), ("ge", "prisma"))
    assert set(heads.acquisitions) == {("01", "ge"), ("01", "prisma"), ("02", "ge")}
    found = heads.acquisition("01", "ge")
    paths = [root / f"{STEM}.{ending}" for ending in ("nii.gz", "bval", "bvec")]
    assert [found.dwi, found.bval, found.bvec] == paths
    assert found.mask == root / AT / "sub-01_ses-ge_desc-brain_mask.nii.gz"
    assert (found.te, found.tr, found.truth) == (52.4, 7200, None)


@pytest.mark.parametrize(
    "name",
    [
        "sub-01_ses-ge_dwi.nii",
        "sub-01_ses-ge_acq-b1000_dir-AP_run-1_dwi.nii.gz",
        "ses-ge_run-01_sub-01_rec-denoised_part-mag_dwi.nii.gz",
        "sub-01_ses-ge_desc-denoised_dwi.nii.gz",
    ],
)
def test_further_entities_in_any_order_are_tolerated(root, name):
    (root / f"{STEM}.nii.gz").rename(root / AT / name)
    found = the_one(root)
    assert found.dwi == root / AT / name
    assert found.bval == root / f"{STEM}.bval"
    assert found.mask == root / AT / "sub-01_ses-ge_desc-brain_mask.nii.gz"
    assert found.te == 52.4


def test_labels_may_hold_underscores_as_platforms_do(tmp_path):
    stem = "sub-a_b/ses-connectom_st/dwi/sub-a_b_ses-connectom_st_run-1_dwi"
    put(tmp_path, *(f"{stem}.{ending}" for ending in ("nii.gz", "bval", "bvec")))
    assert set(open_dataset(tmp_path).acquisitions) == {("a_b", "connectom_st")}


def test_what_is_no_raw_diffusion_image_is_ignored(root):
    put(
        root,
        f"{AT}/sub-01_ses-ge_sbref.nii.gz",
        f"{AT}/sub-01_ses-ge_dwi.mat",
        f"{AT}/.sub-01_ses-ge_run-2_dwi.nii.gz",
        "sub-01/ses-ge/anat/sub-01_ses-ge_T1w.nii.gz",
        "sub-01/ses-t1/anat/sub-01_ses-t1_T1w.nii.gz",
        "derivatives/fit/sub-01/ses-ge/dwi/sub-01_ses-ge_desc-preproc_dwi.nii.gz",
        "sourcedata/sub-09/ses-ge/dwi/sub-09_ses-ge_dwi.nii.gz",
        "code/sub-09/ses-ge/dwi/sub-09_ses-ge_dwi.nii.gz",
        "participants.tsv",
    )
    assert len(open_dataset(root).acquisitions) == 3


@pytest.mark.parametrize("ending", ["bval", "bvec"])
@pytest.mark.parametrize(
    "name",
    ["sub-01/ses-ge/sub-01_ses-ge_dwi", "sub-01/sub-01_dwi", "sub-01/ses-ge_dwi", "ses-ge_dwi", "run-1_dwi", "dwi"],
)
def test_a_table_applies_to_what_lies_below_it(root, name, ending):
    (root / f"{STEM}.nii.gz").rename(root / AT / "sub-01_ses-ge_run-1_dwi.nii.gz")
    (root / f"{STEM}.{ending}").rename(root / f"{name}.{ending}")
    assert getattr(the_one(root), ending) == root / f"{name}.{ending}"


def test_the_nearest_table_wins(root):
    for name in ("dwi.bval", "sub-01/sub-01_dwi.bval"):
        put(root, name)
        assert the_one(root).bval == root / f"{STEM}.bval"
    (root / f"{STEM}.bval").unlink()
    assert the_one(root).bval == root / "sub-01/sub-01_dwi.bval"


@pytest.mark.parametrize(
    "name", ["sub-01/ses-prisma_dwi", "sub-01/sub-01_acq-a_dwi", "sub-02_dwi", "T1w", "x_dwi", "sub-02/dwi"]
)
def test_a_table_of_other_images_does_not_apply(root, name):
    (root / f"{STEM}.bval").rename(root / f"{name}.bval")
    with pytest.raises(DataError, match=r"sub-01_ses-ge_dwi\.nii\.gz has no \.bval.* add sub-01_ses-ge_dwi\.bval"):
        open_dataset(root)


def test_each_time_comes_from_the_nearest_sidecar_that_gives_it(root):
    sidecar(root, f"{STEM}.json", EchoTime=0.089)
    assert (the_one(root).te, the_one(root).tr) == (89, None)
    sidecar(root, "dwi.json", EchoTime=0.05, RepetitionTime=9)
    assert (the_one(root).te, the_one(root).tr) == (89, 9000)
    sidecar(root, "sub-01/sub-01_dwi.json", RepetitionTime=8.5)
    assert (the_one(root).te, the_one(root).tr) == (89, 8500)
    (root / f"{STEM}.json").unlink()
    assert (the_one(root).te, the_one(root).tr) == (50, 8500)


def test_without_sidecars_the_times_are_not_known(root):
    (root / f"{STEM}.json").unlink()
    assert (the_one(root).te, the_one(root).tr) == (None, None)


@pytest.mark.parametrize(
    "name",
    [
        f"{AT}/sub-01_ses-ge_desc-brain_mask.nii",
        f"{AT}/sub-01_ses-ge_space-orig_label-b_desc-brain_mask.nii.gz",
        f"derivatives/prep/{AT}/sub-01_ses-ge_desc-brain_mask.nii.gz",
        f"derivatives/prep-2/{AT}/sub-01_ses-ge_run-1_space-dwi_desc-brain_mask.nii",
    ],
)
def test_a_brain_mask_lies_in_the_tree_or_under_derivatives(root, name):
    put(root, f"derivatives/prep/{AT}/sub-01_ses-ge_desc-lesion_mask.nii.gz")
    put(root, f"derivatives/prep/{AT}/sub-01_ses-ge_run-2_desc-brain_mask.nii.gz")
    (root / f"{STEM}.nii.gz").rename(root / AT / "sub-01_ses-ge_run-1_dwi.nii.gz")
    (root / AT / "sub-01_ses-ge_desc-brain_mask.nii.gz").unlink()
    assert the_one(root).mask is None
    put(root, name)
    assert the_one(root).mask == root / name


def test_two_sessions_of_one_platform_are_refused(root):
    stem = "sub-01/ses-GE/dwi/sub-01_ses-GE_dwi"
    put(root, *(f"{stem}.{ending}" for ending in ("nii.gz", "bval", "bvec")))
    with pytest.raises(DataError, match=r"ses-GE/dwi and .*ses-ge/dwi both are ge of subject 01"):
        open_dataset(root)


def test_subjects_alike_but_for_case_are_refused(root):
    for name in ("aa", "AA"):
        put(root, *(f"sub-{name}/ses-ge/dwi/sub-{name}_ses-ge_dwi.{e}" for e in ("nii.gz", "bval", "bvec")))
    with pytest.raises(DataError, match="subjects AA and aa"):
        open_dataset(root)


def json_of(text):
    return lambda root: put(root, f"{STEM}.json", text=text)


FAULTS = {
    "no b-values": (lambda root: (root / f"{STEM}.bval").unlink(), "ge_dwi.nii.gz has no .bval", "add sub-01_ses-ge_"),
    "no b-vectors": (lambda root: (root / f"{STEM}.bvec").unlink(), "ge_dwi.nii.gz has no .bvec", "add sub-01_ses-ge_"),
    "two runs": (
        lambda root: put(root, f"{AT}/sub-01_ses-ge_run-2_dwi.nii.gz"),
        "sub-01_ses-ge_dwi.nii.gz and sub-01_ses-ge_run-2_dwi.nii.gz",
        "keep one, or list the one that is meant in acquisitions.tsv",
    ),
    "packed and not": (
        lambda root: put(root, f"{STEM}.nii"),
        "sub-01_ses-ge_dwi.nii and sub-01_ses-ge_dwi.nii.gz",
        "keep one",
    ),
    "two tables apply": (
        lambda root: put(root, f"{AT}/sub-01_dwi.bvec"),
        "sub-01_dwi.bvec and sub-01_ses-ge_dwi.bvec",
        "keep one",
    ),
    "two sidecars apply": (
        lambda root: put(root, f"{AT}/dwi.json", text="{}"),
        "dwi.json and sub-01_ses-ge_dwi.json",
        "keep one",
    ),
    "two masks": (
        lambda root: put(root, f"derivatives/prep/{AT}/sub-01_ses-ge_desc-brain_mask.nii.gz"),
        f"derivatives/prep/{AT}/sub-01_ses-ge_desc-brain_mask.nii.gz",
        "keep one",
    ),
    "no session": (
        lambda root: put(root, "sub-03/dwi/sub-03_dwi.nii.gz"),
        "sub-03 has dwi outside a session",
        "the session names the platform, so move its images to sub-03/ses-<platform>/dwi",
    ),
    "an image beside the sessions": (
        lambda root: put(root, "sub-01/dwi/sub-01_dwi.nii.gz"),
        "sub-01 has dwi outside a session",
        "move its images to sub-01/ses-<platform>/dwi",
    ),
    "no session, nothing else": (
        lambda root: put(root, "sub-03/anat/sub-03_T1w.nii.gz"),
        "sub-03 has no ses- folder",
        "the session names the platform",
    ),
    "named for another subject": (
        lambda root: put(root, "sub-02/ses-x/dwi/sub-01_ses-x_dwi.nii.gz"),
        "sub-02/ses-x/dwi/sub-01_ses-x_dwi.nii.gz",
        "begin its name with sub-02_ses-x_",
    ),
    "named for no subject": (
        lambda root: put(root, "sub-02/ses-x/dwi/dwi.nii.gz"),
        "sub-02/ses-x/dwi/dwi.nii.gz lies in sub-02/ses-x",
        "begin its name with sub-02_ses-x_",
    ),
    "a name unfit for a folder": (
        lambda root: put(root, "sub-02/ses-g e/dwi/sub-02_ses-g e_dwi.nii.gz"),
        "ses-g e cannot be used",
        "use letters, digits",
    ),
    "no label": (
        lambda root: put(root, "sub-/ses-x/dwi/sub-_ses-x_dwi.nii.gz"),
        "sub-/ses-x cannot be used",
        "use letters, digits",
    ),
    "broken JSON": (json_of("{"), "ge_dwi.json is not JSON", "mend or remove it"),
    "deep JSON": (json_of("[" * 100_000), "ge_dwi.json is not JSON", "mend or remove it"),
    "a list": (json_of("[1]"), "ge_dwi.json should hold a JSON object, found list", "mend or remove it"),
    "an empty sidecar": (json_of(""), "ge_dwi.json is empty", "copy it again"),
    "echo time in ms": (
        json_of('{"EchoTime": 89}'),
        "ge_dwi.json has EchoTime = 89",
        "in seconds, above 0 and below 1",
    ),
    "repetition time in ms": (json_of('{"RepetitionTime": 7200}'), "json has RepetitionTime = 7200", "and below 100"),
    "echo time of 0": (json_of('{"EchoTime": 0}'), "ge_dwi.json has EchoTime = 0", "one number in seconds"),
    "no number": (json_of('{"EchoTime": "0.089"}'), "ge_dwi.json has EchoTime = '0.089'", "one number in seconds"),
    "true": (json_of('{"RepetitionTime": true}'), "ge_dwi.json has RepetitionTime = True", "one number in seconds"),
    "NaN": (json_of('{"EchoTime": NaN}'), "ge_dwi.json has EchoTime = nan", "one number in seconds"),
    "a time per volume": (
        json_of('{"EchoTime": [0.089, 0.068]}'),
        "ge_dwi.json has EchoTime = [0.089, 0.068]",
        "one number in seconds",
    ),
    "a dangling sidecar": (
        lambda root: [(root / f"{STEM}.json").unlink(), (root / f"{STEM}.json").symlink_to("../.git/annex/objects/x")],
        "ge_dwi.json is a git-annex link",
        "datalad get",
    ),
    "a pipeline that links to itself": (
        lambda root: [(root / "derivatives").mkdir(), (root / "derivatives/loop").symlink_to("loop")],
        "derivatives/loop is a link",
        "remove it",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_named_with_its_file_and_remedy(root, fault):
    harm, file, remedy = FAULTS[fault]
    harm(root)
    heads, problems = examine(root)
    (message,) = map(str, problems)
    assert file in message
    assert remedy in message
    assert str(root) in message
    assert "\n" not in message
    assert fault == "a pipeline that links to itself" or ("02", "ge") in heads.acquisitions


def test_where_no_subject_has_a_session_the_first_is_told_why(tmp_path):
    put(tmp_path, "sub-01/dwi/sub-01_dwi.nii.gz", "sub-02/dwi/sub-02_dwi.nii.gz")
    with pytest.raises(DataError, match="sub-01 has dwi outside a session: the session names the platform"):
        open_dataset(tmp_path)


def test_every_faulty_session_is_told(root):
    for name in (STEM, "sub-02/ses-ge/dwi/sub-02_ses-ge_dwi"):
        (root / f"{name}.bval").unlink()
    heads, problems = examine(root)
    assert len(problems) == 2
    assert set(heads.acquisitions) == {("01", "prisma")}
