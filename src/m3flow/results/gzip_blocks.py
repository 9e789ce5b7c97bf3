"""Gzip files with random access: several members, and an index of them at the end of the file.

For any gzip reader it is an ordinary file of several members (RFC 1952, 2.2). The last one is empty and has, as an
extra field of its header, JSON with the lengths of the others.
"""

from __future__ import annotations

import json
import struct
import zlib
from typing import IO, Any

FIXED_HEADER = b"\x1f\x8b\x08\x04" + bytes(4) + b"\x00\xff"
EMPTY_BODY = b"\x03\x00" + bytes(8)
SUBFIELD = b"m3"
MARK = b"m3-parts"
# Length and checksum of the JSON, checksum of the file up to here.
TAIL = struct.Struct(f"<III{len(MARK)}s")
LARGEST_END = 2**16 + 64
WINDOW_BITS = 31  # zlib: with gzip's header and checksum


class BlockedGzip:
    """Writes a gzip file in members; deterministic for the same content and cuts (no name and no time in it)."""

    def __init__(self, file: IO[bytes], level: int) -> None:
        self._file, self._level = file, level
        self._member = bytearray()
        self._every = self._checksum = 0
        self._lengths: list[int] = []

    def write(self, data: Any) -> None:
        view = memoryview(data).cast("B")
        while self._every and len(self._member) + len(view) >= self._every:
            room = self._every - len(self._member)
            self._member += view[:room]
            view = view[room:]
            self.cut(self._every)
        self._member += view

    def cut(self, every: int = 0) -> None:
        """End the member; the following data go into members of `every` bytes each (0: into one)."""
        if self._member:
            # All at once: ISA-L's output depends on the sizes of the pieces it is given.
            compressor = _compressor(self._level)
            data = compressor.compress(self._member) + compressor.flush()
            self._lengths.append(len(data))
            self._put(data)
            self._member.clear()
        self._every = every

    def close(self, about: dict[str, Any]) -> None:
        """Finish the file, with `about` (plain JSON values) and the members' lengths at its end."""
        self.cut()
        text = json.dumps({**about, "members": self._lengths}, separators=(",", ":")).encode()
        size = len(text) + TAIL.size
        self._put(FIXED_HEADER + struct.pack("<H2sH", size + 4, SUBFIELD, size) + text)
        self._put(TAIL.pack(len(text), zlib.crc32(text), self._checksum, MARK) + EMPTY_BODY)

    def _put(self, data: bytes) -> None:
        self._file.write(data)
        self._checksum = zlib.crc32(data, self._checksum)


def _compressor(level: int) -> Any:
    """A compressor of ISA-L, or of zlib where ISA-L is not installed: slower, read by the same programs."""
    try:
        from isal import isal_zlib
    except ImportError:
        return zlib.compressobj(level, wbits=WINDOW_BITS)
    return isal_zlib.compressobj(level, wbits=WINDOW_BITS)


def read_directory(file: IO[bytes]) -> dict[str, Any] | None:
    """The index that `BlockedGzip.close` wrote at the end of a file; None for a file of another program.

    Raises ValueError if it is damaged.
    """
    size = file.seek(0, 2)
    file.seek(max(0, size - LARGEST_END))
    end = file.read()
    tail = _tail(end)
    if tail is None:
        return None
    return json.loads(_text(end, *tail[:2]))


def _text(end: bytes, length: int, checksum: int) -> bytes:
    """The JSON at the end of a file; raises ValueError where it is damaged."""
    stop = len(end) - len(EMPTY_BODY) - TAIL.size
    text = end[max(0, stop - length) : stop]
    if zlib.crc32(text) != checksum:
        raise ValueError("its end is not as it was written")
    return text


def _tail(end: bytes) -> tuple[int, int, int] | None:
    """Length and checksum of the JSON, and the checksum of the file; None for a file of another program."""
    body = end[-len(EMPTY_BODY) :]
    values = end[-len(EMPTY_BODY) - TAIL.size : -len(EMPTY_BODY)]
    if body != EMPTY_BODY and not values.endswith(MARK):
        return None
    if body != EMPTY_BODY or not values.endswith(MARK):
        raise ValueError("its end is not as it was written")
    length, checksum, of_file, _ = TAIL.unpack(values)
    return length, checksum, of_file


def check(data: bytes) -> None:
    """Raises ValueError if a file written in blocks is damaged."""
    tail = _tail(data)
    if tail is None:
        return
    _text(data, *tail[:2])
    if zlib.crc32(memoryview(data)[: -len(EMPTY_BODY) - TAIL.size]) != tail[2]:
        raise ValueError("CRC check failed")


def decompress(data: bytes) -> bytes:
    """The content of a gzip file, by ISA-L if installed."""
    try:
        from isal import igzip
    except ImportError:
        import gzip

        return gzip.decompress(data)
    return igzip.decompress(data)


def decompress_member(data: bytes | memoryview) -> bytes:
    """The content of one member of a gzip file."""
    try:
        from isal import isal_zlib
    except ImportError:
        return zlib.decompress(data, wbits=WINDOW_BITS)
    return isal_zlib.decompress(data, wbits=WINDOW_BITS)
