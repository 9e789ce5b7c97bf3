"""`m3flow calibrate`."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from m3flow.cli.experiment import (
    Config,
    OptionalList,
    OptionalOutput,
    OptionalParts,
    OptionalRoot,
    Settings,
    experiment_of,
)
from m3flow.errors import UsageError

if TYPE_CHECKING:
    from rich.table import Table

    from m3flow.experiment.calibration import Calibration
    from m3flow.experiment.config import Experiment

EXAMPLES = """**Examples**

`m3flow calibrate` — on this machine, with the settings of `config.yaml`

`m3flow calibrate --cluster slurm --partition gpu --gpus 1 --cpus 8` — one short job on the target nodes

`m3flow calibrate train.csv --root /data/k400 --set flow.estimator=tvl1`
"""
POLL_SECONDS = 1.0
# Final states of a job in squeue.
ENDED = ("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "TIMEOUT")


def register(app: typer.Typer) -> None:
    app.command("calibrate", epilog=EXAMPLES)(calibrate)


def calibrate(
    list_file: OptionalList = None,
    config: Config = Path("config.yaml"),
    root: OptionalRoot = None,
    output: OptionalOutput = None,
    parts: OptionalParts = None,
    set_: Settings = None,
    cluster: Annotated[
        str, typer.Option(help="local: on this machine, now. slurm: in one job of a cluster.")
    ] = "local",
    partition: Annotated[str, typer.Option(help="Slurm's partition; its default one if not given.")] = "",
    account: Annotated[str, typer.Option(help="Slurm's account, if one is needed.")] = "",
    constraint: Annotated[str, typer.Option(help="Node features, such as a GPU model.")] = "",
    gpus: Annotated[int, typer.Option(min=0, help="GPUs of the job, as in the profile.")] = 0,
    gres: Annotated[str, typer.Option(help="In place of --gpus at sites that require it: gpu:1.")] = "",
    cpus: Annotated[int, typer.Option(min=1, help="CPU cores of the job, as in the profile.")] = 8,
    memory_gb: Annotated[float, typer.Option(help="Memory of the job, in GB.")] = 24,
    minutes: Annotated[int, typer.Option(min=1, help="Time limit of the job.")] = 30,
) -> None:
    """Measure the throughput of these settings on the target machine, and write it to `shard.calibration`.

    A few videos of the list are processed in a temporary folder, with several numbers of workers and frame
    sizes. `m3flow plan`, `shard.videos: auto` and the jobs' time limits use the result.
    """
    from rich.console import Console

    from m3flow.cli.step_display import StepDisplay

    options = {"videos": list_file, "root": root, "output": output, "layout.parts": parts}
    experiment = experiment_of(config, set_, options)
    if cluster == "local":
        from m3flow.experiment.calibrate import calibrate as measure

        with StepDisplay("calibrate", Console(stderr=True)) as steps:
            found = measure(experiment, on_step=steps)
    elif cluster == "slurm":
        request = {
            "timeout_min": minutes,
            "cpus_per_task": cpus,
            "mem_gb": memory_gb,
            "slurm_partition": partition,
            "slurm_account": account,
            "slurm_constraint": constraint,
            "slurm_gpus_per_node": gpus if not gres else 0,
            "slurm_gres": gres,
        }
        found = _on_slurm(experiment, {key: value for key, value in request.items() if value})
    else:
        raise UsageError(f"--cluster is {cluster!r}; choose from local, slurm")
    path = Path(experiment.shard.calibration)
    found.write(path)
    console = Console()
    console.print(_table(found))
    console.print(f"written to {path}", markup=False, soft_wrap=True)


def _on_slurm(experiment: Experiment, request: dict[str, Any]) -> Calibration:
    """Measure in one Slurm job; the paths of the experiment must be valid on its node."""
    import submitit

    from m3flow.experiment.calibrate import calibrate as measure

    folder = experiment.outputs.logs / "calibrate"
    try:
        executor = submitit.AutoExecutor(folder=folder, cluster="slurm")
        executor.update_parameters(name="m3flow-calibrate", **request)
        job = executor.submit(measure, experiment, "slurm")
    except (RuntimeError, submitit.core.utils.FailedJobError) as error:
        raise UsageError(f"Slurm rejected the job: {' '.join(str(error).split())[-500:]}") from error
    shown = ""
    while not job.paths.result_pickle.exists():
        time.sleep(POLL_SECONDS)
        state = _state(job.job_id)
        if state != shown:
            typer.echo(f"job {job.job_id}: {state}", err=True)
            shown = state
        if state in ENDED and not job.paths.result_pickle.exists():
            # On a network file system the file may appear late.
            time.sleep(5 * POLL_SECONDS)
            if not job.paths.result_pickle.exists():
                raise RuntimeError(f"the job {job.job_id} ended as {state}; its log is {job.paths.stderr}")
    return job.result()


def _state(job: str) -> str:
    """The state of a job in Slurm; "UNKNOWN" if Slurm no longer knows it."""
    done = subprocess.run(
        ["squeue", "-h", "-t", "all", "-j", job, "-o", "%T"], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "UNKNOWN"


def _table(found: Calibration) -> Table:
    from rich.table import Table

    table = Table(
        title=f"{found.cores} cores, {found.gpus} GPUs ({found.device}); best with {found.workers} workers",
        title_justify="left",
        box=None,
        pad_edge=False,
    )
    for heading in (
        "frame size",
        "flow job",
        "trajectories job",
        "one pass",
        "decode",
        "flow",
        "encode",
        "track",
    ):
        table.add_column(heading, justify="right")
    for size in found.sizes:
        jobs = [f"{1 / value:,.0f}" if value else "" for value in (size.flow, size.trajectories, size.motion)]
        stages = [f"{size.stages.get(name, 0):,.0f}" for name in ("decode", "flow", "encode", "track")]
        table.add_row(f"{size.width}x{size.height}", *jobs, *stages)
    table.caption = "frames per second: of a whole job, and of each stage in one worker"
    return table
