"""Fusions that break one promise each: (what is wrong, the check that finds it, the card)."""

import random

import torch
from torch import nn

import harmonet as hn
from harmonet.blocks.connection import ConnectionNet


class Good(hn.Fusion):
    """The target's prediction plus a share of what each network's features tell, with seams where others break it."""

    def __init__(self, sources, target, share=0.5, hidden=None):
        super().__init__(sources, target)
        if len(sources) < 2:
            raise hn.HarmonetError("good needs two networks: compose another one.")
        size = sources[target].prediction
        self.nets = nn.ModuleDict({p: self.connect(s.features["features"], size) for p, s in sources.items()})
        self.share = share
        self.register_buffer("alpha", torch.zeros(()))

    def connect(self, features, prediction):
        return ConnectionNet(features, prediction)

    def forward(self, first, features):
        told = torch.stack([net(features[p]["features"]) for p, net in self.nets.items()]).sum(0)
        return [{self.target: first[self.target] + self.alpha * self.share * told}]

    def advance(self, done):
        self.alpha.fill_(done)

    def wiring(self):
        return {platform: str(net) for platform, net in self.nets.items()}


class SqueezesABatchOfOne(Good):
    def forward(self, first, features):
        (stage,) = super().forward(first, features)
        return [{self.target: stage[self.target].squeeze(0)}]


class KeepsToOneGrid(Good):
    def connect(self, features, prediction):
        if features[1:] != prediction[1:]:
            raise ValueError("grids differ")
        return nn.Conv3d(features[0], prediction[0], 1)


class TripsOverOneNetwork(Good):
    def __init__(self, sources, target):
        next(iter(set(sources) - {target}))
        super().__init__(sources, target)


class HasASpareLayer(Good):
    def __init__(self, sources, target):
        super().__init__(sources, target)
        self.spare = nn.Linear(3, 3)


class ReadsDetached(Good):
    def forward(self, first, features):
        return super().forward(first, {p: {n: z.detach() for n, z in taps.items()} for p, taps in features.items()})


class AddsInPlace(Good):
    def forward(self, first, features):
        first[self.target].add_(0.1)
        return super().forward(first, features)


class TakesOut(Good):
    def forward(self, first, features):
        own = first.pop(self.target)
        return super().forward({**first, self.target: own}, features)


class EndsInInfinity(Good):
    def advance(self, done):
        self.alpha.fill_(0.1 / (1 - done))


class WiresToNowhere(Good):
    def wiring(self):
        return {"nowhere": "conv"}


class ForgetsAlpha(Good):
    def __init__(self, sources, target):
        super().__init__(sources, target)
        del self.alpha
        self.alpha = torch.zeros(())


class WantsATuple(Good):
    def __init__(self, sources, target, widths=(1, 2)):
        if not isinstance(widths, tuple):
            raise TypeError("widths is a tuple")
        super().__init__(sources, target)


class DropsAlways(Good):
    def forward(self, first, features):
        (stage,) = super().forward(first, features)
        return [{self.target: nn.functional.dropout(stage[self.target], 0.2, training=True)}]


class DrawsFromPython(Good):
    def __init__(self, sources, target):
        super().__init__(sources, target)
        self.register_buffer("shift", torch.tensor(random.random()))


class HoldsALambda(Good):
    def __init__(self, sources, target):
        super().__init__(sources, target)
        self.activation = lambda y: y


def card(build, **words):
    """A complete card."""
    given = {"name": build.__name__.lower(), "summary": "broken", "our_choice": "everything"}
    return hn.FusionEntry(build=build, **(given | words))


GOOD = card(Good)

BROKEN = [
    ("does not say what was our choice", "card", card(Good, our_choice="")),
    ("drops the batch's axis where it is one", "stages", card(SqueezesABatchOfOne)),
    ("keeps to one grid", "mixed_grids", card(KeepsToOneGrid)),
    ("trips over one network", "few_networks", card(TripsOverOneNetwork)),
    ("has a layer that it does not use", "gradients", card(HasASpareLayer)),
    ("trains none of the other networks", "gradients", card(ReadsDetached)),
    ("adds to a first prediction", "inputs", card(AddsInPlace)),
    ("takes a first prediction out", "inputs", card(TakesOut)),
    ("divides by zero at the end of the training", "advance", card(EndsInInfinity)),
    ("names a platform that there is not", "wiring", card(WiresToNowhere)),
    ("keeps alpha out of its state dict", "state_dict", card(ForgetsAlpha)),
    ("refuses the list that a recipe gives for its tuple", "options", card(WantsATuple)),
    ("drops values in evaluation mode too", "repeatable", card(DropsAlways)),
    ("draws from Python's random", "seeds", card(DrawsFromPython)),
    ("holds a lambda", "copies", card(HoldsALambda)),
]
