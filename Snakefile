# From a list of videos to optical flow and trajectories. What is made: config.yaml; where: profiles/.
from snakemake.utils import min_version, validate

min_version("9.0")


configfile: "config.yaml"


validate(config, "workflow/schemas/config.schema.yaml")


include: "workflow/rules/common.smk"
include: "workflow/rules/video.smk"


rule all:
    input:
        targets(),
    default_target: True
