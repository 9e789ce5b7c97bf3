"""The report on what was made so far."""

from pathlib import Path

from m3flow.experiment.config import Experiment
from m3flow.extraction.run import log_to
from m3flow.report.page import write_report

if __name__ == "__main__":
    snakemake = globals()["snakemake"]
    experiment = Experiment.of(snakemake.config)
    log_to(Path(snakemake.log[0]))
    write_report(
        Path(snakemake.output[0]),
        experiment.outputs,
        experiment.videos.read(),
        length=experiment.trajectories.length,
    )
