"""Image quality transfer without networks: `iqt_forest` and `modality_propagation`.

harmonet finds this module through the entry point in `pyproject.toml`; the code is imported when somebody uses it.
"""

import harmonet as hn


@hn.hookimpl
def harmonet_methods() -> list[hn.MethodEntry]:
    """The cards of the methods."""
    return [
        hn.MethodEntry(
            name="iqt_forest",
            build="harmonet_iqt.forest:Forest",
            summary="regression forest from source patch to target voxels, with a linear map in every leaf",
            paper=hn.Paper(
                title="Image quality transfer and applications in diffusion MRI",
                year=2017,
                doi="10.1016/j.neuroimage.2017.02.089",
            ),
            published="8 trees on random subsets, half of each to validate; least squares in the leaves; information "
            "gain, kept where the validation error falls; depth 20; mean weighted by inverse residual covariance",
            our_choice="SH channels and features; radius 1; share of patches; search of thresholds on principal "
            "components; completed patches at the mask's edge; leaves fitted again on both halves",
        ),
        hn.MethodEntry(
            name="modality_propagation",
            build="harmonet_iqt.propagation:Propagation",
            summary="mean of the training heads' target voxels whose source patches nearby are most alike",
            paper=hn.Paper(
                title="Modality propagation: coherent synthesis of subject-specific scans with data-driven "
                "regularization",
                year=2013,
                doi="10.1007/978-3-642-40811-3_76",
            ),
            published="patch search in a window of aligned training subjects; mean of the best; iterations in which "
            "the target's own patches count more and more",
            our_choice="patch 3, window 7, 5 neighbours, 3 iterations, weights exp(-d/h); alignment by the masks; "
            "library in 16 bits",
        ),
    ]
