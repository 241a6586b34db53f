"""Which arm does this key belong to, always?

Pure. Weighted rendezvous hashing (Schindelhauer & Schomaker, "Weighted distributed hash tables",
2005, the logarithmic method): each arm has a hash of salt, arm and key, read as a number u in
(0, 1); -ln(u) / weight is then an exponentially distributed time with rate `weight`, and the arm
whose time is the shortest has the key. That

- gives an arm the share weight / sum of weights, as the first of several exponential clocks does;
- needs no state, and is the same in every process;
- moves keys only into an arm whose weight grows, and only out of one whose weight falls: the times
  of the others stay what they are. The same goes for arms that are added or removed;
- assigns independently for different salts, since the hashes are.

The hash is BLAKE2b with 8 bytes of digest. Python's own hash() is SipHash, but with a key that
differs in each process; CRCs are linear, so that two salts would give related assignments; and
BLAKE2b costs 0.5 µs for each arm, the state of salt and arm being kept and copied. An assignment
between two arms costs 1.2 µs, and nothing if one arm has all the weight.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import blake2b
from math import inf, log
from typing import Self

from gateway.config.policy import Policy

_DIGEST_BYTES = 8
_number = int.from_bytes
_UNIT = 2.0 ** (-8 * _DIGEST_BYTES)


class Splitter:
    """Divides keys among arms by weight. Immutable."""

    __slots__ = ("_baseline", "_only", "_racing", "_salt", "names", "weights")

    def __init__(
        self, salt: str, names: Sequence[str], weights: Sequence[float], baseline: int = 0
    ) -> None:
        """`weights` are relative to their sum; arms of weight 0 get nothing.

        Raises `ValueError` if no arm has any weight, or one has less than none.
        """
        if len(names) != len(weights) or min(weights) < 0 or not 0 < sum(weights) < inf:
            raise ValueError("each arm needs a weight of at least 0, and one of them more")
        self.names = tuple(names)
        self.weights = tuple(weights)
        self._salt = salt
        self._baseline = baseline
        self._racing = tuple(
            (index, _keyed(salt, name), float(weight))
            for index, (name, weight) in enumerate(zip(names, weights, strict=True))
            if weight > 0
        )
        self._only = self._racing[0][0] if len(self._racing) == 1 else None

    @classmethod
    def of(cls, policy: Policy) -> Self:
        """Make the splitter of a policy's arms, with the weights that its file gives them."""
        names = [arm.name for arm in policy.arms]
        weights = [getattr(arm, "weight", 1.0) for arm in policy.arms]
        return cls(policy.salt, names, weights, names.index(policy.baseline))

    def reweighted(self, weights: Sequence[float]) -> Self:
        """Return the same arms with other weights. Raises `ValueError` as the constructor does."""
        return type(self)(self._salt, self.names, weights, self._baseline)

    def pick(self, key: bytes) -> int:
        """Return the index of the key's arm; without a key (b"") the baseline's."""
        if not key:
            return self._baseline
        if self._only is not None:
            return self._only
        chosen, soonest = 0, inf
        for index, keyed, weight in self._racing:
            state = keyed.copy()  # `_unit`, but for the call.
            state.update(key)
            time = -log((_number(state.digest(), "little") + 1) * _UNIT) / weight
            if time < soonest:
                chosen, soonest = index, time
        return chosen


def sampler(salt: str, purpose: str, percent: float) -> Callable[[bytes], bool]:
    """Return a function that says whether a key belongs to a sample.

    A larger percentage keeps what a smaller one had. Samples for different purposes, and the
    assignment to arms under the same salt, are independent of each other.
    """
    keyed = _keyed(salt, f"sample\0{purpose}")
    share = percent / 100
    return lambda key: _unit(keyed, key) <= share


def _keyed(salt: str, name: str) -> blake2b:
    """Return the hash's state after salt and name; lengths keep ("ab", "c") from ("a", "bc")."""
    first, second = salt.encode(), name.encode()
    prefix = b"%d:%b%d:%b" % (len(first), first, len(second), second)
    return blake2b(prefix, digest_size=_DIGEST_BYTES)


def _unit(keyed: blake2b, key: bytes) -> float:
    """Return a number in (0, 1] that salt, name and key determine."""
    state = keyed.copy()
    state.update(key)
    return (int.from_bytes(state.digest(), "little") + 1) * _UNIT
