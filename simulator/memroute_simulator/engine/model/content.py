"""What a request's tokens are, as far as a prefix cache can tell: segments and block keys.

A prompt is a chain of segments ``(id, tokens)``: a system prompt, a document, the turns of a
conversation. Two requests share a block when everything up to the block's end is the same
segments, so a block's key is a hash of the chain up to there and the position of its end:
any block size can be asked for, and generated tokens are one more segment, so the next turn
of a conversation finds them. This is what vLLM's chained block hashes say, without tokens.
"""

from bisect import bisect_left
from collections.abc import Sequence
from typing import Protocol

POSITION_BITS = 28
# Positions stay below 2^28 tokens, so that chain and position make one integer.
_CHAIN_MASK = (1 << 61) - 1
_WORD_MASK = (1 << 64) - 1


class Content(Protocol):
    """What the prefix cache asks of a request's tokens."""

    def keys(self, first_block: int, last_block: int, block_size_tokens: int) -> list[int]:
        """Keys of the blocks from ``first_block`` up to, not including, ``last_block``."""
        ...


def _mixed(chain: int, end: int, segment_id: int) -> int:
    """One more link of a chain. Not ``hash``: to Python -1 and -2 are the same."""
    value = chain * 0x9E3779B97F4A7C15 + end * 0xBF58476D1CE4E5B9 + segment_id * 0x94D049BB133111EB
    value = (value + 1) & _WORD_MASK
    value = ((value ^ value >> 31) * 0xD6E8FEB86659FD93) & _WORD_MASK
    return (value ^ value >> 32) & _CHAIN_MASK


class SegmentedContent:
    """Tokens as a chain of segments; the last one is open-ended: what will be generated."""

    __slots__ = ("_bases", "_ends")

    def __init__(self, prompt: Sequence[tuple[int, int]], output_id: int) -> None:
        """``prompt``: (segment id, tokens); ``output_id``: names the generated tokens."""
        chain, end = 0, 0
        bases, ends = [], []
        for segment_id, num_tokens in (*prompt, (output_id, (1 << POSITION_BITS) - 1)):
            chain = _mixed(chain, end, segment_id)
            end += num_tokens
            bases.append(chain << POSITION_BITS)
            ends.append(end)
        self._bases = bases
        self._ends = ends

    def keys(self, first_block: int, last_block: int, block_size_tokens: int) -> list[int]:
        """Keys of a range of blocks, in order."""
        keys: list[int] = []
        position = (first_block + 1) * block_size_tokens
        stop = last_block * block_size_tokens
        segment = bisect_left(self._ends, position)
        while position <= stop:
            base, limit = self._bases[segment], min(self._ends[segment], stop)
            if position + block_size_tokens > limit:
                # One block ends in this segment: the common case of short segments.
                if position <= limit:
                    keys.append(base + position)
                    position += block_size_tokens
            else:
                keys += range(base + position, base + limit + 1, block_size_tokens)
                position += ((limit - position) // block_size_tokens + 1) * block_size_tokens
            segment += 1
        return keys


class TokenContent:
    """Tokens by value: what a server knows of a prompt that arrived as text."""

    __slots__ = ("_chains", "_output_id", "_tokens")

    def __init__(self, tokens: Sequence[int], output_id: int, salt: int = 0) -> None:
        """``salt`` keeps adapters (and cache salts) apart, as vLLM's extra keys do."""
        self._tokens = tokens
        self._output_id = output_id
        self._chains: dict[int, list[int]] = {0: [salt]}

    def keys(self, first_block: int, last_block: int, block_size_tokens: int) -> list[int]:
        """Keys of a range of blocks, in order; earlier blocks are hashed once."""
        chains = self._chains.setdefault(block_size_tokens, [self._chains[0][0]])
        for block in range(len(chains) - 1, last_block):
            start = block * block_size_tokens
            own = tuple(self._tokens[start : start + block_size_tokens])
            if len(own) < block_size_tokens:
                own = (*own, self._output_id, start)
            chains.append(hash((chains[-1], own)) & _CHAIN_MASK)
        return chains[first_block + 1 : last_block + 1]

    def token_ids(self, start: int, end: int) -> list[int]:
        """Ids of a range of tokens; generated ones are made up, the same every time."""
        known = list(self._tokens[start:end])
        first = max(start, len(self._tokens))
        return known + [(self._output_id + position) & 0xFFFF for position in range(first, end)]
