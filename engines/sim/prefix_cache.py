"""How much of a prompt has the engine seen before?

As in vLLM's automatic prefix caching: a prompt's tokens are cut into full blocks, each block is
named by a hash of itself and everything before it, and the longest run of known blocks from the
start need not be computed again. The last token is always computed, so that there is something to
sample from. Least recently used blocks leave.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b


@dataclass(frozen=True, slots=True)
class CacheUse:
    """What one prompt found in the cache and left there, in tokens."""

    cached_tokens: int
    created_tokens: int


class PrefixCache:
    """Known block hashes, least recently used first. A lookup costs O(prompt tokens)."""

    __slots__ = ("_block_tokens", "_blocks", "_capacity")

    def __init__(self, capacity_blocks: int, block_tokens: int) -> None:
        self._capacity = capacity_blocks
        self._block_tokens = block_tokens
        self._blocks: OrderedDict[bytes, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._blocks)

    def use(self, tokens: Sequence[int]) -> CacheUse:
        """Look a prompt up and remember its full blocks."""
        hashes = self._hashes(tokens)
        known = 0
        for name in hashes:
            if name not in self._blocks:
                break
            known += 1
        cached = min(known * self._block_tokens, len(tokens) - 1)
        cached -= cached % self._block_tokens
        # A prompt's later blocks are touched first: they are of no use without the earlier ones.
        for name in reversed(hashes):
            self._blocks[name] = None
            self._blocks.move_to_end(name)
        while len(self._blocks) > self._capacity:
            self._blocks.popitem(last=False)
        return CacheUse(cached, (len(hashes) - known) * self._block_tokens)

    def _hashes(self, tokens: Sequence[int]) -> list[bytes]:
        size = self._block_tokens
        hashes, parent = [], b""
        for start in range(0, len(tokens) - size + 1, size):
            block = array("q", tokens[start : start + size]).tobytes()
            parent = blake2b(parent + block, digest_size=16).digest()
            hashes.append(parent)
        return hashes
