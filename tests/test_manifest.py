"""A manifest: what its lines become, and how a wrong one is answered."""

import pytest

from harmonet.data.layout import examine, open_dataset
from harmonet.data.scan import read_scan
from harmonet.errors import DataError

HEADER = "subject\tplatform\tdwi\tbval\tbvec\tmask"
A = "A\tge_st\ta.nii.gz\ta.bval\ta.bvec\tm.nii.gz"
B = "B\tge_st\tdeep/b.nii.gz\ta.bval\ta.bvec\tn/a"


@pytest.fixture
def root(tmp_path):
    """The files that the lines above name; they are empty: finding them reads none."""
    (tmp_path / "deep").mkdir()
    for name in ("a.nii.gz", "a.bval", "a.bvec", "m.nii.gz", "deep/b.nii.gz", "truth.nii"):
        (tmp_path / name).touch()
    return tmp_path


def write(root, *lines, end="\n", encoding="utf-8"):
    (root / "acquisitions.tsv").write_bytes(end.join([*lines, ""]).encode(encoding))
    return root


def test_each_line_is_an_acquisition(root):
    heads = open_dataset(write(root, HEADER, A, B))
    assert (heads.layout, heads.subjects, heads.platforms) == ("manifest", ("A", "B"), ("ge_st",))
    found = heads.acquisition("A", "ge_st")
    names = ("a.nii.gz", "a.bval", "a.bvec", "m.nii.gz")
    assert (found.dwi, found.bval, found.bvec, found.mask) == tuple(root / name for name in names)
    assert (found.te, found.tr, found.truth) == (None, None, None)
    assert heads.acquisition("B", "ge_st").mask is None
    assert heads.acquisition("B", "ge_st").dwi == root / "deep" / "b.nii.gz"


def test_columns_come_in_any_order_with_times_and_truth(root):
    header = "tr\tdwi\ttruth\tmask\tbvec\tbval\tplatform\tsubject\tte"
    write(root, header, "7200\ta.nii.gz\ttruth.nii\tm.nii.gz\ta.bvec\ta.bval\tGE_st\tA\t68.1")
    found = open_dataset(root).acquisition("A", "ge_st")
    assert (found.te, found.tr, found.truth) == (68.1, 7200, root / "truth.nii")
    assert (found.dwi, found.bval, found.bvec) == tuple(root / f"a.{e}" for e in ("nii.gz", "bval", "bvec"))


@pytest.mark.parametrize("none", ["n/a", "", "  "])
def test_none_is_written_as_bids_writes_it_or_left_empty(root, none):
    write(root, HEADER + "\tte\ttr\ttruth", "\t".join(["A", "ge_st", "a.nii.gz", *[none] * 5, none + "\t"][:8]) + "\t")
    found = open_dataset(root).acquisition("A", "ge_st")
    assert (found.bval, found.bvec, found.mask, found.te, found.tr, found.truth) == (None,) * 6


def test_scalar_images_may_have_times_that_no_diffusion_has(root):
    write(root, HEADER + "\tte\ttr", "A\tge_t1\ta.nii.gz\tn/a\tn/a\tn/a\t0.05\t8.2")
    found = open_dataset(root).acquisition("A", "ge_t1")
    assert (found.te, found.tr) == (0.05, 8.2)


@pytest.mark.parametrize(("end", "encoding"), [("\r\n", "utf-8"), ("\r", "utf-8"), ("\r\n", "utf-8-sig")])
def test_what_spreadsheets_write_is_read(root, end, encoding):
    assert len(open_dataset(write(root, HEADER, A, "", "\t\t\t\t\t", B, end=end, encoding=encoding)).acquisitions) == 2


def test_absolute_paths_are_taken_as_they_are(root, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "x.nii.gz"
    elsewhere.touch()
    found = open_dataset(write(root, HEADER, A.replace("a.nii.gz", str(elsewhere)))).acquisition("A", "ge_st")
    assert (found.dwi, found.bval) == (elsewhere, root / "a.bval")


def test_a_link_without_content_is_left_to_its_reader(root):
    (root / "a.nii.gz").unlink()
    (root / "a.nii.gz").symlink_to(".git/annex/objects/x")
    with pytest.raises(DataError, match="datalad get"):
        read_scan(open_dataset(write(root, HEADER, A)).acquisition("A", "ge_st"))


FAULTS = {
    "commas": (
        [HEADER.replace("\t", ","), A],
        1,
        "has no tabs, found 'subject,platform,",
        "separate the columns by tabs",
    ),
    "blanks": ([HEADER.replace("\t", "  "), A], 1, "has no tabs", "separate the columns by tabs"),
    "an unknown column": ([HEADER + "\techo", A + "\t1"], 1, "unknown column 'echo'", "Known: bval, bvec, dwi"),
    "a mistyped column": ([HEADER.replace("mask", "Mask"), A], 1, "unknown column 'Mask'", "Did you mean mask?"),
    "a missing column": (
        [HEADER.removesuffix("\tmask"), A.removesuffix("\tm.nii.gz")],
        1,
        "lacks the column mask",
        "add",
    ),
    "a column twice": ([HEADER + "\tdwi", A + "\ta"], 1, "the column 'dwi' twice", "remove one"),
    "a comment": ([HEADER, "# " + A, B], 2, "is a comment", "remove it"),
    "a comment first": (["# mine", HEADER, A], 1, "is a comment", "remove it"),
    "too few cells": ([HEADER, B, A.removesuffix("\tm.nii.gz")], 3, "has 5 cells for 6 columns", "n/a for none"),
    "too many cells": ([HEADER, B, A + "\t"], 3, "has 7 cells for 6 columns", "single tabs"),
    "blanks in a line": ([HEADER, B, A.replace("\t", " ")], 3, "has 1 cells for 6 columns", "single tabs"),
    "a subject unfit for a folder": ([HEADER, B, "../" + A], 3, "subject '../A' is not a plain", "use letters, digits"),
    "no subject": ([HEADER, B, A.removeprefix("A")], 3, "subject '' is not a plain name", "use letters, digits"),
    "a platform unfit": ([HEADER, B, A.replace("ge_st", "ge st")], 3, "platform 'ge st' is not", "use letters, digits"),
    "no image": ([HEADER, B, A.replace("a.nii.gz", "n/a")], 3, "names no dwi", "give its path"),
    "b-values alone": ([HEADER, B, A.replace("a.bvec", "n/a")], 3, "a bval and no bvec", "n/a for both"),
    "b-vectors alone": ([HEADER, B, A.replace("a.bval", "")], 3, "a bvec and no bval", "n/a for both"),
    "a missing image": ([HEADER, B, A.replace("a.nii", "x.nii")], 3, "x.nii.gz, which is no file", "give a path"),
    "a missing table": ([HEADER, B, A.replace("a.bval", "x.bval")], 3, "names bval ", "give a path"),
    "a missing mask": ([HEADER, B, A.replace("m.nii", "x.nii")], 3, "names mask ", "give a path"),
    "a folder": ([HEADER, B, A.replace("a.nii.gz", "deep")], 3, "deep, which is no file", "give a path"),
    "a home": ([HEADER, B, A.replace("a.nii.gz", "~/a.nii.gz")], 3, "~/a.nii.gz, which is no file", "give a path"),
    "a path too long": ([HEADER, B, A.replace("a.nii", "x" * 300)], 3, "which is no file", "give a path"),
    "the same again": ([HEADER, A, B, A], 4, "gives A ge_st again after line 2", "remove or rename one"),
    "the same but for case": ([HEADER, A, A.replace("ge", "GE")], 3, "gives A ge_st again after line 2", "remove or"),
    "echo time in seconds": ([HEADER + "\tte", A + "\t0.089"], 2, "te 0.089, which looks like seconds", "by 1000"),
    "repetition time in seconds": ([HEADER + "\ttr", A + "\t7.2"], 2, "tr 7.2, which looks like seconds", "by 1000"),
    "a time that is no number": ([HEADER + "\tte", A + "\t89 ms"], 2, "has te '89 ms'", "one number above 0 in ms"),
    "a time below 0": ([HEADER + "\tte", A + "\t-89"], 2, "has te '-89'", "one number above 0 in ms"),
    "a time that never ends": ([HEADER + "\tte", A + "\tinf"], 2, "has te 'inf'", "one number above 0 in ms"),
    "NaN": ([HEADER + "\tte", A + "\tnan"], 2, "has te 'nan'", "one number above 0 in ms"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_named_with_file_line_and_remedy(root, fault):
    lines, number, found, remedy = FAULTS[fault]
    heads, problems = examine(write(root, *lines))
    (message,) = map(str, problems)
    assert message.startswith(f"{root / 'acquisitions.tsv'} line {number} ")
    assert found in message
    assert remedy in message
    assert "\n" not in message
    assert (("B", "ge_st") in heads.acquisitions) == (B in lines)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"\n\n", "lists no acquisition: add a line"),
        (HEADER.encode(), "lists no acquisition: add a line"),
        (f"{HEADER}\n{A}\n".encode("utf-16"), "is no UTF-8 text .*: save it as such"),
        (f"{HEADER}\n{A}\0\n".encode(), "is no UTF-8 text .*: save it as such"),
        (b"<!DOCTYPE html>", "is a web page"),
    ],
)
def test_what_is_no_table_is_refused(root, content, words):
    (root / "acquisitions.tsv").write_bytes(content)
    with pytest.raises(DataError, match=rf"acquisitions\.tsv {words}"):
        open_dataset(root)


def test_every_faulty_line_is_told_and_the_others_are_kept(root):
    lines = [HEADER, A.replace("a.bval", "x"), B, A.replace("A\t", "C\t", 1).replace("m.nii", "x.nii")]
    heads, problems = examine(write(root, *lines))
    assert [str(problem).split(" names ")[0][-6:] for problem in problems] == ["line 2", "line 4"]
    assert set(heads.acquisitions) == {("B", "ge_st")}


def test_subjects_alike_but_for_case_are_refused(root):
    with pytest.raises(DataError, match="subjects A and a, alike but for case"):
        open_dataset(write(root, HEADER, A, A.replace("A\t", "a\t", 1)))
