"""The flow or the trajectories of one video."""

import sys

from m3flow.experiment.config import Experiment
from m3flow.experiment.jobs import run_video
from m3flow.videos.videolist import Video

if __name__ == "__main__":
    snakemake = globals()["snakemake"]
    sys.exit(
        run_video(
            Experiment.of(snakemake.config),
            snakemake.params.kind,
            Video(snakemake.params.source, snakemake.wildcards.video),
            snakemake.threads,
            snakemake.log[0],
        )
    )
