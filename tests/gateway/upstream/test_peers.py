"""The endpoints of a cluster share one detector and one count of changes."""

from __future__ import annotations

from gateway.upstream.outlier import Outliers, OutlierSpec
from gateway.upstream.peers import Peers


def test_peers_have_a_detector_of_their_own_unless_they_are_given_one() -> None:
    """And begin without any change."""
    outliers = Outliers(OutlierSpec(failures=1))
    assert Peers(outliers).outliers is outliers
    assert Peers().outliers.spec == OutlierSpec()
    assert Peers().revision == 0
