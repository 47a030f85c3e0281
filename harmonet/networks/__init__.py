"""The built-in single networks, one architecture per file, offered through the same hook as a stranger's."""

from harmonet.hookspecs import hookimpl
from harmonet.registry import NetworkEntry, Paper

IQT = Paper(
    "Bayesian image quality transfer with CNNs: exploring uncertainty in dMRI super-resolution",
    2017,
    "10.1007/978-3-319-66182-7_70",
)
CHALLENGE = Paper(
    "Cross-scanner and cross-protocol diffusion MRI data harmonisation: a benchmark database and evaluation of "
    "algorithms",
    2019,
    "10.1016/j.neuroimage.2019.01.077",
)


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
            published="stacks and their content, widths 50 and 100, four layers per stack; recomputation (option, off)",
            our_choice="SH channels (odd numbers split unequally), padding, transposed convolution at upsampling 2",
            upsampling=(1, 2),
            taps={"features": "rev2", "side1": "rev0", "side2": "rev1"},
            parameters=895_458,
        ),
        NetworkEntry(
            name="shresnet",
            build="harmonet.networks.shresnet:shresnet",
            summary="residual blocks with a functional unit for each SH order",
            paper=Paper(
                "Spherical harmonic residual network for diffusion signal harmonization",
                2018,
                "10.48550/arXiv.1808.01595",
            ),
            published="topology, 100 kernels, two blocks; final ReLU and RISH projection (options, off)",
            our_choice="order 6, units per order and shell, padded linear output, outer widths, PyTorch first weights",
            upsampling=(1, 2),
            taps={"features": "tail.3", "side1": "blocks.0", "side2": "blocks"},
            parameters=2_927_876,
        ),
        NetworkEntry(
            name="bayesian_espcn",
            build="harmonet.networks.bayesian_espcn:BayesianESPCN",
            summary="image quality transfer with a variance: heteroscedastic noise and variational dropout",
            paper=IQT,
            published="two ESPCNs, for mean and precision; Gaussian dropout of learnt strength; passes averaged",
            our_choice="padding at upsampling 1, a transposed convolution for the shuffle, one sigma per channel, "
            "20 passes",
            upsampling=(1, 2),
            taps={"features": "features", "side1": "features.2", "side2": "features"},
            parameters=237_306,
            unsupported={"compile": "draws its passes from a generator of its own, which breaks the graph"},
        ),
        NetworkEntry(
            name="espcn",
            build="harmonet.networks.espcn:espcn",
            summary="three convolutions, the last of which enlarges; node-aligned",
            paper=IQT,
            published="layers, widths 50 and 100, initial weights of the hidden layers",
            our_choice="SH channels, padding at upsampling 1, kernel 3 in the transposed convolution at upsampling 2 "
            "(published: 6), initial weights of the output layer",
            upsampling=(1, 2),
            taps={"features": "conv1", "side1": "conv0", "side2": "conv1"},
            parameters=118_578,
        ),
        NetworkEntry(
            name="espcn_shuffle",
            build="harmonet.networks.espcn:espcn_shuffle",
            summary="three convolutions and a sub-pixel shuffle; cell-aligned",
            paper=IQT,
            published="layers, shuffle, widths 50 and 100, initial weights of the hidden layers",
            our_choice="SH channels, padded convolutions (published: valid, 11 to 14 voxels on edge), initial weights "
            "of the output layer",
            upsampling=(1, 2),
            taps={"features": "conv1", "side1": "conv0", "side2": "conv1"},
            parameters=118_578,
            alignment="cell",
        ),
        NetworkEntry(
            name="cnn_rish",
            build="harmonet.networks.cnn_rish:cnn_rish",
            summary="five convolutions on SH coefficients, or on the energies of SH orders",
            paper=Paper(
                "Harmonizing diffusion MRI data across magnetic field strengths", 2018, "10.1007/978-3-030-00931-1_14"
            ),
            published="five layers; energies (RISH) in and out, which scale the coefficients of each order",
            our_choice="kernels, width 64, ReLU, logarithm of relative energies, scales limited to 0.1 to 10, and the "
            "mode plain (coefficients in and out), which is the default",
            upsampling=(1, 2),
            taps={"features": "conv4", "side1": "conv2", "side2": "conv3"},
            parameters=428_828,
        ),
        NetworkEntry(
            name="fcsnet",
            build="harmonet.networks.fcsnet:FCSNet",
            summary="four wide convolutions with dropout, joined with the input",
            paper=CHALLENGE,
            published="layers, widths 75, 150, 300, 200, dropout 0.5, the joined input; valid, 11 to 3 voxels on edge",
            our_choice="padded convolutions, so that prediction and tap have the size of the patch; ReLU; no b = 0 "
            "channel; a transposed convolution as output layer at upsampling 2",
            upsampling=(1, 2),
            taps={"features": "concat", "side1": "hidden.1", "side2": "hidden.2"},
            parameters=3_202_587,
        ),
        NetworkEntry(
            name="shnet",
            build="harmonet.networks.shnet:SHNet",
            summary="four fully connected layers on the coefficients of one voxel",
            paper=CHALLENGE,
            published="layers with batch normalisation, width 150",
            our_choice="a transposed convolution as output layer at upsampling 2",
            upsampling=(1, 2),
            taps={"features": "fc3", "side1": "fc1", "side2": "fc2"},
            parameters=54_834,
        ),
        NetworkEntry(
            name="shresnet2017",
            build="harmonet.networks.shresnet2017:SHResNet2017",
            summary="one functional unit for each SH order, minus the input",
            paper=CHALLENGE,
            published="layers, 100 kernels, SH order 4; valid, 3 voxels on edge to their centre",
            our_choice="any even order, units for each shell, padded convolutions, linear output (published: ReLU), a "
            "transposed convolution as output layer at upsampling 2",
            upsampling=(1, 2),
            taps={"features": "difference", "side1": "skip", "side2": "join"},
            parameters=1_235_264,
        ),
        NetworkEntry(
            name="cpm_plain",
            build="harmonet.networks.cpm_plain:CPMPlain",
            summary="a trunk and three stages that refine one target's prediction",
            paper=Paper("Convolutional pose machines", 2016, "10.1109/CVPR.2016.511"),
            published="stages that see the trunk's features and the prediction before, width 128, ReLU",
            our_choice="single-task reading: every stage predicts the same target and the last stage's prediction is "
            "the output, supervised alone; one small trunk without pooling, kernel 3, a transposed convolution as "
            "output layer at upsampling 2",
            upsampling=(1, 2),
            taps={"features": "last", "side1": "trunk", "side2": "last.0"},
            parameters=2_681_140,
        ),
        NetworkEntry(
            name="hned_plain",
            build="harmonet.networks.hned_plain:HNEDPlain",
            summary="three groups of convolutions and the weighted sum of their predictions of one target",
            paper=Paper("Holistically-nested edge detection", 2015, "10.1109/ICCV.2015.164"),
            published="groups of convolutions with ReLU, side outputs, fusion by learnt weights that start equal",
            our_choice="single-task reading: every side predicts the same target and their fusion is the output, "
            "supervised alone; three groups of two, width 64, no pooling, transposed convolutions as side outputs at "
            "upsampling 2",
            upsampling=(1, 2),
            taps={"features": "groups.2", "side1": "groups.0", "side2": "groups.1"},
            parameters=607_191,
        ),
    ]
