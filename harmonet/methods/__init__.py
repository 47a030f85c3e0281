"""Methods that are no networks: they learn from whole volumes and stand in the same tables as networks."""

from harmonet.hookspecs import hookimpl
from harmonet.registry import MethodEntry, Paper


@hookimpl
def harmonet_methods() -> list[MethodEntry]:
    """The cards of the built-in methods; code is imported when one is built."""
    return [
        MethodEntry(
            name="identity",
            build="harmonet.methods.identity:Identity",
            summary="the source as it is, at the nearest voxel; learns nothing",
            our_choice="the nearest voxel on the target's grid, found through both affines",
        ),
        MethodEntry(
            name="interpolation",
            build="harmonet.methods.interpolation:Interpolation",
            summary="the source interpolated trilinearly on the target's grid; learns nothing",
            our_choice="SH coefficients are the interpolation in angle; voxels outside the mask have no weight",
        ),
        MethodEntry(
            name="linear",
            build="harmonet.methods.linear:Linear",
            summary="the interpolated source, each channel on the line that fits the training subjects",
            our_choice="least squares over all voxels of the targets' masks, channel by channel",
        ),
        MethodEntry(
            name="rish_linear",
            build="harmonet.methods.rish_linear:RishLinear",
            summary="the interpolated source, each SH order scaled voxel by voxel to the target's energy (RISH)",
            paper=Paper(
                "Inter-site and inter-scanner diffusion MRI data harmonization",
                2016,
                "10.1016/j.neuroimage.2016.04.041",
            ),
            published="one scale for each order and place, the root of the ratio of energies, learned from matched "
            "subjects and multiplied into the source's coefficients",
            our_choice="heads are brought together by centre and extent of their masks, where the paper registers them "
            "to a template; energies are smoothed (3 mm FWHM) before their ratio; ratios are averaged over the "
            "travelling heads; the scale is kept within 0.5 and 2",
        ),
    ]
