"""Accuracy and cost of our estimators and of codec motion vectors on the exact scenes."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

from m3flow.camera.backward import backward_flow
from m3flow.camera.compensation import Motion, MotionEstimator
from m3flow.flow import estimator
from m3flow.results.quantisation import Quantisation
from m3flow.results.trajectoryfile import Trajectories, TrajectoryWriter
from m3flow.scoring.scenes import Scene
from m3flow.scoring.score import WRONG, Score, auroc, score, upper_half
from m3flow.scoring.tracks import Tracks, tracks_of_trajectories
from m3flow.scoring.truth import true_tracks
from m3flow.trajectories.confidence import Evidence, round_trip
from m3flow.trajectories.motion_vectors import codec_windows, read_motion_vectors
from m3flow.trajectories.tracking import Windows, follow

LENGTH = 6
BOUND = 20.0
CODEC_OPTIONS = {"mpeg4": {"qmin": "3", "qmax": "3"}, "libx264": {"crf": "20"}}


@dataclass(frozen=True, kw_only=True)
class Way:
    """A combination of settings that leads from frames to trajectories, named as the settings.

    Attributes
    ----------
    estimator: an estimator, or "motion vectors (CODEC)".
    scheme: the scheme used, never "auto"; "" with camera "none".
    fine: whether displacements in 1/16 px are scored instead of whole pixels.
    """

    estimator: str
    camera: str = "none"
    scheme: str = ""
    tracking: str = "subpixel"
    confidence: str = "none"
    fine: bool = False


@dataclass(frozen=True)
class Scored:
    """The score of one combination on one scene.

    Attributes
    ----------
    scene, way: the scored scene and settings.
    score: against the truth; for compensated flow, the motion without the camera's.
    tracks, truth: the compared tracks.
    pairs: number of frame pairs.
    seconds: time of flow and tracking, without decoding.
    bytes: size of the trajectory file.
    """

    scene: str
    way: Way
    score: Score
    tracks: Tracks
    truth: Tracks
    pairs: int
    seconds: float
    bytes: int


def score_estimator(
    scene: Scene,
    name: str,
    *,
    camera: str = "none",
    scheme: str = "auto",
    trackings: Iterable[str] = ("subpixel",),
    confidences: Iterable[str] = ("none",),
    fine: Iterable[bool] = (False,),
    device: str = "cpu",
) -> Iterator[Scored]:
    """Score an estimator's trajectories, from flow in 8 bits, not dithered, for each tracking, confidence and fineness.

    Fine displacements are scored instead of whole pixels; integer tracking has none.
    """
    motion = MotionEstimator(estimator(name, device=device), camera=camera, scheme=scheme)
    frames = _frames_for(motion, scene.frames)
    found, flow_seconds = _timed(motion, frames)
    quantisation = Quantisation(BOUND)
    levels: Any = quantisation.stored(found.flow)
    truth = true_tracks(scene, LENGTH, without_camera=camera == "warp")
    for confidence in confidences:
        evidence, evidence_seconds = _timed(_evidence, confidence, motion, frames, found)
        for tracking, finely in product(trackings, fine):
            if finely and tracking == "integer":
                continue
            windows, track_seconds = _timed(
                follow,
                levels,
                length=LENGTH,
                tracking=tracking,
                table=quantisation.table,
                evidence=evidence,
                fine=finely,
            )
            way = Way(
                estimator=name,
                camera=camera,
                scheme=motion.scheme,
                tracking=tracking,
                confidence=confidence,
                fine=finely,
            )
            yield _scored(scene, way, windows, truth, flow_seconds + evidence_seconds + track_seconds)


def score_motion_vectors(scene: Scene, codec: str) -> Scored:
    """Score the trajectories of the scene's motion vectors from a codec ("libx264" or "mpeg4")."""
    with tempfile.TemporaryDirectory() as folder:
        path = encode(Path(folder) / "scene.mp4", scene.frames, codec)
        vectors, seconds = _timed(read_motion_vectors, path)
    began = time.perf_counter()
    windows = next(codec_windows(vectors, LENGTH, "subpixel"))
    seconds += time.perf_counter() - began
    way = Way(estimator=f"motion vectors ({codec})")
    return _scored(scene, way, windows, true_tracks(scene, LENGTH), seconds)


def pooled(rows: list[Scored]) -> dict[str, Any]:
    """Pool the rows of one combination over its scenes: means over all points, costs per 1,000 frames."""
    scores = [row.score for row in rows]
    judged = [_judged(row) for row in rows]
    distance, wrong, visible = (np.concatenate([part[i] for part in judged]) for i in range(3))
    result: dict[str, Any] = {
        "error": [
            round(float(np.mean([s.error[k] for s in scores if s.error[k] is not None])), 3)
            for k in range(len(scores[0].error))
        ],
        "error_visible": round(float(distance[visible].mean()), 3),
        "error_p95": round(float(np.percentile(distance[visible], 95)), 3),
        "coverage": round(float(np.mean([s.coverage for s in scores])), 3),
        "wrong": round(float(wrong.mean()), 3),
        "residual_camera": _mean_of([s.residual_camera for s in scores]),
        "seconds_per_1000_frames": round(1000 * sum(r.seconds for r in rows) / sum(r.pairs for r in rows), 2),
        "bytes_per_1000_frames": round(1000 * sum(r.bytes for r in rows) / sum(r.pairs for r in rows)),
    }
    if rows[0].tracks.confidence is not None:
        sure = np.concatenate([part[3] for part in judged])
        result |= {
            "auroc": round(auroc(sure, wrong) or 0.0, 3),
            "auroc_visible": round(auroc(sure[visible], wrong[visible]) or 0.0, 3),
            "upper_half": round(upper_half(sure, distance) or 0.0, 3),
            "upper_half_visible": round(upper_half(sure[visible], distance[visible]) or 0.0, 3),
        }
    return result


def encode(path: Path, frames: np.ndarray, codec: str) -> Path:
    """The frames as an ordinary video: x264's defaults, or MPEG-4 at a fine quantiser."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=25, options=CODEC_OPTIONS[codec])
        stream.height, stream.width = frames.shape[1:]
        stream.pix_fmt = "yuv420p"
        for picture in frames:
            frame = av.VideoFrame.from_ndarray(cv2.merge([picture] * 3), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def _scored(scene: Scene, way: Way, windows: Windows, truth: Tracks, seconds: float) -> Scored:
    features, inside, conf, fine = windows.map(np.asarray).arrays()
    tracks = tracks_of_trajectories(Trajectories(features, inside, LENGTH, {}, conf, fine))
    pairs, size = len(scene.frames) - 1, _file_size(windows)
    return Scored(scene.name, way, score(tracks, truth), tracks, truth, pairs, seconds, size)


def _judged(row: Scored) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Distance, wrong, visible and confidence of each point with a track at the last step."""
    given = row.tracks.visible[:, -1]
    distance = np.linalg.norm(row.tracks.positions[:, -1] - row.truth.positions[:, -1], axis=-1)[given]
    visible = np.asarray(row.truth.visible.all(axis=1))[given]
    confidence = row.tracks.confidence
    sure = np.zeros(len(distance)) if confidence is None else confidence[given, -1]
    return distance, np.asarray((distance > WRONG) | ~visible), visible, sure


def _file_size(windows: Windows) -> int:
    features, inside, conf, fine = windows.map(np.asarray).arrays()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trajectories.gz"
        with TrajectoryWriter(
            path,
            length=LENGTH,
            rows=inside.shape[1],
            columns=inside.shape[2],
            confidence=conf is not None,
            fine=fine is not None,
        ) as writer:
            writer.write(features, inside, conf, fine)
            writer.close({})
        return path.stat().st_size


def _evidence(confidence: str, motion: MotionEstimator, frames: Any, found: Motion) -> Evidence | None:
    if confidence == "none":
        return None
    homographies: Any = found.homographies
    trips = None
    if confidence == "forward-backward":
        trips = round_trip(found.flow, backward_flow(motion.estimator, frames, 1, homographies))
    return Evidence(frames, 1, homographies, trips)


def _frames_for(motion: MotionEstimator, frames: np.ndarray) -> Any:
    if motion.estimator.backend == "opencv":
        return frames
    import torch

    return torch.from_numpy(frames.copy()).to(motion.estimator.device)


def _timed(function: Callable[..., Any], *arguments: Any, **named: Any) -> tuple[Any, float]:
    """The result of a call and its duration in seconds."""
    began = time.perf_counter()
    result = function(*arguments, **named)
    return result, time.perf_counter() - began


def _mean_of(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(float(np.mean(known)), 3) if known else None
