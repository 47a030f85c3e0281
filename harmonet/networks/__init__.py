"""The built-in single networks, one architecture per file, offered through the same hook as a stranger's."""

from harmonet.hookspecs import hookimpl
from harmonet.registry import NetworkEntry, Paper


@hookimpl
def harmonet_networks() -> list[NetworkEntry]:
    """The cards of the built-in networks; code is imported when one is built."""
    return [
        NetworkEntry(
            name="diqt",
            build="harmonet.networks.diqt:DIQT",
            summary="ESPCN with reversible layers before each convolution",
            paper=Paper(
                "Deeper image quality transfer: training low-memory neural networks for 3D images",
                2018,
                "10.48550/arXiv.1808.05577",
            ),
            published="stacks and their content, widths 50 and 100, four layers per stack",
            our_choice="SH channels (odd numbers split unequally), padding, transposed convolution at upsampling 2",
            upsampling=(1, 2),
            taps={"features": "rev2"},
            parameters=895_458,
        ),
        NetworkEntry(
            name="shresnet",
            build="harmonet.networks.shresnet:SHResNet",
            summary="residual blocks with a functional unit for each SH order",
            paper=Paper(
                "Spherical harmonic residual network for diffusion signal harmonization",
                2018,
                "10.48550/arXiv.1808.01595",
            ),
            published="topology, 100 kernels, two blocks",
            our_choice="order 6, padded linear output, width of the outer convolutions, PyTorch initial weights",
            upsampling=(1, 2),
            taps={"features": "tail.3"},
            parameters=2_927_876,
        ),
    ]
