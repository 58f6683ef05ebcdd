"""The prefix cache of a vLLM engine: full blocks of tokens, each named by all that stands before it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

BLOCK_TOKENS = 16


def blocks(tokens: Sequence[str], salt: str = "") -> list[int]:
    """The names of the full blocks of a prompt. Prompts share a block where they are the same up to its end."""
    names = []
    name = hash(salt)
    for end in range(BLOCK_TOKENS, len(tokens) + 1, BLOCK_TOKENS):
        name = hash((name, tuple(tokens[end - BLOCK_TOKENS : end])))
        names.append(name)
    return names


class PrefixCache:
    """So many tokens' blocks, the least recently used leave first; within a prompt its end before its beginning."""

    def __init__(self, capacity_tokens: int) -> None:
        self._capacity = capacity_tokens // BLOCK_TOKENS
        self._blocks: OrderedDict[int, None] = OrderedDict()

    def cached_tokens(self, names: Sequence[int], prompt_tokens: int) -> int:
        """How many leading tokens are here. The last token of a prompt is always computed, so its block is, too."""
        usable = names[: max(0, prompt_tokens - 1) // BLOCK_TOKENS]
        found = next((place for place, name in enumerate(usable) if name not in self._blocks), len(usable))
        return found * BLOCK_TOKENS

    def keep(self, names: Sequence[int]) -> None:
        for name in reversed(names):
            self._blocks[name] = None
            self._blocks.move_to_end(name)
        while len(self._blocks) > self._capacity:
            self._blocks.popitem(last=False)
