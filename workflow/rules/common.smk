import math
import sys

from snakemake.exceptions import WorkflowError
from snakemake.io import contains_wildcard

from m3flow.experiment.config import Experiment
from m3flow.errors import BadInput, UsageError
from m3flow.results.records import record_files
from m3flow.experiment.cost import jobs_of, time_limit
from m3flow.experiment.shards import plan_of
from m3flow.videos.identity import identity

try:
    experiment = Experiment.of(config)
    # Every job reads the Snakefile again, and must not pay for the whole list: with shards, the plan suffices.
    if experiment.granularity == "shard":
        plan, videos = plan_of(experiment, renew=workflow.is_main_process), {}
    else:
        videos = {video.name: video for video in experiment.videos.read()}
except UsageError as error:
    raise WorkflowError(str(error))

if (
    experiment.granularity == "video"
    and "flow_shard" in workflow.resource_settings.overwrite_resources
):
    # A list of a cluster's size would become hundreds of thousands of jobs.
    raise WorkflowError(
        "this profile is for shards, but granularity is video: --config on the command line takes the place "
        "of the profile's; add granularity=shard to it"
    )

outputs = experiment.outputs
folder = str(outputs.folder)

# Snakemake takes braces in a path for a wildcard, and has no way to say that they are none; its wildcards
# match no line break.
unusable = [
    path for path in (folder, experiment.videos.name) if set(path) & set("{}\n")
]
unusable += [name for name in videos if "\n" in name or contains_wildcard(name)]
if unusable:
    raise WorkflowError(
        "\n".join(
            f"{path!r}: Snakemake cannot have braces or a line break in a name; rename it"
            + (", or use granularity: shard" if path in videos else "")
            for path in unusable
        )
    )


wildcard_constraints:
    video=".+",


def done(kind):
    return str(outputs.shard_done(experiment.videos.name, kind, "{shard}"))


def shard_log(kind):
    return str(outputs.shard_log(experiment.videos.name, kind, "{shard}"))


def targets(wildcards):
    """The trajectories of every video, and its flow where it is kept; or what says that a shard is done."""
    if experiment.granularity == "shard":
        return expand(done(jobs_of(experiment)[-1]), shard=plan.names)
    wanted = []
    for name in videos:
        wanted.append(str(outputs.trajectories(name, experiment.trajectories.length)))
        if experiment.wants_flow and experiment.keep_flow:
            wanted += map(str, outputs.flow_files(name))
    return wanted


def source_of(wildcards):
    return videos[wildcards.video].source


def source_identity(wildcards):
    """What the video is, so that another one under the same name is noticed; not its time, not its place.

    The video is a parameter and no input: a missing one then costs its own job and not the whole run.
    """
    try:
        return identity(source_of(wildcards))
    except (BadInput, OSError):
        return {}


def kept(path):
    return path if experiment.keep_flow else temp(path)


def records_so_far(wildcards):
    """What changes when any job has written a record, so that the report is made again."""
    sizes = [path.stat().st_size for path in record_files(outputs.records)]
    return [len(sizes), sum(sizes)]


def shard_digest(wildcards):
    return plan[wildcards.shard].digest


def run_minutes(kind):
    """The time limit of a job: from the calibration, or four times `shard.minutes`; more at each attempt."""

    def minutes(wildcards, attempt):
        expected = plan.minutes(kind, plan[wildcards.shard].videos)
        if expected is None:
            return math.ceil(4 * experiment.shard.minutes) * attempt
        return time_limit(expected, attempt)

    return minutes


def report_so_far(wildcards):
    """The report, where there is one and Snakemake is asked for its own: no run waits for it."""
    asked = any(
        argument == "--report" or argument.startswith("--report=")
        for argument in sys.argv
    )
    made = outputs.report.exists() and outputs.summary.exists()
    return [str(outputs.report), str(outputs.summary)] if asked and made else []
