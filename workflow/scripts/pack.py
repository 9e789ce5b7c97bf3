"""The results of one shard of the list into a pack."""

import sys
from pathlib import Path

from m3flow.experiment.config import Experiment
from m3flow.experiment.packs import pack_results

if __name__ == "__main__":
    snakemake = globals()["snakemake"]
    sys.exit(
        pack_results(
            Experiment.of(snakemake.config),
            snakemake.wildcards.shard,
            Path(snakemake.log[0]),
            Path(snakemake.output[0]),
        )
    )
