"""The cache gives back what was put in, finds every damage, and is never needed."""

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest

from harmonet.data.acquisition import Acquisition
from harmonet.data.cache import CHANNELS, ENTRY, MASK, Cache, cache_folder, digests
from harmonet.data.gradients import Gradients
from harmonet.data.volumes import Volume
from harmonet.errors import DataError, OutputError
from harmonet.platforms import Grid

SETTINGS = {"representation": "sh_signal", "options": {"order": 6}, "shells": [1200.0], "auto_mask": False}
AFFINE = np.array([[-2.4, 0.1, 0, 90 / 7], [0.1, 2.4, 0, -1e-17], [0, 0, 2.4, np.pi], [0, 0, 0, 1]])


def a_volume(seed=0):
    rng = np.random.default_rng(seed)
    directions = rng.normal(size=(4, 3))
    return Volume(
        rng.normal(size=(5, 4, 3, 2)).astype(np.float32),
        rng.random((5, 4, 3)) > 0.5,
        Grid((5, 4, 3), AFFINE),
        Gradients(np.array([0, 1195.3, 1200, 1205]), directions / np.linalg.norm(directions, axis=1)[:, None]),
        ("anna ge_st: 3 volumes were left out", "µ: another sentence"),
    )


def assert_same(found, expected):
    np.testing.assert_array_equal(found.channels, expected.channels)
    np.testing.assert_array_equal(found.mask, expected.mask)
    np.testing.assert_array_equal(found.grid.affine, expected.grid.affine)
    np.testing.assert_array_equal(found.gradients.bvals, expected.gradients.bvals)
    np.testing.assert_array_equal(found.gradients.directions, expected.gradients.directions)
    assert (found.channels.dtype, found.mask.dtype) == (np.float32, np.bool_)
    assert (found.grid.shape, found.notes) == (expected.grid.shape, expected.notes)


class Maker:
    """Makes a volume and counts how often."""

    def __init__(self, volume=None):
        self.volume = a_volume() if volume is None else volume
        self.calls = 0

    def __call__(self):
        self.calls += 1
        return self.volume


@pytest.fixture
def acquisition(tmp_path):
    folder = tmp_path / "heads" / "anna"
    folder.mkdir(parents=True)
    paths = {part: folder / f"dwi.{part}" for part in ("dwi", "bval", "bvec", "mask", "te")}
    for part, path in paths.items():
        path.write_text(f"{part} of anna")
    return Acquisition("anna", "ge_st", tr=7200.0, **paths)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "cache"


def only_entry(folder):
    (entry,) = folder.iterdir()
    return entry


def mapped(array):
    while isinstance(array, np.ndarray):
        if isinstance(array, np.memmap):
            return True
        array = array.base
    return False


def test_a_volume_is_made_once_and_then_opened_equal_to_the_last_bit(acquisition, folder):
    make = Maker()
    for cache in (Cache(folder), Cache(folder)):
        for _ in range(2):
            assert_same(cache.volume(acquisition, SETTINGS, make), make.volume)
    assert make.calls == 1
    assert sorted(path.name for path in only_entry(folder).iterdir()) == sorted([CHANNELS, MASK, ENTRY])


def test_what_comes_back_is_mapped_and_read_only_whether_it_was_there_or_not(acquisition, folder):
    for _ in range(2):
        volume = Cache(folder).volume(acquisition, SETTINGS, Maker())
        for array in (volume.channels, volume.mask):
            assert mapped(array)
            with pytest.raises(ValueError, match="read-only"):
                array[0, 0, 0] = 1


def test_channels_in_another_memory_order_come_back_channels_last(acquisition, folder):
    volume = replace(a_volume(), channels=np.asfortranarray(a_volume().channels))
    found = Cache(folder).volume(acquisition, SETTINGS, Maker(volume))
    assert_same(found, volume)
    assert found.channels.flags.c_contiguous


def test_a_scalar_image_without_gradients_is_kept_too(acquisition, folder):
    scalar = replace(acquisition, bval=None, bvec=None, te=None, tr=None)
    volume = Volume(a_volume().channels[..., :1], a_volume().mask, a_volume().grid)
    for _ in range(2):
        found = Cache(folder).volume(scalar, SETTINGS, Maker(volume))
        assert_same(found, volume)
        assert found.gradients.directions.shape == (0, 3)


@pytest.mark.parametrize("part", ["dwi", "bval", "bvec", "mask", "te"])
def test_other_bytes_in_any_file_are_another_entry(acquisition, folder, part):
    Cache(folder).volume(acquisition, SETTINGS, Maker())
    getattr(acquisition, part).write_text("changed")
    make = Maker(a_volume(1))
    assert_same(Cache(folder).volume(acquisition, SETTINGS, make), make.volume)
    assert make.calls == 1


@pytest.mark.parametrize(
    "change",
    [
        {"representation": "csd"},
        {"options": {"order": 4}},
        {"options": {"order": 6, "laplace_beltrami": 0.0}},
        {"shells": [1200.0, 3000.0]},
        {"auto_mask": True},
    ],
)
def test_other_settings_are_another_entry(acquisition, folder, change):
    Cache(folder).volume(acquisition, SETTINGS, Maker())
    make = Maker(a_volume(1))
    assert_same(Cache(folder).volume(acquisition, SETTINGS | change, make), make.volume)
    assert make.calls == 1


@pytest.mark.parametrize("change", [{"tr": 5400.0}, {"tr": None}, {"te": 7200.0, "tr": None}, {"mask": None}])
def test_other_times_or_an_absent_mask_are_another_entry(acquisition, folder, change):
    Cache(folder).volume(acquisition, SETTINGS, Maker())
    make = Maker()
    Cache(folder).volume(replace(acquisition, **change), SETTINGS, make)
    assert make.calls == 1


def test_bval_and_bvec_that_change_places_are_another_entry(acquisition, folder):
    Cache(folder).volume(acquisition, SETTINGS, Maker())
    make = Maker()
    Cache(folder).volume(replace(acquisition, bval=acquisition.bvec, bvec=acquisition.bval), SETTINGS, make)
    assert make.calls == 1


@pytest.mark.parametrize(("name", "value"), [("CACHE_FORMAT", 99), ("version", lambda _: "99.0")])
def test_another_version_of_the_code_is_another_entry(acquisition, folder, monkeypatch, name, value):
    Cache(folder).volume(acquisition, SETTINGS, Maker())
    monkeypatch.setattr(f"harmonet.data.cache.{name}", value)
    make = Maker()
    Cache(folder).volume(acquisition, SETTINGS, make)
    assert make.calls == 1


def test_names_of_files_and_subject_and_the_order_of_settings_do_not_count(acquisition, folder, tmp_path):
    Cache(folder).volume(acquisition, SETTINGS, Maker())
    moved = acquisition.dwi.parent.rename(tmp_path / "elsewhere")
    paths = {part: moved / f"dwi.{part}" for part in ("dwi", "bval", "bvec", "mask", "te")}
    same = Acquisition("bert", "prisma_st", tr=7200.0, **paths)
    make = Maker()
    Cache(folder).volume(same, dict(reversed(SETTINGS.items())), make)
    assert make.calls == 0


def test_digests_name_what_was_read(acquisition):
    assert set(digests(acquisition)) == {"dwi", "bval", "bvec", "mask", "te"}
    acquisition.mask.unlink()
    with pytest.raises(DataError, match=r"dwi\.mask does not exist"):
        digests(acquisition)


def flip_channels(entry):
    flip(entry / CHANNELS, -100)


def flip(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 0x10
    path.write_bytes(content)


def move_affine(entry):
    content = json.loads((entry / ENTRY).read_text())
    content["entry"]["affine"][0][3] += 1
    (entry / ENTRY).write_text(json.dumps(content))


def reshape(entry):
    np.save(entry / CHANNELS, np.zeros((4, 4, 3, 2), np.float32))


def retype(entry):
    np.save(entry / MASK, a_volume().mask.astype(np.uint8))


def replace_by_file(entry):
    shutil.rmtree(entry)
    entry.write_text("")


DAMAGE = {
    "a flipped bit in the channels": (flip_channels, "channels.npy differs from its digest"),
    "a flipped bit in the mask": (lambda entry: flip(entry / MASK, -1), "mask.npy differs from its digest"),
    "a moved affine": (move_affine, "entry.json differs from its digest"),
    "other shapes": (reshape, "channels.npy differs from its digest"),
    "another type": (retype, "mask.npy differs from its digest"),
    "channels cut short": (lambda entry: os.truncate(entry / CHANNELS, 200), "differs from its digest"),
    "no channels": (lambda entry: (entry / CHANNELS).unlink(), "No such file"),
    "no mask": (lambda entry: (entry / MASK).unlink(), "No such file"),
    "no entry.json": (lambda entry: (entry / ENTRY).unlink(), "No such file"),
    "entry.json cut short": (lambda entry: os.truncate(entry / ENTRY, 99), "cannot be used"),
    "an empty entry.json": (lambda entry: os.truncate(entry / ENTRY, 0), "cannot be used"),
    "other JSON": (lambda entry: (entry / ENTRY).write_text("[]"), "cannot be used"),
    "JSON without its parts": (lambda entry: (entry / ENTRY).write_text("{}"), "'entry' is missing"),
    "no UTF-8": (lambda entry: (entry / ENTRY).write_bytes(b"\xff\xfe\xfa"), "cannot be used"),
    "a file in the entry's place": (replace_by_file, "Not a directory"),
    "a link to nowhere in its place": (lambda entry: (shutil.rmtree(entry), entry.symlink_to("gone")), "No such file"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_entry_is_said_and_made_again(acquisition, folder, name):
    damage, reason = DAMAGE[name]
    Cache(folder).volume(acquisition, SETTINGS, Maker())
    damage(only_entry(folder))
    said, make = [], Maker()
    assert_same(Cache(folder, said.append).volume(acquisition, SETTINGS, make), make.volume)
    assert make.calls == 1
    (sentence,) = said
    assert reason in sentence
    assert sentence.endswith("anna ge_st is read again.")
    assert_same(Cache(folder, said.append).volume(acquisition, SETTINGS, make), make.volume)
    assert (make.calls, len(said)) == (1, 1)
    assert only_entry(folder).is_dir()


@pytest.mark.parametrize("name", ["channels cut short", "other shapes", "another type", "no mask", "a moved affine"])
def test_damage_after_the_first_look_does_not_bring_the_process_down(acquisition, folder, name):
    said, make = [], Maker()
    cache = Cache(folder, said.append)
    cache.volume(acquisition, SETTINGS, make)
    DAMAGE[name][0](only_entry(folder))
    assert_same(cache.volume(acquisition, SETTINGS, make), make.volume)
    assert (make.calls, len(said)) == (2, 1)


def test_where_nothing_can_be_written_the_volume_stays_in_memory_and_that_is_said(acquisition, tmp_path):
    (tmp_path / "file").write_text("")
    said, make = [], Maker()
    volume = Cache(tmp_path / "file" / "cache", said.append).volume(acquisition, SETTINGS, make)
    assert_same(volume, make.volume)
    assert not volume.channels.flags.writeable
    assert make.volume.channels.flags.writeable
    (sentence,) = said
    assert "anna ge_st stays in memory" in sentence
    assert "Not a directory" in sentence
    assert "HARMONET_CACHE" in sentence


@pytest.mark.skipif(sys.platform != "linux", reason="limits of a process")
def test_a_full_disk_leaves_nothing_behind_and_the_volume_in_memory(acquisition, folder):
    code = f"""
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
{CHILD}
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))  # the write after 1000 bytes fails, as on a full disk
volume = Cache(Path(sys.argv[1]), print).volume(acquisition, {{}}, lambda: made)
assert np.array_equal(volume.channels, made.channels)
"""
    done = subprocess.run([sys.executable, "-c", code, folder, acquisition.dwi], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("anna ge_st stays in memory")
    assert list(folder.iterdir()) == []


def test_a_damaged_entry_that_cannot_be_replaced_is_said_and_never_believed(acquisition, folder, monkeypatch):
    Cache(folder).volume(acquisition, SETTINGS, Maker())
    flip_channels(only_entry(folder))
    said, make = [], Maker()

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("os.rename", refuse)  # as on a cache that another user filled
    volume = Cache(folder, said.append).volume(acquisition, SETTINGS, make)
    assert_same(volume, make.volume)
    assert [("read again" in s, "stays in memory" in s) for s in said] == [(True, False), (False, True)]
    assert_same(Cache(folder, said.append).volume(acquisition, {}, make), make.volume)
    assert "cannot be written (Permission denied)" in said[2]


def test_input_that_changes_while_it_is_read_is_not_kept(acquisition, folder):
    said = []

    def make():
        acquisition.dwi.write_text("changed")
        return a_volume()

    assert_same(Cache(folder, said.append).volume(acquisition, SETTINGS, make), a_volume())
    assert "files changed while they were read" in said[0]
    assert not folder.exists()


def test_an_error_in_making_is_the_callers_and_nothing_is_left(acquisition, folder):
    def make():
        raise DataError("no b = 0 volume")

    with pytest.raises(DataError, match="no b = 0 volume"):
        Cache(folder).volume(acquisition, SETTINGS, make)
    assert not folder.exists()


# What a child process does first: the same made volume in each.
CHILD = """
import os, signal, sys, time
from pathlib import Path
import numpy as np
from harmonet.data.acquisition import Acquisition
from harmonet.data.cache import Cache
from harmonet.data.volumes import Volume
from harmonet.platforms import Grid
made = Volume(np.arange(6000, dtype=np.float32).reshape(10, 10, 10, 6), np.ones((10, 10, 10), bool),
              Grid((10, 10, 10), np.eye(4)))
acquisition = Acquisition("anna", "ge_st", Path(sys.argv[2]), None, None, None)
"""


def child_volume():
    values = np.arange(6000, dtype=np.float32).reshape(10, 10, 10, 6)
    return Volume(values, np.ones((10, 10, 10), bool), Grid((10, 10, 10), np.eye(4)))


def test_two_processes_that_make_the_same_volume_at_once_leave_one_good_entry(acquisition, folder, tmp_path):
    code = f"""{CHILD}
here, other = Path(sys.argv[3]), Path(sys.argv[4])
def make():
    here.touch()
    end = time.monotonic() + 30
    while not other.exists() and time.monotonic() < end:
        time.sleep(0.001)
    return made
volume = Cache(Path(sys.argv[1]), print).volume(acquisition, {{}}, make)
assert here.exists() and other.exists()
assert np.array_equal(volume.channels, made.channels)
"""
    flags = [tmp_path / "one", tmp_path / "two"]
    children = [
        subprocess.Popen([sys.executable, "-c", code, folder, acquisition.dwi, *order], stdout=subprocess.PIPE)
        for order in (flags, flags[::-1])
    ]
    outputs = [child.communicate(timeout=60)[0] for child in children]
    assert [child.returncode for child in children] == [0, 0]
    assert outputs == [b"", b""]
    only_entry(folder)
    same, make = replace(acquisition, bval=None, bvec=None, mask=None, te=None, tr=None), Maker()
    assert_same(Cache(folder).volume(same, {}, make), child_volume())
    assert make.calls == 0


def test_a_process_killed_at_any_step_of_writing_leaves_nothing_that_is_believed(acquisition, folder):
    code = f"""{CHILD}
left = int(sys.argv[3])
def count(event, args):
    global left
    if event in ("open", "os.mkdir", "os.rename") and sys.argv[1] in str(args[0]):
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(count)
Cache(Path(sys.argv[1])).volume(acquisition, {{}}, lambda: made)
"""
    same, partials = replace(acquisition, bval=None, bvec=None, mask=None, te=None, tr=None), 0
    for steps in range(30):
        killed = subprocess.run([sys.executable, "-c", code, folder, acquisition.dwi, str(steps)]).returncode
        said, make = [], Maker(child_volume())
        placed = [path for path in folder.glob("*") if not path.name.startswith(".")]
        partials += len(list(folder.glob(".*.partial")))
        assert_same(Cache(folder, said.append).volume(same, {}, make), child_volume())
        assert (make.calls, said) == (1 - len(placed), [])
        if not killed:
            break
        assert killed == -9
        shutil.rmtree(folder)
    assert steps > 5
    assert partials >= 3


def test_what_killed_processes_left_is_swept_after_a_day_and_nothing_else(acquisition, folder):
    Cache(folder).volume(acquisition, SETTINGS, Maker())
    old = folder / f".{'a' * 64}.{'b' * 32}.partial"
    young = folder / f".{'a' * 64}.{'c' * 32}.partial"
    foreign = folder / ".thesis.partial"
    for path in (old, young, foreign):
        path.mkdir()
        (path / "a").write_bytes(b"123")
    yesterday = time.time() - 25 * 3600
    for path in (old, foreign, only_visible(folder)):
        os.utime(path, (yesterday, yesterday))
    Cache(folder).volume(acquisition, {}, Maker())
    assert (old.exists(), young.exists(), foreign.exists()) == (False, True, True)
    make = Maker()
    Cache(folder).volume(acquisition, SETTINGS, make)
    assert make.calls == 0


def only_visible(folder):
    (entry,) = folder.glob("[!.]*")
    return entry


def test_size_counts_the_entries_and_not_what_else_lies_there(acquisition, folder):
    assert Cache(folder).size() == 0
    Cache(folder).volume(acquisition, SETTINGS, Maker())
    one = Cache(folder).size()
    assert one == sum(path.stat().st_size for path in only_entry(folder).iterdir())
    Cache(folder).volume(acquisition, {}, Maker())
    (folder / "thesis").mkdir()
    (folder / "thesis" / "pages").write_bytes(bytes(10_000))
    assert one < Cache(folder).size() < 2 * one + 100


@pytest.fixture
def clean_environment(monkeypatch, tmp_path):
    monkeypatch.delenv("HARMONET_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return monkeypatch


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, "home/.cache/harmonet"),
        ({"HARMONET_CACHE": ""}, "home/.cache/harmonet"),
        ({"XDG_CACHE_HOME": "{tmp}/xdg"}, "xdg/harmonet"),
        ({"XDG_CACHE_HOME": "relative"}, "home/.cache/harmonet"),
        ({"XDG_CACHE_HOME": "{tmp}/xdg", "HARMONET_CACHE": "{tmp}/mine"}, "mine"),
        ({"HARMONET_CACHE": "~/mine"}, "home/mine"),
        ({"HARMONET_CACHE": "mine"}, "here/mine"),
    ],
)
def test_the_cache_lies_where_the_environment_says(clean_environment, tmp_path, variables, expected):
    (tmp_path / "here").mkdir()
    clean_environment.chdir(tmp_path / "here")
    for name, value in variables.items():
        clean_environment.setenv(name, value.format(tmp=tmp_path))
    assert cache_folder(tmp_path / "heads") == tmp_path / expected


def test_the_cache_can_be_turned_off(clean_environment, tmp_path):
    clean_environment.setenv("HARMONET_CACHE", "off")
    assert cache_folder(tmp_path) is None


@pytest.mark.parametrize("place", ["heads", "heads/cache", "link/cache", "heads/../heads/cache"])
def test_a_cache_in_the_data_set_is_refused_however_it_is_spelt(clean_environment, tmp_path, place):
    (tmp_path / "heads").mkdir()
    (tmp_path / "link").symlink_to("heads")
    clean_environment.setenv("HARMONET_CACHE", str(tmp_path / place))
    with pytest.raises(OutputError, match=r"lies in the data set .* set HARMONET_CACHE to a folder outside"):
        cache_folder(tmp_path / "heads")
    assert cache_folder(tmp_path / "head") is not None
