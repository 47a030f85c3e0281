"""The built-in fusions, one strategy per file, offered through the same hook as a stranger's."""

from harmonet.hookspecs import hookimpl
from harmonet.registry import FusionEntry, Paper


@hookimpl
def harmonet_fusions() -> list[FusionEntry]:
    """The cards of the built-in fusions; code is imported when one is built."""
    return [
        FusionEntry(
            name="msp",
            build="harmonet.fusions.msp:MSP",
            summary="multi-stage prediction: the other networks' features inform the target's prediction",
            paper=Paper("Multi-stage prediction networks for data harmonization", 2019, "10.48550/arXiv.1907.11629"),
            published="equation (1), connection networks of two 3D convolutions, alpha raised from 0 to 1",
            our_choice="width, kernels and ReLU of the connection networks; alpha linear over half the training; our "
            "reading of more than two stages: connection networks of their own, which read the same features and the "
            "previous stage's prediction",
        ),
        FusionEntry(
            name="ensemble",
            build="harmonet.fusions.ensemble:Ensemble",
            summary="the mean of several networks for one platform, such as one network from several seeds",
            paper=Paper(
                "Simple and scalable predictive uncertainty estimation using deep ensembles",
                2017,
                "10.48550/arXiv.1612.01474",
            ),
            published="members trained apart from random weights; mean and variance of their equal mixture",
            our_choice="members may be different networks; no variance unless each gives one; no adversarial training",
        ),
        FusionEntry(
            name="hard_sharing",
            build="harmonet.fusions.hard_sharing:HardSharing",
            summary="one network for all platforms, with a head for each",
            paper=Paper("Multitask learning", 1997, "10.1023/A:1007379606734"),
            published="hidden layers that all tasks share, an output for each task",
            our_choice="heads are connection networks; the trunk is the first network on the coarsest grid, trained "
            "alone on its platform first",
        ),
        FusionEntry(
            name="cross_stitch",
            build="harmonet.fusions.cross_stitch:CrossStitch",
            summary="features of all networks mixed by learned weights, with a new head for each platform",
            paper=Paper("Cross-stitch networks for multi-task learning", 2016, "10.1109/CVPR.2016.433"),
            published="units that mix activation maps of several tasks' networks by learned weights",
            our_choice="one unit at one tap of each network and new heads behind it, where the paper stitches networks "
            "of one architecture at several layers; one weight for each pair of platforms; 0.9 for the own feature at "
            "first; features led to one size",
        ),
        FusionEntry(
            name="gated",
            build="harmonet.fusions.gated:Gated",
            summary="own prediction and those of connection networks, weighed voxel by voxel",
            paper=Paper("Adaptive mixtures of local experts", 1991, "10.1162/neco.1991.3.1.79"),
            published="experts weighed by the softmax of a gating network that is trained with them",
            our_choice="experts are the predictions that msp averages; a gate of two convolutions, which leans to the "
            "own prediction at first; the error of the weighed sum as loss",
        ),
        FusionEntry(
            name="cpm",
            build="harmonet.fusions.cpm:CPM",
            summary="a chain of networks, each of which sees the patch and what the one before it predicted",
            paper=Paper("Convolutional pose machines", 2016, "10.1109/CVPR.2016.511"),
            published="a sequence of networks that see the image and the prediction before, a loss on each prediction; "
            "in the comparison with msp, other platforms on the way and links of two convolutions",
            our_choice="the order (by grid, then name); links of width 64 that change the input patch and start at "
            "zero; a strided convolution back to the source's grid",
        ),
        FusionEntry(
            name="hned",
            build="harmonet.fusions.hned:HNED",
            summary="the target's network, whose inner layers predict the other platforms, and their weighted sum",
            paper=Paper("Holistically-nested edge detection", 2015, "10.1109/ICCV.2015.164"),
            published="one stream with side outputs at increasing depth, fused by learned weights that start equal, a "
            "loss on each; in the comparison with msp, other platforms on the way and links of two convolutions",
            our_choice="the order (by grid, then name); a side for each other platform; the network's own prediction "
            "in the sum; connection networks from the sides back to the target",
        ),
    ]
