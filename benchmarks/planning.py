"""Cost of planning a large list, and the overhead of a shard job before its first frame.

    python benchmarks/planning.py plan --videos 240000
    python benchmarks/planning.py plan --videos 2400000 --no-files
    python benchmarks/planning.py append
    python benchmarks/planning.py status --videos 240000
    python benchmarks/planning.py check --videos 13320       # finished, one job per video
    python benchmarks/planning.py check --videos 240000 --shards
    python benchmarks/planning.py starts --videos 16
    python benchmarks/planning.py job --videos 240000        # starts its own Slurm: needs root and slurm-wlm
    python benchmarks/planning.py reality --list videos.csv --root data

Each adds its numbers to benchmarks/results/planning.json.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import chdir
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from machine import describe

if TYPE_CHECKING:
    from m3flow.experiment.config import Experiment

REPOSITORY = Path(__file__).resolve().parents[1]
RESULTS = REPOSITORY / "benchmarks/results/planning.json"
CLASSES = 400
SNAKEMAKE = (sys.executable, "-m", "snakemake", "--snakefile", str(REPOSITORY / "Snakefile"))
PROFILES = (
    *("--workflow-profile", str(REPOSITORY / "profiles/default")),
    *("--profile", str(REPOSITORY / "profiles/slurm")),
)
M3FLOW = (sys.executable, "-c", "from m3flow.cli import main; main()")


def names_of(count: int) -> list[str]:
    """Names like those of Kinetics-400."""
    return [f"train/class_{i % CLASSES:03d}/{i:011d}_000010_000020.mp4" for i in range(count)]


def data_set(folder: Path, count: int, *, files: bool = True, **config: Any) -> list[str]:
    """A list of `count` videos with its config.yaml, and (empty) files at the paths."""
    names = names_of(count)
    data = folder / "k400"
    if files:
        for number in range(CLASSES):
            (data / f"train/class_{number:03d}").mkdir(parents=True)
        for name in names:
            os.close(os.open(data / name, os.O_CREAT | os.O_WRONLY))
    (folder / "list.csv").write_text("".join(f"{name} {i % CLASSES}\n" for i, name in enumerate(names)))
    values = {"videos": "list.csv", "root": "k400", "output": "results", **config}
    (folder / "config.yaml").write_text(yaml.safe_dump(values))
    return names


def measured(command: tuple[str, ...], folder: Path) -> dict[str, Any]:
    """Seconds, processor seconds and peak memory of a command."""
    began = time.perf_counter()
    with (folder / "out.txt").open("wb") as out:
        process = subprocess.Popen(command, cwd=folder, stdout=out, stderr=out)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit((folder / "out.txt").read_text()[-2000:])
    return {
        "seconds": round(time.perf_counter() - began, 2),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 2),
        "peak_gb": round(usage.ru_maxrss / 1e6, 3),
    }


def plan(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Dry runs with the Slurm profile: the first, which reads the list, and the next, which reuses the plan."""
    data_set(folder, arguments.videos, files=arguments.files, shard={"videos": arguments.shard})
    dry_run = (*SNAKEMAKE, *PROFILES, "--dry-run", "--quiet", "rules")
    first = measured(dry_run, folder)
    return {
        "videos": arguments.videos,
        "files_exist": arguments.files,
        "shard": arguments.shard,
        "first": first,
        "next": measured(dry_run, folder),
        "jobs": int(re.search(r"^total +(\d+)$", (folder / "out.txt").read_text(), re.M)[1]),  # type: ignore[index]
        "plan_file_mb": round((folder / "results/shards/list.csv/plan.json").stat().st_size / 1e6, 3),
        "list_mb": round((folder / "list.csv").stat().st_size / 1e6, 1),
    }


def append(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """The number of shards that change when ten videos are appended to ten thousand."""
    from m3flow.experiment.shards import make_plan
    from m3flow.videos.videolist import VideoList

    del arguments
    data_set(folder, 10_000, files=False)
    before = make_plan(VideoList(folder / "list.csv"), 256)
    with (folder / "list.csv").open("a") as file:
        file.writelines(f"{name} 0\n" for name in names_of(10_010)[10_000:])
    after = make_plan(VideoList(folder / "list.csv"), 256)
    same = sum(a.digest == b.digest for a, b in zip(before.shards, after.shards, strict=False))
    return {"videos": 10_000, "appended": 10, "shards": [len(before.shards), len(after.shards)], "same": same}


def status(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """`m3flow status` with half of the list done, one in a hundred rejected, the rest not begun."""
    from m3flow.experiment.config import Experiment, read_config
    from m3flow.results.provenance import limits_digest, settings_digest
    from m3flow.results.records import Record, RecordFile
    from m3flow.videos.identity import stamp, stamp_text

    names = data_set(folder, arguments.videos, granularity="shard")
    with chdir(folder):
        experiment = Experiment.of(read_config(Path("config.yaml")))
        half = names[: len(names) // 2]
        same = {
            "flow_settings": settings_digest(experiment.flow.identity()),
            "limits": limits_digest(experiment.limits),
        }
        finish(experiment, [name for number, name in enumerate(half) if number % 100])
        with RecordFile(experiment.outputs.shard_records("list.csv", "flow", "rejected")) as records:
            for name in half[::100]:
                source = {"modified": stamp_text(stamp(f"k400/{name}")), "source": f"0:{'0' * 64}"}
                records.append(Record(video=name, status="rejected", reason="no frames", **same, **source))
        seconds = measured((*M3FLOW, "status", "--json", "status.json"), folder)
    counts = json.loads((folder / "status.json").read_text())["counts"]
    return {"videos": arguments.videos, "counts": counts, **seconds}


def check(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """The dry run over a list that is done: all that is there is compared with settings and sources."""
    from m3flow.experiment.config import Experiment, read_config
    from m3flow.experiment.jobs import due

    granularity = "shard" if arguments.shards else "video"
    names = data_set(folder, arguments.videos, granularity=granularity)
    with chdir(folder):
        experiment = Experiment.of(read_config(Path("config.yaml")))
        finish(experiment, names)
        profiles = PROFILES if arguments.shards else PROFILES[:2]
        dry_run = measured((*SNAKEMAKE, *profiles, "--dry-run"), folder)
        if "Nothing to be done" not in (folder / "out.txt").read_text():
            raise SystemExit((folder / "out.txt").read_text()[-2000:])
        began = time.perf_counter()
        if any(due(experiment, granularity).units.values()):
            raise SystemExit("something is due")
        seconds = time.perf_counter() - began
    return {
        "videos": arguments.videos,
        "granularity": granularity,
        "dry_run": dry_run,
        "check_seconds": round(seconds, 2),
        "us_per_video": round(seconds / arguments.videos * 1e6, 1),
    }


def finish(experiment: Experiment, names: list[str]) -> None:
    """What a run over all of these videos leaves, with empty files."""
    from m3flow.results.provenance import settings_digest, trajectory_digest
    from m3flow.results.records import Record, RecordFile
    from m3flow.videos.identity import stamp, stamp_text

    outputs = experiment.outputs
    flow = settings_digest(experiment.flow.identity())
    settings = {
        "flow": {"flow_settings": flow},
        "trajectories": {"trajectory_settings": trajectory_digest(experiment.trajectories.identity(), flow)},
    }
    common = {"status": "done", "frames": 300, "source": f"0:{'0' * 64}", "time": "2026-01-01T00:00:00+00:00"}
    for start in range(0, len(names), 256):
        for kind, digests in settings.items():
            path = outputs.job_records(kind)
            if experiment.granularity == "shard":
                path = outputs.shard_records("list.csv", kind, f"{start // 256:05d}")
            with RecordFile(path) as records:
                for name in names[start : start + 256]:
                    modified = stamp_text(stamp(f"k400/{name}"))
                    records.append(Record(video=name, modified=modified, **common, **digests))
    for name in names:
        for file in (*outputs.flow_files(name), outputs.trajectories(name, experiment.trajectories.length)):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()


def starts(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """What the start of a job of a single video costs: a run of short clips in such jobs, and in one shard."""
    sys.path[:0] = [str(REPOSITORY / "tests")]
    from support.clips import clip

    names = data_set(folder, arguments.videos, files=False, flow={"estimator": "dis", "camera": "none"})
    for name in names:
        clip(folder / "k400" / name, frames=3)
    cores = os.cpu_count() or 1
    seconds = {}
    for granularity in ("video", "shard"):
        config = (f"granularity={granularity}", f"output={granularity}")
        command = (*SNAKEMAKE, *PROFILES[:2], "--cores", str(cores), "--config", *config)
        seconds[granularity] = measured(command, folder)["seconds"]
    jobs = 2 * len(names)
    return {
        "videos": arguments.videos,
        "seconds": seconds,
        "seconds_per_job_and_core": round((seconds["video"] - seconds["shard"]) * cores / jobs, 2),
    }


def job(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """A flow job of the first shard of a long list on a real Slurm: from its start to its first decoded video."""
    from m3flow.results.records import Record, RecordFile

    sys.path[:0] = [str(REPOSITORY / "tests")]
    from slurm.cluster import Cluster
    from support.clips import clip

    shard = {"videos": arguments.shard}
    names = data_set(folder, arguments.videos, files=False, shard=shard, flow={"estimator": "dis"})
    for name in names[: arguments.shard]:
        clip(folder / "k400" / name, frames=12)
        if not (folder / "k400" / name).exists():
            raise SystemExit("no clip")
    command = (
        *(*SNAKEMAKE, *PROFILES, "--slurm-no-account", "--slurm-status-command", "squeue"),
        *("--slurm-init-seconds-before-status-checks", "1", "--seconds-between-status-checks", "1"),
        *("--set-resources", "flow_shard:cpus_per_task=2", "flow_shard:mem_mb=1000", "flow_shard:gpu=1"),
        *("--slurm-keep-successful-logs", "--until", "flow_shard"),
    )
    # The other shards have nothing to do: their videos were not there.
    with RecordFile(folder / "results/records/list.csv/flow-00001.csv") as records:
        for name in names[arguments.shard :]:
            records.append(Record(video=name, status="rejected", reason="no such file"))
    with Cluster(folder / "slurm", nodes=1) as cluster:
        subprocess.run(command, cwd=folder, env=cluster.environment, check=True, capture_output=True)
        found = cluster.command("scontrol", "show", "job", "1")
    started = datetime.fromisoformat(re.search(r"StartTime=(\S+)", found)[1])  # type: ignore[index]
    log = (folder / "results/logs/list.csv/flow-00000.log").read_text()
    times = [
        (datetime.fromisoformat(line[:19]) - started).total_seconds() + int(line[20:23]) / 1000
        for line in log.splitlines()
    ]
    first = next(at for at, line in zip(times, log.splitlines(), strict=True) if " done " in line)
    return {
        "videos": arguments.videos,
        "our_code_runs_s": round(times[0], 2),
        "first_video_done_s": round(first, 2),
    }


def reality(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """`m3flow plan` against the actual run: every video of a list several times over."""
    from m3flow.videos.videolist import VideoList

    listed = VideoList(arguments.list, arguments.root).read()
    lines = []
    for copy in range(arguments.copies):
        for video in listed:
            name = f"set/copy{copy}/{Path(video.source).name}"
            (folder / "data" / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / "data" / name).symlink_to(Path(video.source).resolve())
            lines.append(f"path\n{name}\n".splitlines()[1])
    (folder / "list.csv").write_text("path\n" + "\n".join(lines) + "\n")
    config = {"videos": "list.csv", "root": "data", "output": "results", "granularity": "shard"}
    config |= {"flow": {"estimator": arguments.estimator}, "shard": {"videos": len(lines) // 2}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    measured((*M3FLOW, "calibrate"), folder)
    measured((*M3FLOW, "plan", "--json", "plan.json"), folder)
    predicted = json.loads((folder / "plan.json").read_text())
    run = measured(
        (*SNAKEMAKE, "--workflow-profile", str(REPOSITORY / "profiles/default"), "--cores", "all"), folder
    )
    hours = predicted["hours"]
    seconds = {kind: round(value * 3600, 1) for kind, value in hours.items()}
    took = {kind: _took(folder / "results/logs/list.csv", kind) for kind in hours}
    return {
        "videos": len(lines),
        "estimator": arguments.estimator,
        "frames": {"predicted": predicted["frames"], "made": _frames(folder)},
        "seconds": {
            kind: {
                "predicted": seconds[kind],
                "measured": took[kind],
                "ratio": round(took[kind] / seconds[kind], 2),
            }
            for kind in hours
        },
        "bytes": {
            "predicted": [predicted["flow_bytes"], predicted["trajectory_bytes"]],
            "measured": [_size(folder / "results" / tree) for tree in ("flows", "trajs")],
        },
        "all": {"predicted": round(sum(seconds.values()), 1), "measured": run["seconds"]},
    }


def _took(logs: Path, kind: str) -> float:
    """Seconds of our own part of all jobs of a kind, and the plan's allowance for their startup."""
    from m3flow.experiment.calibrate import JOB_START_SECONDS

    total = 0.0
    for log in logs.glob(f"{kind}-*.log"):
        lines = log.read_text().splitlines()
        first, last = (datetime.fromisoformat(line[:23].replace(",", ".")) for line in (lines[0], lines[-1]))
        total += (last - first).total_seconds() + JOB_START_SECONDS
    return round(total, 1)


def _frames(folder: Path) -> int:
    from m3flow.results.records import read_records

    return sum(record.frames for record in read_records((folder / "results/records").rglob("flow-*.csv")))


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


QUESTIONS: dict[str, Callable[[Path, argparse.Namespace], dict[str, Any]]] = {
    function.__name__: function for function in (plan, append, status, check, starts, job, reality)
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("question", choices=QUESTIONS)
    parser.add_argument("--videos", type=int, default=240_000)
    parser.add_argument("--shard", type=int, default=256)
    parser.add_argument("--shards", action="store_true")
    parser.add_argument("--no-files", dest="files", action="store_false")
    parser.add_argument("--list", type=Path)
    parser.add_argument("--root", type=Path, default=Path())
    parser.add_argument("--copies", type=int, default=2)
    parser.add_argument("--estimator", default="dis")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="planning-") as folder:
        numbers = QUESTIONS[arguments.question](Path(folder), arguments)
    print(json.dumps(numbers, indent=1))
    stored = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    key = f"{arguments.question} {numbers['videos']}"
    stored[key] = {**numbers, "machine": describe()}
    RESULTS.write_text(json.dumps(stored, indent=1) + "\n")


if __name__ == "__main__":
    main()
