"""Snakemake with the Slurm profile, as users run it, on a temporary data set."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import yaml

from m3flow.results.records import Record, read_records
from slurm.cluster import Cluster
from support.paths import REPOSITORY

PATIENCE_SECONDS = 120.0


class Run:
    """A data set with its config.yaml, processed by a cluster."""

    def __init__(self, folder: Path, cluster: Cluster, names: list[str], **config: object) -> None:
        self.folder, self.cluster = folder, cluster
        self.output = folder / "out"
        (folder / "list.txt").write_text("".join(f"{name} 0\n" for name in names))
        # A site that does not let Slurm put jobs back into the queue.
        profile = (REPOSITORY / "profiles/slurm/config.yaml").read_text()
        (folder / "no-requeue").mkdir()
        (folder / "no-requeue/config.yaml").write_text(profile.replace("slurm-requeue", "slurm-no-requeue"))
        values = {"videos": "list.txt", "root": "data", "output": "out", **config}
        (folder / "config.yaml").write_text(yaml.safe_dump(values))

    def command(self, *arguments: str, gpus: int = 1, retries: int = 0, requeue: bool = True) -> list[str]:
        # A site's changes to the profile: these nodes are small, and tests must not wait.
        jobs = {"cpus_per_task": 2, "mem_mb": 1000}
        site = [f"{kind}_shard:{key}={value}" for kind in KINDS for key, value in jobs.items()]
        site += [f"flow_shard:gpu={gpus}", f"motion_shard:gpu={gpus}"]
        return [
            *(sys.executable, "-m", "snakemake", "--snakefile", str(REPOSITORY / "Snakefile")),
            *("--directory", str(self.folder), "--workflow-profile", str(REPOSITORY / "profiles/default")),
            *("--profile", str(REPOSITORY / "profiles/slurm" if requeue else self.folder / "no-requeue")),
            *("--retries", str(retries)),
            *("--slurm-no-account", "--slurm-status-command", "squeue", "--latency-wait", "5"),
            *("--slurm-init-seconds-before-status-checks", "1", "--seconds-between-status-checks", "1"),
            *("--set-resources", *site, *arguments),
        ]

    def start(
        self, *arguments: str, gpus: int = 1, retries: int = 0, requeue: bool = True
    ) -> subprocess.Popen[bytes]:
        with (self.folder / "snakemake.out").open("wb") as out:
            return subprocess.Popen(
                self.command(*arguments, gpus=gpus, retries=retries, requeue=requeue),
                cwd=self.folder,
                env=self.cluster.environment,
                stdout=out,
                stderr=out,
            )

    def run(
        self, *arguments: str, gpus: int = 1, retries: int = 0, requeue: bool = True, status: int = 0
    ) -> str:
        """Run to the end; returns the output."""
        process = self.start(*arguments, gpus=gpus, retries=retries, requeue=requeue)
        process.wait()
        text = (self.folder / "snakemake.out").read_text()
        assert process.returncode == status, text
        return text

    def jobs(self) -> dict[str, int]:
        """The number of jobs per rule in a dry run."""
        counts = re.findall(r"^(\w+) +(\d+)$", self.run("--dry-run"), re.MULTILINE)
        return {rule: int(count) for rule, count in counts if rule not in ("all", "total")}

    def records(self, kind: str) -> list[Record]:
        """Every line of the shards' records of a kind, over all attempts."""
        return list(read_records(sorted((self.output / "records" / "list.txt").glob(f"{kind}-*.csv"))))

    def counts(self, kind: str) -> Counter[tuple[str, str]]:
        """The number of records per (video, status)."""
        return Counter((record.video, record.status) for record in self.records(kind))

    def logs(self, kind: str) -> list[str]:
        return [path.read_text() for path in sorted((self.output / "logs/list.txt").glob(f"{kind}-*.log"))]

    def files(self) -> dict[str, tuple[int, int]]:
        """Every final file with its inode and modification time: a file made again differs."""
        found = [*self.output.glob("flows/**/*.mp4"), *self.output.glob("trajs/**/*.gz")]
        return {
            str(path.relative_to(self.output)): (path.stat().st_ino, path.stat().st_mtime_ns)
            for path in found
            if path.is_file()
        }

    def job_of(self, shard: str) -> str:
        """The Slurm job that works on a shard now."""
        lines = self.cluster.command("squeue", "-h", "-t", "RUNNING", "-o", "%A %k").splitlines()
        return next(line.split()[0] for line in lines if line.endswith(f"_{shard}"))

    def node_of(self, job: str) -> str:
        return self.cluster.command("squeue", "-h", "-j", job, "-o", "%N").strip()


KINDS = ("flow", "trajectories", "motion", "pack")


def wait_until(ready: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not ready():
        assert time.monotonic() < deadline, f"{what} did not happen"
        time.sleep(0.05)
