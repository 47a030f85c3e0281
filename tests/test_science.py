"""The null control: MSP gains over single networks where platforms share structure, and not where they share nothing.

In full, on simulated heads, in `benchmarks/science.py`; here on small volumes of smooth random channels.
"""

import copy

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import nn

import harmonet as hn
from harmonet.data.patches import PatchFeed
from harmonet.data.standardise import statistics
from harmonet.data.volumes import Volume, bring_together
from harmonet.evaluation.comparisons import BEST_SINGLE, comparisons
from harmonet.evaluation.result import Evaluation, Score
from harmonet.inference import Where, predict_stages
from harmonet.model import Model
from harmonet.platforms import Grid
from harmonet.training.checkpoint import Checkpoints
from harmonet.training.history import History
from harmonet.training.loop import fit
from harmonet.training.schedule import Manner, Schedule

NAMES, CHANNELS, SHAPE = ("a", "b", "c"), 4, (14, 15, 13)
SUBJECTS = 6  # of the test: the least p is 1/32


def head(name, seed, shared):
    """A head whose targets are noisy, saturated images of what the source shows, or each of something of its own."""
    rng = np.random.default_rng([seed, 1])
    grid, mask = Grid(SHAPE, np.diag([2.0, 2.0, 2.0, 1.0])), np.zeros(SHAPE, dtype=bool)
    mask[2:-2, 2:-2, 2:-2] = True

    def anatomy():
        smooth = np.stack([gaussian_filter(rng.normal(size=SHAPE), 1.5) for _ in range(CHANNELS)], axis=-1)
        return smooth / smooth.std()

    def volume(values, noise):
        noisy = values + noise * rng.normal(size=values.shape)
        return Volume((noisy * mask[..., None]).astype(np.float32), mask, grid)

    seen = anatomy()
    truths = {p: np.tanh((1 + n / 2) * (seen if shared else anatomy())) for n, p in enumerate(NAMES)}
    targets = {platform: volume(truth, 0.7) for platform, truth in truths.items()}
    return bring_together(name, volume(seen, 0.5), targets, dict.fromkeys(NAMES, 1)), truths


def scored(shared, folder):
    """Single networks and their MSP, trained on two heads and scored against the truth of six others."""
    train = [head(f"train{n}", n, shared)[0] for n in range(2)]
    validation = [head("validation", 50, shared)[0]]
    standard = {"source": statistics([h.source for h in train], "source")}
    standard |= {p: statistics([h.targets[p] for h in train], p) for p in NAMES}

    def trained(model, platforms, name):
        """The model, after the same budget whether it is one network or the composition."""
        factors = dict.fromkeys(platforms, 1)
        feeds = [PatchFeed(heads, standard, "source", factors, 7, 24, 0) for heads in (train, validation)]
        (folder / name).mkdir()
        fit(
            model,
            *feeds,
            schedule=Schedule(epochs=6, per_epoch=feeds[0].steps(6), learning_rate=3e-3, shape="cosine"),
            manner=Manner(batch_size=6),
            seed=0,
            phase=name,
            checkpoints=Checkpoints(folder / name, lambda _: None),
            history=History(folder / name / "history.jsonl"),
            watch=lambda *_: None,
        )
        return model

    singles = {}
    for number, platform in enumerate(NAMES):
        torch.manual_seed(number)
        layers = [nn.Conv3d(CHANNELS, 16, 3, padding=1), nn.ReLU(), nn.Conv3d(16, 16, 3, padding=1), nn.ReLU()]
        network = nn.Sequential(*layers, nn.Conv3d(16, CHANNELS, 3, padding=1))
        singles[platform] = trained(Model({platform: network}, {}, {}), (platform,), platform).singles[platform]
    alone = Model(copy.deepcopy(singles), {}, {})
    msp = hn.compose(singles, "msp", channels=CHANNELS, patch_size=7, taps=dict.fromkeys(NAMES, "3"))
    trained(msp, NAMES, "msp")
    scores = []
    for number in range(SUBJECTS):
        test, truths = head(f"test{number}", 100 + number, shared)
        source, mask = standard["source"].apply(test.source), test.source.mask
        where = {p: Where(test.targets[p].grid, test.alignments[p]) for p in NAMES}
        said = {"single": predict_stages(alone, source, mask, where, 7)[0]}
        said["msp, stage 1"] = predict_stages(msp, source, mask, where, 7)[1]
        for method, stage in said.items():
            for platform in NAMES:
                error = (standard[platform].invert(stage[platform]) - truths[platform])[mask]
                values = {"sh_mse": float(np.mean(error**2))}
                scores.append(Score(method, platform, test.subject, "truth", values, "run"))
    return Evaluation(
        scores=scores,
        methods=["single", "msp, stage 1"],
        platforms=NAMES,
        subjects=tuple(f"test{n}" for n in range(SUBJECTS)),
        label="simulated",
        leaky=False,
        measure="channels",
        notes=[],
        maps=[],
        kinds={"single": "single", "msp, stage 1": "stage"},
    )


@pytest.fixture(scope="module", params=[True, False], ids=["shared", "unrelated"])
def found(request, tmp_path_factory):
    evaluation = scored(request.param, tmp_path_factory.mktemp("science"))
    return request.param, evaluation, [row for row in comparisons(evaluation, "truth") if row.role == BEST_SINGLE]


def test_msp_gains_where_platforms_share_structure_and_only_there(found):
    """The subject is the unit: of six, all gain or the interval of the gain reaches 0."""
    shared, _, rows = found
    assert [row.platform for row in rows if row.method == "msp, stage 1"] == list(NAMES)
    for row in rows:
        gain = row.comparison.gain_interval
        if shared:
            assert gain.low > 10
            assert row.p == pytest.approx(2 / 2**SUBJECTS)
        else:
            assert gain.low < 0


def test_the_report_says_which_of_the_two_it_is(found):
    from harmonet.report.verdict import verdict_of

    shared, evaluation, _ = found
    for platform in NAMES:
        verdict = verdict_of(evaluation, evaluation.as_json()["statistics"], "msp, stage 1", platform)
        assert (verdict.tone in ("good", "hint")) == shared, verdict.text
        assert ("no difference shown" in verdict.text or "higher" in verdict.text) != shared
