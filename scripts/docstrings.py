"""Converts the sections of our docstrings to Markdown for the documentation (a griffe extension, see mkdocs.yml)."""

from __future__ import annotations

import re
from typing import Any

import griffe

SECTION = re.compile(r"^(\w[\w ]*)\n-{4,}\n", re.MULTILINE)
# "name: description", "name, other: description"; free text does not begin like that.
ITEM = re.compile(r"^(\*{0,2}\w+(?:, \*{0,2}\w+)*): ", re.MULTILINE)


class Docstrings(griffe.Extension):
    """Turns `Parameters`, `Returns`, `Raises`, `Convention` and the like into bold titles and lists."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring:
            obj.docstring.value = as_markdown(obj.docstring.value)


def as_markdown(docstring: str) -> str:
    """The docstring with a bold title for each section, and its items as a list."""
    text, *sections = SECTION.split(docstring)
    parts = [text.rstrip()]
    for title, body in zip(sections[::2], sections[1::2], strict=True):
        items = (
            ITEM.sub(lambda match: f"- `{match[1]}`: ", body.strip("\n")) if title != "Convention" else body
        )
        parts.append(f"**{title}**\n\n{items.strip()}")
    return "\n\n".join(parts)
