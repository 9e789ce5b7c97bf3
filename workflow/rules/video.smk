# One job per video, for one machine and up to a few thousand videos.
# `conda` takes effect only with --software-deployment-method conda.


rule flow:
    output:
        outcome("flow", "{video}"),
    log:
        str(outputs.log("flow/{video}")),
    conda:
        "../envs/m3flow.yaml"
    threads: lambda wildcards: flow_threads()
    params:
        kind="flow",
        source=source_of,
    script:
        "../scripts/video.py"


rule trajectories:
    input:
        lambda wildcards: flow_before("flow", wildcards.video),
    output:
        outcome("trajectories", "{video}"),
    log:
        str(outputs.log(f"trajectories/{{video}}_{experiment.trajectories.length}")),
    conda:
        "../envs/m3flow.yaml"
    params:
        kind="trajectories",
        source=source_of,
    script:
        "../scripts/video.py"


# Both in one pass: the flow is never read back, and stored only if it is kept.
rule motion:
    output:
        outcome("motion", "{video}"),
    log:
        str(outputs.log("motion/{video}")),
    conda:
        "../envs/m3flow.yaml"
    threads: lambda wildcards: flow_threads()
    params:
        kind="motion",
        source=source_of,
    script:
        "../scripts/video.py"
