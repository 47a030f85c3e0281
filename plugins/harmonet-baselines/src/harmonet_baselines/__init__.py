"""Published harmonisation without networks: `combat` and `rish_glm`, beside the methods that harmonet has itself."""

import harmonet as hn

harmonet_api = 1  # the plugin API that this package was written for


@hn.hookimpl
def harmonet_methods() -> list[hn.MethodEntry]:
    """The cards of the methods; code is imported when one is built."""
    return [
        hn.MethodEntry(
            name="combat",
            build="harmonet_baselines.places:CombatPlaces",
            summary="each channel at each place shifted and scaled to the target's, by empirical Bayes over places",
            paper=hn.Paper(
                "Harmonization of cortical thickness measurements across scanners and sites",
                2018,
                "10.1016/j.neuroimage.2017.11.024",
            ),
            published="location and scale of each feature in each batch, shrunk to their distribution over features; "
            "parametric empirical Bayes, reference batch, mean only, new data of known batches",
            our_choice="features are channels at places on a coarse grid that all training heads share; one prior for "
            "each channel; source and target are the batches, the target the reference; between places the maps are "
            "interpolated, and where not all heads were seen they are their mean",
        ),
        hn.MethodEntry(
            name="rish_glm",
            build="harmonet_baselines.rish_glm:RishGlm",
            summary="each SH order scaled voxel by voxel by the ratio of the sites' mean RISH from one linear model",
            paper=hn.Paper(
                "RISH-GLM: rotationally invariant spherical harmonic general linear model for quantitative dMRI "
                "harmonization",
                2025,
                "10.1002/mrm.30575",
            ),
            published="a linear model of RISH at each voxel with one effect for each site, and orders scaled by the "
            "ratio of two sites' effects",
            our_choice="no covariates, since travelling heads are the same at every site; heads are brought together "
            "by centre and extent of their masks, where the paper has a template; as an open implementation does, RISH "
            "is the root of an order's energy, both effects are smoothed (3 mm FWHM) and the scale is kept within 0.5 "
            "and 2; the denominator is at least a hundredth of its mean over places",
        ),
    ]
