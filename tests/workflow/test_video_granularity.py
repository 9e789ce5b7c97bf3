"""The workflow with a flow and a trajectory job per video, as users run it."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from m3flow import load_flow, load_trajectories
from m3flow.cli import app
from support.clips import moving_texture, write_list, write_lossy_video
from support.paths import REPOSITORY

FAST_FLOW = "{estimator: dis, parameters: {preset: ultrafast}, codec: h264-lossless}"


class Workflow:
    """Snakemake on one data set, in its own working folder."""

    def __init__(self, folder: Path, videos: Path, root: Path) -> None:
        self.output = folder / "results"
        self.folder = folder
        self._config = [f"videos={videos}", f"root={root}", f"output={self.output}", f"flow={FAST_FLOW}"]

    def command(self, *arguments: str, config: tuple[str, ...] = ()) -> list[str]:
        return [
            *(sys.executable, "-m", "snakemake", "--snakefile", str(REPOSITORY / "Snakefile")),
            *("--configfile", str(REPOSITORY / "config.yaml"), "--directory", str(self.folder)),
            *("--workflow-profile", str(REPOSITORY / "profiles/default"), "--cores", "2"),
            *arguments,
            *("--config", *self._config, *config),
        ]

    def run(self, *arguments: str, config: tuple[str, ...] = (), status: int = 0) -> str:
        done = subprocess.run(
            self.command(*arguments, config=config),
            capture_output=True,
            text=True,
            cwd=self.folder,
            check=False,
        )
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout + done.stderr

    def jobs(self, *arguments: str, config: tuple[str, ...] = ()) -> dict[str, int]:
        """The number of jobs per rule in a dry run."""
        text = self.run("--dry-run", *arguments, config=config)
        counts = re.findall(r"^(\w+) +(\d+)$", text, re.MULTILINE)
        return {rule: int(count) for rule, count in counts if rule not in ("all", "total")}

    def files(self) -> dict[str, tuple[int, int]]:
        """Every final file with its inode and modification time: a file made again differs."""
        found = [*self.output.rglob("flows/**/*.mp4"), *self.output.rglob("trajs/**/*.gz")]
        return {
            str(path.relative_to(self.output)): (path.stat().st_ino, path.stat().st_mtime_ns)
            for path in found
            if path.is_file()
        }


@pytest.fixture
def small(tmp_path: Path) -> Workflow:
    """Three small clips in two classes."""
    data = tmp_path / "data"
    names = ["set/a/one.mp4", "set/a/two.mp4", "set/b/three.mp4"]
    for index, name in enumerate(names):
        write_lossy_video(data / name, moving_texture(12, 64, 64, dx=1, dy=0, seed=index))
    return Workflow(tmp_path, write_list(data / "list.txt", names), data)


def test_six_real_clips(shared_data: Path, tmp_path: Path) -> None:
    workflow = Workflow(tmp_path, shared_data / "videos.csv", shared_data)
    assert workflow.jobs() == {"flow": 6, "trajectories": 6}
    workflow.run()
    files = workflow.files()
    assert sum(name.endswith(".mp4") for name in files) == 12
    assert sum(name.endswith("_6.gz") for name in files) == 6
    frames = {
        "v_SoccerJuggling": 240,
        "RATRACE": 72,
        "TrumanShow": 48,
        "demo": 280,
        "SOX": 332,
        "flipping": 310,
    }
    for folder in {Path(name).parent for name in files if name.endswith(".mp4")}:
        count = next(count for start, count in frames.items() if folder.name.startswith(start))
        assert len(load_flow(workflow.output / folder)) == count - 1
        stored = load_trajectories(
            workflow.output / "trajs" / folder.relative_to("flows").with_name(folder.name + "_6.gz")
        )
        assert stored.traj_feat.shape[:2] == (12, count - 6)
    assert workflow.jobs() == {}
    assert "Nothing to be done" in workflow.run()
    assert workflow.files() == files


def test_only_what_is_missing_or_changed_is_done_again(small: Workflow) -> None:
    assert small.jobs() == {"flow": 3, "trajectories": 3}
    small.run()
    assert small.jobs() == {}

    (small.output / "trajs/set/a/one.mp4_6.gz").unlink()
    assert small.jobs() == {"trajectories": 1}
    small.run()

    data = small.folder / "data"
    for path in data.rglob("*.mp4"):
        os.utime(path)
    assert small.jobs() == {}, "a new timestamp is not a new video"

    shutil.copy(data / "set/b/three.mp4", data / "set/a/two.mp4")
    assert small.jobs() == {"flow": 1, "trajectories": 1}
    small.run()
    assert small.jobs() == {}

    assert small.jobs(config=("trajectories={length: 4}",)) == {"trajectories": 3}
    before = small.files()
    small.run(config=("trajectories={length: 4}",))
    after = small.files()
    assert {name: after[name] for name in before} == before
    assert len(after) == len(before) + 3


def test_killed_run_leaves_nothing_incomplete_and_is_finished_by_the_next(tmp_path: Path) -> None:
    data = tmp_path / "data"
    names = [f"set/a/clip{index}.mp4" for index in range(8)]
    for index, name in enumerate(names):
        write_lossy_video(data / name, moving_texture(60, 96, 128, dx=1, dy=0, seed=index))
    workflow = Workflow(tmp_path, write_list(data / "list.txt", names), data)
    process = subprocess.Popen(
        workflow.command(),
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    while not workflow.files() and time.monotonic() < deadline:
        assert process.poll() is None, "the run ended before it could be killed"
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    left = workflow.files()
    assert 0 < len(left) < 24
    for name in left:
        if name.endswith("x.mp4") and name.replace("x.mp4", "y.mp4") in left:
            assert len(load_flow((workflow.output / name).parent)) == 59
        elif name.endswith(".gz"):
            assert load_trajectories(workflow.output / name).traj_type.shape[0] == 54
    workflow.run()
    assert len(workflow.files()) == 24
    assert workflow.jobs() == {}


def test_rejected_videos_are_no_failed_jobs(small: Workflow) -> None:
    data = small.folder / "data/set/a"
    good = (data / "two.mp4").read_bytes()
    (data / "two.mp4").write_bytes(b"no video at all")
    (data / "one.mp4").rename(small.folder / "one.mp4")
    text = small.run()
    assert "m3flow: 1 done, 2 rejected of 3 videos" in text
    assert "1 rejected: not a video with a picture (such as set/a/two.mp4)" in text
    assert "1 rejected: no such file (such as set/a/one.mp4)" in text
    assert "Exception" not in text and "Error" not in text
    assert len(small.files()) == 3
    text = small.run()
    assert "Nothing to be done" in text and "2 rejected" in text
    # One exists now, the other was replaced.
    (small.folder / "one.mp4").rename(data / "one.mp4")
    assert small.jobs() == {"flow": 1, "trajectories": 1}
    (data / "two.mp4").write_bytes(good)
    assert small.jobs() == {"flow": 2, "trajectories": 2}
    assert small.jobs(config=("exclude=rejected",)) == {}
    assert "m3flow: 3 done of 3 videos" in small.run()
    assert len(small.files()) == 9


def test_neither_metadata_nor_newer_scripts_nor_other_profiles_make_anything_again(small: Workflow) -> None:
    small.run()
    files = small.files()
    checkout = small.folder / "clone"
    shutil.copytree(REPOSITORY / "workflow", checkout / "workflow", symlinks=True)
    shutil.copy(REPOSITORY / "Snakefile", checkout)
    for path in checkout.rglob("*.py"):
        path.touch()
    shutil.rmtree(small.folder / ".snakemake")
    command = [str(checkout / "Snakefile") if "Snakefile" in part else part for part in small.command()]
    command[command.index("--workflow-profile") + 1] = "none"
    done = subprocess.run(command, cwd=small.folder, capture_output=True, text=True, check=True)
    assert "Nothing to be done" in done.stdout + done.stderr
    assert small.files() == files
    assert small.jobs(config=("flow={bound: 10}",)) == {"flow": 3, "trajectories": 3}


def test_what_the_command_line_made_counts_as_what_it_is(small: Workflow) -> None:
    videos = (
        "flow",
        small.folder / "data/list.txt",
        "--root",
        small.folder / "data",
        "--output",
        small.output,
    )
    dis = ("--estimator", "dis", "--codec", "h264-lossless", "--set", "preset=ultrafast")
    for settings in (dis, (*dis, "--bound", "10")):
        app([str(argument) for argument in (*videos, *settings, "--workers", "1")], standalone_mode=False)
        if settings == dis:
            assert small.jobs() == {"trajectories": 3}
            small.run()
            assert small.jobs() == {}
    # The trajectories still fit the flow that is to be made again.
    assert small.jobs() == {"flow": 3}
    assert small.jobs(config=("flow={bound: 10}",)) == {"trajectories": 3}


def test_flow_that_is_not_kept_is_removed(small: Workflow) -> None:
    flow = FAST_FLOW.replace("}, codec", "}, keep: false, codec")
    small.run(config=(f"flow={flow}",))
    assert sorted(small.files()) == [
        f"trajs/set/{name}_6.gz" for name in ("a/one.mp4", "a/two.mp4", "b/three.mp4")
    ]


def test_wrong_configuration_is_refused_before_anything_starts(small: Workflow) -> None:
    text = small.run(config=("flow={estimator: farnebak}",), status=1)
    assert "farnebak" in text
    assert "farneback" in text
    text = small.run(config=("videos=nowhere.txt",), status=1)
    assert "nowhere.txt: no such list file or video" in text
    assert not small.files()


def test_records_and_logs_have_the_outcome(small: Workflow) -> None:
    small.run()
    log = (small.output / "logs/flow/set/a/one.mp4.log").read_text()
    assert "'estimator': 'dis'" in log
    assert "opencv" in log
    assert "done set/a/one.mp4: 12 frames" in log
    records = (small.output / "records/flow.csv").read_text().splitlines()
    assert len(records) == 4
    assert json.dumps("set/a/one.mp4").strip('"') in "".join(records)
