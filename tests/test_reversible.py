"""Reversible stacks: they invert, and one that recomputes gives what the plain one gives, with flat memory."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from harmonet.blocks.recompute import RecomputingStack
from harmonet.blocks.reversible import ReversibleLayer, ReversibleStack
from harmonet.composer import compose
from harmonet.errors import RunError, ShapeError
from harmonet.networks.diqt import DIQT
from harmonet.taps import forward_with_taps


def filled(module):
    """The module with statistics and affine weights that are not those of a new one."""
    torch.manual_seed(1)
    for name, values in module.state_dict().items():
        if values.is_floating_point():
            values.copy_(torch.rand_like(values) + 0.5 if "var" in name else 0.3 * torch.randn_like(values))
    return module


def twins(channels=6, layers=3, dtype=torch.float64):
    """A plain and a recomputing stack of the same weights."""
    plain = filled(ReversibleStack(channels, layers)).to(dtype)
    lean = RecomputingStack(channels, layers).to(dtype)
    lean.load_state_dict(plain.state_dict())
    return plain, lean


def some(channels=6, dtype=torch.float64, *, needs_gradient=True):
    x = torch.randn(2, channels, 4, 5, 3, dtype=dtype, generator=torch.Generator().manual_seed(2))
    return x.requires_grad_(needs_gradient)


def once(module, x):
    """The output, and the gradients of the input and of every weight."""
    y = module(x)
    wave = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)
    y.backward(wave)
    return y.detach(), x.grad, [p.grad for p in module.parameters()]


@pytest.mark.parametrize("channels", [2, 6, 7, 28])
def test_a_stack_can_be_inverted(channels):
    stack = filled(ReversibleStack(channels, 2)).double().eval()
    x = some(channels)
    y = stack(x)
    assert y.shape == x.shape
    assert not torch.allclose(y, x)
    assert torch.allclose(stack.inverse(y), x, atol=1e-10)


def test_a_layer_couples_its_halves_as_published():
    layer = ReversibleLayer((3, 3)).double().eval()
    x1, x2 = some().chunk(2, dim=1)
    y1, y2 = layer((x1, x2))
    assert torch.equal(y1, x1 + layer.f(x2))
    assert torch.equal(y2, x2 + layer.g(y1))


@pytest.mark.parametrize("stack", [ReversibleStack, RecomputingStack])
@pytest.mark.parametrize(("channels", "layers"), [(1, 2), (6, 0)])
def test_a_stack_without_halves_or_layers_gives_what_it_was_given(stack, channels, layers):
    x = some(channels)
    assert stack(channels, layers)(x) is x


@pytest.mark.parametrize("channels", [2, 6, 7])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
def test_recomputing_gives_the_outputs_and_gradients_of_the_plain_form(channels, training, dtype, tolerance, layout):
    results = []
    for stack in twins(channels, dtype=dtype):
        x = some(channels, dtype).detach().to(memory_format=layout).requires_grad_()
        results.append(once(stack.train(training), x))
    (y, into_x, into_weights), (same_y, same_x, same_weights) = results
    assert torch.allclose(y, same_y, atol=tolerance)
    assert torch.allclose(into_x, same_x, atol=tolerance, rtol=tolerance)
    assert len(into_weights) == len(same_weights) == 3 * 24
    scale = max(float(gradient.abs().max()) for gradient in into_weights)
    for expected, found in zip(into_weights, same_weights, strict=True):
        assert (expected - found).abs().max() <= tolerance * scale


def test_gradients_are_those_of_finite_differences():
    _, stack = twins(3, layers=2)
    assert torch.autograd.gradcheck(stack, (some(3),), nondet_tol=0)


@pytest.mark.parametrize("recompute", [False, True])
def test_two_consumers_of_the_output_add_up(recompute):
    stack = twins()[recompute]
    x = some()
    y = stack(x)
    (y.square().mean() + y.sin().sum()).backward()
    both = [x.grad, *(p.grad for p in stack.parameters())]
    parts = []
    for consumer in (lambda y: y.square().mean(), lambda y: y.sin().sum()):
        single, x = twins()[False], some()
        consumer(single(x)).backward()
        parts.append([x.grad, *(p.grad for p in single.parameters())])
    for found, first, second in zip(both, *parts, strict=True):
        assert torch.allclose(found, first + second, atol=1e-9)


def test_running_statistics_see_each_batch_once():
    plain, lean = twins()
    for _ in range(3):
        once(plain, some())
        once(lean, some())
    for name, values in plain.state_dict().items():
        assert torch.allclose(values.double(), lean.state_dict()[name].double(), atol=1e-12), name
    assert lean.state_dict()["0.f.0.num_batches_tracked"] == 3
    assert all(norm.track_running_stats for norm in lean.modules() if isinstance(norm, nn.BatchNorm3d))


def test_backward_normalises_as_forward_did_whatever_mode_came_between():
    results = []
    for stack in twins():
        x = some()
        y = stack(x)
        stack.eval()
        y.sum().backward()
        results.append(x.grad)
        assert not any(layer.training for layer in stack.modules())
    assert torch.allclose(*results, atol=1e-10)


def test_two_forward_passes_before_one_backward_pass_add_up():
    grads = []
    for stack in twins():
        x = some()
        (stack(x).sin().sum() + stack(2 * x).cos().sum()).backward()
        grads.append([x.grad, *(p.grad for p in stack.parameters())])
    assert all(torch.allclose(a, b, atol=1e-9) for a, b in zip(*grads, strict=True))


def test_weights_changed_before_the_backward_pass_are_noticed():
    _, stack = twins()
    y = stack(some())
    with torch.no_grad():
        next(stack.parameters()).add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_without_gradients_it_only_computes():
    plain, lean = twins()
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            y = lean(some())
            assert not y.requires_grad
            assert torch.allclose(y, plain(some()))


def test_an_input_without_gradient_and_frozen_weights_are_left_alone():
    results = []
    for stack in twins():
        stack[0].requires_grad_(False)
        stack[2].f[2].requires_grad_(False)
        x = some(needs_gradient=False)
        results.append(once(stack, x))
    (_, into_x, weights), (_, same_x, same_weights) = results
    assert into_x is same_x is None
    assert [w is None for w in weights] == [w is None for w in same_weights]
    assert sum(w is None for w in weights) == 24 + 2
    assert all(torch.allclose(a, b, atol=1e-10) for a, b in zip(weights, same_weights, strict=True) if b is not None)


def test_frozen_stacks_still_hand_the_gradient_through():
    grads = []
    for stack in twins():
        x = some()
        stack.requires_grad_(False)(x).sin().sum().backward()
        grads.append(x.grad)
    assert torch.allclose(*grads, atol=1e-10)


def test_a_second_derivative_is_refused():
    _, stack = twins()
    x = some()
    with pytest.raises(RunError, match=r"create_graph=True.*recompute=False"):
        torch.autograd.grad(stack(x).sum(), x, create_graph=True)


def test_under_autocast_it_computes_in_float32():
    _, stack = twins(dtype=torch.float32)
    x = some(dtype=torch.float32)
    expected, into_x, weights = once(stack, x)
    stack.zero_grad()
    x = some(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        y, same_x, same_weights = once(stack, x)  # backwards under autocast as well
    assert y.dtype == torch.float32
    assert torch.equal(y, expected)
    assert torch.allclose(into_x, same_x, atol=1e-6)
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(weights, same_weights, strict=True))


def test_diqt_that_recomputes_trains_under_autocast():
    net = DIQT(6, 6, layers=1, widths=(4, 6), recompute=True)
    with torch.autocast("cpu", torch.bfloat16):
        loss = F.mse_loss(net(some(dtype=torch.float32)).float(), torch.zeros(()).expand(2, 6, 4, 5, 3))
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize("wrong", ["input", "weights"])
def test_half_precision_is_refused(wrong):
    _, stack = twins(dtype=torch.bfloat16 if wrong == "weights" else torch.float32)
    x = some(dtype=torch.bfloat16 if wrong == "input" else torch.float32)
    with pytest.raises(ShapeError, match=r"torch.bfloat16, which cannot be inverted: .*recompute=False"):
        stack(x)


def test_state_dicts_fit_both_ways_and_are_those_of_the_published_layers():
    plain, lean = DIQT(6, 6, layers=2), DIQT(6, 6, layers=2, recompute=True)
    assert list(plain.state_dict()) == list(lean.state_dict())
    assert {"rev0.1.f.0.running_mean", "rev2.0.g.8.weight", "conv1.0.weight"} <= set(plain.state_dict())
    assert plain.state_dict()["rev2.0.g.8.weight"].shape == (50, 50, 1, 1, 1)


@pytest.mark.parametrize("again", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))], ids=["copy", "pickle"])
def test_copies_compute_on_their_own(again):
    _, stack = twins()
    once(stack, some())
    other = again(stack)
    for module in (stack, other):
        module.zero_grad()
    before = copy.deepcopy(stack.state_dict())
    _, _, weights = once(other, some())
    assert all(w is not None for w in weights)
    assert all(p.grad is None for p in stack.parameters())
    assert all(torch.equal(values, stack.state_dict()[name]) for name, values in before.items())


def kept_bytes(module, x):
    """Bytes that the forward pass keeps for the backward pass, beside the module's own."""
    own = {t.untyped_storage().data_ptr() for t in (*module.parameters(), *module.buffers())}
    kept = {}

    def note(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes(), tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        y = module(x)
    assert y.requires_grad
    return sum(size for place, (size, _) in kept.items() if place not in own)


def test_what_is_kept_for_the_backward_pass_does_not_grow_with_the_layers():
    x = torch.randn(2, 28, 7, 7, 7)
    plain, lean = (
        [kept_bytes(stack(28, layers), x) for layers in (1, 4, 16)] for stack in (ReversibleStack, RecomputingStack)
    )
    assert lean == [x.nbytes] * 3
    assert plain[1] > 3.5 * plain[0]
    assert plain[2] > 14 * plain[0]


def test_what_diqt_keeps_does_not_grow_with_the_layers():
    x = torch.randn(2, 6, 7, 7, 7)
    kept = [kept_bytes(DIQT(6, 6, layers=n, widths=(4, 6), recompute=True), x) for n in (1, 8)]
    assert kept[0] == kept[1]


def test_a_tap_reads_the_stack_once_and_none_reads_inside_it():
    net = DIQT(6, 6, layers=1, widths=(4, 6), recompute=True)
    x = torch.randn(1, 6, 5, 5, 5)
    calls = []
    net.rev2.register_forward_hook(lambda *_: calls.append(1))
    y, features = forward_with_taps(net, {"features": "rev2"}, x)
    (y.sum() + features["features"].sum()).backward()
    assert len(calls) == 1
    for layer in ("rev2.0", "rev2.0.f", "rev2.0.g.5"):
        with pytest.raises(ShapeError, match="does not run in one forward pass"):
            forward_with_taps(net, {"features": layer}, x)


def test_under_msp_recomputing_gives_the_gradients_of_the_plain_form():
    grads, statistics = [], []
    for recompute in (False, True):
        torch.manual_seed(0)
        options = {"diqt": {"layers": 2, "widths": (4, 6), "recompute": recompute}}
        model = compose({"a": "diqt", "b": "diqt"}, "msp", "a", channels=6, patch_size=7, options=options).double()
        stages = model(torch.randn(2, 6, 7, 7, 7, dtype=torch.float64))
        sum(y.square().mean() for stage in stages for y in stage.values()).backward()
        grads.append([p.grad for p in model.singles.parameters()])
        statistics.append(list(model.buffers()))
    assert all(torch.allclose(a, b, atol=1e-10) for a, b in zip(*grads, strict=True))
    assert all(torch.allclose(a, b) for a, b in zip(*statistics, strict=True))
