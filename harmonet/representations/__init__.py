"""The built-in representations, one signal model per file, offered through the same hook as a stranger's."""

from harmonet.hookspecs import hookimpl
from harmonet.registry import Paper, RepresentationEntry


@hookimpl
def harmonet_representations() -> list[RepresentationEntry]:
    """The cards of the built-in representations; code is imported when one is built."""
    return [
        RepresentationEntry(
            name="sh_signal",
            build="harmonet.representations.sh_signal:SHSignal",
            summary="spherical harmonics of the b0-normalised signal of one shell, even orders",
            paper=Paper("Regularized, fast, and robust analytical Q-ball imaging", 2007, "10.1002/mrm.21277"),
            published="least squares with a Laplace-Beltrami penalty",
            our_choice="the reading that the 28 coefficients of Blumberg et al. 2019 are those of the signal",
        )
    ]
