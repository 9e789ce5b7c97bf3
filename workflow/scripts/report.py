"""The report on the results so far."""

import sys
from pathlib import Path

from m3flow.experiment.config import Experiment
from m3flow.extraction.run import log_to
from m3flow.packs.store import with_packs
from m3flow.report.page import described, write_report
from m3flow.report.summary import write_counts

if __name__ == "__main__":
    snakemake = globals()["snakemake"]
    experiment = Experiment.of(snakemake.config)
    log_to(Path(snakemake.log[0]))
    page, counts = map(Path, snakemake.output)
    videos = experiment.videos.read()
    table = write_report(page, with_packs(experiment.outputs), videos, length=experiment.trajectories.length)
    write_counts(counts, table, videos)
    print(described(page, table), file=sys.stderr)
