"""The form of a list file: its entries one after the other, in little memory, with the place of each."""

from __future__ import annotations

import csv
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple

from m3flow.errors import UsageError

HEADER_NAMES = ("path", "video")


class Entry(NamedTuple):
    """A video as the list names it; `line` from 1 and `offset` in bytes say where its line begins."""

    line: int
    offset: int
    path: str
    label: str


@dataclass(frozen=True, slots=True)
class Part:
    """A stretch of a list file that holds whole entries.

    Attributes
    ----------
    offset, size: where it lies in the file, in bytes.
    line: the number of its first line, from 1.
    columns: the header of a CSV file; empty for `path label` lines.
    """

    offset: int
    size: int
    line: int
    columns: tuple[str, ...] = ()


def columns_of(list_file: Path) -> tuple[str, ...]:
    """The header of a CSV list; () for a list without one.

    Raises UsageError for a file that cannot be read, and for a header that cannot be used.
    """
    with _opened(list_file) as file:
        return _columns(file.readline(), list_file)


def read_entries(
    list_file: Path, problems: list[tuple[int, str]], part: Part | None = None, beside: str = "label"
) -> Iterator[Entry]:
    """The entries of a list, or of a part of it, in order.

    A line that is no entry is appended to `problems` as (line, what is wrong). `beside` names another column
    of a CSV to take in place of the label; plain lists do not have it.

    Raises UsageError for a file that cannot be read or is not UTF-8, and for a header that cannot be used.
    """
    with _opened(list_file) as file:
        if part is None:
            first = file.readline()
            columns = _columns(first, list_file)
            # Not by seeking back: the list may come through a pipe.
            lines = (
                _Lines(file, list_file, len(first), 2) if columns else _Lines(file, list_file, ahead=first)
            )
        else:
            file.seek(part.offset)
            columns = part.columns
            lines = _Lines(file, list_file, part.offset, part.line, part.offset + part.size)
        if columns:
            yield from _csv_entries(lines, columns, problems, beside)
        else:
            yield from _plain_entries(lines, labelled=beside == "label")


def sample_entries(list_file: Path, count: int) -> list[Entry]:
    """About `count` entries spread evenly over a list; the list is not read as a whole.

    The same list gives the same entries. Lines that cannot be read are left out.
    """
    columns = columns_of(list_file)
    found: dict[int, Entry] = {}
    with _opened(list_file) as file:
        header = len(file.readline()) if columns else 0
        size = file.seek(0, os.SEEK_END)
        for number in range(count):
            offset = header + (size - header) * number // count
            if number:
                # Somewhere within a line: the next one is whole.
                file.seek(offset - 1)
                offset += len(file.readline()) - 1
            file.seek(offset)
            line = file.readline()
            with suppress(UsageError):
                for entry in read_entries(list_file, [], Part(offset, len(line), 1, columns)):
                    found[entry.offset] = entry
    return list(found.values())


@contextmanager
def _opened(list_file: Path) -> Iterator[IO[bytes]]:
    try:
        with list_file.open("rb") as file:
            yield file
    except OSError as error:
        raise UsageError(f"{list_file}: cannot read the list: {error.strerror}") from error


def _columns(raw: bytes, list_file: Path) -> tuple[str, ...]:
    first = _decoded(raw, list_file, 1, 0).strip("\r\n")
    if "\r" in first:
        raise UsageError(
            f"{list_file}:1: lines end in a carriage return alone; save the list with Unix or Windows line ends"
        )
    try:
        columns = tuple(column.strip() for column in next(csv.reader([first]), []))
    except csv.Error:
        columns = ()  # no header, at any rate
    if any(name in columns for name in HEADER_NAMES):
        return columns
    problem = _header_problem(first, columns)
    if problem:
        raise UsageError(f"{list_file}:1: {problem}")
    return ()


class _Lines:
    """The decoded lines of a part; knows where the next one begins."""

    def __init__(
        self,
        file: IO[bytes],
        list_file: Path,
        offset: int = 0,
        line: int = 1,
        end: int = sys.maxsize,
        ahead: bytes = b"",
    ) -> None:
        self._file, self._list_file = file, list_file
        self._end, self._ahead = end, ahead
        self.offset, self.line = offset, line

    def __iter__(self) -> Iterator[str]:
        while self.offset < self._end:
            raw = self._ahead or self._file.readline()
            self._ahead = b""
            if not raw:
                return
            text = _decoded(raw, self._list_file, self.line, self.offset)
            self.offset += len(raw)
            self.line += 1
            yield text


def _decoded(raw: bytes, list_file: Path, line: int, offset: int) -> str:
    try:
        # Only the first line of a file may begin with a byte order mark.
        return raw.decode("utf-8" if offset else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{list_file}:{line}: not UTF-8 text; save the list as UTF-8") from error


def _plain_entries(lines: _Lines, *, labelled: bool) -> Iterator[Entry]:
    line, offset = lines.line, lines.offset
    for text in lines:
        path, _, label = text.rstrip("\n").rstrip("\r").strip(" ").partition(" ")
        if path:
            yield Entry(line, offset, path, label if labelled else "")
        line, offset = lines.line, lines.offset


def _csv_entries(
    lines: _Lines, columns: tuple[str, ...], problems: list[tuple[int, str]], beside: str
) -> Iterator[Entry]:
    path_column = next(columns.index(name) for name in HEADER_NAMES if name in columns)
    other_column = columns.index(beside) if beside in columns else None
    reader = csv.reader(lines, strict=True)
    while True:
        # A quoted field may go over several lines; the reader takes no more of them than a row needs.
        line, offset = lines.line, lines.offset
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            problems.append((line, f"cannot read this CSV line: {error}"))
            return
        if not row:
            continue
        if len(row) != len(columns):
            problems.append((line, f"{len(row)} columns where the header has {len(columns)}"))
        elif not row[path_column]:
            problems.append((line, "the path is empty"))
        else:
            other = row[other_column] if other_column is not None else ""
            yield Entry(line, offset, row[path_column], other)


def _header_problem(first: str, columns: tuple[str, ...]) -> str:
    """What is wrong when the first line looks like a header that cannot be used, else ""."""
    words = first.split()
    if len(words) > 1 and words[0].lower() in HEADER_NAMES:
        return (
            f"{first!r} looks like a header, which a list separated by spaces does not have; "
            "remove this line, or separate the columns by commas"
        )
    if len(columns) > 1 and not any(mark in first for mark in "./ "):
        return f"the header {first!r} has no column {' or '.join(HEADER_NAMES)}"
    if len(columns) == 2 and " " not in first and columns[1].isdecimal():
        return f"{first!r} is separated by a comma but there is no header; add a first line 'path,label'"
    return ""
