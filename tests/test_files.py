"""Files told apart, and the memory that is free, in control groups too."""

import sys
from pathlib import Path

import pytest

from harmonet.files import _free_in_groups, free_memory, told_apart


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["a/dwi.nii", "a/mask.nii"], ["dwi.nii", "mask.nii"]),
        (["a/x.nii", "b/x.nii", "b/y.nii"], ["a/x.nii", "b/x.nii", "y.nii"]),
        (["s/a/x", "t/a/x"], ["s/a/x", "t/a/x"]),
        (["x", "a/x"], ["x", "a/x"]),
        (["/a/x", "/x"], ["a/x", "/x"]),
        (["a/x", "a/x"], ["x", "x"]),
        ([], []),
    ],
)
def test_files_are_named_by_as_many_folders_as_tell_them_apart(paths, names):
    assert told_apart([Path(path) for path in paths]) == names


def group(folder, limit, usage, names=("memory.max", "memory.current"), cached=0):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{usage}\n")
    (folder / "memory.stat").write_text(f"anon 7\nactive_file {cached}\ninactive_file 1\n")


@pytest.mark.parametrize(
    ("membership", "free"),
    [
        ("0::/job/step\n", 301),  # the step's own limit
        ("0::/job\n", 601),  # 1000 - 500, and what files hold can be given back
        ("0::/other\n", sys.maxsize),
        ("3:cpu:/\n9:memory:/pod\n0::/\n", 51),
        ("nonsense", sys.maxsize),
    ],
)
def test_a_limited_control_group_leaves_what_it_leaves(tmp_path, membership, free):
    group(tmp_path / "job", 1000, 500, cached=100)
    group(tmp_path / "job" / "step", 400, 100)
    group(tmp_path / "other", "max", 100)
    group(tmp_path / "memory" / "pod", 100, 50, ("memory.limit_in_bytes", "memory.usage_in_bytes"))
    (tmp_path / "cgroup").write_text(membership)
    assert min(_free_in_groups(tmp_path / "cgroup", tmp_path)) == free
    assert min(_free_in_groups(tmp_path / "no such file", tmp_path)) == sys.maxsize


def test_some_memory_is_free_here():
    assert 1 << 20 < free_memory() < 1 << 50
