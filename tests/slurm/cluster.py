"""A real Slurm on this machine, with several emulated nodes and GPUs, in its own folder.

By hand (as root; Debian and Ubuntu: apt-get install slurm-wlm munge):

    python tests/slurm/cluster.py start /tmp/slurm     # prints the variables to set
    export SLURM_CONF=/tmp/slurm/slurm.conf PATH=/tmp/slurm/bin:$PATH
    sinfo
    snakemake --profile profiles/slurm …
    python tests/slurm/cluster.py stop /tmp/slurm
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

NODES, GPUS, CPUS, MEMORY_MB = 4, 4, 16, 16000
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "scontrol", "sinfo")
START_SECONDS = 60.0

SLURM_CONF = """ClusterName=pretended
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CryptoType=crypto/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
GresTypes=gpu
ReturnToService=2
SlurmdParameters=config_overrides
MpiDefault=none
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
SlurmdTimeout=40
KillWait=10
InactiveLimit=0
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdSpoolDir={folder}/spool-%n
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmdLogFile={folder}/slurmd-%n.log
{nodes}
PartitionName=main Nodes=node[1-{count}] Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO
"""


def missing() -> str:
    """Why a Slurm cannot be started here; "" if it can."""
    if os.geteuid() != 0:
        return "a private Slurm needs root"
    absent = [name for name in PROGRAMS if _program(name) is None]
    return f"Slurm is not installed (no {', '.join(absent)})" if absent else ""


class Cluster:
    """One controller and `nodes` node daemons; use as a context manager, or `start` and `stop`."""

    def __init__(self, folder: Path, nodes: int = NODES) -> None:
        self.folder = folder.resolve()
        self.names = [f"node{number}" for number in range(1, nodes + 1)]
        self._pids: dict[str, int] = {}
        if self._pid_file.exists():
            self._pids = json.loads(self._pid_file.read_text())
            self.names = [name for name in self._pids if name.startswith("node")]

    def __enter__(self) -> Cluster:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def conf(self) -> Path:
        return self.folder / "slurm.conf"

    @property
    def environment(self) -> dict[str, str]:
        """The environment of a process that uses this Slurm."""
        path = f"{self.folder}/bin:{os.environ.get('PATH', '')}"
        return {**os.environ, "SLURM_CONF": str(self.conf), "PATH": path}

    @property
    def _pid_file(self) -> Path:
        return self.folder / "pids.json"

    def start(self) -> None:
        """Returns when every node is idle; stops everything if that fails."""
        self._write_configuration()
        try:
            self._spawn(
                "munged",
                *("--foreground", "--force", "--num-threads=2"),
                *(f"--socket={self.folder}/munge.socket", f"--key-file={self.folder}/munge.key"),
                *(f"--pid-file={self.folder}/munged.pid", f"--log-file={self.folder}/munged.log"),
                f"--seed-file={self.folder}/munge.seed",
            )
            self._wait(lambda: (self.folder / "munge.socket").exists(), "munged")
            self._spawn("slurmctld", "-D", "-f", str(self.conf))
            for name in self.names:
                self.start_node(name)
            self._wait(lambda: self.states().count("idle") == len(self.names), "the nodes")
        except BaseException:
            self.stop()
            raise

    def start_node(self, name: str) -> None:
        self._spawn(name, "-D", "-N", name, "-f", str(self.conf), program="slurmd")

    @contextmanager
    def all_at_once(self) -> Iterator[None]:
        """Jobs submitted within start together at its end: none has freed its node before another starts."""
        self.command("scontrol", "update", "PartitionName=main", "State=DOWN")
        try:
            yield
        finally:
            self.command("scontrol", "update", "PartitionName=main", "State=UP")

    def kill_node(self, name: str) -> None:
        """Simulate a power failure of a node: kill its daemon and every process of its jobs at once.

        The controller finds out by SlurmdTimeout. A shorter one would cost a machine that stands still for some
        seconds its other nodes too.
        """
        self._kill(self._pids.pop(name))
        for step in self._steps(name):
            for process in (step, *step.children(recursive=True)):
                with suppress(psutil.NoSuchProcess):
                    process.kill()

    def _steps(self, name: str) -> list[psutil.Process]:
        """The processes that run the job steps of a node: those that have its log open.

        Another Slurm on this machine has jobs of the same numbers, on nodes of the same names.
        """
        log = str(self.folder / f"slurmd-{name}.log")
        steps = []
        for process in psutil.process_iter():
            with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                running = " ".join(process.cmdline()).startswith("slurmstepd:")
                if running and any(file.path == log for file in process.open_files()):
                    steps.append(process)
        return steps

    def revive_node(self, name: str) -> None:
        """Start a killed node again; returns when it accepts jobs."""
        self.start_node(name)
        self._save()
        self._wait(lambda: "down" not in " ".join(self.states()), name)

    def stop(self) -> None:
        if self.conf.exists() and "slurmctld" in self._pids:
            subprocess.run(
                [_found("scancel"), "--user=root"], env=self.environment, capture_output=True, check=False
            )
            self._wait_for_no_jobs()
        # The controller last, except for munged: daemons that lose it log errors.
        for name in sorted(self._pids, key=lambda name: (name == "munged", name == "slurmctld")):
            self._kill(self._pids[name], signal.SIGTERM)
        self._pids = {}
        self._pid_file.unlink(missing_ok=True)

    def states(self) -> list[str]:
        return self.command("sinfo", "-h", "-N", "-o", "%T", check=False).split()

    def command(self, name: str, *arguments: str, check: bool = True) -> str:
        """The standard output of a Slurm command."""
        done = subprocess.run(
            [_found(name), *arguments], env=self.environment, capture_output=True, text=True, check=False
        )
        if check and done.returncode:
            raise RuntimeError(f"{name} {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout

    def _write_configuration(self) -> None:
        for path in (self.folder, self.folder / "state", self.folder / "dev", self.folder / "bin"):
            path.mkdir(parents=True, exist_ok=True)
        host = socket.gethostname().partition(".")[0]
        ports = _free_ports(len(self.names) + 1)
        nodes = "\n".join(
            f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={CPUS} "
            f"RealMemory={MEMORY_MB} Gres=gpu:{GPUS} State=UNKNOWN"
            for name, port in zip(self.names, ports[1:], strict=True)
        )
        self.conf.write_text(
            SLURM_CONF.format(
                host=host,
                folder=self.folder,
                controller_port=ports[0],
                nodes=nodes,
                count=len(self.names),
            )
        )
        # A GPU is counted only if it has a device file.
        for number in range(GPUS):
            device = self.folder / "dev" / f"gpu{number}"
            if not device.exists():
                os.mknod(device, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        (self.folder / "gres.conf").write_text(
            f"NodeName={','.join(self.names)} Name=gpu File={self.folder}/dev/gpu[0-{GPUS - 1}]\n"
        )
        # Snakemake starts srun without the SLURM_ variables of its job; real clusters have /etc/slurm.
        srun = self.folder / "bin" / "srun"
        srun.write_text(f'#!/bin/sh\nSLURM_CONF={self.conf} exec {_found("srun")} "$@"\n')
        srun.chmod(0o755)
        key = self.folder / "munge.key"
        if not key.exists():
            key.touch(mode=0o600)
            key.write_bytes(secrets.token_bytes(128))

    def _spawn(self, name: str, *arguments: str, program: str = "") -> None:
        with (self.folder / f"{name}.out").open("ab") as out:
            process = subprocess.Popen(
                [_found(program or name), *arguments],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        self._pids[name] = process.pid
        self._save()

    def _save(self) -> None:
        self._pid_file.write_text(json.dumps(self._pids))

    def _kill(self, pid: int, number: int = signal.SIGKILL) -> None:
        try:
            process = psutil.Process(pid)
            process.send_signal(number)
            process.wait(timeout=10)
        except psutil.NoSuchProcess:
            return
        except psutil.TimeoutExpired:
            process.kill()

    def _wait_for_no_jobs(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while self.command("squeue", "-h", check=False).strip() and time.monotonic() < deadline:
            time.sleep(0.2)

    def _wait(self, ready: object, what: str) -> None:
        assert callable(ready)
        deadline = time.monotonic() + START_SECONDS
        while not ready():
            if time.monotonic() > deadline:
                raise RuntimeError(f"{what} did not come up within {START_SECONDS:g} s; see {self.folder}")
            time.sleep(0.2)


def _program(name: str) -> str | None:
    # The daemons are not in every user's PATH, and our own srun must not find itself.
    return shutil.which(name, path="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/opt/slurm/bin")


def _found(name: str) -> str:
    path = _program(name)
    if path is None:
        raise RuntimeError(f"{name} is not installed")
    return path


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for item in sockets:
            item.bind(("127.0.0.1", 0))
        return [item.getsockname()[1] for item in sockets]
    finally:
        for item in sockets:
            item.close()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", choices=("start", "stop"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--nodes", type=int, default=NODES)
    arguments = parser.parse_args()
    if reason := missing():
        parser.exit(2, f"{reason}\n")
    cluster = Cluster(arguments.folder, arguments.nodes)
    if arguments.action == "stop":
        cluster.stop()
    else:
        cluster.start()
        print(f"export SLURM_CONF={cluster.conf} PATH={cluster.folder}/bin:$PATH")


if __name__ == "__main__":
    main()
