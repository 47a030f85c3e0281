"""The loop: it learns, it resumes to the same weights, it stops where the loss is no number."""

import pytest
import torch
from heads import UPSAMPLING, make_head
from torch import nn

import harmonet as hn
from harmonet.data.patches import PatchFeed
from harmonet.data.standardise import statistics
from harmonet.errors import NotFoundError, RunError
from harmonet.losses.masked import masked_mse
from harmonet.training.batches import to_tensors
from harmonet.training.checkpoint import Checkpoints
from harmonet.training.history import History
from harmonet.training.loop import fit
from harmonet.training.loss import loss_terms
from harmonet.training.schedule import Manner, Schedule
from harmonet.training.validation import validate


@pytest.fixture(scope="module")
def feeds():
    train, validation = [make_head("a", 0), make_head("b", 1)], [make_head("c", 2)]
    standard = {"src": statistics([h.source for h in train], "src")}
    for platform in UPSAMPLING:
        standard[platform] = statistics([h.targets[platform] for h in train], platform)
    return [PatchFeed(heads, standard, "src", UPSAMPLING, 7, 24, 0) for heads in (train, validation)]


def model_of(dropout=0.0):
    torch.manual_seed(0)
    near = nn.Sequential(nn.Conv3d(6, 8, 3, padding=1), nn.ReLU(), nn.Dropout3d(dropout), nn.Conv3d(8, 6, 1))
    options = {"diqt": {"layers": 1, "widths": (4, 6)}}
    return hn.compose(
        {"near": near, "fine": "diqt"},
        "msp",
        upsampling={"fine": 2},
        channels=6,
        patch_size=7,
        taps={"near": "1"},
        options=options,
    )


def train(model, feeds, folder, epochs, watch=lambda *_: None, *, manner=None, said=None, **words):
    per_epoch = feeds[0].steps(4)
    plan = {"epochs": epochs, "per_epoch": per_epoch, "learning_rate": 3e-3, "decay": 0.7, "decay_every": 2}
    plan |= {name: words.pop(name) for name in list(words) if name in Schedule.__dataclass_fields__}
    return fit(
        model,
        *feeds,
        schedule=Schedule(**plan),
        manner=Manner(**({"batch_size": 4} | (manner or {}))),
        seed=5,
        phase="test",
        checkpoints=Checkpoints(folder, [].append if said is None else said.append),
        history=History(folder / "history.jsonl"),
        watch=watch,
        **words,
    )


def test_training_lowers_the_validation_error_on_every_platform(feeds, tmp_path):
    outcome = train(model_of(), feeds, tmp_path / "a", 6)
    first, last = outcome.history[0]["validation"], outcome.history[-1]["validation"]
    assert set(first) == {"0/near", "0/fine", "1/near", "1/fine"}
    assert all(last[term] < 0.9 * first[term] for term in first)


def test_the_weights_kept_are_those_of_the_lowest_validation_error(feeds, tmp_path):
    model = model_of()
    outcome = train(model, feeds, tmp_path / "a", 4)
    assert outcome.score == min(record["score"] for record in outcome.history)
    assert outcome.best_epoch == 1 + [r["score"] for r in outcome.history].index(outcome.score)
    errors = validate(model, feeds[1], 4)
    best = outcome.history[outcome.best_epoch - 1]
    assert float(errors[1, "near"].mean()) == pytest.approx(best["validation"]["1/near"])


def test_alpha_follows_the_training(feeds, tmp_path):
    outcome = train(model_of(), feeds, tmp_path / "a", 4)
    alphas = [record["alpha"] for record in outcome.history]
    assert alphas == sorted(alphas)
    assert 0 < alphas[0] < 0.5
    assert alphas[-1] == 1


def test_an_interrupted_training_resumes_to_the_same_bits(feeds, tmp_path):
    class Stop(Exception):
        pass

    def stop_in_the_third_epoch(_phase, done, total, _note):
        if done == 2 * (total // 4) + 3:
            raise Stop

    whole = model_of(dropout=0.3)
    train(whole, feeds, tmp_path / "whole", 4)
    halves = model_of(dropout=0.3)
    with pytest.raises(Stop):
        train(halves, feeds, tmp_path / "halves", 4, stop_in_the_third_epoch)
    again = model_of(dropout=0.3)
    torch.manual_seed(99)
    train(again, feeds, tmp_path / "halves", 4)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


def test_learned_weights_resume_to_the_same_bits_where_a_subject_lacks_a_platform(feeds, tmp_path):
    class Stop(Exception):
        pass

    def stop_in_the_second_epoch(_phase, done, total, _note):
        if done == total // 2 + 3:
            raise Stop

    loss = {"weighting": "uncertainty", "platforms": {"fine": 0.5}, "log": True}
    heads = [make_head("a", 0), make_head("b", 1)]
    del heads[1].targets["fine"], heads[1].alignments["fine"]
    standard = {p: statistics([h.targets[p] for h in heads if p in h.targets], p) for p in UPSAMPLING}
    standard["src"] = statistics([h.source for h in heads], "src")
    some = (PatchFeed(heads, standard, "src", UPSAMPLING, 7, 24, 0), feeds[1])
    whole, halves, again = model_of(), model_of(), model_of()
    outcome = train(whole, some, tmp_path / "whole", 2, loss=loss)
    with pytest.raises(Stop):
        train(halves, some, tmp_path / "halves", 2, stop_in_the_second_epoch, loss=loss)
    assert train(again, some, tmp_path / "halves", 2, loss=loss).history[-1]["terms"] == outcome.history[-1]["terms"]
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    terms = outcome.history[-1]["terms"]
    assert terms["weights"]["0/fine"] == pytest.approx(0.5, rel=0.2)
    assert terms["weights"]["0/fine"] != 0.5
    assert set(terms["cosines"]) >= {"0/near 1/near"}


def test_each_part_learns_at_its_own_rate_and_a_wrong_part_is_refused(feeds, tmp_path):
    model, before = model_of(), model_of().state_dict()
    train(model, feeds, tmp_path / "a", 1, rates={"near": 1e-6})
    moved = {n: float((t.detach() - before[n]).abs().max()) for n, t in model.named_parameters()}
    assert max(v for n, v in moved.items() if n.startswith("singles.near")) < 1e-6
    assert min(v for n, v in moved.items() if n.startswith("singles.fine")) > 1e-4
    with pytest.raises(NotFoundError, match="rates has a factor for 'nera'"):
        train(model, feeds, tmp_path / "b", 1, rates={"nera": 1.0})


def test_a_loss_that_is_no_number_stops_with_place_and_remedy(feeds, tmp_path):
    model = model_of()
    with torch.no_grad():
        model.singles["near"][0].bias[0] = float("nan")
    with pytest.raises(
        RunError, match=r"loss of near in stage 0.* not finite at epoch 1, step 1: lower the learning"
    ) as caught:
        train(model, feeds, tmp_path / "a", 2)
    assert "checkpoint" not in str(caught.value)  # there is none yet


def test_training_leaves_the_callers_random_state_alone(feeds, tmp_path):
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    train(model_of(), feeds, tmp_path / "a", 1)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(1), expected)


def test_the_loss_is_a_term_for_each_stage_and_platform_and_zero_for_perfect_predictions(feeds):
    x, targets, inside = to_tensors(next(feeds[0].batches(0, 3)), torch.device("cpu"))
    terms = loss_terms(model_of()(x), targets, inside)
    assert set(terms) == {(0, "near"), (0, "fine"), (1, "near"), (1, "fine")}
    perfect = loss_terms([dict(targets)], targets, inside)
    assert all(float(term) == 0 for term in perfect.values())


def test_voxels_outside_the_mask_count_for_nothing():
    truth = torch.zeros(2, 3, 4, 4, 4)
    inside = torch.zeros(2, 1, 4, 4, 4)
    inside[0, 0, 1, 1, 1] = 1
    prediction = torch.full_like(truth, 7.0, requires_grad=True)
    error = masked_mse(prediction, truth, inside)
    assert error.item() == 49
    error.backward()
    assert int((prediction.grad != 0).sum()) == 3
    assert masked_mse(prediction, truth, torch.zeros_like(inside)).item() == 0


def test_shapes_that_would_broadcast_are_refused():
    with pytest.raises(ValueError, match="differ in shape"):
        masked_mse(torch.zeros(2, 4, 3, 3, 3), torch.zeros(4, 3, 3, 3), torch.ones(2, 1, 3, 3, 3))
