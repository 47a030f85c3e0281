"""Networks that know nothing of harmonet: three of MONAI's, and any `torch.nn.Module` class that a recipe allows.

These are cards alone: neither MONAI nor torch is imported before a network is built.
"""

import harmonet as hn

harmonet_api = 1  # the plugin API that this package was written for

TAPS = {"features": "grid"}
HALF = (
    "its strides keep every second voxel and its interpolation puts what comes of them between two, so that coarse "
    "features lie off the centre: 0.15 source voxels in all, measured, which training has to make up for"
)
BRANCH = "MONAI checks the input's size with numpy in a condition, which one graph of torch.compile cannot hold"


@hn.hookimpl
def harmonet_networks() -> list[hn.NetworkEntry]:
    """The cards of the networks."""
    return [
        hn.NetworkEntry(
            name="monai_unet",
            build="harmonet_monai.networks:unet",
            summary="MONAI's U-Net with residual units, its patch padded to multiples of 4 and cropped",
            paper=hn.Paper("Left-ventricle quantification using residual U-Net", 2018, "10.1007/978-3-030-12029-0_40"),
            published="the network as MONAI has it: strided residual units, instance normalisation, PReLU",
            our_choice="three levels of 32, 64 and 128 channels, padding with 0 and cropping, a 1x1x1 convolution from "
            "32 channels to the prediction, trilinear interpolation at upsampling 2",
            upsampling=(1, 2),
            taps=TAPS,
            parameters=1_247_173,
        ),
        hn.NetworkEntry(
            name="monai_segresnet",
            build="harmonet_monai.networks:segresnet",
            summary="MONAI's SegResNet, its patch padded to multiples of 4 and cropped",
            paper=hn.Paper(
                "3D MRI brain tumor segmentation using autoencoder regularization", 2018, "10.1007/978-3-030-11726-9_28"
            ),
            published="the network as MONAI has it, without the autoencoder: residual blocks, group normalisation",
            our_choice="three levels from 32 channels on, padding with 0 and cropping, a 1x1x1 convolution from 32 "
            "channels to the prediction, trilinear interpolation at upsampling 2",
            upsampling=(1, 2),
            taps=TAPS,
            parameters=2_858_620,
            unsupported={"alignment": HALF},
        ),
        hn.NetworkEntry(
            name="monai_swinunetr",
            build="harmonet_monai.networks:swinunetr",
            summary="MONAI's SwinUNETR, its patch padded to multiples of 32 and cropped",
            paper=hn.Paper(
                "Swin UNETR: Swin Transformers for Semantic Segmentation of Brain Tumors in MRI Images",
                2021,
                "10.1007/978-3-031-08999-2_22",
            ),
            published="the network as MONAI has it: shifted windows, a convolutional decoder",
            our_choice="12 features (the fewest that MONAI takes) and windows of 4; group normalisation for instance "
            "normalisation, which its deepest layer, of one voxel here, cannot have; padding with 0 and cropping, a "
            "1x1x1 convolution from 32 channels to the prediction, trilinear interpolation at upsampling 2",
            upsampling=(1, 2),
            taps=TAPS,
            parameters=3_926_510,
            unsupported={"compile": BRANCH},
        ),
        hn.NetworkEntry(
            name="torch_module",
            build="harmonet_monai.by_name:torch_module",
            summary="any torch.nn.Module class that the recipe names and allows; two convolutions where it names none",
            our_choice="everything: there is no publication",
            upsampling=(1, 2),
            taps=TAPS,
            parameters=24_236,
        ),
    ]
