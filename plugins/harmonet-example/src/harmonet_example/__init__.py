"""An example of a harmonet plugin: one network, `tiny`, and one fusion, `weighted`.

harmonet finds this module through the entry point in `pyproject.toml` and asks it the functions below. They give
cards; `build` is text, so that the code (and torch) is imported when somebody uses it, not when somebody lists it.
"""

import harmonet as hn

harmonet_api = 1  # the plugin API that this package was written for


@hn.hookimpl
def harmonet_networks() -> list[hn.NetworkEntry]:
    """The cards of the networks."""
    return [
        hn.NetworkEntry(
            name="tiny",
            build="harmonet_example.network:Tiny",
            summary="two 3D convolutions, the smallest network that can be tapped",
            our_choice="everything: there is no publication",
            upsampling=(1, 2),
            taps={"features": "body"},
            parameters=24_236,
        )
    ]


@hn.hookimpl
def harmonet_fusions() -> list[hn.FusionEntry]:
    """The cards of the fusions."""
    return [
        hn.FusionEntry(
            name="weighted",
            build="harmonet_example.fusion:Weighted",
            summary="a learned convex sum of the target's own prediction and one from each other network",
            our_choice="everything: there is no publication",
        )
    ]
