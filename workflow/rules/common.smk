# The jobs of a run are determined here, from the records and the files, not from Snakemake's metadata of earlier
# runs: `due` returns the videos or shards, and the graph has only their jobs. A job's declared output is a small
# file, its outcome, in a folder of this run. So Snakemake never deletes a result (it deletes the declared outputs
# of a job that fails or runs again), and a rejected video is not a failed job.
import functools
import math
import os
import shutil
import sys
import time
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.io import contains_wildcard
from snakemake.logging import logger

from m3flow.errors import UsageError
from m3flow.experiment.config import Experiment

try:
    experiment = Experiment.of(config)
except UsageError as error:
    raise WorkflowError(str(error))

outputs = experiment.outputs
if workflow.is_main_process:
    os.environ["M3FLOW_RUN"] = time.strftime("%m%d-%H%M%S-") + str(os.getpid())

# Snakemake reads braces in a path as a wildcard, without a way to escape them, and its wildcards do not match
# line breaks.
for path in (str(outputs.folder), experiment.videos.name):
    if set(path) & set("{}\n"):
        raise WorkflowError(
            f"{path!r}: Snakemake does not allow braces or a line break in a name; rename it"
        )


envvars:
    "M3FLOW_RUN",


run_folder = Path(".snakemake/m3flow", os.environ["M3FLOW_RUN"])


wildcard_constraints:
    video=".+",
    shard=r"\d+",


def outcome(rule, unit):
    """The last file written by a job; `unit` is a video, a shard or a wildcard."""
    return f"{run_folder}/{rule}/{unit}.json"


def on_cluster():
    """Whether jobs run on other machines; in a dry run, inferred from a cluster profile's settings."""
    if workflow.remote_exec or workflow.non_local_exec:
        return True
    settings = workflow.resource_settings
    return bool(
        settings.default_resources or "flow_shard" in settings.overwrite_resources
    )


@functools.cache
def granularity():
    if experiment.granularity == "auto":
        return "shard" if on_cluster() else "video"
    if experiment.granularity == "video" and on_cluster():
        raise WorkflowError(
            "granularity is video, which would make a cluster's jobs of single videos; use auto or shard"
        )
    return experiment.granularity


@functools.cache
def videos():
    """The videos of the list, by name."""
    found = {video.name: video for video in experiment.videos.read()}
    unusable = [name for name in found if "\n" in name or contains_wildcard(name)]
    if unusable:
        raise WorkflowError(
            "\n".join(
                f"{name!r}: Snakemake does not allow braces or a line break in a name; rename it, or use "
                "granularity: shard"
                for name in unusable
            )
        )
    return found


@functools.cache
def due():
    """The jobs of this run; determined once, and not again in the processes of its jobs."""
    from m3flow.experiment.cost import hours_of_starts
    from m3flow.experiment.jobs import due
    from m3flow.experiment.preflight import CHECKED, require_sources
    from m3flow.experiment.status import MANY_VIDEOS

    try:
        if granularity() == "video":
            videos()
        found = due(experiment, granularity())
        makes_flow = found.units.get("flow") or found.units.get("motion")
        if makes_flow and not report_requested():
            require_sources(experiment.videos.sample(CHECKED), experiment.videos.root)
    except (UsageError, WorkflowError) as error:
        # An exception raised here, in an input function, would be shown with a traceback.
        logger.error(str(error))
        raise SystemExit(1)
    say(found.summary)
    if granularity() == "video" and found.videos > MANY_VIDEOS:
        hours = hours_of_starts(experiment, found.videos, workflow.cores)
        logger.info(
            f"m3flow: one job for each of {found.videos:,} videos; granularity=shard would save about {hours:.1f} "
            "hours of startup time"
        )
    return found


def say(lines):
    for line in lines:
        logger.info(line)


def targets(wildcards):
    """The outcomes of the jobs that are due; the list itself if there are none."""
    suffix = "_shard" if granularity() == "shard" else ""
    units = due().units
    # The jobs on which others depend are in the graph through them.
    waited_for = {
        "flow": {*units.get("trajectories", ()), *units.get("pack", ())},
        "pack": set(),
    }
    wanted = [
        outcome(kind + suffix, unit)
        for kind in units
        for unit in units[kind]
        if unit not in waited_for.get(kind, units.get("pack", ()))
    ]
    return wanted or str(experiment.videos.location)


def end_of_run():
    """The outcome of the run, from the records."""
    from m3flow.experiment.status import status_of, summary

    shutil.rmtree(run_folder, ignore_errors=True)
    status = status_of(experiment, every_file=granularity() == "video")
    say(summary(experiment, status))


def flow_before(rule, unit):
    """The outcome of the flow job on which trajectories depend, if this run has one."""
    return (
        outcome(rule, unit) if workflow.is_main_process and unit in flow_units() else []
    )


def jobs_before_pack(shard):
    """The outcomes of the jobs of this run that make the results of a shard."""
    if not workflow.is_main_process:
        return []
    kinds = ("flow", "trajectories", "motion")
    return [
        outcome(f"{kind}_shard", shard)
        for kind in kinds
        if shard in due().units.get(kind, ())
    ]


def source_of(wildcards):
    return videos()[wildcards.video].source


@functools.cache
def flow_threads():
    from m3flow.experiment.jobs import threads_of_a_job

    return threads_of_a_job(experiment, "flow", workflow.cores)


@functools.cache
def flow_units():
    return frozenset(due().units.get("flow", ()))


def records_so_far(wildcards):
    """The records of all jobs so far."""
    from m3flow.results.records import record_files

    return [str(path) for path in record_files(outputs.records)]


def shard_log(kind):
    return str(outputs.shard_log(experiment.videos.name, kind, "{shard}"))


@functools.cache
def plan():
    from m3flow.experiment.shards import plan_of

    return plan_of(experiment, renew=workflow.is_main_process)


def run_minutes(kind):
    """The time limit of a job: from the calibration, or four times `shard.minutes`; more at each attempt."""

    def minutes(wildcards, attempt):
        expected = plan().minutes(kind, plan()[wildcards.shard].videos)
        if expected is None:
            return math.ceil(4 * experiment.shard.minutes) * attempt
        from m3flow.experiment.cost import time_limit

        return time_limit(expected, attempt)

    return minutes


def report_requested():
    """Whether Snakemake's own report is requested: nothing is run then."""
    return any(
        argument == "--report" or argument.startswith("--report=")
        for argument in sys.argv
    )


def report_so_far(wildcards):
    """The report, if it exists and Snakemake's own report is requested; no run waits for it."""
    made = outputs.report.exists() and outputs.summary.exists()
    return (
        [str(outputs.report), str(outputs.summary)]
        if made and report_requested()
        else []
    )
