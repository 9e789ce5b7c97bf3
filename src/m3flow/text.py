"""Text for a terminal and for one-line records."""

from __future__ import annotations

import re

# Quoted text and paths: absolute ones, and relative ones that end in a file suffix.
QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"|(?<!\w)/[^\s:,;]+|[^\s:,;'\"]*/[^\s:,;'\"]*\.\w{1,5}\b")
NUMBER = re.compile(r"\d+(\.\d+)?")


def one_line(text: str) -> str:
    """The text on one line, control characters escaped: file names can contain anything."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in " ".join(text.split())
    )


def reason_kind(reason: str) -> str:
    """A reason with the details of the single video replaced: names, paths and numbers."""
    return NUMBER.sub("N", QUOTED.sub("…", reason))
