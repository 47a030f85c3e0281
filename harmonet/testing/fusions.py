"""What a fusion promises: one check per promise, each a plain function of a card or a name: `check_stages("msp")`.

A fusion needs no networks here: it gets measured sizes, and tensors of those sizes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite

import torch
from torch import Tensor, nn

from harmonet import plugins
from harmonet.errors import HarmonetError
from harmonet.fusion import Fusion, Source
from harmonet.platforms import target_patch_size
from harmonet.registry import FusionEntry
from harmonet.stages import Stage
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
    through_a_recipe,
)

PATCH = 7
EQUAL = {"a": 1, "b": 1, "c": 1}  # platform -> upsampling
MIXED = {"a": 1, "b": 2, "c": 1}
DONE = (0.0, 0.5)  # of the training; its very end is one check's own

Features = dict[str, dict[str, Tensor]]
fusion_check = check(plugins.fusion)


@dataclass(frozen=True)
class Given:
    """What single networks would hand to a fusion."""

    first: Stage
    features: Features

    def clone(self) -> "Given":
        """The same values in new tensors, through which gradients flow back."""
        features = {p: {name: z.clone() for name, z in taps.items()} for p, taps in self.features.items()}
        return Given(Stage({p: y.clone() for p, y in self.first.items()}), features)

    def of(self, platform: str) -> list[Tensor]:
        """All tensors of one platform."""
        return [self.first[platform], *self.features[platform].values()]

    @property
    def patch(self) -> Tensor:
        """Source patches that these could have come from."""
        batch, channels = next(iter(self.first.values())).shape[:2]
        return torch.randn(batch, channels, PATCH, PATCH, PATCH, generator=torch.Generator().manual_seed(0))

    def run(self, platform: str, x: Tensor) -> tuple[Tensor, Mapping[str, Tensor]]:
        """A network in miniature: its values, moved by the mean of the patch, so that gradients reach the patch."""
        moved = x.mean((1, 2, 3, 4), keepdim=True)
        return self.first[platform] + moved, {name: z + moved for name, z in self.features[platform].items()}


def _sources(upsampling: Mapping[str, int], channels: int = 6) -> dict[str, Source]:
    """Sizes as networks give them; at upsampling 2 a valid convolution has shrunk the features."""
    found = {}
    for platform, factor in upsampling.items():
        edge, inner = target_patch_size(PATCH, factor), PATCH if factor == 1 else PATCH - 2
        found[platform] = Source((channels, edge, edge, edge), {"features": (8, inner, inner, inner)})
    return found


def _given(sources: Mapping[str, Source], batch: int = 2) -> Given:
    draws = torch.Generator().manual_seed(batch)
    first = Stage({p: torch.randn((batch, *s.prediction), generator=draws) for p, s in sources.items()})
    features = {
        p: {name: torch.randn((batch, *size), generator=draws) for name, size in s.features.items()}
        for p, s in sources.items()
    }
    return Given(first, features)


def _built(
    entry: FusionEntry, options: Options, sources: Mapping[str, Source], target: str = "a", seed: int = 0
) -> Fusion:
    torch.manual_seed(seed)
    entry.check_options(options)
    fusion = entry.load()(sources, target, **options)
    demand(isinstance(fusion, Fusion), f"{entry.name} builds a {type(fusion).__name__}, not a harmonet.Fusion.")
    assert isinstance(fusion, Fusion)
    return fusion


def _halfway(entry: FusionEntry, options: Options, seed: int = 0) -> Fusion:
    """The fusion in the middle of its training, where every part of it takes part."""
    fusion = _built(entry, options, _sources(EQUAL), seed=seed)
    fusion.advance(DONE[-1])
    return fusion


def _stages(fusion: nn.Module, given: Given) -> list[dict[str, Tensor]]:
    copied = given.clone()
    assert isinstance(fusion, Fusion)
    return list(seeded(fusion.stages, copied.patch, copied.run))


def _stages_of(fusion: nn.Module, given: Given) -> Sequence[Mapping[str, Tensor]]:
    """The stages from the very dicts and tensors that are given, where the fusion does not run the networks itself."""
    assert isinstance(fusion, Fusion)
    if type(fusion).stages is Fusion.stages:
        return fusion.forward(given.first, given.features)
    return fusion.stages(given.patch, lambda platform, _: (given.first[platform], given.features[platform]))


def _flat(stages: Sequence[Mapping[str, Tensor]]) -> list[Tensor]:
    return [stage[platform] for stage in stages for platform in sorted(stage)]


def _run(fusion: nn.Module) -> list[Tensor]:
    return _flat(_stages(fusion, _given(_sources(EQUAL))))


def _refuse_wrong_stages(name: str, fusion: Fusion, sources: Mapping[str, Source], batch: int) -> None:
    """Fail where stages lack the target, name strangers or have another size than the platform's patch."""
    with torch.no_grad():
        stages = _stages(fusion, _given(sources, batch))
    demand(len(stages) > 1, f"{name} gives no later stage: return a list of dicts, one per stage.")
    for number, stage in enumerate(stages):
        for platform, y in stage.items():
            demand(platform in sources, f"stage {number} of {name} predicts {platform!r}, which has no network.")
            expected = (batch, *sources[platform].prediction)
            demand(
                tuple(y.shape) == expected,
                f"stage {number} of {name} gives {tuple(y.shape)} for {platform}, whose prediction is {expected}.",
            )
            demand(y.isfinite().all(), f"stage {number} of {name} gives values for {platform} that are not finite.")
    demand(
        fusion.target in stages[-1],
        f"the last stage of {name} lacks the target {fusion.target}: it is what the fusion is for.",
    )


@fusion_check
def check_card(entry: FusionEntry, options: Options) -> None:
    """The card is filled."""
    refuse_incomplete_card(entry, entry.unsupported, fusion_checks())


@fusion_check
def check_stages(entry: FusionEntry, options: Options) -> None:
    """Later stages predict the target, on its grid, for any target, batch size and number of channels."""
    for target, batch, channels in (("a", 1, 6), ("b", 3, 15), ("c", 2, 28)):
        sources = _sources(EQUAL, channels)
        _refuse_wrong_stages(entry.name, _built(entry, options, sources, target), sources, batch)


@fusion_check
def check_mixed_grids(entry: FusionEntry, options: Options) -> None:
    """Networks of unlike upsampling can be joined, whichever is the target."""
    sources = _sources(MIXED)
    for target in ("a", "b"):
        try:
            _refuse_wrong_stages(entry.name, _built(entry, options, sources, target), sources, 2)
        except PromiseError:
            raise
        except Exception as error:
            raise PromiseError(
                f"{entry.name} does not join upsampling 1 and 2 for a target at upsampling {MIXED[target]} ({error}): "
                "lead features to the target's grid, as harmonet.blocks.connection.ConnectionNet does."
            ) from error


@fusion_check
def check_few_networks(entry: FusionEntry, options: Options) -> None:
    """Two networks, and one alone, are joined or refused with a sentence."""
    for platforms in ("ab", "a"):
        sources = _sources(dict.fromkeys(platforms, 1))
        try:
            _refuse_wrong_stages(entry.name, _built(entry, options, sources), sources, 2)
        except PromiseError:
            raise
        except HarmonetError as error:
            demand(str(error), f"{entry.name} refuses {len(platforms)} networks without a word: say what it needs.")
        except Exception as error:
            raise PromiseError(
                f"{entry.name} raises {type(error).__name__} over {len(platforms)} networks ({error}): join them, or "
                "raise a harmonet.HarmonetError that says how many it needs."
            ) from error


@fusion_check
def check_gradients(entry: FusionEntry, options: Options) -> None:
    """In training a gradient reaches every parameter, and the prediction or features of every network that it reads."""
    fusion = _built(entry, options, _sources(EQUAL)).train()
    stir(fusion)
    given = _given(_sources(EQUAL))
    for platform in EQUAL:
        for tensor in given.of(platform):
            tensor.requires_grad_()
    for done in DONE:
        fusion.advance(done)
        descend(_flat(_stages(fusion, given)[1:]))  # the first stage alone would reach every network
    refuse_lost_gradients(entry.name, fusion)
    for platform in fusion.reads:
        demand(
            any(tensor.grad is not None and tensor.grad.any() for tensor in given.of(platform)),
            f"{entry.name} gives no gradient to the network of {platform}: read its prediction or features undetached.",
        )


@fusion_check
def check_inputs(entry: FusionEntry, options: Options) -> None:
    """First predictions and features are left as they were: other fusions and the loss read them too."""
    fusion, given = _halfway(entry, options), _given(_sources(EQUAL))
    kept = given.clone()
    evaluated(fusion, lambda m: _flat(_stages_of(m, given)))
    intact = given.first.keys() == kept.first.keys() and all(
        given.features.get(p, {}).keys() == kept.features[p].keys() and same(given.of(p), kept.of(p)) for p in EQUAL
    )
    demand(intact, f"{entry.name} changes the first predictions or features: write to new tensors and dicts.")


@fusion_check
def check_advance(entry: FusionEntry, options: Options) -> None:
    """`advance` takes all of 0 to 1, and predictions are finite at each."""
    fusion = _built(entry, options, _sources(EQUAL))
    for done in (0.0, 1e-6, 0.1, 0.5, 0.9, 1.0):
        try:
            fusion.advance(done)
        except Exception as error:
            raise PromiseError(
                f"advance({done:g}) of {entry.name} raises {type(error).__name__} ({error}): take 0 to 1, "
                "both included."
            ) from error
        finite = all(isfinite(float(y.sum())) for y in evaluated(fusion, _run))
        demand(finite, f"{entry.name} predicts values that are not finite after advance({done:g}).")


@fusion_check
def check_wiring(entry: FusionEntry, options: Options) -> None:
    """`wiring` says a few words on platforms that there are."""
    for target in EQUAL:
        for platform, text in _built(entry, options, _sources(EQUAL), target).wiring().items():
            demand(platform in EQUAL, f"wiring() of {entry.name} names {platform!r}, which is no platform of its.")
            demand(isinstance(text, str), f"wiring() of {entry.name} gives a {type(text).__name__}, not a few words.")


@fusion_check
def check_state_dict(entry: FusionEntry, options: Options) -> None:
    """Weights saved as safetensors bytes in the middle of the training and loaded afresh predict the same."""

    def build(seed: int) -> nn.Module:  # only the one that is saved has been trained
        return _halfway(entry, options, seed) if seed == 1 else _built(entry, options, _sources(EQUAL), seed=seed)

    refuse_lost_state(entry.name, build, _run)


@fusion_check
def check_options(entry: FusionEntry, options: Options) -> None:
    """Options written to a recipe as TOML and read again build the same fusion; unknown ones are refused."""
    refuse_unknown_options_taken(entry)
    returned = through_a_recipe(entry, options)
    try:
        second = _halfway(entry, returned)
    except Exception as error:
        raise PromiseError(
            f"{entry.name} cannot be built with its options as a recipe gives them back ({error}): take "
            "lists for tuples."
        ) from error
    demand(
        same(evaluated(_halfway(entry, options), _run), evaluated(second, _run)),
        f"{entry.name} is another fusion when its options come from a recipe: {returned}.",
    )


@fusion_check
def check_repeatable(entry: FusionEntry, options: Options) -> None:
    """Two passes in evaluation mode give the same."""
    given = _given(_sources(EQUAL))

    def unseeded(fusion: nn.Module) -> list[Tensor]:
        copied = given.clone()
        assert isinstance(fusion, Fusion)
        return _flat(fusion.stages(copied.patch, copied.run))

    refuse_unlike_passes(entry.name, _halfway(entry, options), unseeded)


@fusion_check
def check_seeds(entry: FusionEntry, options: Options) -> None:
    """Building draws from torch's generator only, and reseeds nothing."""
    refuse_touched_seeds(entry.name, lambda: entry.load()(_sources(EQUAL), "a", **options))


@fusion_check
def check_copies(entry: FusionEntry, options: Options) -> None:
    """Pickled copies, as spawned workers get them, and deep copies predict the same."""
    refuse_unlike_copies(entry.name, _halfway(entry, options), _run)


def fusion_checks() -> list[Check]:
    """Every check of a fusion."""
    return [
        check_card,
        check_stages,
        check_mixed_grids,
        check_few_networks,
        check_gradients,
        check_inputs,
        check_advance,
        check_wiring,
        check_state_dict,
        check_options,
        check_repeatable,
        check_seeds,
        check_copies,
    ]
