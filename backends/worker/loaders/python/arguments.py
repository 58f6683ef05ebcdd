"""What a model hands to the interface, taken as Triton's takes it: texts and numbers, of any class of their kind.

Anything else would be a message that the host cannot read, and a host that cannot read ends the instance.
"""

from __future__ import annotations

import operator
from typing import Any


def text(value: object, what: str) -> str:
    """A `str`, of a class derived from it too, or `bytes` in UTF-8. Raises `TypeError`; `ValueError` beyond Unicode."""
    if type(value) is str:
        if not value.isascii():
            value.encode()
        return value
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, str):
        return text(str.__str__(value), what)
    raise TypeError(f"{what} must be str, not {type(value)}")


def whole(value: Any, what: str) -> int:
    """A whole number of 64 bits, numpy's too. Raises `TypeError`."""
    try:
        number = int(operator.index(value))
    except TypeError:
        raise TypeError(f"{what} must be int, not {type(value)}") from None
    if not -(2**63) <= number < 2**63:
        raise TypeError(f"{what} must be an int of 64 bits, not {number}")
    return number


def real(value: Any, what: str) -> float:
    """A number, numpy's too. Raises `TypeError`, also for the text of one."""
    if isinstance(value, (str, bytes)):
        raise TypeError(f"{what} must be a number, not {type(value)}")
    return float(value)
