"""Text for a terminal and for one-line records."""

from __future__ import annotations


def one_line(text: str) -> str:
    """The text on one line, without control characters: file names can hold anything."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in " ".join(text.split())
    )
