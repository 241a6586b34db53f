"""Do the arms get the shares of traffic that they were given?

If they do not (a sample-ratio mismatch), something between the assignment and the count loses or
adds requests of one arm, and no comparison of the arms can be trusted (Fabijan et al., KDD 2019).
Count requests. A sticky split assigns keys, though, so there a request is worth only a part of an
assignment: `groups.crowding` says how many make one. The shares must be constant while the counts
run: after a change of weights begin new counts, and hand on the log evidence of the old ones, which
adds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import chdtrc, gammaln

from gateway.stats.sequential import Number

ALPHA = 0.001
"""Below which p a mismatch is reported: an alarm on every experiment must be rarer than 1 in 20.
Fabijan et al. and the experimentation platforms use 0.0005 to 0.01."""

CONCENTRATION = 1000.0
"""The weight of the Dirichlet prior in samples. The larger, the smaller the deviations it looks
for: 1,000 expects an even split to be off by about 0.5 / sqrt(1000), 1.6 points."""


@dataclass(frozen=True, slots=True)
class Mismatch:
    """Whether the counts fit the shares: `p` holds at every look, `p_once` for one look."""

    p: float
    p_once: float
    log_evidence: float
    """Of these counts and those before; hand it on when the shares change."""
    found: bool


def mismatch(
    counts: Sequence[int],
    shares: Sequence[float],
    alpha: float = ALPHA,
    log_evidence: float = 0.0,
    crowding: float = 1.0,
) -> Mismatch:
    """Test the arms' counts against their shares; shares need not add up to 1.

    `log_evidence`: what earlier counts with other shares gave. `crowding`: how many of the counts
    make one assignment, see `groups`. ValueError if an arm without a
    share has been counted: that is a mismatch which needs no statistics.
    """
    x, theta = np.array(counts, dtype=float), np.array(shares, dtype=float)
    if ((theta <= 0) & (x > 0)).any():
        raise ValueError("an arm without a share has samples")
    x, theta = x[theta > 0] / crowding, theta[theta > 0]
    if not len(theta):
        return Mismatch(1.0, 1.0, log_evidence, found=False)
    now = log_evidence + float(multinomial_log_evidence(x, theta / theta.sum()))
    p = float(np.exp(-max(0.0, now)))
    return Mismatch(p, chi_square(x, theta / theta.sum()), now, found=p <= alpha)


def multinomial_log_evidence(counts: Number, shares: Number) -> Number:
    """Return the log evidence against the shares; arms along the last axis of the counts.

    The ratio of the counts' likelihood under shares drawn from a Dirichlet distribution around
    the given ones to that under the given ones, a martingale that starts at 1, so that
    P(ever >= 1/alpha) <= alpha exactly (Lindon and Malek, NeurIPS 2022).
    """
    prior = CONCENTRATION * shares
    n = counts.sum(axis=-1)
    drawn = gammaln(CONCENTRATION) - gammaln(CONCENTRATION + n)
    arms = gammaln(prior + counts) - gammaln(prior) - counts * np.log(shares)
    return drawn + arms.sum(axis=-1)


def chi_square(counts: Number, shares: Number) -> float:
    """Return the p value of Pearson's chi-square test (1900): for one look; 1.0 without samples."""
    n = counts.sum()
    if not n or len(counts) < 2:
        return 1.0
    expected = n * shares
    return float(chdtrc(len(counts) - 1, ((counts - expected) ** 2 / expected).sum()))
