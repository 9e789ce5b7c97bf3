"""The names and paths of everything in the output folder. No other module joins output paths."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# The files that stand for the flow in a video's folder, by the form in which it is stored. Of a folder of images it is
# the file that is written last.
FLOW_FILES: dict[str, tuple[str, ...]] = {
    "mp4": ("x.mp4", "y.mp4"),
    "jpg": ("jpg/made.json",),
    "jpg.zip": ("jpg.zip",),
    "png": ("png/made.json",),
    "png.zip": ("png.zip",),
    "flo": ("flo/made.json",),
    "flo.zip": ("flo.zip",),
    "npz": ("flow.npz",),
    "h5": ("flow.h5",),
}
# Frames stored next to the flow, and the file that is written last.
FRAMES, FRAMES_MADE = "frames", "made.json"
PACKED_TRAJECTORIES = "traj.gz"
# Nearly all file systems limit a name to 255 bytes; our longest suffix is "_<length>.gz".
LONGEST_NAME = 255 - len("_999.gz")
SHORT_NAME = LONGEST_NAME // 4
# Parts of a name that look like one of our output files.
IN_A_FLOW_FOLDER = {names.partition("/")[0] for form in FLOW_FILES.values() for names in form} | {FRAMES}
LIKE_AN_OUTPUT = re.compile(
    rf"(?:^|/)(?:{'|'.join(map(re.escape, IN_A_FLOW_FOLDER))})(?:/|$)|_\d{{1,3}}\.gz/"
)


@dataclass(frozen=True, slots=True)
class Outputs:
    """The output folder of a run and the path of every file in it.

    The layout: `flows/<name>/x.mp4` and `y.mp4` (or the flow in another form), `trajs/<name>_<length>.gz`, `records/`,
    `logs/`, `packs/<list>/`, `report.html`, `summary.csv`, and `shards/<list>/` for runs in shards.
    """

    folder: Path

    @property
    def flows(self) -> Path:
        return self.folder / "flows"

    @property
    def trajs(self) -> Path:
        return self.folder / "trajs"

    def flow(self, name: str) -> Path:
        """The folder of a video's flow."""
        return self.flows / name

    def flow_files(self, name: str, form: str = "mp4") -> tuple[Path, ...]:
        """The files that stand for a video's flow: x.mp4 and y.mp4, or those of another form."""
        return flow_files(self.flow(name), form)

    def frames(self, name: str) -> Path:
        """The folder of a video's frames, if they are stored."""
        return frames_folder(self.flow(name))

    def trajectories(self, name: str, length: int) -> Path:
        return self.trajs / f"{name}{trajectory_suffix(length)}"

    @property
    def packs(self) -> Path:
        return self.folder / "packs"

    def pack_table(self, list_name: str, shard: str) -> Path:
        """The table of the pack of a shard of a list; it names the pack's tar file."""
        return self.packs / list_name / f"{shard}.parquet"

    def pack_tables(self) -> list[Path]:
        """The tables of all packs."""
        return sorted(self.packs.glob("*/*.parquet"))

    def packable(self, name: str, length: int) -> dict[str, Path]:
        """The existing files of a video that go into a pack, by their names there."""
        flow, tracked = self.flow(name), self.trajectories(name, length)
        found = {PACKED_TRAJECTORIES: tracked} if tracked.is_file() else {}
        if flow.is_dir():
            files = (path for path in sorted(flow.rglob("*")) if path.is_file())
            found |= {str(path.relative_to(flow)): path for path in files if not path.name.startswith(".")}
        return found

    def unpacked(self, name: str, length: int, member: str) -> Path:
        """The path of a file of a video outside its pack; the inverse of `packable`."""
        return self.trajectories(name, length) if member == PACKED_TRAJECTORIES else self.flow(name) / member

    @property
    def report(self) -> Path:
        return self.folder / "report.html"

    @property
    def summary(self) -> Path:
        """The table of counts beside the workflow's report."""
        return self.folder / "summary.csv"

    @property
    def logs(self) -> Path:
        return self.folder / "logs"

    def log(self, name: str) -> Path:
        """The log of a command or a job, such as `report` or `flow/<video>`."""
        return self.logs / f"{name}.log"

    def shard_log(self, list_name: str, kind: str, shard: str) -> Path:
        return self.logs / list_name / f"{kind}-{shard}.log"

    @property
    def records(self) -> Path:
        return self.folder / "records"

    def job_records(self, rule: str) -> Path:
        """The records of a rule with one video per job; all its jobs append to this file."""
        return self.records / f"{rule}.csv"

    def shard_records(self, list_name: str, kind: str, shard: str) -> Path:
        """The records of a shard; every attempt appends to this file."""
        return self.records / list_name / f"{kind}-{shard}.csv"

    def shard_plan(self, list_name: str) -> Path:
        """The division of a list into shards; see `m3flow.experiment.shards`."""
        return self.folder / "shards" / list_name / "plan.json"

    def shard_list(self, list_name: str) -> Path:
        """The list of videos found below a folder that was given in place of a list."""
        return self.folder / "shards" / list_name / "videos.csv"


def is_output_folder(names: Collection[str]) -> bool:
    """Whether a folder with these entries is the output folder of a run."""
    return "records" in names and not {"flows", "trajs", "packs"}.isdisjoint(names)


def pack_tar(table: Path, generation: int) -> Path:
    """The tar file of a pack, which gets a new name whenever it is rewritten."""
    return table.with_suffix(f".{generation}.tar" if generation else ".tar")


def pack_tars(table: Path) -> dict[int, Path]:
    """The existing tar files of a pack, by generation."""
    name = re.compile(re.escape(table.stem) + r"(?:\.([1-9]\d*))?\.tar")
    found = [(name.fullmatch(path.name), path) for path in table.parent.glob("*.tar")]
    return {int(match[1] or 0): path for match, path in found if match}


def flow_files(folder: Path | str, form: str = "mp4") -> tuple[Path, ...]:
    """The files that stand for the flow in a video's flow folder: x.mp4 and y.mp4, or those of another form."""
    return tuple(Path(folder, name) for name in FLOW_FILES[form])


def frames_folder(flow: Path) -> Path:
    """The folder of the frames stored next to the flow in a video's flow folder."""
    return flow / FRAMES


def flow_form(settings: Mapping[str, Any]) -> str:
    """The form that flow with these settings (`FlowSettings.identity`) is stored in, a key of `FLOW_FILES`."""
    return settings.get("store", "mp4") + (".zip" if settings.get("zip") else "")


def trajectory_suffix(length: int) -> str:
    """The suffix of the trajectory files of one length: `_6.gz`."""
    return f"_{length}.gz"


def output_name(path: str, parts: int) -> tuple[str, str]:
    """(name, "") for the path of a video, ("", problem) for an unusable path.

    The name is the last `parts` parts of the path, joined by "/".
    """
    if "\0" in path:
        return "", "the path contains a NUL character"
    kept = [part for part in os.path.normpath(path).split("/")[-parts:] if part not in ("", ".")]
    if ".." in kept or not kept:
        return "", f"the outputs of {path!r} would be outside the output folder"
    name = "/".join(kept)
    # Most names are short; only long ones are measured part by part, in bytes as the file system counts.
    if len(name) > SHORT_NAME and any(len(os.fsencode(part)) > LONGEST_NAME for part in kept):
        return "", f"the outputs of {path[:60]!r}… would have names longer than {LONGEST_NAME} bytes"
    return name, ""


def conflicting_names(name: str) -> Iterator[str]:
    """Names of videos with an output file where the outputs of `name` need a folder.

    `a` has the files flows/a/x.mp4 and trajs/a_6.gz; `a/x.mp4` and `a_6.gz/b` need folders of these names.
    """
    if not LIKE_AN_OUTPUT.search(name):
        return
    parts = name.split("/")
    for end, part in enumerate(parts):
        folder = "/".join(parts[:end])
        if part in IN_A_FLOW_FOLDER:
            yield folder
        elif end < len(parts) - 1 and (match := re.fullmatch(r"(.+)_\d{1,3}\.gz", part)):
            yield f"{folder}/{match[1]}".lstrip("/")
