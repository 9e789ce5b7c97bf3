# A flow job and a trajectory job for each video.
# `conda` counts only for those who run with --software-deployment-method conda.

flow_x, flow_y = map(str, outputs.flow_files("{video}"))
length = experiment.trajectories.length


rule flow:
    output:
        x=kept(flow_x),
        y=kept(flow_y),
    log:
        str(outputs.log("flow/{video}")),
    conda:
        "../envs/m3flow.yaml"
    params:
        kind="flow",
        source=source_of,
        identity=source_identity,
        settings=experiment.flow.identity(),
    script:
        "../scripts/video.py"


rule trajectories:
    input:
        [flow_x, flow_y] if experiment.wants_flow else [],
    output:
        str(outputs.trajectories("{video}", length)),
    log:
        str(outputs.log(f"trajectories/{{video}}_{length}")),
    conda:
        "../envs/m3flow.yaml"
    params:
        kind="trajectories",
        source=source_of,
        identity=lambda wildcards: (
            {} if experiment.wants_flow else source_identity(wildcards)
        ),
        settings=experiment.trajectories.identity(),
    script:
        "../scripts/video.py"
