"""The built-in representations, one signal model per file, offered through the same hook as a stranger's."""

from harmonet.hookspecs import hookimpl
from harmonet.registry import Paper, RepresentationEntry

GIVEN_RESPONSE = "one response for all platforms: an axially symmetric tensor with 1.7 and 0.3 µm²/ms"


@hookimpl
def harmonet_representations() -> list[RepresentationEntry]:
    """The cards of the built-in representations; code is imported when one is built."""
    return [
        RepresentationEntry(
            name="sh_signal",
            build="harmonet.representations.sh_signal:SHSignal",
            summary="spherical harmonics of the b0-normalised signal, even orders, shell after shell",
            paper=Paper("Regularized, fast, and robust analytical Q-ball imaging", 2007, "10.1002/mrm.21277"),
            published="least squares with a Laplace-Beltrami penalty",
            our_choice="the reading that the 28 coefficients of Blumberg et al. 2019 are those of the signal",
        ),
        RepresentationEntry(
            name="sh_sd",
            build="harmonet.representations.sh_sd:SHSD",
            summary="fibre orientations by linear spherical deconvolution of one shell",
            paper=Paper(
                "Direct estimation of the fiber orientation density function from diffusion-weighted MRI data using "
                "spherical deconvolution",
                2004,
                "10.1016/j.neuroimage.2004.07.037",
            ),
            published="the signal's spherical harmonics over the response's, order by order",
            our_choice=f"{GIVEN_RESPONSE}; a Laplace-Beltrami penalty for the published low-pass filter",
        ),
        RepresentationEntry(
            name="csd",
            build="harmonet.representations.csd:CSD",
            summary="fibre orientations by constrained spherical deconvolution of one shell; no way back to the signal",
            paper=Paper(
                "Robust determination of the fibre orientation distribution in diffusion MRI: non-negativity "
                "constrained super-resolved spherical deconvolution",
                2007,
                "10.1016/j.neuroimage.2007.02.016",
            ),
            published="least squares with a penalty on small amplitudes, with dipy's tau, lambda, sphere and rounds",
            our_choice=f"{GIVEN_RESPONSE}; order 6 in place of 8",
        ),
        RepresentationEntry(
            name="intensity",
            build="harmonet.representations.intensity:Intensity",
            summary="the values of a scalar image (T1, T2, FLAIR) as they are",
            our_choice="no gradients are read, and the values are not scaled before they are standardised",
        ),
    ]
