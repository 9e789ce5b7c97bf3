"""Processes killed at random moments: existing files are complete, and running again makes only the missing ones."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest

from support.fault_cases import (
    QUICK,
    damaged,
    data_set,
    descendants,
    encode,
    open_in,
    results,
    run,
    start,
    statuses,
    temporaries,
    unfinished,
    wait_for,
    workers,
)

KILLS = 22
VIDEOS = 40


def killed_at_a_random_moment(arguments: list[str | Path], output: Path, chance: random.Random) -> bool:
    """Start a run and kill it; False if it ended by itself before. Returns when its processes are gone."""
    before = len(statuses(output))
    files = len(list((output / "records").glob("*.csv")))
    process = start(*arguments)
    wait_for(
        lambda: len(list((output / "records").glob("*.csv"))) > files or process.poll() is not None,
        "the run's records",
    )
    progress = chance.randint(0, 3)
    wait_for(
        lambda: len(statuses(output)) >= before + progress or process.poll() is not None, "records of videos"
    )
    time.sleep(chance.random() * 0.1)  # not synchronisation: it makes the moment random
    family = descendants(process)
    if process.poll() is not None:
        return False
    if chance.random() < 0.5:
        process.kill()
    else:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    psutil.wait_procs(family, timeout=30)
    assert not [child for child in family if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
    return True


def test_a_run_killed_again_and_again_ends_as_one_that_was_not(tmp_path: Path) -> None:
    list_file = data_set(tmp_path, VIDEOS, frames=16, width=64)
    place: list[str | Path] = [list_file, "--root", tmp_path, "--workers", "2"]
    calm, killed = tmp_path / "calm", tmp_path / "killed"
    assert run("flow", *place, "--output", calm, *QUICK).returncode == 0
    assert run("trajectories", *place, "--output", calm).returncode == 0
    undisturbed = results(calm)
    assert len(undisturbed) == 3 * VIDEOS

    chance = random.Random(20)
    kills = 0
    for command, more in (("flow", QUICK), ("trajectories", ())):
        arguments: list[str | Path] = [command, *place, "--output", killed, *more]
        for _ in range(KILLS // 2):
            kills += killed_at_a_random_moment(arguments, killed, chance)
            assert unfinished(killed) == []
        assert run(*arguments).returncode == 0
    assert kills >= 20

    assert results(killed) == undisturbed  # byte for byte
    assert damaged(list_file, killed) == []
    # A video is never made again once its files exist: at most one line has the status done.
    for kind in ("flow", "trajectories"):
        made = Counter(
            v for name, v, status in statuses(killed) if status == "done" and name.startswith(kind)
        )
        assert max(made.values()) == 1
        assert {status for name, _, status in statuses(killed) if name.startswith(kind)} <= {"done", "kept"}
    left = temporaries(killed)
    verified = run("verify", list_file, "--root", tmp_path, "--output", killed, "--repair")
    assert (verified.returncode, temporaries(killed)) == (0, [])
    print(f"{kills} kills, {len(left)} temporary files left and removed")


def test_a_killed_worker_fails_only_its_current_video(tmp_path: Path) -> None:
    # Like the kernel's out-of-memory killer.
    list_file = data_set(tmp_path, 24, frames=40, width=96, height=64)
    output = tmp_path / "out"
    arguments = ["flow", list_file, "--root", tmp_path, "--workers", "2", "--output", output, *QUICK]
    process = start(*arguments)
    killed = 0
    for progress in (1, 4, 9, 14):
        wait_for(lambda at=progress: len(statuses(output)) >= at or process.poll() is not None, "progress")
        for worker in workers(process)[:1]:
            worker.kill()
            killed += 1
    assert process.stderr is not None
    said = process.stderr.read()
    lost = [video for _, video, status in statuses(output) if status == "failed"]
    assert killed and len(lost) <= killed
    assert process.wait() == (1 if lost else 0)
    assert said.count("the worker died (SIGKILL; out of memory?)") == len(lost)
    assert len(statuses(output)) == 24
    assert unfinished(output) == []

    assert run(*arguments).returncode == 0
    again = statuses(output)[24:]
    assert {video for _, video, status in again if status == "done"} <= set(lost)
    assert damaged(list_file, output) == []


def test_a_worker_killed_while_it_starts_costs_nothing(tmp_path: Path) -> None:
    list_file = data_set(tmp_path, 6)
    process = start(
        "flow", list_file, "--root", tmp_path, "--workers", "2", "--output", tmp_path / "out", *QUICK
    )
    wait_for(lambda: workers(process) or process.poll() is not None, "a worker")
    for worker in workers(process):
        worker.kill()
    assert process.wait() == 0
    assert [status for *_, status in statuses(tmp_path / "out")] == ["done"] * 6


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (signal.SIGSEGV, "the decoder crashed (SIGSEGV)"),
        (signal.SIGSTOP, "the decoder hangs: nothing for 3 s"),
    ],
)
def test_a_crash_or_hang_while_motion_vectors_are_read_costs_that_video(
    tmp_path: Path, sent: signal.Signals, reason: str
) -> None:
    # They are read in the worker, not in the decoding process; a signal simulates the decoder's crash.
    list_file = data_set(tmp_path, 3)
    long = encode(tmp_path / "clips/class1/clip001.mp4", frames=1500, width=320, height=240)
    output = tmp_path / "out"
    place = [list_file, "--root", tmp_path, "--workers", "1", "--output", output]
    process = start("trajectories", *place, "--job", "mvs", "--limit", "seconds=3")
    wait_for(lambda: open_in(process, long) is not None, "the long clip to be opened")
    worker = open_in(process, long)
    assert worker is not None
    worker.send_signal(sent)
    assert process.stderr is not None
    said = process.stderr.read()
    assert process.wait() == 3
    assert f"rejected: clips/class1/clip001.mp4: {reason}" in said
    assert Counter(status for *_, status in statuses(output)) == {"done": 2, "rejected": 1}


def test_a_killed_decoder_is_replaced(tmp_path: Path) -> None:
    list_file = data_set(tmp_path, 12, frames=60, width=96, height=64)
    output = tmp_path / "out"
    arguments = ["flow", list_file, "--root", tmp_path, "--workers", "1", "--output", output, *QUICK]
    process = start(*arguments)
    wait_for(lambda: len(statuses(output)) >= 2, "two videos")
    for child in descendants(process):
        if "decode_child" in " ".join(child.cmdline()):
            child.kill()
    assert process.stderr is not None
    said = process.stderr.read()
    failed = [video for _, video, status in statuses(output) if status == "failed"]
    assert len(failed) <= 1 and process.wait() == len(failed)
    assert ("decoding process ended" in said) == bool(failed)
    assert len(statuses(output)) == 12
    assert run(*arguments).returncode == 0
    assert damaged(list_file, output) == []


def test_a_stopped_run_finishes_the_videos_in_progress(tmp_path: Path) -> None:
    list_file = data_set(tmp_path, 30, frames=40, width=96, height=64)
    output = tmp_path / "out"
    arguments = ["flow", list_file, "--root", tmp_path, "--workers", "2", "--output", output, *QUICK]
    process = start(*arguments)
    wait_for(lambda: len(statuses(output)) >= 2, "two videos")
    process.terminate()
    assert process.stderr is not None
    said = process.stderr.read()
    assert process.wait() == 1 and "run again to continue" in said
    done = len(results(output)) // 2
    assert done < 30 and unfinished(output) == [] and temporaries(output) == []
    assert run(*arguments).returncode == 0
    assert Counter(status for *_, status in statuses(output)) == {"done": 30, "kept": done}
