"""Single networks that break one promise each: (what is wrong, the check that finds it, the card)."""

import random

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from harmonet.registry import NetworkEntry, Paper


class Good(nn.Module):
    """Two convolutions, with seams where others break it."""

    def __init__(self, in_channels, out_channels, upsampling=1, widths=(5, 4)):
        super().__init__()
        padding = 1 if upsampling == 1 else 0
        self.body = nn.Sequential(nn.Conv3d(in_channels, widths[0], 3, padding=padding), nn.ReLU())
        self.mid = nn.Sequential(nn.Conv3d(widths[0], widths[1], 1), nn.ReLU())
        if upsampling == 1:
            self.head = nn.Conv3d(widths[1], out_channels, 3, padding=1)
        else:
            self.head = nn.ConvTranspose3d(widths[1], out_channels, 3, stride=2)

    def forward(self, x):
        return self.finish(self.body(self.start(x)))

    def start(self, x):
        return x

    def finish(self, z):
        return self.head(self.mid(z))


class DropsAnOddChannel(Good):
    def __init__(self, in_channels, out_channels, upsampling=1):
        super().__init__(in_channels, out_channels // 2 * 2, upsampling)


class PadsOneSide(Good):
    def start(self, x):
        return functional.pad(x, (1, 0, 0, 0, 0, 0))[..., :-1]


class HalfAVoxelOff(Good):
    """At upsampling 2 kernel 4 lies between the voxels of the finer grid."""

    def __init__(self, in_channels, out_channels, upsampling=1):
        super().__init__(in_channels, out_channels, upsampling)
        if upsampling == 2:
            self.head = nn.ConvTranspose3d(4, out_channels, 4, stride=2)

    def forward(self, x):
        y = super().forward(x)
        edge = (y.shape[-1] - 1) // 2 * 2 + 1
        return y[..., :edge, :edge, :edge]


class MixesTheBatch(Good):
    def finish(self, z):
        return super().finish(z - z.mean(0, keepdim=True) / 2)


class HasASpareLayer(Good):
    def __init__(self, in_channels, out_channels, upsampling=1):
        super().__init__(in_channels, out_channels, upsampling)
        self.spare = nn.Linear(3, 3)


class OverwritesASecondTap(Good):
    def __init__(self, in_channels, out_channels, upsampling=1):
        super().__init__(in_channels, out_channels, upsampling)
        self.mid[1] = nn.ReLU(inplace=True)


class RunsALayerTwice(Good):
    def finish(self, z):
        return super().finish(z) + self.head(self.mid(2 * z))


class DetachesASide(Good):
    def __init__(self, in_channels, out_channels, upsampling=1):
        super().__init__(in_channels, out_channels, upsampling)
        self.side = nn.Identity()

    def finish(self, z):
        self.side(z.detach())
        return super().finish(z)


class ShiftsItsInput(Good):
    def start(self, x):
        return x.sub_(0.1)


class KeepsATensorToItself(Good):
    def __init__(self, in_channels, out_channels, upsampling=1):
        super().__init__(in_channels, out_channels, upsampling)
        self.scale = 1 + torch.rand(1, 5, 1, 1, 1)

    def finish(self, z):
        return super().finish(z * self.scale)


class WantsATuple(Good):
    def __init__(self, in_channels, out_channels, upsampling=1, widths=(5, 4)):
        if not isinstance(widths, tuple):
            raise TypeError("widths is a tuple")
        super().__init__(in_channels, out_channels, upsampling, widths)


class TakesAnything(Good):
    def __init__(self, in_channels, out_channels, upsampling=1, **options):
        super().__init__(in_channels, out_channels, upsampling)


class DropsAlways(Good):
    def finish(self, z):
        return super().finish(functional.dropout(z, 0.2, training=True))


class SeedsTorch(Good):
    def __init__(self, in_channels, out_channels, upsampling=1):
        torch.manual_seed(0)
        super().__init__(in_channels, out_channels, upsampling)


class DrawsFromPython(Good):
    def __init__(self, in_channels, out_channels, upsampling=1):
        super().__init__(in_channels, out_channels, upsampling)
        self.register_buffer("shift", torch.tensor(random.random()))


class DrawsFromNumpy(Good):
    def __init__(self, in_channels, out_channels, upsampling=1):
        super().__init__(in_channels, out_channels, upsampling)
        self.register_buffer("shift", torch.tensor(np.random.rand()))


class HoldsALambda(Good):
    def __init__(self, in_channels, out_channels, upsampling=1):
        super().__init__(in_channels, out_channels, upsampling)
        self.start = lambda x: 2 * x


class TapsATinyGrid(Good):
    def __init__(self, in_channels, out_channels, upsampling=1):
        super().__init__(in_channels, out_channels, upsampling)
        self.pool = nn.AdaptiveAvgPool3d(2)

    def finish(self, z):
        return super().finish(z) + self.pool(z).mean((1, 2, 3, 4), keepdim=True)


class AsksATensor(Good):
    def finish(self, z):
        return super().finish(z if z.sum() > 0 else z / 2)


class MakesFullPrecision(Good):
    def finish(self, z):
        room = torch.zeros(z.shape)
        return super().finish(room.masked_scatter(torch.ones(z.shape, dtype=torch.bool), z))


GOOD = NetworkEntry(
    name="good",
    build=Good,
    summary="two convolutions",
    our_choice="everything",
    upsampling=(1, 2),
    taps={"features": "body"},
    parameters=28 * 27 * 5 + 5 + 5 * 4 + 4 + 4 * 27 * 28 + 28,
)


def card(build, **words):
    """A complete card, its number of parameters true unless `words` says otherwise."""
    count = sum(p.numel() for p in build(28, 28).parameters())
    given = {
        "name": build.__name__.lower(),
        "our_choice": "everything",
        "upsampling": (1, 2),
        "taps": {"features": "body"},
        "parameters": count,
    }
    return NetworkEntry(build=build, summary="broken", **(given | words))


NO_DOI = Paper("A method", 2019)

BROKEN = [
    ("states one parameter too many", "card", card(Good, parameters=GOOD.parameters + 1)),
    ("states no number of parameters", "card", card(Good, parameters=None)),
    ("does not say what was our choice", "card", card(Good, our_choice="")),
    ("names a paper without its DOI", "card", card(Good, published="all", paper=NO_DOI)),
    ("declares a check that there is not", "card", card(Good, unsupported={"compiling": "no"})),
    ("gives 14 channels for 15", "shapes", card(DropsAnOddChannel)),
    ("says cell and gives node", "shapes", card(Good, alignment="cell")),
    ("is shifted by a voxel", "alignment", card(PadsOneSide)),
    ("is shifted by half a voxel of the finer grid", "alignment", card(HalfAVoxelOff)),
    ("subtracts the mean of the batch", "batch", card(MixesTheBatch)),
    ("has a layer that it does not use", "gradients", card(HasASpareLayer)),
    ("names a layer that there is not", "taps", card(Good, taps={"features": "body", "deep": "deeper"})),
    ("overwrites its second tap", "taps", card(OverwritesASecondTap, taps={"features": "body", "deep": "mid.0"})),
    ("runs its second tap twice", "taps", card(RunsALayerTwice, taps={"features": "body", "deep": "mid"})),
    ("detaches its second tap", "taps", card(DetachesASide, taps={"features": "body", "deep": "side"})),
    ("changes its input in place", "input", card(ShiftsItsInput)),
    ("keeps a tensor out of its state dict", "state_dict", card(KeepsATensorToItself)),
    ("refuses the list that a recipe gives for its tuple", "options", card(WantsATuple)),
    ("swallows mistyped options", "options", card(TakesAnything)),
    ("drops values in evaluation mode too", "repeatable", card(DropsAlways)),
    ("seeds torch", "seeds", card(SeedsTorch)),
    ("draws from Python's random", "seeds", card(DrawsFromPython)),
    ("draws from numpy's random", "seeds", card(DrawsFromNumpy)),
    ("holds a lambda", "copies", card(HoldsALambda)),
    ("taps a grid that leads nowhere", "fusions", card(TapsATinyGrid, taps={"features": "pool"})),
    ("branches on a value", "compile", card(AsksATensor)),
    ("makes a tensor of full precision", "half_precision", card(MakesFullPrecision)),
]
