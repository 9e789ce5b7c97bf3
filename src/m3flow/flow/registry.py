"""The estimators by name: our own, and those of installed plug-ins."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points

from m3flow.errors import UsageError
from m3flow.flow.parameters import Parameters

GROUP = "m3flow.estimators"


@dataclass(frozen=True)
class Entry:
    """An estimator as the registry knows it, before its libraries are imported.

    Attributes
    ----------
    parameters: the class of its parameters.
    backends: its class on each backend ("opencv", "torch"), as "module:Class".
    colour: whether it takes RGB frames [B, H, W, 3] and not grey ones [B, H, W].
    largest_batch: the most frame pairs that it takes at a time; 0 for as many as the memory holds.
    """

    parameters: type[Parameters]
    backends: dict[str, str]
    colour: bool = False
    largest_batch: int = 0

    @property
    def about(self) -> str:
        """What the estimator is, in one line: the first of its parameters' docstring."""
        return (self.parameters.__doc__ or "").strip().partition("\n")[0]


class Registry(MutableMapping[str, Entry]):
    """Entries by name. Plug-ins are entry points of the group `m3flow.estimators` that name an `Entry`.

    A plug-in is imported when its entry is read. Our own names go before those of plug-ins.

    Raises UsageError from `[name]` where a plug-in cannot be loaded.
    """

    def __init__(self, own: dict[str, Entry]) -> None:
        self._entries = own
        self.own = tuple(own)

    @cached_property
    def _plugins(self) -> dict[str, EntryPoint]:
        return {point.name: point for point in entry_points(group=GROUP)}

    def __getitem__(self, name: str) -> Entry:
        if name not in self._entries:
            self._entries[name] = _loaded(self._plugins[name])
        return self._entries[name]

    def __contains__(self, name: object) -> bool:
        return name in self._entries or name in self._plugins

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys([*self._entries, *self._plugins]))

    def __len__(self) -> int:
        return len(list(iter(self)))

    def __setitem__(self, name: str, entry: Entry) -> None:
        self._entries[name] = entry

    def __delitem__(self, name: str) -> None:
        del self._entries[name]

    def package(self, name: str) -> str:
        """The package that an estimator comes from, with its version: "m3flow" for our own."""
        if name in self.own:
            return "m3flow"
        distribution = self._plugins[name].dist if name in self._plugins else None
        return f"{distribution.name} {distribution.version}" if distribution else ""


def _loaded(point: EntryPoint) -> Entry:
    try:
        entry = point.load()
    except Exception as error:
        raise UsageError(
            f"estimator {point.name!r}: the plug-in {point.value} cannot be loaded: {error}"
        ) from error
    if not isinstance(entry, Entry):
        raise UsageError(f"estimator {point.name!r}: {point.value} is not an m3flow.flow.Entry")
    return entry
