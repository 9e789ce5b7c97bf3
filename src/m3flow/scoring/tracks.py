"""Tracks of any program in a common form, and readers of their files."""

from __future__ import annotations

import gzip
import re
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from m3flow.errors import BadInput
from m3flow.results import safe_pickle
from m3flow.results.trajectoryfile import Trajectories, load_trajectories
from m3flow.trajectories.motion_vectors import read_motion_vectors, trajectories_from_motion_vectors

DENSE_TRACK_COLUMNS = 10
"""Number of columns before the displacements in the text of improved dense trajectories."""
VIDEO_SUFFIXES = (".mp4", ".avi", ".mkv", ".webm", ".mov", ".mpg")


@dataclass(frozen=True)
class Tracks:
    """P point tracks over up to S steps.

    Convention
    ----------
    Positions are (x, y) in pixels, x to the right, y down, with the centre of the first pixel at (0, 0).
    positions[p, k] is the position of track p in frame start[p] + k.

    Attributes
    ----------
    start: int [P], the frame in which each track starts.
    positions: float64 [P, S + 1, 2], NaN where unknown.
    visible: bool [P, S + 1], whether the point is visible, according to the truth or to the tracker.
    confidence: float64 [P, S + 1], larger is more confident; None if the tracker gives none.
    background: bool [P], whether only the camera moves the point; None if unknown.
    """

    start: np.ndarray
    positions: np.ndarray
    visible: np.ndarray
    confidence: np.ndarray | None = None
    background: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.start)

    @property
    def steps(self) -> int:
        return self.positions.shape[1] - 1

    @property
    def frames(self) -> int:
        """Frames up to the last one with a known position."""
        known = np.isfinite(self.positions).all(axis=-1) & (self.start >= 0)[:, None]
        return int(((self.start[:, None] + np.arange(self.steps + 1)) * known).max(initial=0)) + 1


def clip_of(path: Path) -> str:
    """The name of the clip that a file of tracks is of: `walk` for `walk.avi_6.gz`, `walk.npz` and `walk.tsv.gz`."""
    name = re.sub(r"_\d+\.gz$|\.gz$", "", path.name)
    return name.rpartition(".")[0] or name


def truth_of(truth: Path, clip: str) -> Path:
    """The file with the true tracks of a clip: `truth` itself, or the one of that name in the folder `truth`.

    Raises BadInput where the folder has none.
    """
    if not truth.is_dir():
        return truth
    found = sorted(path for path in truth.iterdir() if path.is_file() and clip_of(path) == clip)
    found = [path for path in found if not path.name.lower().endswith(VIDEO_SUFFIXES)]
    if not found:
        raise BadInput(f"{truth}: no true tracks of {clip}")
    return found[0]


def read_tracks(path: Path, size: tuple[int, int] | None = None, clip: str = "") -> Tracks:
    """The tracks of a file.

    Parameters
    ----------
    path: a trajectory file of ours or of the original extractor (`.gz`); a TAP-Vid style archive (`.npz`, `.pkl`:
        see `tracks_of_archive`); the text of improved dense trajectories (`.tsv`, `.txt`, or either with `.gz`);
        or a video, whose codec's motion vectors are followed for 6 steps.
    size: height and width of the frames, for an archive with normalised points that lacks them.
    clip: the clip to read from an archive of several, such as TAP-Vid's: one dict per clip.

    Raises
    ------
    BadInput: the file is missing, damaged or none of these.
    """
    name = path.name.removesuffix(".gz")
    if not path.is_file():
        raise BadInput(f"{path}: no such file")
    if name.endswith((".tsv", ".txt")):
        return tracks_of_text(path)
    if name.endswith((".npz", ".pkl", ".pickle")):
        return tracks_of_archive(_archive(path, clip), size, path)
    if name.lower().endswith(VIDEO_SUFFIXES) and not path.name.endswith(".gz"):
        features, inside = trajectories_from_motion_vectors(read_motion_vectors(path))
        return tracks_of_trajectories(Trajectories(features, inside, len(features) // 2))
    return tracks_of_trajectories(load_trajectories(path))


def tracks_of_trajectories(trajectories: Trajectories) -> Tracks:
    """The windows of a trajectory file as tracks."""
    length, made = trajectories.length, trajectories.made
    step = made.get("flow", {}).get("step", 1)
    spacing = length * step if made.get("settings", {}).get("job") == "trajs" else 1
    points = trajectories.positions()
    windows, rows, columns = trajectories.traj_type.shape
    count = windows * rows * columns
    positions = np.full((count, length * step + 1, 2), np.nan)
    positions[:, ::step] = np.moveaxis(points.reshape(length + 1, count, 2), 0, 1)
    confidence = None
    if trajectories.traj_conf is not None:
        confidence = np.zeros(positions.shape[:2])
        confidence[:, 0] = 255
        confidence[:, step::step] = trajectories.traj_conf.reshape(length, count).T
    visible = np.repeat(trajectories.traj_type.reshape(-1, 1) == 1, positions.shape[1], axis=1)
    start = np.repeat(np.arange(windows) * spacing, rows * columns)
    return Tracks(start, positions, visible, confidence)


def tracks_of_archive(
    content: dict[str, np.ndarray], size: tuple[int, int] | None = None, path: Path | str = "archive"
) -> Tracks:
    """The tracks of a TAP-Vid style archive.

    Parameters
    ----------
    content: `points` (or `tracks`) [P, T, 2], x first; `occluded` or `visibility` (or `visible`, `visibles`)
        [P, T], the latter true or above 0.5 where visible and taken as the confidence if they are real numbers;
        `confidence` [P, T]; `video` [T, H, W, …] or `size` (H, W); `background` [P]. Without visibility all
        points are visible.
    size: height and width, if the archive lacks them.

    Convention
    ----------
    If all visible points lie between 0 and 1 they are normalised by the frame size, as in TAP-Vid (Doersch et al.,
    NeurIPS 2022): there (0, 0) is the upper left corner of the first pixel, whose centre is at half a pixel. Otherwise
    they are pixels with the centre of the first one at (0, 0). A track starts in the first frame where it is visible.
    """
    points = content.get("points", content.get("tracks"))
    if points is None or np.ndim(points) != 3 or np.shape(points)[2] != 2:
        raise BadInput(f"{path}: an archive needs points [P, T, 2]")
    points = np.asarray(points, float)
    shown = next((content[key] for key in ("visibility", "visible", "visibles") if key in content), None)
    visible = np.asarray(shown) > 0.5 if shown is not None else np.ones(points.shape[:2], bool)
    if "occluded" in content:
        visible = ~np.asarray(content["occluded"], bool)
    if visible.shape != points.shape[:2]:
        raise BadInput(f"{path}: points {points.shape} and visibility {visible.shape} do not fit")
    seen = points[visible]
    if seen.size and np.nanmin(seen) >= 0 and np.nanmax(seen) <= 1:
        height, width = _size(content, size, path)
        points = points * (width, height) - 0.5
    confidence = content.get("confidence")
    if confidence is None and shown is not None and np.asarray(shown).dtype.kind == "f":
        confidence = shown
    starts = np.where(visible.any(axis=1), visible.argmax(axis=1), 0)
    return Tracks(
        starts,
        _from_start(points, starts, np.nan),
        _from_start(visible, starts, False),
        None if confidence is None else _from_start(np.asarray(confidence, float), starts, 0.0),
        None if "background" not in content else np.asarray(content["background"], bool),
    )


def tracks_of_text(path: Path) -> Tracks:
    """The tracks of (improved) dense trajectories (Wang et al., IJCV 2013; ICCV 2013) at the original scale.

    A row has the end frame, the mean position, two variances, the path's length, the scale, 3 columns that are not
    used here, then 15 displacements (x, y) divided by the path's length.
    """
    try:
        data = path.read_bytes()
        text = (gzip.decompress(data) if path.name.endswith(".gz") else data).decode()
        table = np.array([[float(cell) for cell in line.split()[:40]] for line in text.splitlines()])
    except (OSError, ValueError, EOFError, zlib.error) as error:
        raise BadInput(f"{path}: not the text of dense trajectories ({error})") from error
    if table.ndim != 2 or table.shape[1] != DENSE_TRACK_COLUMNS + 30:
        raise BadInput(f"{path}: not the text of dense trajectories (rows of 40 columns and more)")
    table = table[table[:, 6] == 1]
    steps = table[:, DENSE_TRACK_COLUMNS:].reshape(len(table), -1, 2) * table[:, 5, None, None]
    walked = np.concatenate([np.zeros((len(table), 1, 2)), steps.cumsum(axis=1)], axis=1)
    positions = walked - walked.mean(axis=1, keepdims=True) + table[:, None, 1:3]
    start = table[:, 0].astype(int) - steps.shape[1]
    return Tracks(start, positions, np.ones(positions.shape[:2], bool))


def _archive(path: Path, clip: str) -> dict[str, np.ndarray]:
    try:
        if path.name.endswith(".npz"):
            with np.load(path) as archive:
                return dict(archive)
        data = gzip.decompress(path.read_bytes()) if path.name.endswith(".gz") else path.read_bytes()
        content = safe_pickle.load(data)
    except Exception as error:
        # A damaged archive can make the readers raise nearly any exception.
        raise BadInput(f"{path}: not a readable archive of tracks ({error})") from error
    if (
        isinstance(content, dict)
        and content
        and all(isinstance(of_clip, dict) for of_clip in content.values())
    ):
        if clip not in content and len(content) > 1:
            raise BadInput(f"{path}: no true tracks of {clip}")
        content = content.get(clip) or next(iter(content.values()))
    if not isinstance(content, dict):
        raise BadInput(f"{path}: an archive needs points [P, T, 2]")
    return content


def _size(content: dict[str, np.ndarray], size: tuple[int, int] | None, path: Path | str) -> tuple[int, int]:
    if "size" in content:
        height, width = (int(side) for side in content["size"])
        return height, width
    if "video" in content:
        return content["video"].shape[1], content["video"].shape[2]
    if size is None:
        raise BadInput(f"{path}: its points are normalised; give the frame size with --size WxH")
    return size


def _from_start(values: np.ndarray, starts: np.ndarray, beyond: float | bool) -> np.ndarray:
    """[P, T, …] by frame -> by step from each track's start, filled with `beyond` after the last frame."""
    frames = values.shape[1]
    index = starts[:, None] + np.arange(frames)
    result = values[np.arange(len(values))[:, None], index.clip(max=frames - 1)].copy()
    result[index >= frames] = beyond
    return result
