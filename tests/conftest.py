"""How do all tests explore: the same examples in each run, at whatever speed?

A gate is no place for luck: an example that nobody has seen yet must not fail somebody else's
change. To look for new ones: `pytest --hypothesis-profile=default`.
"""

from __future__ import annotations

import hypothesis

hypothesis.settings.register_profile(
    "gate",
    derandomize=True,
    # No test may depend on how fast the machine is just now.
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("gate")
