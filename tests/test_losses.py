"""Losses, weightings and the objective: what is missing counts for nothing, and gradients are what the words say."""

import math
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from threading import Barrier

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import huber_loss, l1_loss, mse_loss

import harmonet as hn
from harmonet import plugins
from harmonet.errors import HarmonetError, NotFoundError, RecipeError, RunError
from harmonet.losses.by_order import ByOrder
from harmonet.losses.surgery import dual_cone_weights, surgery
from harmonet.losses.weighting import Weighting
from harmonet.registry import LOSSES, WEIGHTINGS
from harmonet.stages import Stage
from harmonet.training.checkpoint import Checkpoints
from harmonet.training.groups import parameter_groups
from harmonet.training.loss import loss_terms
from harmonet.training.objective import Objective, check_objective

SIZE = (3, 6, 4, 4, 4)
GROUPS = {"l = 0": slice(0, 1), "l = 2": slice(1, 6)}
TERMS = [(0, "a"), (0, "b"), (1, "a")]
ZERO = torch.zeros(())


def names(registry):
    plugins.load()
    return registry.names()


def loss_of(name, **options):
    return plugins.loss(name).load()(GROUPS, **options)


def weighting_of(name, terms=TERMS, **options):
    return plugins.weighting(name).load()(terms, **options)


def losses_of(*values):
    return {term: torch.tensor(float(v)) for term, v in zip(TERMS, values, strict=True) if v is not None}


def weigh(weighting, *values):
    """Weights of terms of these values, None for one that the batch lacks, in the order of TERMS."""
    return [float(w.detach()) for w in weighting(losses_of(*values)).values()]


def pair(seed=0):
    torch.manual_seed(seed)
    return torch.randn(SIZE), torch.randn(SIZE), (torch.rand(3, 1, 4, 4, 4) > 0.4).float()


def small_model(frozen=()):
    torch.manual_seed(0)
    singles = {p: nn.Sequential(nn.Conv3d(2, 4, 1), nn.ReLU(), nn.Conv3d(4, 2, 1)) for p in ("a", "b")}
    taps = dict.fromkeys(singles, "1")
    model = hn.compose(singles, "msp", "a", channels=2, patch_size=7, taps=taps, frozen=frozen)
    model.advance(1.0)
    return model


X = torch.linspace(-1, 1, 4 * 2 * 343).reshape(4, 2, 7, 7, 7)


def batch(lacks_b=()):
    """Targets and masks of four patches, some of which lack platform b."""
    inside = {p: torch.ones(4, 1, 7, 7, 7) for p in ("a", "b")}
    targets = {"a": X.flip(0) ** 2, "b": 3 * X}
    for patch in lacks_b:
        inside["b"][patch] = 0
        targets["b"][patch] = 0
    return targets, inside


def gradients(model):
    return [None if p.grad is None else p.grad.clone() for p in model.parameters()]


def stepped(model, objective, lacks_b=()):
    """The loss of a batch, and the gradients that it leaves."""
    model.zero_grad(set_to_none=True)
    value = objective.backward(model(X), *batch(lacks_b), ZERO)
    return value, gradients(model)


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("mse", {}, mse_loss),
        ("heteroscedastic", {}, mse_loss),
        ("l1", {}, l1_loss),
        ("huber", {"delta": 0.7}, lambda y, t: 2 * huber_loss(y, t, delta=0.7)),
        ("by_order", {}, lambda y, t: (mse_loss(y[:, :1], t[:, :1]) + mse_loss(y[:, 1:], t[:, 1:])) / 2),
        (
            "by_order",
            {"weights": {"l = 2": 3.0}},
            lambda y, t: (mse_loss(y[:, :1], t[:, :1]) + 3 * mse_loss(y[:, 1:], t[:, 1:])) / 4,
        ),
    ],
)
def test_a_loss_is_torchs_over_the_voxels_inside(name, options, expected):
    prediction, truth, inside = pair()
    at = inside[:, 0].bool()
    chosen = [v.movedim(1, -1)[at][:, :, None, None, None] for v in (prediction, truth)]
    assert torch.allclose(loss_of(name, **options)(prediction, truth, inside, None), expected(*chosen))


def test_by_inverse_variance_an_order_counts_in_units_of_its_own_spread():
    prediction, truth, inside = pair()
    loss = loss_of("by_order", weights="inverse_variance")
    scale = torch.tensor([7.0, 2, 2, 2, 2, 2]).reshape(1, 6, 1, 1, 1)
    shifted = truth + torch.arange(6.0).reshape(1, 6, 1, 1, 1)
    assert torch.allclose(loss(prediction, truth, inside, None), loss(scale * prediction, scale * truth, inside, None))
    mean = loss(shifted - truth[inside.expand_as(truth).bool()].mean(), shifted, inside, None)
    assert torch.isfinite(mean)
    flat = torch.ones(SIZE)
    assert torch.isfinite(loss(prediction, flat, inside, None))  # no spread at all


@pytest.mark.parametrize("name", ["mse", "heteroscedastic", "by_order"])
def test_a_predicted_variance_is_trained_by_the_likelihood(name):
    prediction, truth, inside = pair()
    variance = torch.full(SIZE, 0.5, requires_grad=True)
    got = loss_of(name)(prediction, truth, inside, variance)
    plain = loss_of("by_order" if name == "by_order" else "mse")(prediction, truth, inside, None)
    assert got.item() == pytest.approx(plain.item() / 0.5 + math.log(0.5), rel=1e-5)
    got.backward()
    assert (variance.grad != 0).sum() == 6 * inside.sum()


def test_a_variance_under_the_floor_counts_as_the_floor():
    prediction, truth, inside = pair()
    loss = loss_of("heteroscedastic", floor=0.1)
    least, none = (loss(prediction, truth, inside, torch.full(SIZE, v)) for v in (0.1, 1e-9))
    assert torch.equal(least, none)


@pytest.mark.parametrize("name", ["l1", "huber"])
def test_a_loss_that_cannot_train_a_variance_says_so(name):
    prediction, truth, inside = pair()
    with pytest.raises(RecipeError, match="predicts its variance, which it cannot train: use mse"):
        loss_of(name)(prediction, truth, inside, torch.ones(SIZE))


@pytest.mark.parametrize("name", names(LOSSES))
def test_what_lies_outside_the_mask_changes_nothing_and_gets_no_gradient(name):
    prediction, truth, inside = pair()
    inside[1] = 0  # a patch whose subject lacks the platform
    loss = loss_of(name)
    prediction.requires_grad_()
    got = loss(prediction, truth, inside, None)
    got.backward()
    assert not (prediction.grad * (1 - inside)).any()
    assert torch.equal(got, loss(prediction, torch.where(inside > 0, truth, 1e6), inside, None))
    there = [0, 2]
    assert torch.allclose(got, loss(prediction[there], truth[there], inside[there], None))
    with pytest.raises(ValueError, match="differ in shape"):
        loss(prediction, truth[:1], inside, None)


TABLE = {
    "name": "mse",
    "options": {},
    "weighting": "equal",
    "weighting_options": {},
    "gradients": "sum",
}


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("huber", {"delta": 0}, "delta 0: give a number above 0"),
        ("heteroscedastic", {"floor": -1}, "floor -1: give a variance above 0"),
        ("by_order", {"weights": "orders"}, "weights 'orders': use equal, falling, inverse_variance, or a table"),
        ("by_order", {"weights": {"l = 3": 1.0}}, "weight for 'l = 3'. Did you mean l = "),
        ("by_order", {"weights": {"l = 2": -1.0}}, "weight -1.0 for 'l = 2': give 0 or more"),
        ("by_order", {"weights": {"l = 0": 0.0, "l = 2": 0.0}}, "weights that are all 0"),
        ("mse", {"delta": 1}, "mse has no option 'delta'"),
        ("hubr", {}, "no loss 'hubr'. Did you mean huber"),
    ],
)
def test_a_loss_that_cannot_be_built_is_refused(name, options, words):
    with pytest.raises(HarmonetError, match=words):
        check_objective(TABLE | {"name": name, "options": options}, GROUPS)


def test_falling_weights_are_a_third_from_order_to_order_on_every_shell():
    groups = {"b = 1000, l = 0": slice(0, 1), "b = 1000, l = 2": slice(1, 6), "b = 2000, l = 4": slice(6, 15)}
    loss = ByOrder(groups, "falling")
    weights = list(loss.weights.values())
    assert sum(weights) == pytest.approx(1)
    assert [w / weights[0] for w in weights] == pytest.approx([1, 1 / 3, 1 / 9])


def test_by_order_needs_groups():
    with pytest.raises(RecipeError, match="found none"):
        check_objective(TABLE | {"name": "by_order"}, {})


def test_a_platform_that_a_batch_lacks_has_no_term():
    targets, inside = batch(lacks_b=range(4))
    stages = [Stage({"a": X, "b": X}), Stage({"a": X})]
    assert set(loss_terms(stages, targets, inside)) == {(0, "a"), (1, "a")}


def test_patches_that_lack_a_platform_are_as_if_they_were_not_there():
    model = small_model()
    targets, inside = batch(lacks_b=(1, 3))
    some = loss_terms(model(X), targets, inside)
    there = [0, 2]
    alone = loss_terms(
        model(X[there]), {p: t[there] for p, t in targets.items()}, {p: i[there] for p, i in inside.items()}
    )
    assert torch.allclose(some[0, "b"], alone[0, "b"])
    assert not torch.allclose(some[0, "a"], alone[0, "a"])


@pytest.mark.parametrize("name", names(WEIGHTINGS))
def test_a_step_that_lacks_a_term_leaves_its_state_alone(name):
    weighting = weighting_of(name)
    weigh(weighting, 1, 2, 3)
    if weighting.reads_gradients:
        weighting.gradients_seen(losses_of(1, 2, 3), losses_of(1, 5, 2))
    weighting.epoch_ends(dict.fromkeys(TERMS, 1.0))
    before = {k: v.clone() for k, v in weighting.state_dict().items()}
    weighting.epoch_ends({(0, "a"): 2.0, (1, "a"): 2.0})
    if weighting.reads_gradients:
        weighting.gradients_seen(losses_of(4, None, 2), losses_of(2, None, 3))
    got = weighting(losses_of(4, None, 2))
    assert set(got) == {(0, "a"), (1, "a")}
    addition = weighting.addition(losses_of(4, None, 2))
    if addition is not None:
        addition.backward()
        assert weighting.log_variances.grad.tolist() == [1, 0, 1]
    for key, state in weighting.state_dict().items():
        if state.shape == (3,):
            assert torch.equal(state[1].nan_to_num(-1), before[key][1].nan_to_num(-1)), key


@pytest.mark.parametrize("name", sorted(set(names(WEIGHTINGS)) - {"uncertainty"}))
def test_weights_sum_to_the_number_of_terms(name):
    weighting = weighting_of(name)
    for step in range(4):
        if weighting.reads_gradients:
            weighting.gradients_seen(losses_of(1 + step, 2, 3), losses_of(1, 5, 2 + step))
        assert sum(weigh(weighting, 1 + step, 2, 3)) == pytest.approx(3)
        weighting.epoch_ends({(0, "a"): 1 + step, (1, "a"): 3.0})


def test_variance_weights_are_one_over_the_running_mean():
    weighting = weighting_of("variance", memory=0.5)
    assert weigh(weighting, 1, 1, 4) == pytest.approx([3 / 2.25, 3 / 2.25, 0.75 / 2.25])
    weigh(weighting, 3, 1, 4)  # the plain mean of two steps: 2
    assert weighting.means.tolist() == [2, 1, 4]
    weigh(weighting, 4, 1, 4)  # from here on half of what was
    assert weighting.means.tolist() == [3, 1, 4]


def test_uncertainty_learns_the_noise_of_each_term():
    weighting = weighting_of("uncertainty")
    losses = losses_of(0.25, 1, 4)
    assert weigh(weighting, 0.25, 1, 4) == [1, 1, 1]
    optimiser = torch.optim.Adam(weighting.parameters(), lr=0.1)
    for _ in range(200):
        optimiser.zero_grad()
        weights = weighting(losses)
        (sum(weights[t] * losses[t] for t in losses) + weighting.addition(losses)).backward()
        optimiser.step()
    assert weigh(weighting, 0.25, 1, 4) == pytest.approx([4, 1, 0.25], rel=1e-2)


def test_dwa_is_the_softmax_of_how_little_each_term_fell():
    weighting = weighting_of("dwa")
    assert weigh(weighting, 1, 1, 1) == [1, 1, 1]
    weighting.epoch_ends({(0, "a"): 2.0, (0, "b"): 2.0, (1, "a"): 2.0})
    assert weigh(weighting, 1, 1, 1) == [1, 1, 1]
    weighting.epoch_ends({(0, "a"): 1.0, (1, "a"): 2.0})  # b was in no batch
    raised = [math.exp(r / 2) for r in (0.5, 1, 1)]
    assert weigh(weighting, 1, 1, 1) == pytest.approx([3 * r / sum(raised) for r in raised])


def test_random_weights_follow_from_the_seed_and_the_step():
    draws = [weighting_of("random", seed=s) for s in (0, 0, 1)]
    torch.manual_seed(0)
    first = [weigh(w, 1, 1, 1) for w in draws]
    torch.manual_seed(5)
    assert first[0] == first[1] != first[2]
    assert weigh(draws[0], 1, 1, 1) != first[0]
    resumed = weighting_of("random")
    resumed.load_state_dict(draws[0].state_dict())
    assert weigh(resumed, 1, 1, 1) == weigh(draws[0], 1, 1, 1)


def test_gradnorm_brings_gradients_to_one_size_and_favours_slow_terms():
    weighting = weighting_of("gradnorm", alpha=0.0, rate=0.05)
    for _ in range(300):
        weighting.gradients_seen(losses_of(1, 1, 1), losses_of(1, 2, 10))
    sizes = np.array(weigh(weighting, 1, 1, 1)) * [1, 2, 10]
    assert sizes == pytest.approx([sizes.mean()] * 3, rel=0.1)
    slow = weighting_of("gradnorm", alpha=1.0, rate=0.05)
    slow.gradients_seen(losses_of(2, 2, 2), losses_of(1, 1, 1))
    for _ in range(300):
        slow.gradients_seen(losses_of(2, 1, 1), losses_of(1, 1, 1))
    got = weigh(slow, 2, 1, 1)
    assert got[0] / got[1] == pytest.approx(2, rel=0.15)


def test_by_default_the_loss_and_its_gradients_are_those_of_the_plain_sum_to_the_bit():
    model = small_model()
    value, got = stepped(model, Objective(model, X[:1]))
    model.zero_grad(set_to_none=True)
    expected = sum(loss_terms(model(X), *batch()).values(), ZERO)
    expected.backward()
    assert value == expected.item()
    assert all(torch.equal(a, b) for a, b in zip(got, gradients(model), strict=True))


class Ranks:
    """As many threads as a training has processes, with what sums over them."""

    def __init__(self, number):
        self.barrier, self.slots = Barrier(number, timeout=60), [None] * number

    def summing(self, rank):
        def everywhere(values):
            self.slots[rank] = values.clone()
            self.barrier.wait()
            total = sum(self.slots)
            self.barrier.wait()
            return values.copy_(total)

        return everywhere


@pytest.mark.parametrize("words", [{}, {"weighting": "uncertainty"}, {"weighting": "gradnorm", "log": True}])
@pytest.mark.parametrize("lacks_b", [(1,), (2, 3), (0, 1, 2, 3)])
def test_two_processes_with_half_a_batch_each_are_as_one_with_the_whole(words, lacks_b):
    """However unevenly the patches of a platform are spread."""
    targets, inside = batch(lacks_b)
    alone = small_model()
    whole = Objective(alone, X[:1], **words)
    value, expected = stepped(alone, whole, lacks_b)
    ranks, models = Ranks(2), [small_model(), small_model()]  # not in the threads, which share torch's random state

    def half(rank):
        model = models[rank]
        objective = Objective(model, X[:1], **words, ranks=2, everywhere=ranks.summing(rank))
        at = slice(2 * rank, 2 * rank + 2)
        part = [{p: t[at] for p, t in tables.items()} for tables in (targets, inside)]
        return model, objective, objective.backward(model(X[at]), *part, ZERO)

    with ThreadPoolExecutor(2) as pool:
        halves = list(pool.map(half, range(2)))
    for at, gradient in enumerate(expected):
        # What no process has a term for is told, for the loop to leave out.
        parts = [None if at in objective.unreached else gradients(model)[at] for model, objective, _ in halves]
        assert all((part is None) == (gradient is None) for part in parts)
        assert gradient is None or torch.allclose(sum(parts) / 2, gradient, atol=1e-6)
    for _, objective, got in halves:
        assert got == pytest.approx(value, rel=1e-5)
        for ours, theirs in zip(objective.parameters(), whole.parameters(), strict=True):
            assert torch.allclose(ours.grad, theirs.grad, atol=1e-6)
        for name, state in objective.weighting.state_dict().items():
            assert torch.allclose(state, whole.weighting.state_dict()[name], equal_nan=True), name
        assert objective.tally.mean_losses() == pytest.approx(whole.tally.mean_losses())


class Told(Weighting):
    """Weight 2 for the first term, 1 for the others, and a wish to see gradients."""

    reads_gradients = True

    def gradients_seen(self, losses, norms):
        self.norms = norms

    def forward(self, losses):
        return {term: torch.tensor(2.0 if term == (0, "a") else 1.0) for term in losses}


@pytest.mark.parametrize("lacks_b", [(), (0, 1, 2, 3)])
def test_gradients_taken_term_by_term_are_those_of_the_weighted_sum(lacks_b):
    model = small_model()
    objective = Objective(model, X[:1])
    objective.weighting = Told(objective.terms)
    value, got = stepped(model, objective, lacks_b)
    model.zero_grad(set_to_none=True)
    terms = loss_terms(model(X), *batch(lacks_b))
    total = sum(terms.values()) + terms[0, "a"]
    total.backward()
    assert value == pytest.approx(total.item())
    for a, b in zip(got, gradients(model), strict=True):
        assert (a is None) == (b is None)
        assert a is None or torch.allclose(a, b, atol=1e-6)
    model.zero_grad()
    loss_terms(model(X), *batch(lacks_b))[0, "a"].backward()
    norm = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]).norm()
    assert objective.weighting.norms[0, "a"].item() == pytest.approx(norm.item(), rel=1e-5)


def test_what_layers_add_keeps_its_gradient_whatever_joins_the_others():
    model = small_model()
    objective = Objective(model, X[:1])
    objective.surgery = lambda rows: rows.sum(0)
    weight = model.singles["a"][0].weight
    model.zero_grad(set_to_none=True)
    objective.backward(model(X), *batch(), ZERO)
    before = weight.grad.clone()
    model.zero_grad(set_to_none=True)
    objective.backward(model(X), *batch(), weight.sum())
    assert torch.allclose(weight.grad, before + 1)


def test_factors_of_platforms_and_stages_multiply_and_zero_leaves_a_term_out():
    model = small_model()
    terms = loss_terms(model(X), *batch())
    value, _ = stepped(model, Objective(model, X[:1], platforms={"a": 3.0}, stages=[0.5]))
    expected = 1.5 * terms[0, "a"] + 0.5 * terms[0, "b"] + 3 * terms[1, "a"]
    assert value == pytest.approx(expected.item())
    kept = Objective(model, X[:1], platforms={"b": 0.0}, weighting="variance")
    assert kept.terms == ((0, "a"), (1, "a"))
    with pytest.raises(RecipeError, match="leaves no term"):
        Objective(model, X[:1], platforms={"a": 0.0, "b": 0.0})


def test_a_model_with_one_term_has_nothing_to_weigh():
    torch.manual_seed(0)
    model = hn.compose({"a": nn.Conv3d(2, 2, 1)}, channels=2, patch_size=7)
    objective = Objective(model, X[:1], platforms={"a": 0.1}, weighting="uncertainty")
    assert objective.parameters() == []
    value, _ = stepped(model, objective)
    assert value == pytest.approx(loss_terms(model(X), *batch())[0, "a"].item())


def test_terms_of_frozen_networks_are_left_out_and_the_others_still_learn():
    model = small_model(frozen=["b"])
    objective = Objective(model, X[:1], weighting="gradnorm")
    assert objective.terms == ((0, "a"), (1, "a"))
    stepped(model, objective)
    assert all(p.grad is None for p in model.singles["b"].parameters())
    assert all(p.grad is not None for p in model.singles["a"].parameters())


def test_a_batch_that_lacks_every_platform_moves_nothing():
    model = small_model()
    objective = Objective(model, X[:1], weighting="gradnorm")
    targets, inside = batch()
    nothing = {p: torch.zeros_like(mask) for p, mask in inside.items()}
    assert objective.backward(model(X), targets, nothing, ZERO) == 0
    assert gradients(model) == [None] * len(gradients(model))


@pytest.mark.parametrize("weighting", ["variance", "uncertainty", "dwa", "gradnorm"])
def test_a_weighting_that_needs_positive_terms_refuses_a_likelihood_below_0(weighting):
    model = small_model()
    objective = Objective(model, X[:1], weighting=weighting)
    objective.loss = lambda *_: -torch.ones((), requires_grad=True)
    with pytest.raises(RunError, match=f"weighting {weighting} needs terms of 0 or more, found -1 for a in stage 0"):
        stepped(model, objective)


@pytest.mark.parametrize("weighting", names(WEIGHTINGS))
def test_training_under_a_weighting_lowers_every_term_and_resumes_to_the_same_bits(weighting, tmp_path):
    def go_on(model, objective, optimiser, epochs):
        for _ in range(epochs):
            for step in range(3):
                optimiser.zero_grad(set_to_none=True)
                objective.backward(model(X), *batch(lacks_b=(0, 1, 2, 3) if step == 1 else (step,)), ZERO)
                optimiser.step()
            objective.epoch_ends()

    def fresh():
        model = small_model()
        objective = Objective(model, X[:1], weighting=weighting)
        return model, objective, torch.optim.Adam([*model.parameters(), *objective.parameters()], lr=1e-2)

    whole, half, again = fresh(), fresh(), fresh()
    first = loss_terms(whole[0](X), *batch())
    go_on(*whole, 20)
    last = loss_terms(whole[0](X), *batch())
    assert all(last[term] < first[term] for term in first)
    go_on(*half, 11)
    kept = Checkpoints(tmp_path)
    kept.save({str(i): part.state_dict() for i, part in enumerate(half)})
    for i, part in enumerate(again):
        part.load_state_dict(kept.load()[str(i)])
    go_on(*again, 9)
    for part, other in zip(whole[0].parameters(), again[0].parameters(), strict=True):
        assert torch.equal(part, other)
    assert all(torch.equal(a, b) for a, b in zip(whole[1].parameters(), again[1].parameters(), strict=True))


def test_the_log_has_means_of_terms_and_weights_and_the_gradients_of_the_first_step():
    model = small_model()
    objective = Objective(model, X[:1], log=True, platforms={"b": 2.0})
    _, plain = stepped(model, Objective(model, X[:1], platforms={"b": 2.0}))
    _, logged = stepped(model, objective)
    assert all(torch.equal(a, b) for a, b in zip(plain, logged, strict=True))
    first = loss_terms(model(X), *batch())
    rows = {}
    for term in first:
        model.zero_grad(set_to_none=False)
        loss_terms(model(X), *batch())[term].backward()
        rows["/".join(map(str, term))] = torch.cat([p.grad.flatten() for p in model.parameters()])
    stepped(model, objective, lacks_b=(0, 1, 2, 3))
    told = objective.epoch_ends()
    assert told["losses"] == pytest.approx({"/".join(map(str, t)): v.item() for t, v in first.items()})
    assert told["weights"] == {"0/a": 1, "0/b": 2, "1/a": 1}
    assert told["gradient_norms"] == pytest.approx({t: row.norm().item() for t, row in rows.items()}, rel=1e-4)
    for names_of, cosine in told["cosines"].items():
        a, b = names_of.split()
        assert cosine == pytest.approx(torch.cosine_similarity(rows[a], rows[b], dim=0).item(), abs=1e-5)
    assert len(told["cosines"]) == 3
    assert objective.epoch_ends() == {"losses": {}, "weights": {}, "gradient_norms": {}, "cosines": {}}


def test_to_see_the_terms_changes_neither_mode_nor_draws():
    model = hn.compose({"a": nn.Sequential(nn.Dropout3d(0.5), nn.BatchNorm3d(2))}, channels=2, patch_size=7)
    model.train()
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    Objective(model, X[:1])
    assert torch.equal(torch.rand(1), expected)
    assert model.training
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in before.items())


@pytest.mark.parametrize(
    ("words", "kind", "message"),
    [
        ({"weighting": "gradnrm"}, NotFoundError, "Did you mean gradnorm"),
        ({"weighting": "dwa", "weighting_options": {"heat": 1}}, NotFoundError, "dwa has no option 'heat'"),
        ({"weighting": "dwa", "weighting_options": {"temperature": 0}}, RecipeError, "temperature 0: give"),
        ({"weighting": "dwa", "weighting_options": {"temperature": "2"}}, RecipeError, "dwa cannot be built"),
        ({"weighting": "variance", "weighting_options": {"memory": 1}}, RecipeError, "memory 1: give"),
        ({"weighting": "gradnorm", "weighting_options": {"rate": 0}}, RecipeError, "rate 0: give"),
        ({"weighting": "random", "weighting_options": {"seed": -1}}, RecipeError, "seed -1: give"),
        ({"gradients": "pcgrd"}, NotFoundError, "Did you mean pcgrad"),
    ],
)
def test_an_objective_that_cannot_be_built_is_refused(words, kind, message):
    with pytest.raises(kind, match=message):
        Objective(small_model(), X[:1], **words)


def test_each_part_has_its_rate_and_frozen_ones_none():
    model = small_model()
    groups = parameter_groups(model, 1e-2, {"b": 0.1, "fusion": 5.0})
    assert [(g["lr"], g["factor"]) for g in groups] == [(1e-2, 1.0), (pytest.approx(1e-3), 0.1), (5e-2, 5.0)]
    assert [p for g in groups for p in g["params"]] == list(model.parameters())
    frozen = small_model(frozen=["b"])
    assert [len(g["params"]) for g in parameter_groups(frozen, 1.0)] == [4, len(list(frozen.fusions.parameters()))]
    with pytest.raises(NotFoundError, match=r"rates has a factor for 'fusoin'.*Did you mean fusion"):
        parameter_groups(model, 1.0, {"fusoin": 1.0})
    with pytest.raises(NotFoundError, match="rates has a factor for 'b', which is no part of this model that is"):
        parameter_groups(frozen, 1.0, {"b": 1.0})
    with pytest.raises(RunError, match="every part is frozen"):
        parameter_groups(hn.compose({"a": nn.Conv3d(2, 2, 1)}, channels=2, patch_size=7, frozen=["a"]), 1.0)


def test_layers_that_parts_share_are_trained_once_and_at_one_rate():
    trunk = nn.Conv3d(2, 2, 1)
    singles = {p: nn.Sequential(trunk, nn.Conv3d(2, 2, 1)) for p in ("a", "b")}
    model = hn.compose(singles, channels=2, patch_size=7)
    assert [len(g["params"]) for g in parameter_groups(model, 1.0, {"a": 2.0, "b": 2.0})] == [4, 2]
    with pytest.raises(RecipeError, match="rates gives a 2 and b 1, but they share layers"):
        parameter_groups(model, 1.0, {"a": 2.0})


@pytest.mark.parametrize("seed", range(5))
def test_the_dual_cone_is_found_to_the_optimality_conditions(seed):
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(4, 3 + seed))  # of four rows in three dimensions, one follows from the others
    gramian, u = rows @ rows.T, rng.uniform(size=4)
    v = dual_cone_weights(u, gramian)
    assert (v >= u - 1e-9).all()
    assert (gramian @ v >= -1e-7).all()  # conflicts with no row
    assert (v - u) @ gramian @ v == pytest.approx(0, abs=1e-7)


@pytest.mark.skipif(find_spec("torchjd") is not None, reason="torchjd is installed")
@pytest.mark.parametrize("name", ["pcgrad", "cagrad", "upgrad"])
def test_surgery_without_torchjd_is_refused_with_the_extra_that_brings_it(name):
    with pytest.raises(RecipeError, match=rf"gradients = '{name}' needs torchjd.*install harmonet\[surgery\]"):
        Objective(small_model(), X[:1], gradients=name)


@pytest.mark.parametrize("name", ["pcgrad", "cagrad", "upgrad"])
def test_surgery_lessens_conflict_and_keeps_the_scale_of_the_sum(name):
    pytest.importorskip("torchjd")
    join = surgery(name)
    conflict = torch.tensor([[1.0, 0.0, 0.0], [-0.8, 0.6, 0.0]])
    worst = (conflict @ join(conflict)).min()
    assert worst > (conflict @ conflict.sum(0)).min()
    if name != "cagrad":
        assert worst >= -1e-5
        agreeing = torch.tensor([[1.0, 0.0, 0.0], [0.0, 2.0, 0.0]])
        assert torch.allclose(join(agreeing), agreeing.sum(0), atol=1e-3)


@pytest.mark.parametrize("name", ["pcgrad", "cagrad", "upgrad"])
def test_training_under_surgery_lowers_every_term_and_draws_from_torchs_seed(name):
    pytest.importorskip("torchjd")
    ends = []
    for _ in range(2):
        torch.manual_seed(0)
        model = small_model()
        objective = Objective(model, X[:1], gradients=name)
        optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
        first = loss_terms(model(X), *batch())
        for step in range(40):
            optimiser.zero_grad(set_to_none=True)
            objective.backward(model(X), *batch(lacks_b=(0, 1, 2, 3) if step % 3 else ()), ZERO)
            optimiser.step()
        last = loss_terms(model(X), *batch())
        assert all(last[term] < first[term] for term in first)
        ends.append([float(v.detach()) for v in last.values()])
    assert ends[0] == ends[1]
