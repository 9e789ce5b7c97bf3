"""Files, bytes and time of packing 2,000 videos, killed at 20 random moments: `python benchmarks/packs.py`.

The videos are small, made on the spot; what is counted is the number of files, and that nothing is lost or twice.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from m3flow.atomic import remove
from m3flow.layout import Outputs
from m3flow.packs.packing import rewrite_without, verify_packs
from m3flow.packs.store import Packs
from m3flow.results.forms.mp4 import Mp4Writer
from m3flow.results.repair import leftovers
from m3flow.results.trajectoryfile import TrajectoryWriter
from machine import describe

RESULTS = Path(__file__).parent / "results" / "packs.json"
LENGTH, FRAMES, HEIGHT, WIDTH = 6, 9, 48, 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--videos", type=int, default=2000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--size", type=int, default=100, help="videos in a pack")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measured = measure(Path(folder), options.videos, options.kills, options.size)
    RESULTS.write_text(json.dumps({"machine": describe(), **measured}, indent=1) + "\n")
    print(json.dumps(measured, indent=1))


def measure(folder: Path, videos: int, kills: int, size: int) -> dict[str, Any]:
    names = make(folder, videos)
    outputs = Outputs(folder / "out")
    before = singles(outputs)
    files_before, bytes_before = count(outputs.folder)
    shutil.copytree(outputs.folder, folder / "copy")
    command = [
        sys.executable, "-c", "from m3flow.cli import main; main()", "pack", str(folder / "list.txt"),
        "--parts", "2", "--length", str(LENGTH), "--size", str(size), "--remove", "--output",
    ]  # fmt: skip
    began = time.perf_counter()
    subprocess.run([*command, str(folder / "copy")], check=True, stderr=subprocess.DEVNULL)
    seconds = time.perf_counter() - began
    assert packed(Outputs(folder / "copy")) == before
    shutil.rmtree(folder / "copy")

    killed = pack_with_kills([*command, str(outputs.folder)], outputs, kills, 3 * seconds / kills)
    rows = sum(len(pack) for pack in names_in_packs(outputs).values())
    assert packed(outputs) == before and not singles(outputs) and rows == len(names)
    # What a killed process was writing has a temporary name; m3flow verify --repair removes it.
    left = list(leftovers(outputs))
    assert all(file.abandoned for file in left)
    for file in left:
        remove(file.path)
    files_after, bytes_after = count(outputs.folder)
    lost = truncate_and_repair(outputs)
    return {
        "videos": videos,
        "files_before": files_before,
        "files_after": files_after,
        "bytes_before": bytes_before,
        "bytes_after": bytes_after,
        "seconds_to_pack": round(seconds, 1),
        "kills": killed,
        "temporary_files_left": len(left),
        "lost": 0,
        "twice": rows - len(names),
        "truncated_pack": lost,
    }


def pack_with_kills(command: list[str], outputs: Outputs, kills: int, longest: float) -> int:
    """Pack, killed at random moments and called again, until all is packed; returns the number of kills."""
    before = singles(outputs)
    draws, killed = random.Random(17), 0
    while killed < kills:
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        try:
            # Within what one pack takes, past the start of the interpreter.
            process.wait(draws.uniform(0.3, 0.3 + longest))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            killed += 1
            there = packed(outputs)
            assert singles(outputs) | there == before, "lost or changed"
        else:
            break
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    return killed


def make(folder: Path, videos: int) -> list[str]:
    """Results of so many videos, each with other content."""
    outputs, names = Outputs(folder / "out"), []
    random_numbers = np.random.default_rng(0)
    for number in range(videos):
        name = f"class{number % 50}/clip{number:05d}.mp4"
        names.append(name)
        made = {"settings": {"bound": 20.0, "number": number}, "source": {"frames": FRAMES}}
        with Mp4Writer(
            outputs.flow(name), codec="mpeg4", rate=Fraction(25), width=WIDTH, height=HEIGHT
        ) as writer:
            writer.write(random_numbers.integers(120, 136, (FRAMES - 1, 2, HEIGHT, WIDTH)).astype(np.uint8))
            writer.close(made)
        path, shape = outputs.trajectories(name, LENGTH), (FRAMES - LENGTH, HEIGHT // 8, WIDTH // 8)
        with TrajectoryWriter(path, length=LENGTH, rows=shape[1], columns=shape[2]) as tracks:
            tracks.write(
                random_numbers.integers(-20, 21, (2 * LENGTH, *shape)).astype(np.int8),
                np.ones(shape, np.uint8),
            )
            tracks.close(made)
    (folder / "list.txt").write_text("".join(f"{name} 0\n" for name in names))
    return names


def singles(outputs: Outputs) -> dict[str, bytes]:
    return {
        str(path.relative_to(outputs.folder)): path.read_bytes()
        for top in (outputs.flows, outputs.trajs)
        for path in top.rglob("*")
        if path.is_file()
    }


def packed(outputs: Outputs) -> dict[str, bytes]:
    packs = Packs(outputs)
    assert not packs.damaged
    return {
        str(outputs.unpacked(name, LENGTH, member).relative_to(outputs.folder)): data
        for name in packs.videos
        for member, data in packs.content(name)
    }


def names_in_packs(outputs: Outputs) -> dict[Path, list[str]]:
    from m3flow.packs.archive import read_table

    return {path: [row.video for row in read_table(path).videos] for path in outputs.pack_tables()}


def count(folder: Path) -> tuple[int, int]:
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    return len(sizes), sum(sizes)


def truncate_and_repair(outputs: Outputs) -> dict[str, int]:
    """Cut a pack in the middle, find it, and repair it."""
    from m3flow.packs.archive import read_table

    table = outputs.pack_tables()[0]
    tar = read_table(table).tar
    os.truncate(tar, tar.stat().st_size // 2)
    (damaged,) = verify_packs(outputs)
    kept = rewrite_without(damaged.table, damaged.lost)
    assert not list(verify_packs(outputs))
    return {"videos": kept + len(damaged.lost), "lost": len(damaged.lost), "kept": kept}


if __name__ == "__main__":
    main()
