"""The OpenCV path of an earlier revision and of this one, side by side: frames per second and core-seconds.

    python benchmarks/revisions.py REVISION [CLIPS…] [--frames N] [--turns N] [--output FILE]

`m3flow flow` of both revisions, with the same options, in turns, on the same 320x240 clips. Core-seconds are those of
all processes, start-up included; "plain" is this revision without cuts and dither, which earlier ones may lack. The
figures per added frame are from the difference to a run on a third of the clips: without start-up.
"""

from __future__ import annotations

import argparse
import compileall
import json
import os
import resource
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import cv2

from machine import describe
from real_clips import add_clips, chosen_clips

RESULTS = Path(__file__).parent / "results"
REPOSITORY = Path(__file__).parent.parent
WIDTH, HEIGHT = 320, 240
COPIES = 3  # of each clip
CASES = (("dis", "none"), ("dis", "warp"), ("farneback", "none"), ("farneback", "warp"))
PLAIN = ("--no-cuts", "--no-dither")


def sources_of(revision: str, folder: Path) -> Path:
    """The source folder of a revision, extracted to `folder` and compiled."""
    archive = folder / "revision.tar"
    subprocess.run(["git", "archive", "-o", archive, revision, "src"], cwd=REPOSITORY, check=True)
    with tarfile.open(archive) as files:
        files.extractall(folder / "revision", filter="data")
    return folder / "revision" / "src"


def write_clips(clips: list[Path], folder: Path, frames: int) -> list[str]:
    """Clips of `frames` frames each, from the beginning of the given ones; returns their names."""
    names = []
    for number, clip in enumerate(clips * COPIES):
        reader = cv2.VideoCapture(str(clip))
        name = f"{number}.mp4"
        writer = cv2.VideoWriter(str(folder / name), cv2.VideoWriter.fourcc(*"mp4v"), 25, (WIDTH, HEIGHT))
        for _ in range(frames):
            found, frame = reader.read()
            if not found:
                break
            writer.write(cv2.resize(frame, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA))
        writer.release()
        names.append(name)
    return names


def measured(source: Path, listed: Path, output: Path, options: list[str]) -> tuple[float, float]:
    """Core-seconds and seconds of a run of `m3flow flow`."""
    shutil.rmtree(output, ignore_errors=True)
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(
        [
            *(sys.executable, "-c", "from m3flow.cli import main; main()", "flow", listed),
            *("--root", listed.parent, "--output", output, "--backend", "opencv", *options),
        ],
        env={**os.environ, "PYTHONPATH": str(source)},
        stderr=subprocess.DEVNULL,
        check=True,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cores = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return cores, time.perf_counter() - start


def compared(ways: dict[str, tuple[Path, list[str]]], lists: list[Path], turns: int) -> dict[str, Any]:
    """The figures of each way, as medians over the turns; those after the first relative to it."""
    all_of: dict[str, list[tuple[float, float, float]]] = {name: [] for name in ways}
    frames = [sum(_frames(path.parent / name) for name in path.read_text().split()) for path in lists]
    for _ in range(turns):
        for name, (source, options) in ways.items():
            few, many = (measured(source, path, lists[0].parent / "out", options) for path in lists)
            added = frames[1] - frames[0]
            per_frame = (many[0] - few[0]) / added
            all_of[name].append((many[0], frames[1] / many[1], per_frame))
    result: dict[str, Any] = {}
    first = next(iter(ways))
    for name, runs in all_of.items():
        cores, rate, per_frame = (median(values) for values in zip(*runs, strict=True))
        result[name] = {
            "core_seconds": round(cores, 2),
            "frames_per_s": round(rate, 1),
            "core_ms_per_added_frame": round(1000 * per_frame, 3),
        }
        if name != first:
            pairs = list(zip(all_of[first], runs, strict=True))
            for index, key in enumerate(("core_seconds", "frames_per_s", "core_ms_per_added_frame")):
                ratio = median(now[index] / before[index] for before, now in pairs)
                result[name][f"{key}_relative"] = round(ratio, 3)
    return result


def _frames(path: Path) -> int:
    return int(cv2.VideoCapture(str(path)).get(cv2.CAP_PROP_FRAME_COUNT))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("revision", help="the earlier revision, as git names it")
    add_clips(parser)
    parser.add_argument("--frames", type=int, default=100, help="of each clip")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--output", type=Path, default=RESULTS / "revisions.json")
    options = parser.parse_args()
    clips = chosen_clips(parser, options)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        earlier, now = sources_of(options.revision, folder), REPOSITORY / "src"
        for source in (earlier, now):
            compileall.compile_dir(source, quiet=1)
        names = write_clips(clips, folder, options.frames)
        lists = [folder / "few.txt", folder / "all.txt"]
        lists[0].write_text("\n".join(names[: len(clips)]) + "\n")
        lists[1].write_text("\n".join(names) + "\n")
        result: dict[str, Any] = {
            "machine": describe(),
            "revision": options.revision,
            "clips": len(names),
            "frames": options.frames,
            "turns": options.turns,
            "cases": {},
        }
        for estimator, camera in CASES:
            same = ["--estimator", estimator, "--camera", camera]
            ways = {"before": (earlier, same), "now": (now, same), "plain": (now, [*same, *PLAIN])}
            result["cases"][f"{estimator}, camera {camera}"] = compared(ways, lists, options.turns)
            print(estimator, camera, json.dumps(result["cases"][f"{estimator}, camera {camera}"]), flush=True)
    options.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
