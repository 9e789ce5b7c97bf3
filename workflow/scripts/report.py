"""The report on what was made so far."""

import sys
from pathlib import Path

from m3flow.experiment.config import Experiment
from m3flow.extraction.run import log_to
from m3flow.report.page import described, write_report

if __name__ == "__main__":
    snakemake = globals()["snakemake"]
    experiment = Experiment.of(snakemake.config)
    log_to(Path(snakemake.log[0]))
    page = Path(snakemake.output[0])
    table = write_report(
        page,
        experiment.outputs,
        experiment.videos.read(),
        length=experiment.trajectories.length,
    )
    print(described(page, table), file=sys.stderr)
