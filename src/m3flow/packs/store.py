"""All packs of an output folder, and read access to outputs whether packed or not."""

from __future__ import annotations

import tempfile
import threading
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path

from m3flow.errors import BadInput, UsageError
from m3flow.layout import FLOW_FILES, PACKED_TRAJECTORIES, Outputs, flow_files, pack_tars
from m3flow.packs.archive import Packed, read_member, read_table

UNPACKED_AT_ONCE = 64


class Packs:
    """The packs of an output folder.

    A pack is valid if its table exists and its tar file has the size recorded there; its content is checked by
    `m3flow verify`.

    Attributes
    ----------
    videos: by name, (tar file, row) of every packed video.
    damaged: the tables of invalid packs, each with the reason.
    """

    def __init__(self, outputs: Outputs) -> None:
        self.videos: dict[str, tuple[Path, Packed]] = {}
        self.damaged: dict[Path, str] = {}
        for path in outputs.pack_tables():
            try:
                table = read_table(path)
            except BadInput as error:
                self.damaged[path] = str(error)
                continue
            if problem := table.problem():
                self.damaged[path] = problem
            else:
                self.videos |= {row.video: (table.tar, row) for row in table.videos}

    def __contains__(self, name: str) -> bool:
        return name in self.videos

    def has(self, name: str, member: str) -> bool:
        return name in self.videos and self.videos[name][1].member(member) is not None

    def has_flow(self, name: str, form: str) -> bool:
        return all(self.has(name, member) for member in FLOW_FILES[form])

    def has_trajectories(self, name: str, length: int) -> bool:
        return self.has(name, PACKED_TRAJECTORIES) and self.videos[name][1].length == length

    def require_no_other(self, name: str, table: Path) -> None:
        """Raises UsageError for a video that is in another pack than that of a table: its results would be twice."""
        if name in self.videos and (tar := self.videos[name][0]) not in pack_tars(table).values():
            raise UsageError(
                f"{name} is in {tar}, not in the pack {table.with_suffix('')}: the list was packed in another "
                "division; pack it in the former one (shard.videos, or --size of m3flow pack)"
            )

    def content(self, name: str) -> Iterator[tuple[str, bytes]]:
        """(name after the key, bytes) of every file of a packed video; raises BadInput if one is damaged."""
        tar, packed = self.videos[name]
        for member in packed.results:
            yield member.name, read_member(tar, member)


class UnpackedOutputs(Outputs):
    """The output folder for readers: files of a packed video are unpacked into a temporary folder on request.

    Complete single files take precedence over the packed ones. Do not write below these paths.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        object.__setattr__(self, "_packs", Packs(Outputs(folder)))
        object.__setattr__(self, "_unpacked", OrderedDict())
        object.__setattr__(self, "_lock", threading.Lock())

    _packs: Packs
    _unpacked: OrderedDict[str, tempfile.TemporaryDirectory[str]]
    _lock: threading.Lock

    def flow(self, name: str) -> Path:
        single = super().flow(name)
        if name not in self._packs or _is_complete(single):
            return single
        return Outputs(self._unpack(name)).flow(name)

    def trajectories(self, name: str, length: int) -> Path:
        single = super().trajectories(name, length)
        if single.is_file() or not self._packs.has_trajectories(name, length):
            return single
        return Outputs(self._unpack(name)).trajectories(name, length)

    def _unpack(self, name: str) -> Path:
        with self._lock:
            if name in self._unpacked:
                self._unpacked.move_to_end(name)
            else:
                folder = tempfile.TemporaryDirectory(prefix="m3flow-unpacked-")
                outputs, length = Outputs(Path(folder.name)), self._packs.videos[name][1].length
                for member, data in self._packs.content(name):
                    target = outputs.unpacked(name, length, member)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(data)
                self._unpacked[name] = folder
                if len(self._unpacked) > UNPACKED_AT_ONCE:
                    self._unpacked.popitem(last=False)[1].cleanup()
            return Path(self._unpacked[name].name)


def _is_complete(flow: Path) -> bool:
    """Whether a video's flow folder holds flow in any form."""
    return any(all(path.is_file() for path in flow_files(flow, form)) for form in FLOW_FILES)


def with_packs(outputs: Outputs) -> Outputs:
    """The outputs for readers: `outputs` itself if there are no packs."""
    return UnpackedOutputs(outputs.folder) if outputs.pack_tables() else outputs
