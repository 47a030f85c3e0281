"""The conformance kit: what networks, fusions and methods promise, as checks that a package runs in three lines.

from harmonet.testing import parametrize_with_checks

@parametrize_with_checks(["my_network", "my_fusion"])
def test_it_keeps_what_harmonet_promises(entry, check):
    check(entry)
"""

from harmonet.testing.fusions import fusion_checks
from harmonet.testing.kit import Result, checks_of, examine, parametrize_with_checks
from harmonet.testing.methods import method_checks
from harmonet.testing.networks import network_checks

__all__ = [
    "Result",
    "checks_of",
    "examine",
    "fusion_checks",
    "method_checks",
    "network_checks",
    "parametrize_with_checks",
]
