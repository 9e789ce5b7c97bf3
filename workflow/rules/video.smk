# A flow job and a trajectory job for each video.
# `conda` counts only for those who run with --software-deployment-method conda.


rule flow:
    output:
        x=kept(f"{folder}/flows/{{video}}/x.mp4"),
        y=kept(f"{folder}/flows/{{video}}/y.mp4"),
    log:
        f"{folder}/logs/flow/{{video}}.log",
    conda:
        "../envs/m3flow.yaml"
    params:
        source=source_of,
        identity=source_identity,
        settings=experiment.flow.identity(),
    script:
        "../scripts/flow.py"


rule trajectories:
    input:
        [
            f"{folder}/flows/{{video}}/x.mp4",
            f"{folder}/flows/{{video}}/y.mp4",
        ]
        if experiment.wants_flow
        else [],
    output:
        f"{folder}/trajs/{{video}}_{experiment.trajectories.length}.gz",
    log:
        f"{folder}/logs/trajectories/{{video}}_{experiment.trajectories.length}.log",
    conda:
        "../envs/m3flow.yaml"
    params:
        source=source_of,
        identity=lambda wildcards: (
            {} if experiment.wants_flow else source_identity(wildcards)
        ),
        settings=experiment.trajectories.identity(),
    script:
        "../scripts/trajectories.py"
