"""The workflow with one job per shard of the list, on one machine."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from m3flow.layout import Outputs
from m3flow.packs.store import Packs
from m3flow.results.records import read_records
from support.clips import clip
from support.paths import REPOSITORY

FLOW = {"estimator": "dis", "parameters": {"preset": "ultrafast"}}


class Shards:
    """Seven clips of the list in shards of three, with their own config.yaml."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.output = folder, folder / "out"
        self.names = [f"set/a/v{number}.mkv" for number in range(7)]
        for number, name in enumerate(self.names):
            clip(folder / "data" / name, seed=number)
        self.write_list(self.names)
        self.config: dict[str, object] = {
            "videos": "list.txt",
            "root": "data",
            "output": "out",
            "granularity": "shard",
            "shard": {"videos": 3},
            "flow": FLOW,
            "run": {"workers": 1},
        }

    def write_list(self, names: list[str]) -> None:
        (self.folder / "list.txt").write_text("".join(f"{name}\n" for name in names))

    def run(self, *arguments: str, status: int = 0) -> str:
        (self.folder / "config.yaml").write_text(yaml.safe_dump(self.config))
        command = [
            *(sys.executable, "-m", "snakemake", "--snakefile", str(REPOSITORY / "Snakefile")),
            *("--workflow-profile", str(REPOSITORY / "profiles/default"), "--cores", "2", *arguments),
        ]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=False)
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout + done.stderr

    def jobs(self) -> dict[str, int]:
        """The number of jobs per shard rule in a dry run."""
        counts = re.findall(r"^(\w+)_shard +(\d+)$", self.run("--dry-run"), re.MULTILINE)
        return {rule: int(count) for rule, count in counts}

    def files(self) -> dict[str, int]:
        """Every final file with its inode: a file made again has another one."""
        found = [*self.output.glob("flows/**/*.mp4"), *self.output.glob("trajs/**/*.gz")]
        return {str(path.relative_to(self.output)): path.stat().st_ino for path in found}

    def command(self, *arguments: str, status: int = 0, read: str = "") -> str:
        """The output of a command of m3flow, or the content of a file that it writes."""
        command = [sys.executable, "-c", "from m3flow.cli import main; main()", *arguments]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=False)
        assert done.returncode == status, done.stdout + done.stderr
        return (self.folder / read).read_text() if read else done.stdout + done.stderr

    def packed(self) -> dict[str, set[str]]:
        """The names of the files in the packs, by video."""
        videos = Packs(Outputs(self.output)).videos
        return {name: {member.name for member in row.results} for name, (_, row) in videos.items()}

    def statuses(self, kind: str, shard: str) -> list[str]:
        """The statuses in the records of a shard, line by line."""
        path = self.output / "records/list.txt" / f"{kind}-{shard}.csv"
        return [record.status for record in read_records([path])]


@pytest.fixture
def shards(tmp_path: Path) -> Shards:
    return Shards(tmp_path)


def test_shards_and_a_list_that_grows(shards: Shards) -> None:
    assert shards.jobs() == {"flow": 3, "trajectories": 3}
    shards.run()
    files = shards.files()
    assert len(files) == 3 * 7
    assert shards.jobs() == {}

    # Two more videos: the last shard is filled, and processes only the new ones.
    more = ["set/a/v7.mkv", "set/a/gone.mkv"]
    clip(shards.folder / "data" / more[0], seed=7)
    shards.write_list([*shards.names, *more])
    assert shards.jobs() == {"flow": 1, "trajectories": 1}
    shards.run()
    assert shards.statuses("flow", "00002") == ["done", "kept", "done", "rejected"]
    assert shards.statuses("flow", "00000") == ["done"] * 3
    after = shards.files()
    assert {name: after[name] for name in files} == files
    assert len(after) == 3 * 8
    assert shards.jobs() == {}

    # A file that is gone is noticed, and its shard makes it again and nothing else.
    (shards.output / "trajs" / f"{shards.names[3]}_6.gz").unlink()
    assert shards.jobs() == {"trajectories": 1}
    shards.run()
    assert shards.statuses("trajectories", "00001") == ["done"] * 3 + ["done", "kept", "kept"]
    again = shards.files()
    assert set(again) == set(after)
    made = f"trajs/{shards.names[3]}_6.gz"
    assert all(again[name] == after[name] for name in after if name != made)

    # Another length affects only the trajectories.
    shards.config["trajectories"] = {"length": 4}
    assert shards.jobs() == {"trajectories": 3}


def test_one_pass_without_keeping_the_flow(shards: Shards) -> None:
    shards.config["flow"] = {**FLOW, "keep": False}
    assert shards.jobs() == {"motion": 3}
    shards.run()
    assert sorted(shards.files()) == sorted(f"trajs/{name}_6.gz" for name in shards.names)
    assert shards.jobs() == {}


@pytest.mark.slow
def test_results_go_into_packs(shards: Shards) -> None:
    pytest.importorskip("pyarrow")
    shards.config["shard"] = {"videos": 3, "pack": True}
    assert shards.jobs() == {"flow": 3, "trajectories": 3, "pack": 3}
    shards.run()
    packs = shards.output / "packs/list.txt"
    assert not shards.files()
    assert sorted(path.name for path in packs.iterdir()) == [
        f"0000{number}.{suffix}" for number in range(3) for suffix in ("parquet", "tar")
    ]
    assert shards.packed() == {name: {"x.mp4", "y.mp4", "traj.gz"} for name in shards.names}
    assert shards.jobs() == {}
    stamps = {path: path.stat().st_mtime_ns for path in packs.iterdir()}
    shards.run()
    assert {path: path.stat().st_mtime_ns for path in packs.iterdir()} == stamps

    # Every command reads the packs.
    assert (
        json.loads(shards.command("status", "--json", "status.json", read="status.json"))["counts"]["done"]
        == 7
    )
    assert json.loads(shards.command("plan", "--json", "plan.json", read="plan.json"))["videos"]["done"] == 7
    shards.command("verify", "--config", "config.yaml")
    shards.command("show", f"data/{shards.names[4]}", "--output", "out", "--to", "sheet.png")
    assert (shards.folder / "sheet.png").read_bytes()[:4] == b"\x89PNG"
    shards.command("report", "--output", "out", "--to", "page.html")
    assert shards.names[4] in (shards.folder / "page.html").read_text()

    # Another video in the last shard, and trajectories made again: both from the packs, into the packs.
    clip(shards.folder / "data/set/a/v7.mkv", seed=7)
    shards.write_list([*shards.names, "set/a/v7.mkv"])
    shards.config["trajectories"] = {"tracking": "integer"}
    assert shards.jobs() == {"flow": 1, "trajectories": 3, "pack": 3}
    shards.run()
    assert not shards.files() and shards.statuses("flow", "00002") == ["done", "kept", "done"]
    assert shards.packed() == {
        name: {"x.mp4", "y.mp4", "traj.gz"} for name in [*shards.names, "set/a/v7.mkv"]
    }
    assert shards.jobs() == {}

    # A truncated pack is found, and its videos are made again.
    (tar,) = packs.glob("00001*.tar")
    os.truncate(tar, tar.stat().st_size // 2)
    said = shards.command("verify", "--config", "config.yaml", status=3)
    assert tar.name in said
    shards.command("verify", "--config", "config.yaml", "--repair", status=3)
    jobs = shards.jobs()
    assert jobs["flow"] == jobs["pack"] == 1
    shards.run()
    assert not shards.files() and len(shards.packed()) == 8 and shards.jobs() == {}
    shards.command("verify", "--config", "config.yaml")


@pytest.mark.slow
def test_packs_of_another_division_are_refused(shards: Shards) -> None:
    pytest.importorskip("pyarrow")
    shards.config["shard"] = {"videos": 3}
    shards.run()
    shards.command("pack", "--config", "config.yaml", "--size", "5")
    shards.config["shard"] = {"videos": 3, "pack": True}
    said = shards.run("--dry-run", status=1)
    told = (
        "set/a/v3.mkv is in out/packs/list.txt/00000.tar, not in the pack out/packs/list.txt/00001: the list"
    )
    assert told in said
    assert told in shards.command("pack", "--config", "config.yaml", "--size", "3", status=2)
    assert len(shards.files()) == 3 * 7
    shards.command("pack", "--config", "config.yaml", "--size", "5", "--remove")
    said = shards.command("pack", "--config", "config.yaml", "--size", "3")
    assert "pack: 7 of 7 videos in packs" in said and shards.jobs() == {}


def test_a_failure_of_ours_fails_its_job_after_the_rest(shards: Shards) -> None:
    # A folder in place of a video's flow file: an error that is not the video's.
    (shards.output / "flows" / shards.names[1] / "x.mp4" / "in the way").mkdir(parents=True)
    shards.run(status=1)
    assert shards.statuses("flow", "00000") == ["done", "failed", "done"]
    files = shards.files()
    # The trajectories of the shard's other videos have waited for its flow job, which failed.
    assert shards.jobs() == {"flow": 1, "trajectories": 1}
    (shards.output / "flows" / shards.names[1] / "x.mp4" / "in the way").rmdir()
    (shards.output / "flows" / shards.names[1] / "x.mp4").rmdir()
    shards.run()
    assert sorted(shards.statuses("flow", "00000")[3:]) == ["done", "kept", "kept"]
    after = shards.files()
    assert len(after) == 3 * 7
    assert {name: after[name] for name in files if "v1" not in name}.items() <= files.items()


def test_the_slurm_profile_takes_shards_and_refuses_single_videos(shards: Shards) -> None:
    del shards.config["granularity"]
    profile = ("--profile", str(REPOSITORY / "slurm"), "--dry-run")
    said = shards.run(*profile, "--config", "flow={bound: 10}")
    assert re.search(r"^flow_shard +3$", said, re.MULTILINE)
    said = shards.run(*profile, "--config", "granularity=video", status=1)
    assert "granularity is video" in said
    assert re.search(r"^flow +7$", shards.run("--dry-run", "--jobs", "4"), re.MULTILINE)


def test_a_fresh_clone_with_an_empty_home_plans_shards(shards: Shards) -> None:
    clone, home = shards.folder / "clone", shards.folder / "home"
    for name in ("workflow", "profiles"):
        shutil.copytree(REPOSITORY / name, clone / name)
    (clone / "slurm").symlink_to((REPOSITORY / "slurm").readlink())
    for name in ("Snakefile", "config.yaml"):
        shutil.copy(REPOSITORY / name, clone)
    home.mkdir()
    paths = "".join(f"{shards.folder / 'data' / name}\n" for name in shards.names)
    (shards.folder / "absolute.txt").write_text(paths)
    command = [sys.executable, "-m", "snakemake", "--profile", "slurm", "-n", "--config"]
    command += [f"videos={shards.folder / 'absolute.txt'}", "root=/", f"output={shards.folder / 'out'}"]
    environment = {"PATH": os.environ["PATH"], "HOME": str(home)}
    done = subprocess.run(command, cwd=clone, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^flow_shard +1$", done.stdout, re.MULTILINE)
    assert re.search(r"^trajectories_shard +1$", done.stdout, re.MULTILINE)


def test_rejected_videos(shards: Shards) -> None:
    (shards.folder / "data" / shards.names[1]).write_bytes(b"no video")
    late = shards.folder / "data" / shards.names[2]
    late.rename(shards.folder / "late.mkv")
    text = shards.run()
    assert "m3flow: 5 done, 2 rejected of 7 videos" in text
    assert shards.jobs() == {}
    # Copied in afterwards: the shard is due again.
    (shards.folder / "late.mkv").rename(late)
    assert shards.jobs() == {"flow": 1, "trajectories": 1}
    shards.config["exclude"] = "rejected"
    assert shards.jobs() == {}
    del shards.config["exclude"]
    assert "m3flow: 6 done, 1 rejected of 7 videos" in shards.run()
    assert shards.statuses("flow", "00000")[3:] == ["kept", "rejected", "done"]
