"""What a single network promises: one check per promise, each a plain function of a card or a name.

    from harmonet.testing.networks import check_shapes
    check_shapes("diqt", layers=1)

Networks are built with few channels on small patches; options given as keywords make them smaller still.
"""

from itertools import product

import torch
from torch import Tensor, nn

from harmonet import plugins
from harmonet.blocks.connection import count_parameters
from harmonet.composer import Taps, build_network, compose
from harmonet.errors import HarmonetError
from harmonet.platforms import target_patch_size
from harmonet.registry import FUSIONS, NetworkEntry
from harmonet.taps import forward_with_taps
from harmonet.testing.harness import (
    Check,
    Options,
    PromiseError,
    check,
    demand,
    descend,
    evaluated,
    refuse_incomplete_card,
    refuse_lost_gradients,
    refuse_lost_state,
    refuse_touched_seeds,
    refuse_unknown_options_taken,
    refuse_unlike_copies,
    refuse_unlike_passes,
    same,
    seeded,
    stir,
    tensors,
    through_a_recipe,
)
from harmonet.testing.impulse import response, shift
from harmonet.training.loss import penalty

CHANNELS = 6  # SH order 2
PATCH = 7
SHAPES = ((6, 1, 7), (15, 3, 7), (28, 2, 7), (6, 2, 11))  # channels of orders 2, 4, 6; batch; patch
OFF_CENTRE = 0.25  # target voxels: half of the smallest error there is, half a voxel

network_check = check(plugins.network)


def _built(entry: NetworkEntry, options: Options, upsampling: int | None = None, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return build_network(entry, CHANNELS, CHANNELS, upsampling or entry.upsampling[0], options)


def _patch(batch: int = 2, channels: int = CHANNELS, edge: int = PATCH) -> Tensor:
    return torch.randn((batch, channels, edge, edge, edge), generator=torch.Generator().manual_seed(edge))


def _predicted(network: nn.Module, x: Tensor) -> list[Tensor]:
    return evaluated(network, lambda m: tensors(seeded(m, x)))


def _run(network: nn.Module) -> list[Tensor]:
    return tensors(seeded(network, _patch()))


@network_check
def check_card(entry: NetworkEntry, options: Options) -> None:
    """The card is filled, and its number of parameters true (at 28 channels and default options)."""
    refuse_incomplete_card(entry, entry.unsupported, network_checks())
    found = count_parameters(build_network(entry, 28, 28, entry.upsampling[0], {}))
    demand(
        entry.parameters == found,
        f"the card of {entry.name} states {entry.parameters} parameters, but it has {found:_} at 28 channels: "
        f"write parameters={found:_}.",
    )


@network_check
def check_shapes(entry: NetworkEntry, options: Options) -> None:
    """Predictions have as many channels as asked for, the batch's size and the target patch's, and are finite."""
    several = [(12, 2, PATCH, {"shells": 2})] if "shells" in entry.options() else []
    for upsampling, (channels, batch, edge, shells) in product(
        entry.upsampling, [*((*case, {}) for case in SHAPES), *several]
    ):
        network = build_network(entry, channels, channels, upsampling, {**options, **shells})
        target = target_patch_size(edge, upsampling, entry.alignment)
        expected = (batch, channels, target, target, target)
        for y in _predicted(network, _patch(batch, channels, edge)):
            demand(
                tuple(y.shape) == expected,
                f"{entry.name} gives {tuple(y.shape)} from {(batch, channels, edge, edge, edge)} at upsampling "
                f"{upsampling}, but {entry.alignment} alignment needs {expected}: mend its padding or channels.",
            )
            demand(y.isfinite().all(), f"{entry.name} gives values that are not finite at {channels} channels.")


@network_check
def check_alignment(entry: NetworkEntry, options: Options) -> None:
    """A change at the patch's central voxel changes the prediction around its centre."""
    for upsampling in entry.upsampling:
        one, other = (response(_built(entry, options, upsampling, seed), CHANNELS) for seed in (0, 1))
        found = one + other
        demand(found.any(), f"a change at the centre of the patch does not change what {entry.name} predicts.")
        for axis, off in zip("xyz", shift(found), strict=True):
            demand(
                abs(off) < OFF_CENTRE,
                f"a change at the central voxel of the patch changes the prediction of {entry.name} at upsampling "
                f"{upsampling} around a place {off:.2f} voxels off its centre along {axis}: pad or crop both sides "
                "alike.",
            )


@network_check
def check_batch(entry: NetworkEntry, options: Options) -> None:
    """In evaluation mode a prediction does not depend on the other patches of its batch."""
    network, x = _built(entry, options), _patch(3)
    other = x.clone()
    other[1:] = 3 * other[1:] + 1
    first, second = _predicted(network, x), _predicted(network, other)
    demand(
        same([y[:1] for y in first], [y[:1] for y in second], 1e-5),
        f"{entry.name} predicts something else when other patches of the batch change: normalise each patch by itself.",
    )


@network_check
def check_gradients(entry: NetworkEntry, options: Options) -> None:
    """A gradient reaches every parameter, finite and not zero."""
    for upsampling in entry.upsampling:
        network = _built(entry, options, upsampling).train()
        stir(network)
        descend(_run(network), penalty(network))
        refuse_lost_gradients(entry.name, network)


@network_check
def check_taps(entry: NetworkEntry, options: Options) -> None:
    """Each declared tap is a layer that runs once, stays as it was and carries a gradient."""
    demand(entry.taps, f"the card of {entry.name} declares no tap, so that no fusion can read it: taps={{...}}.")
    for upsampling in entry.upsampling:
        network = _built(entry, options, upsampling)
        stir(network)
        x = _patch().requires_grad_()
        _, features = forward_with_taps(network, entry.taps, x * 1)  # not a leaf, so that only one check is about it
        for name, z in features.items():
            where = f"tap {name!r} of {entry.name}, layer {entry.taps[name]!r},"
            demand(z.ndim == 5, f"{where} gives {tuple(z.shape)}, not (B, C, X, Y, Z): tap a layer that does.")
            behind = [x, *network.parameters()]
            reached = (
                torch.autograd.grad(z.square().sum(), behind, retain_graph=True, allow_unused=True)
                if z.requires_grad
                else []
            )
            demand(
                any(gradient is not None and gradient.any() for gradient in reached),
                f"{where} carries no gradient, so that a fusion could not train it: do not detach it.",
            )
            network.zero_grad()


@network_check
def check_input(entry: NetworkEntry, options: Options) -> None:
    """The patch is left as it was: other networks read it too."""
    x = _patch()
    kept = x.clone()
    evaluated(_built(entry, options), lambda m: tensors(m(x)))
    demand(torch.equal(x, kept), f"{entry.name} changes its input in place: write to a new tensor.")


@network_check
def check_state_dict(entry: NetworkEntry, options: Options) -> None:
    """Weights saved as safetensors bytes and loaded into a fresh network give the same predictions."""
    refuse_lost_state(entry.name, lambda seed: _built(entry, options, seed=seed), _run)


@network_check
def check_options(entry: NetworkEntry, options: Options) -> None:
    """Options written to a recipe as TOML and read again build the same network; unknown ones are refused."""
    refuse_unknown_options_taken(entry)
    returned = through_a_recipe(entry, options)
    try:
        second = _built(entry, returned)
    except Exception as error:
        raise PromiseError(
            f"{entry.name} cannot be built with its options as a recipe gives them back ({error}): take "
            "lists for tuples."
        ) from error
    demand(
        same(evaluated(_built(entry, options), _run), evaluated(second, _run)),
        f"{entry.name} is another network when its options come from a recipe: {returned}.",
    )


@network_check
def check_repeatable(entry: NetworkEntry, options: Options) -> None:
    """Two passes in evaluation mode give the same."""
    refuse_unlike_passes(entry.name, _built(entry, options), lambda m: tensors(m(_patch())))


@network_check
def check_seeds(entry: NetworkEntry, options: Options) -> None:
    """Building draws from torch's generator only, and reseeds nothing."""
    factor = entry.upsampling[0]
    refuse_touched_seeds(entry.name, lambda: build_network(entry, CHANNELS, CHANNELS, factor, options))


@network_check
def check_copies(entry: NetworkEntry, options: Options) -> None:
    """Pickled copies, as spawned workers get them, and deep copies predict the same."""
    refuse_unlike_copies(entry.name, _built(entry, options), _run)


class _Partner(nn.Module):
    """A second network to compose with."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv3d(CHANNELS, 4, 3, padding=1)
        self.head = nn.Conv3d(4, CHANNELS, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        prediction: Tensor = self.head(self.body(x))
        return prediction


@network_check
def check_fusions(entry: NetworkEntry, options: Options) -> None:
    """Every built-in fusion composes it with another network, forwards and backwards, over its first tap.

    Cell grids at upsampling 2 are left out: connection networks lead to nodes.
    """
    plugins.load()
    factors = [factor for factor in entry.upsampling if factor == 1 or entry.alignment == "node"]
    fusions = [name for name in FUSIONS.names() if FUSIONS.provider(name) == plugins.BUILT_IN]
    for fusion, upsampling in product(fusions, factors):
        network = _built(entry, options, upsampling)
        taps: dict[str, Taps] = {"this": dict(list(entry.taps.items())[:1]), "other": "body"}
        try:
            model = compose(
                {"this": network, "other": _Partner()},
                fusion,
                upsampling={"this": upsampling},
                channels=CHANNELS,
                patch_size=PATCH,
                taps=taps,
            )
            model.advance(0.5)
            outputs = [y for stage in seeded(model, _patch()) for y in stage.values()]
            descend(outputs)
        except (HarmonetError, RuntimeError) as error:
            raise PromiseError(
                f"{entry.name} at upsampling {upsampling} does not compose with {fusion}: {error}"
            ) from error
        demand(
            all(p.grad is None or p.grad.isfinite().all() for p in network.parameters()),
            f"the gradient of {entry.name} under {fusion} is not finite.",
        )


@network_check
def check_compile(entry: NetworkEntry, options: Options) -> None:
    """torch.compile takes it in as one graph, which predicts the same (traced only: no code is generated)."""
    import torch._dynamo

    network = _built(entry, options).eval()
    torch._dynamo.reset()
    try:
        compiled = torch.compile(network, backend="eager", fullgraph=True)
        found = evaluated(network, lambda _: tensors(seeded(compiled, _patch())))
    except torch._dynamo.exc.TorchDynamoException as error:
        reason = str(error).strip().splitlines()[0]
        raise PromiseError(
            f"torch.compile cannot take in {entry.name} as one graph ({reason}): keep values of tensors out of "
            "Python's conditions, or declare unsupported={'compile': reason}."
        ) from error
    finally:
        torch._dynamo.reset()
    demand(same(evaluated(network, _run), found, 1e-5), f"{entry.name} predicts something else when compiled.")


@network_check
def check_half_precision(entry: NetworkEntry, options: Options) -> None:
    """Under autocast to bfloat16 a step runs, and predictions and gradients are finite."""
    network = _built(entry, options).train()
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            outputs = _run(network)
        descend(outputs)
    except RuntimeError as error:
        raise PromiseError(
            f"{entry.name} fails under autocast to bfloat16 ({error}): let tensors that it makes have the dtype of "
            "those that it reads, or declare unsupported={'half_precision': reason}."
        ) from error
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    demand(
        all(bool(t.isfinite().all()) for t in [*outputs, *gradients]),
        f"{entry.name} gives values or gradients that are not finite under autocast to bfloat16.",
    )


def network_checks() -> list[Check]:
    """Every check of a single network."""
    return [
        check_card,
        check_shapes,
        check_alignment,
        check_batch,
        check_gradients,
        check_taps,
        check_input,
        check_state_dict,
        check_options,
        check_repeatable,
        check_seeds,
        check_copies,
        check_fusions,
        check_compile,
        check_half_precision,
    ]
