"""One pack: a tar file in WebDataset's convention and its table, read back after writing and before they are valid."""

from __future__ import annotations

import io
import json
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import IO, Any, Protocol

from m3flow.atomic import complete_or_absent
from m3flow.errors import BadInput, UsageError
from m3flow.layout import pack_tar, pack_tars

COPY_BYTES = 2**20
ABOUT = "json"


@dataclass(frozen=True)
class Member:
    """A file in a pack.

    Attributes
    ----------
    name: the file's path in the folder of the video's flow, such as "x.mp4", or what `m3flow.layout` calls another.
    offset, size: position and size of its content in the tar file, in bytes.
    checksum: CRC-32 of its content.
    """

    name: str
    offset: int
    size: int
    checksum: int


@dataclass
class Packed:
    """A video in a pack: a row of the table.

    Attributes
    ----------
    video: its output name. label: as in the list.
    length: steps of its trajectories.
    members: its files.
    frames, width, height: of the video when its flow was made; 0 if unknown.
    motion: the motion statistics of the records: speed, speed_p95, saturated, still, camera, camera_shift.
    """

    video: str
    label: str = ""
    length: int = 0
    members: list[Member] = field(default_factory=list)
    frames: int = 0
    width: int = 0
    height: int = 0
    motion: dict[str, float] = field(default_factory=dict)

    @property
    def results(self) -> list[Member]:
        """The files without the sample's description."""
        return [member for member in self.members if member.name != ABOUT]

    def member(self, name: str) -> Member | None:
        return next((member for member in self.members if member.name == name), None)


class Opens(Protocol):
    """A file, or a member of another pack: opens as bytes."""

    def open(self, mode: str, /) -> Any: ...


Content = dict[str, Opens]
"""The files of a sample by their names after the key."""


def key_of(video: str) -> str:
    """The sample's key: the output name, with the dots of its last part percent-encoded.

    WebDataset ends the key at the first dot of a file's name.
    """
    folder, slash, last = video.rpartition("/")
    return f"{folder}{slash}{last.replace('%', '%25').replace('.', '%2E')}"


def name_in_tar(video: str, member: str) -> str:
    """The name of a file in the tar file: WebDataset has no folders behind the key."""
    return f"{key_of(video)}.{member.replace('/', '.')}"


def write_pack(table: Path, samples: Iterable[tuple[Packed, Content]]) -> list[Packed]:
    """Write a pack, read it back, and then write its table, which makes it valid.

    The tar file has a new name, and the table names it: at every moment the table refers to one complete pack, the
    old one or the new one. Tar files that it does not name are removed.

    Raises OSError if the data read back differ from those written.
    """
    tar = pack_tar(table, max(pack_tars(table), default=-1) + 1)
    with complete_or_absent(tar) as (new,):
        written = _write_tar(new, samples)
        _find_members(new, written)
        damaged = [packed.video for packed, wrong in check_members(new, written) if wrong]
        if damaged:
            raise OSError(f"{tar}: was not written as it should be ({damaged[0]}); is the disk at fault?")
    with complete_or_absent(table) as (new,):
        _write_table(new, written, tar)
    remove_unnamed(table)
    return written


def remove_unnamed(table: Path) -> None:
    """Remove the tar files of a pack that its table does not name, left by a killed process."""
    named = read_table(table).tar if table.is_file() else None
    for path in pack_tars(table).values():
        if path != named:
            path.unlink()


def _write_tar(path: Path, samples: Iterable[tuple[Packed, Content]]) -> list[Packed]:
    written = []
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for packed, content in samples:
            packed.members = []
            for name, source in sorted(content.items()):
                with source.open("rb") as file:
                    size = file.seek(0, io.SEEK_END)
                    file.seek(0)
                    reader = _Checksummed(file)
                    info = tarfile.TarInfo(name_in_tar(packed.video, name))
                    info.size = size
                    archive.addfile(info, reader)
                packed.members.append(Member(name, 0, size, reader.checksum))
            written.append(packed)
    return written


@dataclass(frozen=True)
class Bytes:
    """Content in memory."""

    data: bytes

    def open(self, _: str, /) -> Any:
        return io.BytesIO(self.data)


@dataclass(frozen=True)
class OldMember:
    """A member of an existing pack, checked when read."""

    tar: Path
    member: Member

    def open(self, _: str, /) -> Any:
        return io.BytesIO(read_member(self.tar, self.member))


class _Checksummed:
    """A file that is read once, and the CRC-32 of the data read."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self.checksum = file, 0

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self.checksum = zlib.crc32(data, self.checksum)
        return data


def _find_members(path: Path, written: list[Packed]) -> None:
    """Fill in the members' offsets, from the headers of the tar file."""
    with tarfile.open(path) as archive:
        places = {info.name: info.offset_data for info in archive}
    for packed in written:
        packed.members = [
            replace(member, offset=places[name_in_tar(packed.video, member.name)])
            for member in packed.members
        ]


def check_members(tar: Path, packed: Iterable[Packed]) -> Iterator[tuple[Packed, list[str]]]:
    """(video, names of the damaged members) for each video of a pack."""
    with tar.open("rb") as file:
        for video in packed:
            wrong = [member.name for member in video.members if not _is_whole(file, member)]
            yield video, wrong


def _is_whole(file: IO[bytes], member: Member) -> bool:
    file.seek(member.offset)
    left, checksum = member.size, 0
    while left and (data := file.read(min(left, COPY_BYTES))):
        checksum = zlib.crc32(data, checksum)
        left -= len(data)
    return left == 0 and checksum == member.checksum


def read_member(tar: Path, member: Member) -> bytes:
    """The content of a member; raises BadInput if it is damaged."""
    try:
        with tar.open("rb") as file:
            file.seek(member.offset)
            data = file.read(member.size)
    except OSError as error:
        raise BadInput(f"{tar}: cannot be read ({error.strerror})") from error
    if len(data) != member.size or zlib.crc32(data) != member.checksum:
        raise BadInput(f"{tar}: damaged at {member.name}; run m3flow verify --repair")
    return data


def pyarrow() -> Any:
    """The library that reads and writes Parquet.

    Raises UsageError if it is not installed.
    """
    try:
        import pyarrow.parquet
    except ImportError:
        raise UsageError("packs need pyarrow: pip install 'm3flow[packs]'") from None
    return pyarrow


def _write_table(path: Path, written: list[Packed], tar: Path) -> None:
    arrow = pyarrow()
    rows = [{**asdict(packed), "key": key_of(packed.video)} for packed in written]
    for row in rows:
        row |= row.pop("motion")
    number, text = arrow.float64(), arrow.string()
    member = arrow.struct(
        [("name", text), ("offset", arrow.int64()), ("size", arrow.int64()), ("checksum", arrow.int64())]
    )
    schema = arrow.schema(
        [
            *((name, text) for name in ("video", "label", "key")),
            *((name, arrow.int64()) for name in ("length", "frames", "width", "height")),
            ("members", arrow.list_(member)),
            *((name, number) for name in MOTION),
        ],
        metadata={"m3flow": json.dumps({"tar": tar.name, "bytes": tar.stat().st_size})},
    )
    arrow.parquet.write_table(arrow.Table.from_pylist(rows, schema), path)


MOTION = ("speed", "speed_p95", "saturated", "still", "camera", "camera_shift")


@dataclass(frozen=True)
class Table:
    """The content of a pack's table.

    Attributes
    ----------
    tar: the tar file. size: its size in bytes. videos: in the order of the pack.
    """

    tar: Path
    size: int
    videos: list[Packed]

    def problem(self) -> str:
        """The reason why the tar file cannot be the one written, by its size alone; "" if it can."""
        if not self.tar.is_file():
            return f"{self.tar}: missing, though its table is there"
        found = self.tar.stat().st_size
        return "" if found == self.size else f"{self.tar}: has {found} of {self.size} bytes"


def read_table(path: Path) -> Table:
    """The table of a pack.

    Raises BadInput if it is damaged or not one of ours.
    """
    arrow = pyarrow()
    try:
        table = arrow.parquet.read_table(path)
        about = json.loads(table.schema.metadata[b"m3flow"])
        videos = [_packed(row) for row in table.to_pylist()]
        return Table(path.parent / str(about["tar"]), int(about["bytes"]), videos)
    except (OSError, KeyError, TypeError, ValueError, arrow.ArrowException) as error:
        raise BadInput(f"{path}: not the table of a pack ({error})") from error


def _packed(row: dict[str, Any]) -> Packed:
    return Packed(
        video=row["video"],
        label=row["label"],
        length=row["length"],
        members=[Member(**member) for member in row["members"]],
        frames=row["frames"],
        width=row["width"],
        height=row["height"],
        motion={name: row[name] for name in MOTION if row[name] is not None},
    )
