"""The words that English is full of: in a question they find nothing, and one that texts lack seems to say much."""

from __future__ import annotations

_PUNCTUATION = " \t\n.,;:!?\"'()[]{}«»“”‘’…-"
_WORDS = """
a about above after again against all am an and any are as at be because been before being below between both but by
can could did do does doing don't down during each few for from further had has have having he her here hers herself
him himself his how i if in into is it it's its itself just me might more most must my myself no nor not now of off on
once only or other our ours ourselves out over own same shall she should so some such than that that's the their theirs
them themselves then there these they this those through to too under until up very was we were what what's when where
which while who whom whose why will with would you your yours yourself yourselves
"""
_COMMON = frozenset(_WORDS.split())


def telling(query: str) -> str:
    """The query without these words; as it is where it has no others."""
    words = [word for word in query.split() if word.strip(_PUNCTUATION).lower().replace("’", "'") not in _COMMON]
    return " ".join(words) or query
