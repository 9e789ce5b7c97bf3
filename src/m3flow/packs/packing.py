"""Packing of a list's results, which can be repeated at any time, and check and repair of packs."""

from __future__ import annotations

import json
import zlib
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from m3flow.errors import BadInput
from m3flow.layout import FRAMES, PACKED_TRAJECTORIES, Outputs
from m3flow.packs.archive import (
    ABOUT,
    COPY_BYTES,
    MOTION,
    Bytes,
    Content,
    OldMember,
    Packed,
    check_members,
    read_table,
    remove_unnamed,
    write_pack,
)
from m3flow.results.stored_flow import read_provenance
from m3flow.results.trajectoryfile import read_made
from m3flow.videos.videolist import Video


@dataclass
class PackReport:
    """The outcome of packing a shard of a list.

    Attributes
    ----------
    table: of the pack.
    written: whether it was written or rewritten; otherwise it was complete.
    videos: names of the videos in it. missing: of those that have no results, packed or not.
    damaged: one error message per single file that cannot be read, and is left as it is.
    removed: single files that were removed.
    """

    table: Path
    written: bool = False
    videos: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    removed: int = 0


def pack_shard(
    outputs: Outputs,
    list_name: str,
    shard: str,
    videos: Sequence[Video],
    length: int,
    *,
    remove: bool = False,
) -> PackReport:
    """Put the results of some videos into one pack.

    The content of an existing pack stays; single files that are new or differ are added, or take the place of packed
    ones; a complete pack is left as it is. So after a kill at any moment, call it again. A video whose trajectories of
    another length are packed keeps these; those of `length` stay single files.

    Parameters
    ----------
    length: steps of the trajectories to pack; others stay as they are.
    remove: remove the packed single files once the pack is complete.

    Raises
    ------
    BadInput: the pack is damaged; UsageError: pyarrow is not installed.
    """
    table = outputs.pack_table(list_name, shard)
    tar, old = _existing(table)
    report = PackReport(table)
    samples: list[tuple[Packed, Content]] = []
    changed = False
    for video in videos:
        packed = old.get(video.name)
        single = to_pack(outputs, video.name, length, packed)
        if not single and packed is None:
            report.missing.append(video.name)
            continue
        if packed is None or _differs(single, packed):
            try:
                described = _described(video, outputs.flow(video.name), single, length)
                samples.append(_merged(tar, packed, described, single))
            except BadInput as error:
                report.damaged.append(str(error))
                continue
            changed = True
        else:
            samples.append(_kept(tar, packed))
        report.videos.append(video.name)
    # Videos no longer in the list stay: their single files may be gone.
    samples += [_kept(tar, old[name]) for name in old.keys() - set(report.videos)]
    if changed:
        write_pack(table, map(_with_description, samples))
        report.written = True
    elif table.is_file():
        remove_unnamed(table)
    if remove:
        report.removed = _remove_singles(outputs, {name: old.get(name) for name in report.videos}, length)
    return report


def to_pack(outputs: Outputs, name: str, length: int, packed: Packed | None) -> dict[str, Path]:
    """The single files of a video that go into the pack where `packed` is, by their names there."""
    single = outputs.packable(name, length)
    if packed is not None and packed.member(PACKED_TRAJECTORIES) and packed.length != length:
        single.pop(PACKED_TRAJECTORIES, None)
    return single


def _merged(
    tar: Path, packed: Packed | None, described: Packed, single: dict[str, Path]
) -> tuple[Packed, Content]:
    """A sample of the single files and of what is packed already. A product comes as a whole, flow in one form."""
    if packed is None:
        return described, dict(single)
    made = set(map(_product, single))
    _, content = _kept(tar, packed)
    kept = {name: source for name, source in content.items() if _product(name) not in made}
    if PACKED_TRAJECTORIES in kept:
        described.length = packed.length
    # Frames alone say nothing of the video.
    described.motion = described.motion or packed.motion
    for name in ("frames", "width", "height"):
        setattr(described, name, getattr(described, name) or getattr(packed, name))
    return described, {**kept, **single}


def _product(member: str) -> str:
    """What a file of a sample belongs to."""
    if member == PACKED_TRAJECTORIES:
        return "trajectories"
    return "frames" if member.startswith(f"{FRAMES}/") else "flow"


def _existing(table: Path) -> tuple[Path, dict[str, Packed]]:
    """The tar file of a pack and its videos by name; no videos if there is no pack yet."""
    if not table.is_file():
        return table, {}
    found = read_table(table)
    if problem := found.problem():
        raise BadInput(f"{problem}; run m3flow verify --repair")
    return found.tar, {row.video: row for row in found.videos}


def _differs(single: dict[str, Path], packed: Packed | None) -> bool:
    """Whether single files are not those in the pack."""
    for name, path in single.items():
        member = packed.member(name) if packed else None
        if member is None or path.stat().st_size != member.size or _checksum(path) != member.checksum:
            return True
    return False


def _checksum(path: Path) -> int:
    checksum = 0
    with path.open("rb") as file:
        while data := file.read(COPY_BYTES):
            checksum = zlib.crc32(data, checksum)
    return checksum


def _described(video: Video, flow: Path, single: dict[str, Path], length: int) -> Packed:
    """The row of a video, from the provenance of its files."""
    made: dict[str, Any] = {}
    if PACKED_TRAJECTORIES in single:
        made = read_made(single[PACKED_TRAJECTORIES])
    if any(_product(name) == "flow" for name in single):
        made = read_provenance(flow)
    source, motion = made.get("source", {}), made.get("motion", {})
    return Packed(
        video=video.name,
        label=video.label,
        length=length,
        frames=int(source.get("frames", 0)),
        width=int(source.get("width", 0)),
        height=int(source.get("height", 0)),
        motion={name: float(motion[name]) for name in MOTION if name in motion},
    )


def _kept(tar: Path, packed: Packed) -> tuple[Packed, Content]:
    """A sample from the existing pack, read only when it is written."""
    return packed, {member.name: OldMember(tar, member) for member in packed.results}


def _with_description(sample: tuple[Packed, Content]) -> tuple[Packed, Content]:
    packed, content = sample
    about = {
        "video": packed.video,
        "label": packed.label,
        "frames": packed.frames,
        "width": packed.width,
        "height": packed.height,
        "length": packed.length,
        "motion": packed.motion,
    }
    return packed, {**content, ABOUT: Bytes(json.dumps(about, ensure_ascii=False).encode())}


def _remove_singles(outputs: Outputs, videos: dict[str, Packed | None], length: int) -> int:
    """Remove the single files of packed videos, given with their rows before, and their empty folders."""
    count = 0
    for name, packed in videos.items():
        for path in to_pack(outputs, name, length, packed).values():
            path.unlink()
            count += 1
        _remove_empty(outputs.flow(name))
    return count


def _remove_empty(folder: Path) -> None:
    """Remove a folder without files. Those above it stay: other jobs may be about to write below them."""
    if folder.is_dir():
        for path in sorted(folder.rglob("*/"), reverse=True):
            _remove_folder(path)
        _remove_folder(folder)


def _remove_folder(path: Path) -> None:
    with suppress(OSError):
        path.rmdir()


@dataclass
class DamagedPack:
    """A damaged pack.

    Attributes
    ----------
    table: of the pack.
    reason: the damage.
    lost: the videos with damaged files in it.
    """

    table: Path
    reason: str
    lost: list[str]


def verify_packs(outputs: Outputs) -> Iterator[DamagedPack]:
    """Read every pack completely and yield the damaged ones."""
    for path in outputs.pack_tables():
        try:
            table = read_table(path)
        except BadInput as error:
            yield DamagedPack(path, str(error), [])
            continue
        reason = table.problem()
        if table.tar.is_file():
            lost = [row.video for row, wrong in check_members(table.tar, table.videos) if wrong]
            if lost:
                reason = f"{table.tar}: {len(lost)} of {len(table.videos)} videos damaged, such as {lost[0]}"
        else:
            lost = [row.video for row in table.videos]
        if reason:
            yield DamagedPack(path, reason, lost)


def take_out(outputs: Outputs, names: Collection[str]) -> dict[Path, int]:
    """Remove videos from their packs; returns the number removed by pack table."""
    taken = {}
    for path in outputs.pack_tables() if names else ():
        count = sum(row.video in names for row in read_table(path).videos)
        if count:
            rewrite_without(path, names)
            taken[path] = count
    return taken


def rewrite_without(path: Path, names: Collection[str]) -> int:
    """Rewrite a pack without some videos; returns the number left. A pack without any is removed."""
    try:
        table = read_table(path)
        rows = [row for row in table.videos if row.video not in names] if table.tar.is_file() else []
    except BadInput:
        rows = []
    if rows:
        write_pack(path, (_with_description((replace(row), _kept(table.tar, row)[1])) for row in rows))
    else:
        path.unlink(missing_ok=True)
        remove_unnamed(path)
    return len(rows)
