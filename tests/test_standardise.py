"""Standardisation: statistics from streams of slabs, whose they are, and the way back."""

from dataclasses import replace

import numpy as np
import pytest
from heads import make_head

from harmonet.data.standardise import PerAcquisition, Standardisation, statistics
from harmonet.data.volumes import Volume
from harmonet.errors import DataError


def some(seeds=(0, 1)):
    return [make_head(f"s{seed}", seed).source for seed in seeds]


def test_statistics_are_those_of_all_masked_voxels_together():
    volumes = some()
    inside = np.concatenate([v.channels[v.mask] for v in volumes]).astype(np.float64)
    standard = statistics(volumes, "src")
    assert np.allclose(standard.mean, inside.mean(axis=0), rtol=1e-12, atol=1e-12)
    assert np.allclose(standard.std, inside.std(axis=0), rtol=1e-12)


def test_statistics_do_not_depend_on_the_slabs(monkeypatch):
    whole = statistics(some(), "src")
    monkeypatch.setattr("harmonet.data.standardise.SLAB", 1)  # one plane at a time, some of them without a voxel
    planes = statistics(some(), "src")
    assert np.allclose(planes.mean, whole.mean, rtol=1e-12, atol=1e-14)
    assert np.allclose(planes.std, whole.std, rtol=1e-12)


def test_a_small_spread_around_a_large_mean_is_found(monkeypatch):
    monkeypatch.setattr("harmonet.data.standardise.SLAB", 1)
    volume = some((0,))[0]
    rng = np.random.default_rng(0)
    channels = np.where(volume.mask[..., None], 8e6 + rng.integers(-1, 2, volume.channels.shape), 0)
    found = statistics([replace(volume, channels=channels.astype(np.float32))], "src")
    assert np.allclose(found.std, channels[volume.mask].std(axis=0), rtol=1e-9)


def test_a_memory_mapped_volume_is_read_in_slabs(tmp_path):
    import tracemalloc

    shape = (64, 48, 48, 28)  # 16 MB
    channels = np.lib.format.open_memmap(tmp_path / "channels.npy", "w+", np.float32, shape)
    channels[:] = np.random.default_rng(0).normal(size=shape[-1]) + np.arange(64)[:, None, None, None]
    grid = replace(make_head("a").source.grid, shape=shape[:3])
    volume = Volume(channels, np.ones(shape[:3], dtype=bool), grid)
    tracemalloc.start()
    statistics([volume], "src")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 << 20


def test_standardising_and_inverting_gives_the_channels_back_to_float32():
    volume = some((2,))[0]
    volume = replace(volume, channels=volume.channels * np.float32(1e-3) + np.float32(2) * volume.mask[..., None])
    standard = statistics([volume], "src")
    there = volume.mask
    back = standard.invert(standard.apply(volume))
    assert back.dtype == np.float32
    assert np.abs(back - volume.channels)[there].max() <= 2 * np.spacing(np.float32(2))
    assert (standard.apply(volume)[~there] == 0).all()


def test_inverting_leaves_its_input_alone():
    channels = np.ones((2, 2, 2, 3), dtype=np.float32)
    Standardisation(np.full(3, 5.0), np.full(3, 2.0)).invert(channels)
    assert (channels == 1).all()


def test_a_piece_is_standardised_as_the_whole_is():
    volume = some((0,))[0]
    standard = statistics([volume], "src")
    piece = standard.apply_to(volume.channels[3:7], volume.mask[3:7])
    assert np.array_equal(piece, standard.apply(volume)[3:7])


def test_per_acquisition_each_image_has_its_own_statistics():
    one, other = some()
    other = replace(other, channels=3 * other.channels + 7 * other.mask[..., None])
    for volume in (one, other):
        channels = PerAcquisition("src").standardisation_for(volume).apply(volume)[volume.mask]
        assert np.allclose(channels.mean(axis=0), 0, atol=1e-5)
        assert np.allclose(channels.std(axis=0), 1, atol=1e-5)


def test_training_statistics_serve_every_image():
    one, other = some()
    standard = statistics([one], "src")
    assert standard.standardisation_for(other) is standard


def test_masks_without_a_voxel_are_refused():
    volume = some((0,))[0]
    with pytest.raises(DataError, match="the masks of ge_st hold no voxel of the training subjects"):
        statistics([replace(volume, mask=np.zeros_like(volume.mask))], "ge_st")


def test_a_constant_channel_names_whose_it_is():
    volume = some((0,))[0]
    volume.channels[..., 4][volume.mask] = 0.25
    with pytest.raises(DataError, match="channel 4 of ge_st is the same in every voxel of the image"):
        PerAcquisition("ge_st").standardisation_for(volume)
