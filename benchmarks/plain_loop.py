"""Baseline: a plain loop over OpenCV, its "mp4v" writer, gzip at level 9.

It does the same as the original extractor, without CUDA, and is the baseline of benchmarks/extract.py.
"""

from __future__ import annotations

import gzip
import pickle
from pathlib import Path

import cv2
import numpy as np

BOUND = 20
LENGTH = 6


def extract(clip: Path, output: Path, estimator: str, camera: bool) -> int:
    """Make flow and trajectories of one clip; returns its number of frames."""
    output.mkdir(parents=True, exist_ok=True)
    frames = make_flow(clip, output, estimator, camera)
    make_trajectories(output)
    return frames


def make_flow(clip: Path, output: Path, estimator: str, camera: bool) -> int:
    capture = cv2.VideoCapture(str(clip))
    rate = capture.get(cv2.CAP_PROP_FPS)
    dis = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    orb = cv2.ORB_create(500)

    def flow_of(one: np.ndarray, two: np.ndarray) -> np.ndarray:
        if estimator == "dis":
            return dis.calc(one, two, None)
        return cv2.calcOpticalFlowFarneback(one, two, None, 0.5, 5, 13, 10, 5, 1.1, 0)

    writers: list[cv2.VideoWriter] = []
    previous = None
    count = 0
    while True:
        ok, frame = capture.read()
        if not ok:
            break
        grey = cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY)
        count += 1
        if previous is not None:
            flow = flow_of(previous, grey)
            if camera:
                homography = camera_motion(previous, grey, flow, orb)
                if homography is not None:
                    size = (grey.shape[1], grey.shape[0])
                    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
                    warped = cv2.warpPerspective(
                        grey, homography, size, flags=flags, borderMode=cv2.BORDER_REPLICATE
                    )
                    flow = flow_of(previous, warped)
            if not writers:
                size = (grey.shape[1], grey.shape[0])
                code = cv2.VideoWriter_fourcc(*"mp4v")
                writers = [cv2.VideoWriter(str(output / f"{name}.mp4"), code, rate, size) for name in "xy"]
            levels = np.clip(np.round(255 * (flow + BOUND) / (2 * BOUND)), 0, 255).astype(np.uint8)
            for channel, writer in enumerate(writers):
                writer.write(cv2.cvtColor(levels[..., channel], cv2.COLOR_GRAY2BGR))
        previous = grey
    for writer in writers:
        writer.release()
    return count


def camera_motion(one: np.ndarray, two: np.ndarray, flow: np.ndarray, orb: cv2.ORB) -> np.ndarray | None:
    """Corners on the flow plus feature matches within 25 px, RANSAC at 1 px; None if not accepted."""
    corners = cv2.goodFeaturesToTrack(one, 500, 0.001, 8)
    pairs = []
    if corners is not None:
        points = corners[:, 0]
        columns, rows = points.astype(int).T
        pairs.append((points, points + flow[rows, columns]))
    first, one_descriptors = orb.detectAndCompute(one, None)
    second, two_descriptors = orb.detectAndCompute(two, None)
    if one_descriptors is not None and two_descriptors is not None:
        matches = cv2.BFMatcher(cv2.NORM_HAMMING, crossCheck=True).match(one_descriptors, two_descriptors)
        if matches:
            start = np.float32([first[match.queryIdx].pt for match in matches])
            end = np.float32([second[match.trainIdx].pt for match in matches])
            near = np.linalg.norm(end - start, axis=1) < 25
            pairs.append((start[near], end[near]))
    start, end = (
        (np.concatenate(side) for side in zip(*pairs, strict=True)) if pairs else (np.empty((0, 2)),) * 2
    )
    if len(start) <= 50:
        return None
    homography, inliers = cv2.findHomography(start, end, cv2.RANSAC, 1.0)
    return homography if homography is not None and inliers.sum() > 25 else None


def make_trajectories(output: Path) -> None:
    """Window by window, the flow truncated to whole pixels."""
    x, y = (read_component(output / f"{name}.mp4") for name in "xy")
    frames, height, width = x.shape
    features, kinds = [], []
    for start in range(frames - LENGTH):
        rows, columns = np.mgrid[4:height:8, 4:width:8][:, : height // 8, : width // 8]
        steps_x, steps_y = [], []
        kind = np.ones(rows.shape, np.uint8)
        for step in range(LENGTH):
            kind[(rows < 0) | (rows >= height) | (columns < 0) | (columns >= width)] = 0
            rows, columns = rows.clip(0, height - 1), columns.clip(0, width - 1)
            dx = x[start + step, rows, columns].astype(np.int64)
            dy = y[start + step, rows, columns].astype(np.int64)
            steps_x.append(dx)
            steps_y.append(dy)
            rows, columns = rows + dy, columns + dx
        features.append(np.stack(steps_x + steps_y).clip(-20, 20).astype(np.int8))
        kinds.append(kind)
    content = {"traj_feat": np.stack(features, 1), "traj_type": np.stack(kinds)}
    with gzip.open(output / f"trajectories_{LENGTH}.gz", "wb", compresslevel=9) as file:
        pickle.dump(content, file)


def read_component(path: Path) -> np.ndarray:
    capture = cv2.VideoCapture(str(path))
    frames = []
    while True:
        ok, frame = capture.read()
        if not ok:
            return np.stack(frames)
        frames.append(cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY).astype(np.float32) * (2 * BOUND / 255) - BOUND)
