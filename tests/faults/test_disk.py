"""The output's disk: full, read-only, without permission."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from m3flow.results.forms.mp4 import Mp4Writer
from m3flow.results.trajectoryfile import TrajectoryWriter
from support.fault_cases import (
    QUICK,
    damaged,
    data_set,
    encode,
    results,
    run,
    statuses,
    temporaries,
    unfinished,
)


def _mount(*arguments: str) -> None:
    try:
        subprocess.run(["mount", *arguments], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"a file system cannot be mounted here: {getattr(error, 'stderr', '') or error}")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    folder = tmp_path / "disk"
    folder.mkdir()
    _mount("-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder))
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_full_disk_ends_the_run_and_room_lets_it_go_on(
    tmp_path: Path, small_disk: Path, workers: str
) -> None:
    list_file = data_set(tmp_path, 20, frames=12, width=64, height=64)
    arguments = ["flow", list_file, "--root", tmp_path, "--workers", workers, "--output", small_disk, *QUICK]
    _fill(small_disk, 64 * 1024)
    full = run(*arguments)
    assert full.returncode == 1, full.stderr
    assert "No space left on device" in full.stderr and "stopped before the end" in full.stderr
    assert "Traceback" not in full.stderr and "Logging error" not in full.stderr
    assert unfinished(small_disk) == [] and temporaries(small_disk) == []
    done = {video for _, video, status in statuses(small_disk) if status == "done"}
    assert 0 < len(done) < 20
    assert 2 * len(done) <= len(results(small_disk))

    _mount("-o", "remount,size=16m", str(small_disk))
    assert run(*arguments).returncode == 0
    again = Counter(video for _, video, status in statuses(small_disk) if status == "done")
    assert max(again.values()) == 1
    assert damaged(list_file, small_disk) == []


def test_a_disk_full_of_other_things_leaves_no_record_cut_in_two(tmp_path: Path, small_disk: Path) -> None:
    list_file = data_set(tmp_path, 4)
    arguments = ["flow", list_file, "--root", tmp_path, "--workers", "1", "--output", small_disk, *QUICK]
    _fill(small_disk, 0)
    full = run(*arguments)
    # An error during setup counts as wrong usage; a later one ends the run.
    assert full.returncode in (1, 2)
    assert "No space left on device" in full.stderr and "Traceback" not in full.stderr
    assert len(full.stderr.splitlines()) <= 4
    assert results(small_disk) == {}
    (small_disk / "other").unlink()
    assert run(*arguments).returncode == 0
    assert damaged(list_file, small_disk) == []


def test_a_read_only_disk_is_refused_before_anything_starts(tmp_path: Path, small_disk: Path) -> None:
    list_file = data_set(tmp_path, 2)
    arguments = ["flow", list_file, "--root", tmp_path, "--output", small_disk / "out", *QUICK]
    _mount("-o", "remount,ro", str(small_disk))
    refused = run(*arguments)
    assert refused.returncode == 2
    assert refused.stderr.splitlines() == [f"m3flow: --output {small_disk / 'out'}: Read-only file system"]
    _mount("-o", "remount,rw", str(small_disk))
    (small_disk / "out").mkdir()
    _mount("-o", "remount,ro", str(small_disk))
    assert run(*arguments).returncode == 2
    _mount("-o", "remount,rw", str(small_disk))
    assert run(*arguments).returncode == 0


def test_results_that_became_read_only_are_kept(tmp_path: Path, small_disk: Path) -> None:
    list_file = data_set(tmp_path, 2)
    output = small_disk / "out"
    arguments = ["flow", list_file, "--root", tmp_path, "--output", output, *QUICK]
    assert run(*arguments).returncode == 0
    before = results(output)
    _mount("-o", "remount,ro", str(small_disk))
    assert run(*arguments).returncode == 2
    assert run("verify", list_file, "--root", tmp_path, "--output", output).returncode == 0
    assert results(output) == before


def test_an_output_that_is_a_file_is_refused(tmp_path: Path) -> None:
    list_file = data_set(tmp_path, 1)
    (tmp_path / "out").write_text("not a folder")
    refused = run("flow", list_file, "--root", tmp_path, "--output", tmp_path / "out", *QUICK)
    assert (refused.returncode, refused.stderr) == (2, f"m3flow: --output {tmp_path / 'out'}: File exists\n")


def test_a_file_where_a_folder_must_be_fails_that_video_alone(tmp_path: Path) -> None:
    list_file = data_set(tmp_path, 3)
    output = tmp_path / "out"
    (output / "flows/clips").mkdir(parents=True)
    (output / "flows/clips/class1").write_text("in the way")
    arguments = ["flow", list_file, "--root", tmp_path, "--workers", "1", "--output", output, *QUICK]
    blocked = run(*arguments)
    assert blocked.returncode == 1 and "clips/class1/clip001.mp4" in blocked.stderr
    assert Counter(status for *_, status in statuses(output)) == {"done": 2, "failed": 1}
    (output / "flows/clips/class1").unlink()
    assert run(*arguments).returncode == 0
    assert damaged(list_file, output) == []


def test_a_disk_that_fills_at_any_byte_leaves_whole_files_or_none(small_disk: Path) -> None:
    # The writers themselves, whatever errors the libraries below report, with increasing free space.
    levels = np.random.default_rng(0).integers(0, 256, (3, 2, 32, 32), np.uint8)
    features = np.random.default_rng(0).integers(-20, 20, (12, 10, 4, 4), np.int8)
    page, written, refused = 4096, 0, 0
    for room in range(16):
        _fill(small_disk, room * page)
        try:
            with Mp4Writer(
                small_disk / "flows/v", codec="h264-lossless", rate=Fraction(25), width=32, height=32
            ) as writer:
                writer.write(levels)
                writer.close({"m3flow": "test"})
            with TrajectoryWriter(small_disk / "trajs/v_6.gz", length=6, rows=4, columns=4) as trajectories:
                trajectories.write(features, np.ones(features.shape[1:], np.uint8))
                trajectories.close({"m3flow": "test"})
            written += 1
        except OSError as error:
            assert error.errno == errno.ENOSPC
            refused += 1
        assert unfinished(small_disk) == [] and temporaries(small_disk) == []
        assert written == 0 or len(results(small_disk)) == 3
        for folder in ("flows", "trajs"):
            shutil.rmtree(small_disk / folder, ignore_errors=True)
        (small_disk / "other").unlink()
    assert written > 2 and refused > 2


def _fill(disk: Path, room: int) -> None:
    """Leave `room` free bytes on the disk."""
    with (disk / "other").open("wb", buffering=0) as other:
        other.write(bytes(shutil.disk_usage(disk).free - room))


def test_a_clip_can_lie_on_a_read_only_disk(tmp_path: Path, small_disk: Path) -> None:
    encode(small_disk / "a/b/clip.mp4")
    _mount("-o", "remount,ro", str(small_disk))
    done = run("flow", small_disk / "a/b/clip.mp4", "--output", tmp_path / "out", *QUICK)
    assert done.returncode == 0
