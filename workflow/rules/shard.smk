# One job per shard of the list, for a cluster.
import signal

from m3flow.system import available_cores

# Slurm sends SIGTERM or SIGUSR1 to all processes of a job to stop it. Snakemake and the shell between Slurm
# and our process must survive them, so that our process can shut down cleanly.
signal.signal(signal.SIGUSR1, signal.SIG_IGN)
shell.prefix("trap : TERM; ")


rule flow_shard:
    output:
        outcome("flow_shard", "{shard}"),
    log:
        shard_log("flow"),
    conda:
        "../envs/m3flow.yaml"
    # On one machine a job uses all cores; on a cluster the profile's `cpus_per_task` sets their number.
    threads: available_cores()
    resources:
        runtime=run_minutes("flow"),
    params:
        kind="flow",
    script:
        "../scripts/shard.py"


rule trajectories_shard:
    input:
        lambda wildcards: flow_before("flow_shard", wildcards.shard),
    output:
        outcome("trajectories_shard", "{shard}"),
    log:
        shard_log("trajectories"),
    conda:
        "../envs/m3flow.yaml"
    threads: available_cores()
    resources:
        runtime=run_minutes("trajectories"),
    params:
        kind="trajectories",
    script:
        "../scripts/shard.py"


# Both in one pass: the flow is never read back, and stored only if it is kept.
rule motion_shard:
    output:
        outcome("motion_shard", "{shard}"),
    log:
        shard_log("motion"),
    conda:
        "../envs/m3flow.yaml"
    threads: available_cores()
    resources:
        runtime=run_minutes("motion"),
    params:
        kind="motion",
    script:
        "../scripts/shard.py"


# With `shard.pack`: the results into one tar file, and the single files away.
rule pack_shard:
    input:
        lambda wildcards: jobs_before_pack(wildcards.shard),
    output:
        outcome("pack_shard", "{shard}"),
    log:
        shard_log("pack"),
    conda:
        "../envs/m3flow.yaml"
    resources:
        runtime=run_minutes("pack"),
    script:
        "../scripts/pack.py"
