"""ComBat and RISH-GLM as methods of harmonet: what they promise and find, and their rows beside the built-in ones."""

from dataclasses import replace
from importlib.metadata import entry_points

import numpy as np
import pytest
from harmonet_baselines.places import CombatPlaces
from harmonet_baselines.rish_glm import RishGlm

import harmonet as hn
from harmonet.build import recipe_of
from harmonet.data.layout import open_dataset
from harmonet.data.simulate import simulate
from harmonet.errors import DataError, RecipeError
from harmonet.evaluation import evaluate
from harmonet.methods.rish_linear import RishLinear
from harmonet.platforms import preset
from harmonet.runs.predict import predict
from harmonet.runs.train import train
from harmonet.testing import parametrize_with_checks
from harmonet.testing.methods import GROUPS, pairs


def quiet(*_):
    """Say nothing."""


def planted(change, noise=0.0):
    """The kit's three subjects, their target on the source's grid made of the source."""
    rng = np.random.default_rng(0)
    found = []
    for pair in pairs(1):
        mask = pair.source.mask[..., None]
        made = change(pair.source.channels) + noise * rng.normal(size=pair.source.channels.shape)
        target = replace(pair.source, channels=(made * mask).astype(np.float32))
        found.append(replace(pair, target=target))
    return found


def taught(method, given):
    method.fit([method.learn(pair) for pair in given])
    return method


def said(method, pair):
    """Prediction and source of one subject, in the mask."""
    found = method.predict(pair.source, pair.target.grid)
    return found[pair.source.mask], pair.source.channels[pair.source.mask]


@parametrize_with_checks(["combat", "rish_glm"])
def test_it_keeps_what_harmonet_promises(entry, check):
    check(entry)


def test_both_are_found_through_the_installed_entry_point():
    points = [p for p in entry_points(group="harmonet") if p.dist.name == "harmonet-baselines"]
    assert [(p.name, p.value) for p in points] == [("baselines", "harmonet_baselines")]
    assert {"combat", "rish_glm"} <= set(hn.list_methods())


@pytest.mark.parametrize(("gain", "scale"), [(1.4, 1.4), (0.7, 0.7), (3.0, 2.0), (0.1, 0.5)])
def test_rish_glm_finds_the_planted_gain_of_each_order_within_its_limits(gain, scale):
    given = planted(lambda x: x * [1, *[gain] * 5])
    found, source = said(taught(RishGlm(GROUPS), given[:2]), given[2])
    assert np.allclose(found, source * [1, *[scale] * 5], atol=1e-3)


def test_rish_glm_is_the_ratio_of_means_where_rish_linear_is_the_mean_of_ratios():
    """In one subject, and where a gain is the same everywhere, both are one; noise in the target parts them."""
    given = planted(lambda x: 1.2 * x)
    assert np.allclose(*(said(taught(m(GROUPS), given[:1]), given[2])[0] for m in (RishGlm, RishLinear)), atol=1e-3)
    noisy = planted(lambda x: 1.2 * x, noise=0.5)
    glm, ratios = (said(taught(m(GROUPS), noisy[:2]), noisy[2])[0] for m in (RishGlm, RishLinear))
    assert np.abs(glm - ratios).max() > 0.01


def test_rish_glm_needs_orders():
    with pytest.raises(RecipeError, match="a scalar image does not have: use linear"):
        RishGlm({})


def test_combat_finds_a_planted_shift_of_each_channel_and_leaves_scales_alone_if_asked():
    shift = np.linspace(-1, 1, 6)
    given = planted(lambda x: x + shift)
    found, source = said(taught(CombatPlaces(GROUPS, mean_only=True, eb=False), given[:2]), given[2])
    assert np.allclose(found, source + shift, atol=1e-3)


@pytest.mark.parametrize("eb", [True, False])
def test_combat_finds_a_planted_scale_as_far_as_so_few_heads_let_it(eb):
    """The published form divides by n where it pools the reference and by n - 1 in a batch: short by root 2 here."""
    given = planted(lambda x: 2 * x)
    method = CombatPlaces(GROUPS, eb=eb)
    lessons = [method.learn(pair) for pair in given[:2]]
    method.fit(lessons)
    seen = method.maps[..., -1] > 0
    slope, offset = method.maps[seen][:, :6], method.maps[seen][:, 6:-1]
    assert np.allclose(slope, 2 / np.sqrt(2), rtol=1e-3)
    if not eb:  # then the mean of every place is led to the target's
        ours, theirs = (np.mean([one[name][seen] for one in lessons], axis=0) for name in ("source", "target"))
        assert np.allclose(slope * ours + offset, theirs, atol=1e-3)


def test_shrinking_makes_the_map_of_scales_smoother():
    given = planted(lambda x: 1.5 * x, noise=0.8)
    maps = [taught(CombatPlaces(GROUPS, eb=eb), given[:2]).maps for eb in (True, False)]
    spreads = [each[each[..., -1] > 0][:, 2].std() for each in maps]
    assert spreads[0] < 0.5 * spreads[1]


def test_combat_says_what_it_lacks():
    given = planted(lambda x: x)
    with pytest.raises(DataError, match="one training subject, who shows no spread: train on two or more"):
        taught(CombatPlaces(GROUPS), given[:1])


# ---- beside the built-in ones


@pytest.fixture(scope="module")
def heads(tmp_path_factory):
    out = tmp_path_factory.mktemp("data") / "heads"
    simulate(out, subjects=4, seed=7, shape=(16, 17, 16))
    return open_dataset(out)


def test_both_are_trained_scored_beside_the_built_in_ones_and_used(heads, tmp_path):
    task = preset("cdmri2017")
    runs = [
        train(recipe_of(task, {}, method=name, order=2), heads, tmp_path / name, quiet)
        for name in ("combat", "rish_glm")
    ]
    found = evaluate(runs, heads, quiet, metrics=["sh_mse"])
    ours = ["combat: combat", "rish_glm: rish_glm"]
    assert [m for m in found.methods if found.kinds[m] == "method"] == ours
    assert {"identity", "interpolation", "linear", "rish_linear"} <= set(found.methods)
    for platform in found.platforms:
        glm, rish = (found.values(m, platform, "truth")[0] for m in ("rish_glm: rish_glm", "rish_linear"))
        assert glm == pytest.approx(rish, rel=0.3)  # two ways to the same scales
        assert np.isfinite(found.values("combat: combat", platform, "truth")[0])
    loaded = hn.load(tmp_path / "combat")
    from harmonet.data.scan import read_scan

    scan = read_scan(heads.acquisition(loaded.split.test[0], task.source.name))
    for prediction in predict(loaded, scan).values():
        assert np.isfinite(prediction.volume.channels).all()
        assert prediction.volume.channels.any()
