"""Validation of settings objects: type and range of every field, all problems of an object together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import field, fields
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from m3flow.errors import UsageError


class SettingsError(UsageError):
    """Invalid settings; one line for each problem.

    Attributes
    ----------
    problems: (name of the setting, the text that follows the name in the message) of each.
    """

    def __init__(self, problems: Sequence[tuple[str, str]]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(name + text for name, text in self.problems))


def number(
    default: float,
    *,
    least: float | None = None,
    above: float | None = None,
    most: float = math.inf,
    zero: bool = False,
) -> Any:
    """A numeric field of a settings class.

    Finite numbers of at least `least`, or greater than `above`, and at most `most` are allowed; also 0 if `zero`.
    """
    return field(default=default, metadata={"least": least, "above": above, "most": most, "zero": zero})


def problems_of(settings: Any) -> list[tuple[str, str]]:
    """Every value of a settings object outside its field's type or range, as in SettingsError."""
    hints = get_type_hints(type(settings))
    problems = []
    for item in fields(settings):
        value = getattr(settings, item.name)
        allowed = _violated(value, hints[item.name], dict(item.metadata))
        if allowed:
            problems.append((item.name, f" is {shown(value)}; {allowed}"))
    return problems


def refuse(problems: Sequence[tuple[str, str]]) -> None:
    """Raise SettingsError if there are problems."""
    if problems:
        raise SettingsError(problems)


def shown(value: Any) -> str:
    """A value as shown in a message."""
    if value is None:
        return "empty"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"


def _violated(value: Any, hint: Any, limits: dict[str, Any]) -> str:
    """The allowed values if this one is not allowed, else ""."""
    origin = get_origin(hint)
    if origin is Literal:
        return "" if _is_choice(value, hint) else f"choose from {', '.join(get_args(hint))}"
    if origin in (Union, UnionType):
        kinds = [kind for kind in get_args(hint) if kind is not type(None)]
        if (value is None and len(kinds) < len(get_args(hint))) or any(
            _is_choice(value, kind) for kind in kinds
        ):
            return ""
        words = "".join(f", or {choice}" for kind in kinds for choice in get_args(kind))
        allowed = _violated(value, kinds[0], limits)
        return allowed + words if allowed else ""
    if hint in (int, float):
        kind = int if hint is int else (int, float)
        is_number = isinstance(value, kind) and not isinstance(value, bool)
        return "" if is_number and _in_range(value, limits) else f"it must be {_range(hint, limits)}"
    if origin is dict or hint is dict:
        return "" if isinstance(value, dict) else "it must be a mapping of keys to values"
    names = {bool: "true or false", str: "text"}
    return "" if isinstance(value, hint) else f"it must be {names[hint]}"


def _is_choice(value: Any, kind: Any) -> bool:
    return get_origin(kind) is Literal and isinstance(value, str) and value in get_args(kind)


def _in_range(value: float, limits: dict[str, Any]) -> bool:
    if not limits:
        return math.isfinite(value)
    if limits["zero"] and value == 0:
        return True
    from_below = value >= limits["least"] if limits["least"] is not None else value > limits["above"]
    return from_below and value <= limits["most"] and math.isfinite(value)


def _range(hint: Any, limits: dict[str, Any]) -> str:
    words = "a whole number" if hint is int else "a number"
    if not limits:
        return words
    if limits["most"] < math.inf:
        words += f" from {limits['least']} to {limits['most']}"
    elif limits["least"] is not None:
        words += f", {limits['least']} or more"
    else:
        words += f" of more than {limits['above']}"
    return words + (", or 0" if limits["zero"] else "")
