"""The command line as users run it: exit statuses, messages, and modules that must not be imported."""

from __future__ import annotations

import csv
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import pytest

from m3flow import load_flow, load_trajectories
from m3flow.results.records import Record, read_records
from support.clips import clip, moving_texture, write_video

PROGRAM = [sys.executable, "-c", "from m3flow.cli import main; main()"]
FAST = ["--estimator", "dis", "--set", "preset=ultrafast", "--camera", "none", "--backend", "opencv"]


def m3flow(
    *arguments: object, cwd: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*PROGRAM, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env={**os.environ, "COLUMNS": "200", **environment},
    )


def records(out: Path) -> dict[str, Record]:
    (path,) = (out / "records").glob("*-0001.csv")
    return {record.video: record for record in read_records([path])}


def list_of(tmp_path: Path, *names: str) -> Path:
    path = tmp_path / "videos.csv"
    path.write_text("".join(f"{name} 0\n" for name in names))
    return path


# Frames, width, height and rate of the real clips, from the table shipped with them.
REAL_CLIPS = {
    "UCF-101/SoccerJuggling/v_SoccerJuggling_g23_c01.avi": (240, 320, 240, Fraction(30000, 1001)),
    "videos/wave/RATRACE_wave_f_nm_np1_fr_goo_37.avi": (72, 560, 240, Fraction(30)),
    "videos/wave/TrumanShow_wave_f_nm_np1_fr_med_26.avi": (48, 432, 240, Fraction(30)),
    "train_video/arm_wrestling/demo.mp4": (280, 340, 256, Fraction(28)),
    "train_video/using_segway/SOX5yA1l24A.mp4": (332, 340, 256, Fraction(30000, 1001)),
    "train_video/flipping_pancake/flipping_a_pancake.mkv": (310, 426, 240, Fraction(30)),
}


@pytest.fixture(scope="module")
def real_run(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("real")
    common = [shared_data / "videos.csv", "--root", shared_data, "--output", out]
    done = m3flow("flow", *common, *FAST, "--workers", 2)
    assert done.returncode == 0, done.stderr
    assert "6 done of 6 videos" in done.stderr
    done = m3flow("trajectories", *common, "--workers", 2)
    assert done.returncode == 0, done.stderr
    return out


@pytest.mark.slow
class TestRealClips:
    def test_a_flow_frame_less_than_frames_of_the_same_size_and_rate(self, real_run: Path) -> None:
        folders = {str(p.parent.relative_to(real_run / "flows")) for p in (real_run / "flows").rglob("x.mp4")}
        assert folders == set(REAL_CLIPS)
        for name, (frames, width, height, rate) in REAL_CLIPS.items():
            for component in ("x.mp4", "y.mp4"):
                with av.open(str(real_run / "flows" / name / component)) as container:
                    stream = container.streams.video[0]
                    assert (stream.width, stream.height) == (width, height)
                    assert float(stream.average_rate) == pytest.approx(float(rate), rel=1e-5)
                    assert sum(1 for _ in container.decode(stream)) == frames - 1

    def test_trajectories_have_the_shapes_of_the_contract(self, real_run: Path) -> None:
        for name, (frames, width, height, _) in REAL_CLIPS.items():
            read = load_trajectories(real_run / "trajs" / f"{name}_6.gz")
            shape = (frames - 6, height // 8, width // 8)
            assert read.traj_feat.shape == (12, *shape) and read.traj_type.shape == shape
            assert (read.traj_feat.dtype.name, read.traj_type.dtype.name) == ("int8", "uint8")
            assert abs(read.traj_feat).max() <= 20 and abs(read.traj_feat).any()

    def test_again_there_is_nothing_to_do(self, real_run: Path, shared_data: Path) -> None:
        before = {
            path: path.stat().st_mtime_ns for path in real_run.rglob("*") if path.suffix in (".mp4", ".gz")
        }
        common = [shared_data / "videos.csv", "--root", shared_data, "--output", real_run]
        for command, more in (("flow", FAST), ("trajectories", [])):
            done = m3flow(command, *common, *more)
            assert done.returncode == 0 and "6 kept of 6 videos" in done.stderr
        assert {path: path.stat().st_mtime_ns for path in before} == before


@pytest.mark.slow
def test_odd_files_in_one_list_are_done_or_named(shared_data: Path, tmp_path: Path) -> None:
    names = sorted(path.name for path in (shared_data / "odd").iterdir())
    listed = list_of(tmp_path, *(f"odd/{name}" for name in names), "odd/missing.mp4")
    out = tmp_path / "out"
    common = [listed, "--root", shared_data, "--output", out, "--workers", 2]
    done = m3flow("flow", *common, *FAST, "--short-side", 120)
    assert done.returncode == 3
    found = records(out)
    assert set(found) == {f"odd/{name}" for name in (*names, "missing.mp4")}
    rejected = {name.removeprefix("odd/") for name, record in found.items() if record.status == "rejected"}
    # One frame has no motion; the others have no picture.
    assert rejected == {"missing.mp4", "nokia-tune.mkv", "smallville.s03e02.avi", "testsrc2_mpeg4.mp4"}
    assert {record.status for record in found.values()} == {"done", "rejected"}
    for name in rejected:
        lines = [line for line in done.stderr.splitlines() if name in line]
        assert len(lines) == 1 and lines[0].startswith(f"rejected: odd/{name}: ")
    assert found["odd/corrupted.mp4"].reason == "28 of the 50 frames that the header claims decode"
    with av.open(str(out / "flows/odd/video_90.mov/x.mp4")) as container:
        assert container.streams.video[0].width < container.streams.video[0].height
    done = m3flow("trajectories", *common)
    assert done.returncode == 3
    assert len(list((out / "trajs").rglob("*.gz"))) == len(names) - 3


class TestStatuses:
    def test_done_and_kept(self, tmp_path: Path) -> None:
        clip(tmp_path / "a" / "one.mkv")
        for summary in ("1 done of 1 videos", "1 kept of 1 videos"):
            done = m3flow("flow", tmp_path / "a" / "one.mkv", "--output", tmp_path / "out", *FAST)
            assert done.returncode == 0 and summary in done.stderr and not done.stdout

    @pytest.mark.slow
    def test_other_settings_are_named_before_they_are_replaced(self, tmp_path: Path) -> None:
        for name in ("one.mkv", "two.mkv"):
            clip(tmp_path / name)
        listed = list_of(tmp_path, "one.mkv", "two.mkv")
        places = (listed, "--root", tmp_path, "--output", tmp_path / "out")
        (tmp_path / "second.txt").write_text("two.mkv\n")
        second = (tmp_path / "second.txt", *places[1:])
        assert "other settings" not in m3flow("flow", *places, *FAST).stderr
        done = m3flow("flow", *second, *FAST, "--bound", "10")
        assert (
            "flow: 1 of 1 videos have flow with other settings (bound 20.0 → 10.0), made again" in done.stderr
        )
        assert "other settings" not in m3flow("trajectories", *places).stderr
        done = m3flow("trajectories", *places, "--job", "trajs")
        assert (
            "2 of 2 videos have trajectories with other settings (trajs_dense → trajs), made" in done.stderr
        )
        # Flow made again under trajectories: they do not fit it any more.
        assert "(bound 20.0 → 10.0)" in m3flow("flow", *places, *FAST, "--bound", "10").stderr
        done = m3flow("trajectories", *places, "--job", "trajs")
        assert "1 of 2 videos have trajectories with other settings (bound 20.0 → 10.0), made" in done.stderr

        m3flow("flow", *second, *FAST)
        done = m3flow("verify", *places)
        assert "mixed settings: flow.bound: 10.0 in 1, 20.0 in 1 videos" in done.stderr
        m3flow("trajectories", *second, "--confidence", "photometric")
        assert "(confidence photometric → none), made" in m3flow("trajectories", *second).stderr

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["flow", "none.csv"], "no such list file or video"),
            (["flow", "empty.csv"], "the list is empty"),
            (["flow", "bad.csv"], "bad.csv:2: duplicate video"),
            (["flow", "good.csv", "--estimator", "sift"], "choose from farneback, tvl1, dis, brox"),
            (["flow", "good.csv", "--estimator", "farneback", "--set", "levels=many"], "must be of type int"),
            (["flow", "good.csv", "--set", "levels"], "key=value"),
            (["flow", "good.csv", "--set", "depth=3"], "has no parameter 'depth'"),
            (["flow", "good.csv", "--camera", "moving"], "choose from warp, none"),
            (["flow", "good.csv", "--codec", "vp9"], "choose from mpeg4, fine, h264, h264-lossless"),
            (["flow", "good.csv", "--bound", "0"], "bound is 0"),
            (["flow", "good.csv", "--bound", "nan"], "bound is nan"),
            (["flow", "good.csv", "--bound", "inf"], "bound is inf"),
            (["flow", "good.csv", "--step", "0"], "step is 0"),
            (["flow", "good.csv", "--backend", "numpy"], "choose from auto, torch, opencv"),
            (["flow", "good.csv", "--backend", "opencv", "--device", "cuda"], "needs backend torch"),
            (["flow", "good.csv", "--estimator", "brox", "--backend", "opencv"], "has no opencv backend"),
            (["flow", "good.csv", "--gpus", "99"], "--gpus 99"),
            (["flow", "good.csv", "--workers", "-1"], "--workers"),
            (["flow", "good.csv", "--workers", "1", "--gpus", "8"], "each GPU needs a worker of its own"),
            (["flow", "good.csv", "--unknown"], "--unknown"),
            (["trajectories", "good.csv", "--gpus", "99"], "--gpus 99"),
            (["trajectories", "good.csv", "--device", "mps"], "choose from auto, cpu, cuda, cuda:N"),
            (["trajectories", "good.csv", "--device", "cuda:99"], "device 'cuda:99'"),
            (["trajectories", "good.csv", "--job", "mvs", "--gpus", "1"], "leave out --gpus"),
            (["trajectories", "good.csv", "--length", "0"], "length is 0"),
            (["trajectories", "good.csv", "--job", "none"], "choose from trajs_dense, trajs, mvs"),
            (["trajectories", "good.csv", "--tracking", "none"], "choose from subpixel, integer"),
            (["dance"], "dance"),
        ],
    )
    def test_wrong_usage_starts_nothing(self, tmp_path: Path, arguments: list[str], words: str) -> None:
        (tmp_path / "empty.csv").touch()
        (tmp_path / "bad.csv").write_text("a.mkv\na.mkv\n")
        (tmp_path / "good.csv").write_text("a.mkv\n")
        clip(tmp_path / "a.mkv", 3)
        output = ["--output", "out"] if arguments != ["dance"] else []
        done = m3flow(*arguments, *output, cwd=tmp_path)
        assert done.returncode == 2
        assert words in done.stderr and "Traceback" not in done.stderr
        assert not list(tmp_path.rglob("*.mp4")) and not list(tmp_path.rglob("records/*"))

    def test_rejected(self, tmp_path: Path) -> None:
        clip(tmp_path / "good.mkv", 3)
        (tmp_path / "bad.mkv").write_text("no video")
        listed = list_of(tmp_path, "bad.mkv", "good.mkv", "gone.mkv")
        done = m3flow("flow", listed, "--root", tmp_path, "--output", tmp_path / "out", *FAST)
        assert done.returncode == 3
        assert (
            "rejected: bad.mkv: not a video" in done.stderr and "rejected: gone.mkv: no such" in done.stderr
        )
        assert "1 done, 2 rejected of 3 videos" in done.stderr
        assert load_flow(tmp_path / "out/flows/good.mkv").shape == (2, 2, 48, 64)

    def test_a_failure_of_ours(self, tmp_path: Path) -> None:
        clip(tmp_path / "a.mkv", 3)
        clip(tmp_path / "b.mkv", 3)
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "flows").mkdir()
        (tmp_path / "out" / "flows" / "a.mkv").write_text("a file where the folder goes")
        listed = list_of(tmp_path, "a.mkv", "b.mkv")
        done = m3flow("flow", listed, "--root", tmp_path, "--output", tmp_path / "out", *FAST)
        assert done.returncode == 1 and "Traceback" not in done.stderr
        found = records(tmp_path / "out")
        assert (found["a.mkv"].status, found["b.mkv"].status) == ("failed", "done")

    def test_names_that_terminals_and_tables_stumble_over(self, tmp_path: Path) -> None:
        names = [
            "-dash.mkv",
            "with space.mkv",
            "two\nlines.mkv",
            'q"uo,te.mkv',
            "[red]é.mkv",
            "caf\u0065\u0301.mkv",
        ]
        for number, name in enumerate(names):
            clip(tmp_path / f"{number}.mkv", 3).rename(tmp_path / name)
        with (tmp_path / "list.csv").open("w", newline="") as file:
            csv.writer(file).writerows([["path"], *([name] for name in names), ["gone\n[bold].mkv"]])
        done = m3flow("flow", "list.csv", "--output", "out", *FAST, cwd=tmp_path)
        assert done.returncode == 3
        found = records(tmp_path / "out")
        assert [name for name in names if found[name].status == "done"] == names
        assert found["gone\n[bold].mkv"].status == "rejected"
        for name in names:
            assert len(load_flow(tmp_path / "out" / "flows" / name)) == 2
        assert sum("gone" in line and "[bold]" in line for line in done.stderr.splitlines()) == 1


@pytest.mark.slow
def test_sigterm_stops_and_the_next_run_finishes(tmp_path: Path) -> None:
    names = [f"{number}.mkv" for number in range(8)]
    frames = moving_texture(20, 120, 160)
    for name in names:
        write_video(tmp_path / name, frames)
    out = tmp_path / "out"
    slow = [
        "--estimator",
        "farneback",
        "--set",
        "iterations=50",
        "--camera",
        "none",
        "--backend",
        "opencv",
        "--workers",
        "1",
    ]
    arguments = ["flow", list_of(tmp_path, *names), "--root", tmp_path, "--output", out, *slow]
    with subprocess.Popen([*PROGRAM, *map(str, arguments)], stderr=subprocess.PIPE, text=True) as process:
        for _ in until(lambda: len(list(out.rglob("y.mp4"))) > 0, process):
            pass
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 1 and "run again" in errors and "Traceback" not in errors
    assert "stopping: the videos in progress have 20 s" in errors
    made = {path.parent.name for path in out.rglob("y.mp4")}
    assert 0 < len(made) < len(names)
    assert not [path for path in (out / "flows").rglob("*") if path.is_file() and path.suffix != ".mp4"]
    for name in made:
        assert len(load_flow(out / "flows" / name)) == 19
    done = m3flow(*arguments)
    assert done.returncode == 0
    assert f"{len(names) - len(made)} done, {len(made)} kept of 8 videos" in done.stderr


def until(condition: object, process: subprocess.Popen[str]) -> Iterator[None]:
    """Iterates until the condition holds, as long as the process lives."""
    while not condition():  # type: ignore[operator]
        try:
            process.wait(0.02)
        except subprocess.TimeoutExpired:
            yield
        else:
            raise AssertionError("it ended before")


class TestImports:
    def imported(self, errors: str) -> set[str]:
        return set(re.findall(r"^import time:[^|]*\|[^|]*\|\s*([\w.]+)", errors, re.M))

    def test_the_package_alone_imports_nothing_heavy(self) -> None:
        command = [sys.executable, "-X", "importtime", "-c", "import m3flow"]
        modules = self.imported(subprocess.run(command, capture_output=True, text=True, check=True).stderr)
        assert "m3flow.version" in modules
        assert not {name.split(".")[0] for name in modules} & {
            "torch",
            "cv2",
            "numpy",
            "av",
            "pandas",
            "snakemake",
        }

    @pytest.mark.slow
    @pytest.mark.parametrize("workers", [1, 2])
    def test_the_opencv_path_has_no_torch(self, tmp_path: Path, workers: int) -> None:
        for name in ("a.mkv", "b.mkv"):
            clip(tmp_path / name, 3)
        common = [list_of(tmp_path, "a.mkv", "b.mkv"), "--root", tmp_path, "--output", tmp_path / "out"]
        for command, more in (("flow", ["--backend", "opencv"]), ("trajectories", [])):
            done = m3flow(command, *common, *more, "--workers", workers, PYTHONPROFILEIMPORTTIME="1")
            assert done.returncode == 0
            modules = self.imported(done.stderr)
            assert "m3flow.extraction.extractor" in modules and "cv2" in modules
            assert not {name.split(".")[0] for name in modules} & {"torch", "snakemake", "pandas"}


@pytest.mark.parametrize("command", ["flow", "trajectories"])
def test_help_has_every_option_and_an_example(command: str) -> None:
    shown = m3flow(command, "--help").stdout
    options = {"--root", "--output", "--workers", "--gpus"}
    options |= (
        {"--estimator", "--backend", "--device", "--camera", "--bound", "--step", "--codec"}
        if command == "flow"
        else {"--length", "--job", "--tracking", "--device"}
    )
    assert options <= set(re.findall(r"--[a-z-]+", shown))
    assert f"m3flow {command} train.csv --root" in shown
