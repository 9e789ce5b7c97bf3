"""Clips, runs and faults for the fault tests."""

from __future__ import annotations

import csv
import hashlib
import io
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stderr
from functools import partial
from pathlib import Path
from unittest.mock import patch

import av
import numpy as np
import psutil

from m3flow.atomic import TEMPORARY_SUFFIX
from m3flow.cli import main
from m3flow.errors import BadInput
from m3flow.layout import Outputs
from m3flow.results.forms.mp4 import packet_digest
from m3flow.results.stored_flow import read_provenance
from m3flow.results.trajectoryfile import load_trajectories
from m3flow.results.verify import Wanted, verify_all
from m3flow.videos.videolist import VideoList

# Short runs: the cheapest estimator, and no camera estimation.
QUICK = ("--estimator", "dis", "--set", "preset=ultrafast", "--camera", "none")
COMMAND = (sys.executable, "-c", "from m3flow.cli import main; main()")


def encode(
    path: Path,
    *,
    frames: int = 10,
    width: int = 48,
    height: int = 32,
    codec: str = "mpeg4",
    seed: int = 0,
    container: str = "",
) -> Path:
    """Write a clip of a texture that moves by (2, 1) pixels per frame."""
    path.parent.mkdir(parents=True, exist_ok=True)
    small = np.random.default_rng(seed).integers(0, 256, (height // 4 + 12, width // 4 + 12), np.uint8)
    texture = np.kron(small, np.ones((4, 4), np.uint8))
    options = {"libx265": {"x265-params": "log-level=none"}}.get(codec, {})
    with path.open("wb") as file, av.open(file, "w", format=container or "mp4") as target:
        stream = target.add_stream(codec, rate=25, options=options)
        stream.width, stream.height = width, height
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        for t in range(frames):
            x, y = (2 * t) % 40, t % 40
            picture = np.repeat(texture[y : y + height, x : x + width, None], 3, axis=2)
            target.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        target.mux(stream.encode(None))
    return path


def data_set(root: Path, count: int, **about: int) -> Path:
    """Write a list of `count` different clips in three classes; returns the list file."""
    lines = []
    for number in range(count):
        name = f"clips/class{number % 3}/clip{number:03d}.mp4"
        encode(root / name, seed=number, **about)
        lines.append(f"{name} {number % 3}\n")
    list_file = root / "list.csv"
    list_file.write_text("".join(lines))
    return list_file


def run(*arguments: str | Path, **how: object) -> subprocess.CompletedProcess[str]:
    """Run `m3flow …` to its end."""
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        capture_output=True,
        encoding="utf-8",
        errors="surrogateescape",
        timeout=240,
        check=False,
        **how,
    )


def here(*arguments: str | Path) -> tuple[int, str]:
    """`m3flow …` in this process, for commands that start no run: its exit status and its messages."""
    said = io.StringIO()
    with patch.object(sys, "argv", ["m3flow", *map(str, arguments)]), redirect_stderr(said):
        try:
            main()
        except SystemExit as end:
            return int(end.code or 0), said.getvalue()
    return 0, said.getvalue()


def start(*arguments: str | Path) -> subprocess.Popen[str]:
    """Start `m3flow …` in its own process group, without waiting."""
    return subprocess.Popen(
        [*COMMAND, *map(str, arguments)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="surrogateescape",
        start_new_session=True,
        # Children of a background shell ignore Ctrl-C.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )


def wait_for(condition: Callable[[], object], what: str, seconds: float = 60.0) -> None:
    """Wait until the condition holds; fails after a timeout."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds:g} s for {what}"
        time.sleep(0.002)


def statuses(output: Path) -> list[tuple[str, str, str]]:
    """(records file, video, status) of every record line, in the order of the files' names."""
    lines = []
    for path in sorted((output / "records").glob("*.csv")):
        # Read in one go: a run may be writing it.
        text = path.read_bytes().decode("utf-8", errors="surrogateescape")
        for row in csv.DictReader(io.StringIO(text, newline="")):
            if row.get("time") is not None:
                lines.append((path.name, row["video"], row["status"]))
    return lines


def results(output: Path) -> dict[str, str]:
    """The hash of each result file by its path in the output folder, without temporary files."""
    found = {}
    for kind in ("flows", "trajs"):
        for where, _, names in os.walk(output / kind):
            for name in names:
                if not name.endswith(TEMPORARY_SUFFIX):
                    path = Path(where, name)
                    found[os.fspath(path.relative_to(output))] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def rejections(said: str) -> int:
    """The rejected videos that a run reported: a few of each reason by name, the others by their number."""
    lines = [line for line in said.split("\n") if line.startswith("rejected: ")]
    counted = [re.match(r"rejected: ([\d,]+) more videos: ", line) for line in lines]
    return sum(int(match[1].replace(",", "")) if match else 1 for match in counted)


def temporaries(output: Path) -> list[Path]:
    return [
        Path(where, name) for where, _, names in os.walk(output) for name in names if ".m3flow-tmp" in name
    ]


def unfinished(output: Path) -> list[str]:
    """The incomplete result files."""
    wrong = []
    for name in results(output):
        path = output / name
        try:
            if path.suffix == ".gz":
                load_trajectories(path)
            elif read_provenance(path)["packets"] != packet_digest(path):
                wrong.append(name)
        except (BadInput, KeyError) as error:
            wrong.append(f"{name}: {error}")
    return wrong


def damaged(list_file: Path, output: Path) -> list[str]:
    """The problems that `m3flow verify` reports for the files of a list."""
    wanted = Wanted(
        outputs=Outputs(output), flow=(output / "flows").is_dir(), trajectories=(output / "trajs").is_dir()
    )
    videos = VideoList(list_file, list_file.parent).read()
    return [problem for found in verify_all(videos, wanted, 2) for problem in found.problems]


def descendants(process: subprocess.Popen[str]) -> list[psutil.Process]:
    try:
        return psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def workers(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The worker processes of a run, without their decoders and multiprocessing's helper processes."""
    found = []
    for child in descendants(process):
        try:
            line = " ".join(child.cmdline())
        except psutil.Error:
            continue
        if "spawn_main" in line:
            found.append(child)
    return found


def open_in(process: subprocess.Popen[str], video: Path) -> psutil.Process | None:
    """The process of the run that currently reads the video."""
    for child in descendants(process):
        try:
            if any(file.path == str(video) for file in child.open_files()):
                return child
        except psutil.Error:
            continue
    return None
