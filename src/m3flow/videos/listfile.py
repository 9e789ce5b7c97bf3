"""Streaming reader of list files: entries one at a time, each with its line and byte offset."""

from __future__ import annotations

import csv
import gzip
import io
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple, cast

from m3flow.errors import UsageError

HEADER_NAMES = ("path", "video")
# The name of each in messages. Of these, a list without a header may use only the tab.
SEPARATORS = {",": "comma", "\t": "tab", ";": "semicolon"}
VIDEO_SUFFIXES = frozenset(
    {".3gp", ".avi", ".flv", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ogv", ".ts", ".webm", ".wmv"}
)
_VIDEO_ENDINGS = tuple(VIDEO_SUFFIXES)
SPREADSHEET_SUFFIXES = frozenset({".numbers", ".ods", ".xls", ".xlsm", ".xlsx"})
GZIP_MAGIC, ZIP_MAGIC, OLE_MAGIC = b"\x1f\x8b", b"PK\x03\x04", b"\xd0\xcf\x11\xe0"
# A path with spaces, up to the first word with a video suffix.
PATH_WITH_SPACES = re.compile(
    rf".*?(?:{'|'.join(re.escape(suffix) for suffix in sorted(VIDEO_SUFFIXES))})(?= |$)", re.IGNORECASE
)


class Entry(NamedTuple):
    """An entry of a list; `line` (from 1) and `offset` (in bytes) locate the start of its line."""

    line: int
    offset: int
    path: str
    label: str


class Form(NamedTuple):
    """The format of a list.

    Attributes
    ----------
    separator: the character between columns.
    columns: the header of a CSV list; empty for `path label` lines.
    """

    separator: str
    columns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Part:
    """A section of a list file made up of whole entries.

    Attributes
    ----------
    offset, size: its position in the (uncompressed) file, in bytes.
    line: the number of its first line, from 1.
    """

    offset: int
    size: int
    line: int


def list_size(list_file: Path) -> int:
    """The uncompressed size of a list in bytes; UsageError if the file cannot be read."""
    with _opened(list_file) as file:
        return file.seek(0, os.SEEK_END)


def read_entries(
    list_file: Path, problems: list[tuple[int, str]], part: Part | None = None, beside: str = "label"
) -> Iterator[Entry]:
    """The entries of a list, or of a part of it, in order.

    An invalid line is appended to `problems` as (line, problem). `beside` names another column of a CSV to
    read in place of the label; plain lists do not have it.

    Raises UsageError for a file that cannot be read or is not UTF-8, and for an unusable header.
    """
    with _opened(list_file) as file:
        lines = _Lines(file, list_file)
        form = _form(lines)
        if part is not None:
            file.seek(part.offset)
            lines = _Lines(file, list_file, part.offset, part.line, part.offset + part.size)
        yield from _entries(lines, form, problems, beside)


def sample_entries(list_file: Path, count: int) -> list[Entry]:
    """About `count` entries spread evenly over a list, without reading all of it.

    The same list gives the same entries. Unreadable lines are skipped.
    """
    found: dict[int, Entry] = {}
    with _opened(list_file) as file:
        lines = _Lines(file, list_file)
        form = _form(lines)
        begin = lines.offset
        size = file.seek(0, os.SEEK_END)
        for number in range(count):
            offset = begin + (size - begin) * number // count
            if offset > begin:
                # The offset falls within a line; take the next one.
                file.seek(offset - 1)
                offset += len(file.readline()) - 1
            file.seek(offset)
            try:
                entry = next(_entries(_Lines(file, list_file, offset), form, [], "label"), None)
            except UsageError:
                continue
            if entry is not None:
                found[entry.offset] = entry
    return list(found.values())


@contextmanager
def _opened(list_file: Path) -> Iterator[IO[bytes]]:
    try:
        with list_file.open("rb") as file:
            # The list may come through a pipe, so look at its first bytes without consuming them.
            magic = cast("io.BufferedReader", file).peek(4)[:4]
            if list_file.suffix.lower() in SPREADSHEET_SUFFIXES or magic in (ZIP_MAGIC, OLE_MAGIC):
                raise UsageError(
                    f"{list_file}: a spreadsheet or an archive; save the list as CSV (UTF-8) text"
                )
            if magic[:2] == GZIP_MAGIC:
                with gzip.open(file) as unpacked:
                    yield cast("IO[bytes]", unpacked)
            else:
                yield file
    except (OSError, EOFError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"{list_file}: cannot read the list: {reason}") from error


class _Lines:
    """The decoded lines of a part; `line` and `offset` are those of the next line."""

    def __init__(
        self, file: IO[bytes], list_file: Path, offset: int = 0, line: int = 1, end: int = sys.maxsize
    ) -> None:
        self.list_file = list_file
        self._file, self._end = file, end
        self._ahead = b""
        self.offset, self.line = offset, line

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        raw = self._peek_bytes()
        if not raw:
            raise StopIteration
        text = self._decoded(raw)
        self._advance()
        return text

    def at_entry(self) -> bool:
        """Skip empty lines and comments; False at the end of the part."""
        while raw := self._peek_bytes():
            text = raw.removeprefix(b"\xef\xbb\xbf") if not self.offset else raw
            if text.strip() and not text.startswith(b"#"):
                return True
            self._advance()
        return False

    def peek(self) -> str:
        """The next line, without consuming it; "" at the end of the part."""
        return self._decoded(self._peek_bytes())

    def _peek_bytes(self) -> bytes:
        if not self._ahead and self.offset < self._end:
            self._ahead = self._file.readline()
        return self._ahead

    def _advance(self) -> None:
        self.offset += len(self._ahead)
        self.line += 1
        self._ahead = b""

    def _decoded(self, raw: bytes) -> str:
        try:
            # Only the first line of a file may begin with a byte order mark.
            return raw.decode("utf-8" if self.offset else "utf-8-sig")
        except UnicodeDecodeError as error:
            raise UsageError(
                f"{self.list_file}:{self.line}: not UTF-8 text; save the list as UTF-8"
            ) from error


def _form(lines: _Lines) -> Form:
    """The format of a list, from its first entry; a header is consumed.

    Raises UsageError for an unusable header.
    """
    lines.at_entry()
    first = lines.peek().rstrip("\n").rstrip("\r")
    place = f"{lines.list_file}:{lines.line}"
    if "\r" in first:
        raise UsageError(
            f"{place}: lines end in a carriage return alone; save the list with Unix or Windows line ends"
        )
    for separator in SEPARATORS:
        columns = _columns(first, separator)
        if any(name in columns for name in HEADER_NAMES):
            next(lines)
            return Form(separator, columns)
    if problem := _header_problem(first):
        raise UsageError(f"{place}: {problem}")
    return Form("\t" if "\t" in first else " ", ())


def _columns(first: str, separator: str) -> tuple[str, ...]:
    try:
        return tuple(column.strip() for column in next(csv.reader([first], delimiter=separator), []))
    except csv.Error:
        return ()  # not a header


def _entries(lines: _Lines, form: Form, problems: list[tuple[int, str]], beside: str) -> Iterator[Entry]:
    if form.columns:
        return _csv_entries(lines, form, problems, beside)
    return _plain_entries(lines, form.separator, problems, labelled=beside == "label")


def _plain_entries(
    lines: _Lines, separator: str, problems: list[tuple[int, str]], *, labelled: bool
) -> Iterator[Entry]:
    while lines.at_entry():
        line, offset = lines.line, lines.offset
        text = next(lines).rstrip("\n").rstrip("\r").strip(" ")
        path, _, label = text.partition(separator)
        if separator == " " and label and not path.lower().endswith(_VIDEO_ENDINGS):
            whole = PATH_WITH_SPACES.match(text)
            if whole is not None:
                path, label = whole[0], text[whole.end() + 1 :]
        if path:
            yield Entry(line, offset, path, label if labelled else "")
        else:
            problems.append((line, "the path is empty"))


def _csv_entries(lines: _Lines, form: Form, problems: list[tuple[int, str]], beside: str) -> Iterator[Entry]:
    columns = form.columns
    path_column = next(columns.index(name) for name in HEADER_NAMES if name in columns)
    other_column = columns.index(beside) if beside in columns else None
    reader = csv.reader(lines, delimiter=form.separator, strict=True)
    while lines.at_entry():
        # A quoted field may span several lines; the reader consumes only those of this row.
        line, offset = lines.line, lines.offset
        try:
            row = next(reader)
        except csv.Error as error:
            problems.append((line, f"cannot read this CSV line: {error}"))
            return
        if len(row) != len(columns):
            problems.append((line, f"{len(row)} columns where the header has {len(columns)}"))
        elif not row[path_column]:
            problems.append((line, "the path is empty"))
        else:
            other = row[other_column] if other_column is not None else ""
            yield Entry(line, offset, row[path_column], other)


def _header_problem(first: str) -> str:
    """The problem with a first line that looks like an unusable header, else ""."""
    words = first.split()
    if len(words) > 1 and words[0].lower() in HEADER_NAMES:
        return (
            f"{first!r} looks like a header, which a list separated by spaces does not have; "
            "remove this line, or separate the columns by commas"
        )
    for separator, name in SEPARATORS.items():
        columns = _columns(first, separator)
        if len(columns) > 1 and not any(mark in first for mark in "./ "):
            return f"the header {first!r} has no column {' or '.join(HEADER_NAMES)}"
        is_row = len(columns) > 1 and (
            (len(columns) == 2 and columns[1].isdecimal()) or columns[0].lower().endswith(_VIDEO_ENDINGS)
        )
        # A space right after the separator does not belong to a path.
        if is_row and separator != "\t" and (" " not in first or f"{separator} " in first):
            return (
                f"{first!r} is separated by a {name} but there is no header; "
                f"add a first line 'path{separator}label'"
            )
    return ""
