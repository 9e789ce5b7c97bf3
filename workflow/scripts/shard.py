"""The flow, the trajectories or both of one shard of the list."""

import sys
from pathlib import Path

from m3flow.experiment.config import Experiment
from m3flow.experiment.jobs import run_shard

# Worker processes import this file again.
if __name__ == "__main__":
    snakemake = globals()["snakemake"]
    sys.exit(
        run_shard(
            Experiment.of(snakemake.config),
            snakemake.params.kind,
            snakemake.wildcards.shard,
            snakemake.log[0],
            Path(snakemake.output[0]),
        )
    )
