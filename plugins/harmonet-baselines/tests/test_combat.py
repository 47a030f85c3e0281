"""ComBat on plain numbers: against its formulas written out, against the published implementations, and its refusals.

HARMONET_REFERENCES names a folder with `combat/`, the inputs and outputs in the folder Testing of
github.com/Jfortin1/ComBatHarmonization; without it the formulas alone are checked.
"""

import os
from pathlib import Path

import numpy as np
import pytest
from harmonet_baselines.combat import fit

from harmonet.errors import DataError

SITES = ["a"] * 6 + ["b"] * 5 + ["c"] * 4


def scans(features=40, seed=0):
    """Features with a mean each, an age effect, and sites that shift and scale them."""
    rng = np.random.default_rng(seed)
    age = rng.normal(size=15)
    shift, scale = {"a": 0.0, "b": 2.0, "c": -1.0}, {"a": 1.0, "b": 1.5, "c": 0.6}
    noise = rng.normal(size=(features, 15)) * [scale[site] for site in SITES]
    effects = rng.normal(size=(features, 1)) * 0.2 + [shift[site] for site in SITES]
    return 10 + 3 * rng.normal(size=(features, 1)) + 0.5 * age + effects + noise, age[:, None]


def written_out(data, sites, age, *, eb, mean_only, reference):
    """ComBat feature by feature and site by site, as its formulas stand in the papers."""
    names = sorted(set(sites))
    where = {name: [n for n, site in enumerate(sites) if site == name] for name in names}
    indicators = np.array([[float(site == name) for name in names] for site in sites])
    design = np.hstack([indicators, age])
    usual, left, z = np.empty_like(data), np.empty(len(data)), np.empty_like(data)
    for f, y in enumerate(data):
        b = np.linalg.inv(design.T @ design) @ design.T @ y
        if reference is None:
            level = sum(len(where[name]) / len(sites) * b[i] for i, name in enumerate(names))
            left[f] = np.sqrt(np.mean((y - design @ b) ** 2))
        else:
            level = b[names.index(reference)]
            left[f] = np.sqrt(np.mean((y - design @ b)[where[reference]] ** 2))
        usual[f] = level + age[:, 0] * b[-1]
        z[f] = (y - usual[f]) / left[f]
    out = data.copy()
    for name in names:
        if name == reference:
            continue
        here = z[:, where[name]]
        n, g, d = here.shape[1], here.mean(1), np.ones(len(z)) if mean_only else here.var(1, ddof=1)
        if eb:
            bar, t2, m, s2 = g.mean(), g.var(ddof=1), d.mean(), d.var(ddof=1)
            if mean_only:
                g = (t2 * g + bar) / (t2 + 1)
            else:
                a, b = (2 * s2 + m**2) / s2, (m * s2 + m**3) / s2
                for f in range(len(z)):
                    first, gf, df = g[f], g[f], d[f]
                    for _ in range(200):
                        gf = (t2 * n * first + df * bar) / (t2 * n + df)
                        df = (0.5 * ((here[f] - gf) ** 2).sum() + b) / (n / 2 + a - 1)
                    g[f], d[f] = gf, df
        out[:, where[name]] = (here - g[:, None]) / np.sqrt(d)[:, None] * left[:, None] + usual[:, where[name]]
    return out


@pytest.mark.parametrize("reference", [None, "b"])
@pytest.mark.parametrize(("eb", "mean_only"), [(True, False), (True, True), (False, False), (False, True)])
def test_it_is_what_its_formulas_say_written_out(eb, mean_only, reference):
    data, age = scans()
    found = fit(data, SITES, age, eb=eb, mean_only=mean_only, reference=reference).apply(data, SITES, age)
    wanted = written_out(data, SITES, age, eb=eb, mean_only=mean_only, reference=reference)
    assert np.allclose(found, wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "head", "covariate", "options", "tolerance"),
    [
        ("parametric_unadjusted_python.csv", 0, False, {}, 1e-4),
        ("parametric_adjusted_python.csv", 0, True, {}, 1e-4),
        ("parametric_unadjusted_meanonly_python.csv", 0, False, {"mean_only": True}, 1e-12),
        ("parametric_unadjusted_batchref_r.csv", 1, False, {"reference": "1"}, 1e-4),
    ],
)
def test_it_gives_what_the_published_implementations_give(name, head, covariate, options, tolerance):
    """They end their iteration at a change of 1e-4, where ours goes on to 1e-8: hence the tolerance."""
    folder = Path(os.environ.get("HARMONET_REFERENCES", "")) / "combat"
    if not os.environ.get("HARMONET_REFERENCES") or not folder.is_dir():
        pytest.skip("HARMONET_REFERENCES names no folder with combat/")
    data = np.loadtxt(folder / "input.csv", delimiter=",", skiprows=1)
    wanted = np.loadtxt(folder / name, delimiter=",", skiprows=head)
    sites, group = ["1"] * 5 + ["2"] * 5, np.array([0.0, 1.0] * 5)[:, None] if covariate else None
    found = fit(data, sites, group, **options).apply(data, sites, group)
    assert np.abs(found - wanted).max() < tolerance  # of values that spread by 2


def test_a_reference_stays_as_it_is_and_the_others_come_to_it():
    data, age = scans(features=300)
    found = fit(data, SITES, age, reference="a").apply(data, SITES, age)
    assert np.array_equal(found[:, :6], data[:, :6])
    before, after = ((y[:, 6:11].mean(), y[:, 6:11].std(axis=1).mean()) for y in (data, found))
    mean, spread = data[:, :6].mean(), data[:, :6].std(axis=1).mean()
    assert abs(after[0] - mean) < 0.3 * abs(before[0] - mean)
    assert abs(after[1] - spread) < 0.5 * abs(before[1] - spread)


def test_the_planted_covariate_is_kept():
    data, age = scans(features=400)
    found = fit(data, SITES, age).apply(data, SITES, age)
    slope = np.polyfit(age[:, 0], found.mean(axis=0), 1)[0]
    assert slope == pytest.approx(0.5, abs=0.1)


def test_new_scans_of_a_known_batch_are_treated_as_the_old_ones_were():
    data, age = scans()
    model = fit(data, SITES, age)
    whole = model.apply(data, SITES, age)
    assert np.allclose(model.apply(data[:, 7:8], ["b"], age[7:8]), whole[:, 7:8])
    with pytest.raises(DataError, match="not fitted to scans of d, only of a, b, c"):
        model.apply(data[:, :1], ["d"], age[:1])
    with pytest.raises(DataError, match="40 features and 1 covariates, found 40 and 0"):
        model.apply(data, SITES)


def test_a_feature_that_does_not_vary_stays_as_it_is_and_spoils_no_other():
    data, age = scans()
    still = np.vstack([data, np.full((1, 15), 7.0)])
    found = fit(still, SITES, age).apply(still, SITES, age)
    assert np.array_equal(found[-1], still[-1])
    assert np.allclose(found[:-1], fit(data, SITES, age).apply(data, SITES, age))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda y, s, x: (y[:, :6], s[:6], None, {}), "a alone: give two batches"),
        (lambda y, s, x: (y[:, 5:7], s[5:7], None, {}), "one scan of a, which shows no scale"),
        (lambda y, s, x: (y[:1], s, None, {}), "use eb=False"),
        (lambda y, s, x: (y, s, None, {"reference": "z"}), "no batch 'z' to lead to"),
        (lambda y, s, x: (y, s, np.array([[float(n == "a")] for n in s]), {}), "cannot tell covariates and batches"),
        (lambda y, s, x: (y * np.nan, s, None, {}), "not finite"),
        (lambda y, s, x: (y.T, s, None, {}), "features x scans"),
    ],
)
def test_what_nothing_can_be_learned_from_is_refused_in_words(change, words):
    data, sites, covariates, options = change(scans()[0], SITES, scans()[1])
    with pytest.raises(DataError, match=words):
        fit(data, sites, covariates, **options)
