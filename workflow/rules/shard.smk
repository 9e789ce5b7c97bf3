# One job for each shard of the list, for a cluster. Only the small file that a job writes last is declared:
# Snakemake deletes declared outputs of a job that fails or runs again, and nothing that is good may go.
import signal

from m3flow.system import available_cores

# A job is asked to stop by SIGTERM or SIGUSR1, which Slurm sends to all of its processes. Snakemake and the
# shell between Slurm and our process must outlive them, so that it can end well.
signal.signal(signal.SIGUSR1, signal.SIG_IGN)
shell.prefix("trap : TERM; ")


wildcard_constraints:
    shard=r"\d+",


rule flow_shard:
    output:
        done("flow"),
    log:
        shard_log("flow"),
    conda:
        "../envs/m3flow.yaml"
    # On one machine a job takes all cores; on a cluster the profile's `cpus_per_task` says how many it gets.
    threads: available_cores()
    resources:
        runtime=run_minutes("flow"),
    params:
        kind="flow",
        root=str(experiment.videos.root),
        digest=shard_digest,
        settings=experiment.flow.identity(),
    script:
        "../scripts/shard.py"


rule trajectories_shard:
    input:
        done("flow") if "flow" in jobs_of(experiment) else [],
    output:
        done("trajectories"),
    log:
        shard_log("trajectories"),
    conda:
        "../envs/m3flow.yaml"
    threads: available_cores()
    resources:
        runtime=run_minutes("trajectories"),
    params:
        kind="trajectories",
        root=str(experiment.videos.root),
        digest=shard_digest,
        settings=experiment.trajectories.identity(),
    script:
        "../scripts/shard.py"


# Both in one pass: the flow is never read back, and stored only where it is kept.
rule motion_shard:
    output:
        done("motion"),
    log:
        shard_log("motion"),
    conda:
        "../envs/m3flow.yaml"
    threads: available_cores()
    resources:
        runtime=run_minutes("motion"),
    params:
        kind="motion",
        root=str(experiment.videos.root),
        digest=shard_digest,
        settings=[
            experiment.flow.identity(),
            experiment.trajectories.identity(),
            experiment.keep_flow,
        ],
    script:
        "../scripts/shard.py"
