"""The flow, the trajectories or both of one video."""

import sys
from pathlib import Path

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
            threads=snakemake.threads,
            log_file=snakemake.log[0],
            outcome=Path(snakemake.output[0]),
            before=[Path(name) for name in snakemake.input],
        )
    )
