"""The trajectories of one video."""

import sys

from m3flow.experiment.config import Experiment
from m3flow.extraction.run import execute_one
from m3flow.extraction.work import Work
from m3flow.videos.videolist import Video

if __name__ == "__main__":
    snakemake = globals()["snakemake"]
    experiment = Experiment.of(snakemake.config)
    work = Work(
        outputs=experiment.outputs,
        trajectories=experiment.trajectories,
        limits=experiment.limits,
        threads=snakemake.threads,
    )
    video = Video(snakemake.params.source, snakemake.wildcards.video)
    sys.exit(execute_one("trajectories", video, work, snakemake.log[0]))
