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
            our_choice="width, kernels and ReLU of the connection networks; alpha linear over half the training",
        ),
    ]
