"""What the contract tests share."""

from __future__ import annotations


def require(condition: bool, text: str) -> None:
    """Raise AssertionError with a text unless a condition holds.

    This is not an assert statement, because it must also hold under python -O.
    """
    if not condition:
        raise AssertionError(text)
