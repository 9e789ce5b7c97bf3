"""Videos that change, vanish or are broken; simultaneous runs; wrong clocks; hanging decoders."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from m3flow.extraction.extractor import Extractor
from m3flow.extraction.work import Work
from m3flow.layout import Outputs
from m3flow.results.provenance import same_source
from m3flow.results.records import read_records
from m3flow.results.stored_flow import read_provenance
from m3flow.settings import FlowSettings
from m3flow.videos.identity import identity
from m3flow.videos.videolist import Video
from support.fault_cases import (
    QUICK,
    damaged,
    data_set,
    encode,
    open_in,
    results,
    run,
    start,
    statuses,
    temporaries,
    unfinished,
    wait_for,
)

YEAR = 365 * 86400


def started_on(video: Path, list_file: Path, output: Path, *more: str) -> subprocess.Popen[str]:
    """A run that is decoding the video; the decoder is suspended until it gets SIGCONT."""
    process = start(
        "flow", list_file, "--root", list_file.parent, "--workers", "1", "--output", output, *QUICK, *more
    )
    wait_for(lambda: open_in(process, video) is not None, "the video to be opened")
    decoder = open_in(process, video)
    assert decoder is not None
    decoder.suspend()
    assert open_in(process, video) is not None, "the video was read before the decoder could be held"
    process.decoder = decoder  # type: ignore[attr-defined]
    return process


def long_clip_in(root: Path) -> tuple[Path, Path]:
    """A list of three clips whose second is long; returns (list, the long clip)."""
    list_file = data_set(root, 3)
    return list_file, encode(root / "clips/class1/clip001.mp4", frames=400, width=160, height=128)


def test_a_video_replaced_while_it_is_read_is_made_again(tmp_path: Path) -> None:
    list_file, clip = long_clip_in(tmp_path)
    output = tmp_path / "out"
    process = started_on(clip, list_file, output)
    encode(tmp_path / "new.mp4", frames=12, seed=7).replace(clip)
    process.decoder.resume()  # type: ignore[attr-defined]
    said = process.communicate()[1]
    assert process.returncode == 1
    assert "failed: clips/class1/clip001.mp4" in said and "the video changed while it was read" in said
    assert Counter(status for *_, status in statuses(output)) == {"done": 2, "failed": 1}
    assert not (output / "flows/clips/class1/clip001.mp4").exists() and temporaries(output) == []

    assert run("flow", list_file, "--root", tmp_path, "--output", output, *QUICK).returncode == 0
    assert Counter(status for *_, status in statuses(output)[3:]) == {"kept": 2, "done": 1}
    made = read_provenance(output / "flows/clips/class1/clip001.mp4/x.mp4")
    assert same_source(made, identity(clip)) and made["source"]["frames"] == 12


def test_a_video_deleted_while_it_is_read_is_no_result(tmp_path: Path) -> None:
    list_file, clip = long_clip_in(tmp_path)
    output = tmp_path / "out"
    process = started_on(clip, list_file, output)
    clip.unlink()
    process.decoder.resume()  # type: ignore[attr-defined]
    said = process.communicate()[1]
    assert process.returncode == 1 and "failed: clips/class1/clip001.mp4" in said, said
    again = run("flow", list_file, "--root", tmp_path, "--output", output, *QUICK)
    assert again.returncode == 3
    assert "rejected: clips/class1/clip001.mp4: no such file" in again.stderr
    assert Counter(status for *_, status in statuses(output)[3:]) == {"kept": 2, "rejected": 1}


def test_a_decoder_that_hangs_costs_its_video(tmp_path: Path) -> None:
    list_file, clip = long_clip_in(tmp_path)
    output = tmp_path / "out"
    process = started_on(clip, list_file, output, "--limit", "seconds=2")
    said = process.communicate()[1]
    assert process.returncode == 3
    assert "rejected: clips/class1/clip001.mp4: the decoder hangs: no frame for 2 s" in said
    assert Counter(status for *_, status in statuses(output)) == {"done": 2, "rejected": 1}


@pytest.mark.parametrize(
    ("limit", "reason"),
    [
        ("memory_gb=0.01", "rejected: clips/class1/clip001.mp4: "),
        ("frames=200", "more than 200 frames, which limits.frames allows"),
        ("megapixels=0.01", "frames of 160x128 are larger than limits.megapixels"),
    ],
)
def test_a_video_beyond_a_limit_is_rejected_and_the_rest_is_done(
    tmp_path: Path, limit: str, reason: str
) -> None:
    list_file, _ = long_clip_in(tmp_path)
    output = tmp_path / "out"
    done = run("flow", list_file, "--root", tmp_path, "--output", output, "--limit", limit, *QUICK)
    assert done.returncode == 3 and reason in done.stderr and "Traceback" not in done.stderr
    rejected = {video for _, video, status in statuses(output) if status == "rejected"}
    assert "clips/class1/clip001.mp4" in rejected
    assert len(rejected) == 1 or limit.startswith("memory")


def test_a_source_that_changed_after_it_was_done_is_made_again(tmp_path: Path) -> None:
    list_file = data_set(tmp_path, 5)
    output = tmp_path / "out"
    place = [list_file, "--root", tmp_path, "--output", output]
    assert run("flow", *place, *QUICK).returncode == 0
    assert run("trajectories", *place).returncode == 0
    before = results(output)
    clip = tmp_path / "clips/class2/clip002.mp4"
    then = clip.stat()
    encode(clip, seed=99)
    os.utime(clip, ns=(then.st_atime_ns, then.st_mtime_ns))  # unchanged timestamps
    wrong = run("verify", *place)
    assert wrong.returncode == 3 and "made from another video" in wrong.stderr
    assert run("flow", *place, *QUICK).returncode == 0
    assert run("trajectories", *place).returncode == 0
    remade = [
        (name, video) for name, video, status in statuses(output) if "-0002" in name and status == "done"
    ]
    assert remade == [
        ("flow-0002.csv", "clips/class2/clip002.mp4"),
        ("trajectories-0002.csv", "clips/class2/clip002.mp4"),
    ]
    after = results(output)
    assert {name for name in before if before[name] != after[name]} == {
        "flows/clips/class2/clip002.mp4/x.mp4",
        "flows/clips/class2/clip002.mp4/y.mp4",
        "trajs/clips/class2/clip002.mp4_6.gz",
    }
    assert run("verify", *place).returncode == 0


def test_a_file_system_that_drops_out_is_no_fault_of_the_video(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = encode(tmp_path / "clip.mp4")

    def ailing(*_: object, **__: object) -> object:
        raise OSError(errno.ESTALE, "Stale file handle", str(clip))

    monkeypatch.setattr(Path, "open", ailing)
    work = Work(outputs=Outputs(tmp_path / "out"), flow=FlowSettings(estimator="dis"), backend="opencv")
    with Extractor(work) as extractor:
        record = extractor(Video(str(clip), "clip.mp4"))
    assert record.status == "failed" and "Stale file handle" in record.reason
    assert not record.ends_run


def test_a_kill_between_the_files_and_their_record_loses_no_numbers(tmp_path: Path) -> None:
    list_file = data_set(tmp_path, 2)
    output = tmp_path / "out"
    place = ["flow", list_file, "--root", tmp_path, "--workers", "1", "--output", output, *QUICK]
    assert run(*place).returncode == 0
    first = list(read_records([output / "records/flow-0001.csv"]))
    (output / "records/flow-0001.csv").unlink()
    assert run(*place).returncode == 0
    again = list(read_records([output / "records/flow-0001.csv"]))
    assert [record.status for record in again] == ["kept", "kept"]
    for before, after in zip(first, again, strict=True):
        for name in (
            "video",
            "frames",
            "claimed",
            "width",
            "height",
            "speed",
            "speed_p95",
            "still",
            "camera",
        ):
            assert getattr(before, name) == getattr(after, name), name


def test_two_runs_on_the_same_output_at_once(tmp_path: Path) -> None:
    list_file = data_set(tmp_path, 16, frames=16, width=64, height=64)
    place = [list_file, "--root", tmp_path, "--workers", "1"]
    calm, shared = tmp_path / "calm", tmp_path / "shared"
    assert run("flow", *place, "--output", calm, *QUICK).returncode == 0
    pair = [start("flow", *place, "--output", shared, *QUICK) for _ in range(2)]
    said = [process.communicate()[1] for process in pair]
    assert [process.returncode for process in pair] == [0, 0], said
    assert results(shared) == results(calm)
    assert damaged(list_file, shared) == [] and temporaries(shared) == []
    # Each has its own records file, with a line for every video.
    lines = Counter(name for name, *_ in statuses(shared))
    assert sorted(lines.values()) == [16, 16]
    twice = Counter(video for _, video, status in statuses(shared) if status == "done")
    print(f"two runs at once: {sum(count - 1 for count in twice.values())} of 16 videos were made twice")


def test_five_percent_of_broken_files_are_named_and_the_rest_is_done(tmp_path: Path) -> None:
    list_file = data_set(tmp_path, 40)
    clips = sorted((tmp_path / "clips").rglob("*.mp4"))
    clips[3].write_bytes(b"")
    clips[20].write_bytes(clips[20].read_bytes()[:300])
    broken = {os.fspath(clips[index].relative_to(tmp_path)) for index in (3, 20)}
    output = tmp_path / "out"
    arguments = ["flow", list_file, "--root", tmp_path, "--output", output, *QUICK]
    for attempt, rest in enumerate(("done", "kept")):
        done = run(*arguments)
        assert done.returncode == 3
        lines = [line for line in done.stderr.splitlines() if line.startswith("rejected: ")]
        assert {line.split(": ")[1] for line in lines} == broken
        now = statuses(output)[40 * attempt :]
        assert Counter(status for *_, status in now) == {rest: 38, "rejected": 2}
    # The inventory finds the same two, and without them the run is clean.
    table = tmp_path / "inventory.csv"
    assert run("verify", list_file, "--root", tmp_path, "--input", "--table", table).returncode == 3
    assert run(*arguments, "--exclude", table).returncode == 0


def at_another_time(seconds: int, *arguments: str | Path) -> int:
    """The exit status of `m3flow …` with its clock off by `seconds`."""
    shifted = (
        f"import time; now = time.time; time.time = lambda: now() + {seconds};"
        f"then = time.time_ns; time.time_ns = lambda: then() + {seconds * 10**9};"
        "from m3flow.cli import main; main()"
    )
    command = [sys.executable, "-c", shifted, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, check=False, timeout=120).returncode


def test_clocks_that_go_back_or_ahead_change_nothing(tmp_path: Path) -> None:
    list_file = data_set(tmp_path, 4)
    output = tmp_path / "out"
    arguments = ["flow", list_file, "--root", tmp_path, "--workers", "1", "--output", output, *QUICK]
    assert at_another_time(YEAR, *arguments) == 0
    now = time.time()
    for index, path in enumerate(path for path in output.rglob("*") if path.is_file()):
        os.utime(path, (now, now + (YEAR if index % 2 else -YEAR)))
    for clip in (tmp_path / "clips").rglob("*.mp4"):
        os.utime(clip, (now, now + 2 * YEAR))
    before = results(output)
    assert at_another_time(-YEAR, *arguments) == 0
    assert Counter(status for *_, status in statuses(output)[4:]) == {"kept": 4}
    # A changed video with an older timestamp is still detected.
    encode(tmp_path / "clips/class0/clip000.mp4", seed=50)
    os.utime(tmp_path / "clips/class0/clip000.mp4", (0, 0))
    assert at_another_time(-YEAR, *arguments) == 0
    assert Counter(status for *_, status in statuses(output)[8:]) == {"kept": 3, "done": 1}
    assert len([name for name, mark in results(output).items() if before[name] != mark]) == 2
    assert unfinished(output) == []


def test_ctrl_c_ends_the_run_at_once(tmp_path: Path) -> None:
    list_file, clip = long_clip_in(tmp_path)
    output = tmp_path / "out"
    process = started_on(clip, list_file, output)
    os.kill(process.pid, signal.SIGINT)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 1 and "Traceback" not in said
    # The long video is prefetched while the one before it is computed.
    assert "1 done, 2 not begun of 3 videos" in said or "3 not begun of 3 videos" in said
    assert unfinished(output) == [] and temporaries(output) == []
