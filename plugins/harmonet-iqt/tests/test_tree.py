"""One tree: leaves by least squares, thresholds by search, rows that find their leaf."""

import numpy as np
from harmonet_iqt.forest import leaves
from harmonet_iqt.tree import Rows, best_threshold, least_squares, moments


def test_rows_go_below_only_under_the_threshold():
    stump = {
        "roots": np.array([0]),
        "feature": np.array([1, -1, -1]),
        "threshold": np.array([2.0, 0, 0]),
        "below": np.array([1, -1, -1]),
        "above": np.array([2, -1, -1]),
        "leaf": np.array([-1, 0, 1]),
    }
    assert leaves(stump, np.array([[9.0, 1.9], [0.0, 2.0]])).tolist() == [[0], [1]]


def test_the_residual_covariance_is_that_of_the_free_rows():
    rng = np.random.default_rng(1)
    x, truth = rng.normal(size=(4000, 6)), rng.normal(size=(6, 2))
    spread = np.array([[1.0, 0.3], [0.3, 0.5]])
    leaf = least_squares(moments(x[:40], x[:40] @ truth))
    np.testing.assert_allclose(leaf.weights, truth, atol=1e-6)
    found = [
        least_squares(moments(x[at : at + 12], rng.multivariate_normal([0, 0], spread, 12))).covariance
        for at in range(0, 3996, 12)
    ]
    np.testing.assert_allclose(np.mean(found, axis=0), spread, atol=0.1)


def test_the_search_finds_the_planted_threshold_among_features():
    rng = np.random.default_rng(2)
    x, parted = np.hstack([np.ones((600, 1)), rng.normal(size=(600, 2))]), rng.uniform(size=(600, 3))
    y = np.where(parted[:, 1:2] < 0.3, x @ [[0.0], [1], [2]], x @ [[1.0], [-1], [0]])
    feature, threshold = best_threshold(Rows(x, y, x, y, parted))
    assert feature == 1
    assert abs(threshold - 0.3) < 0.02
