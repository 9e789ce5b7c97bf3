"""Packing: the results of a list into packs, again and again without harm, and their check and repair."""

from __future__ import annotations

import json
import zlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from m3flow.errors import BadInput
from m3flow.layout import PACKED_TRAJECTORIES, Outputs
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
    """The outcome of packing a stretch of a list.

    Attributes
    ----------
    table: of the pack.
    written: whether it was made or made anew; otherwise it was complete.
    videos: names of the videos in it. missing: of those that have no results, packed or not.
    damaged: what is wrong with single files that cannot be read, and stay as they are, a line each.
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

    What the pack holds already stays; single files that are new or differ go in; a complete pack is left as it is. So a
    call that was killed at any moment is called again.

    Parameters
    ----------
    length: steps of the trajectories that go in; others stay as they are.
    remove: remove the single files that the pack holds, once it is whole.

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
        single, packed = outputs.packable(video.name, length), old.get(video.name)
        if not single and packed is None:
            report.missing.append(video.name)
            continue
        if packed is None or _differs(single, packed):
            try:
                described = _described(video, outputs.flow(video.name), single, length)
                samples.append((described, dict(single)))
            except BadInput as error:
                report.damaged.append(str(error))
                continue
            changed = True
        else:
            samples.append(_kept(tar, packed))
        report.videos.append(video.name)
    # What the list does not name any more stays: its single files may be gone.
    samples += [_kept(tar, old[name]) for name in old.keys() - set(report.videos)]
    if changed:
        write_pack(table, map(_with_description, samples))
        report.written = True
    elif table.is_file():
        remove_unnamed(table)
    if remove:
        report.removed = _remove_singles(outputs, report.videos, length)
    return report


def _existing(table: Path) -> tuple[Path, dict[str, Packed]]:
    """The tar file of a pack and its videos by name; none where there is no pack yet."""
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
    """The row of a video, by what its files say of themselves."""
    made: dict[str, Any] = {}
    if PACKED_TRAJECTORIES in single:
        made = read_made(single[PACKED_TRAJECTORIES])
    if single.keys() - {PACKED_TRAJECTORIES}:
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
    """A sample as it is in the pack; read when it is its turn to be written."""
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


def _remove_singles(outputs: Outputs, names: Sequence[str], length: int) -> int:
    """Remove the single files of packed videos, and the folders that are empty then."""
    count = 0
    for name in names:
        for path in outputs.packable(name, length).values():
            path.unlink()
            count += 1
        for folder in (outputs.flow(name), outputs.trajectories(name, length).parent):
            _remove_empty(folder, (outputs.flows, outputs.trajs))
    return count


def _remove_empty(folder: Path, tops: tuple[Path, ...]) -> None:
    while folder not in tops and folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
        folder = folder.parent


@dataclass
class DamagedPack:
    """A pack that is not as it was written.

    Attributes
    ----------
    table: of the pack.
    reason: why.
    lost: the videos whose files in it are not whole.
    """

    table: Path
    reason: str
    lost: list[str]


def verify_packs(outputs: Outputs) -> Iterator[DamagedPack]:
    """Read every pack through; yields those that are damaged."""
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
    """Take videos out of the packs that hold them; returns how many, by the packs' tables."""
    taken = {}
    for path in outputs.pack_tables() if names else ():
        count = sum(row.video in names for row in read_table(path).videos)
        if count:
            rewrite_without(path, names)
            taken[path] = count
    return taken


def rewrite_without(path: Path, names: Collection[str]) -> int:
    """Make a pack anew without some videos; returns how many it has then. A pack without any is removed."""
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
