"""Every built-in network and fusion passes the conformance kit, the big ones at small widths."""

from harmonet import plugins
from harmonet.registry import FUSIONS, NETWORKS
from harmonet.testing import parametrize_with_checks

SMALL = {
    "bayesian_espcn": {"widths": [8, 8], "passes": 5},
    "cpm_plain": {"width": 8},
    "diqt": {"layers": 1, "widths": [4, 6]},
    "fcsnet": {"widths": [6, 8, 12, 8]},
    "shresnet": {"blocks": 1, "width": 4},
}

plugins.load()
BUILT_IN = [
    name for registry in (NETWORKS, FUSIONS) for name in registry.names() if registry.provider(name) == "harmonet"
]


@parametrize_with_checks(BUILT_IN, SMALL)
def test_a_built_in_keeps_what_the_kit_promises_of_it(entry, check):
    check(entry)
