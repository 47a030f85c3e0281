"""Both methods keep what harmonet promises of every method."""

from harmonet.testing import parametrize_with_checks


@parametrize_with_checks(["iqt_forest", "modality_propagation"])
def test_it_keeps_what_harmonet_promises(entry, check):
    check(entry)
