"""What do the endpoints of a cluster share?

Pure.
"""

from __future__ import annotations

from gateway.upstream.outlier import Outliers


class Peers:
    """What the endpoints of a cluster share."""

    __slots__ = ("outliers", "revision")

    def __init__(self, outliers: Outliers | None = None) -> None:
        self.outliers = outliers or Outliers()
        self.revision = 0
        """Grows whenever one of them may have become available, or may no longer be."""
