# From a list of videos to optical flow and trajectories. What is made: config.yaml; where: profiles/.
from snakemake.exceptions import WorkflowError
from snakemake.utils import min_version, validate

from m3flow.errors import UsageError
from m3flow.experiment.config import Experiment, typed

min_version("9.0")


configfile: "config.yaml"


# The inner values of `--config flow='{step: 2}'` arrive as text.
config.update(
    {key: typed(value) for key, value in config.items() if isinstance(value, dict)}
)
try:
    # One line for each mistake; the schema would answer with itself.
    Experiment.of(config)
except UsageError as error:
    raise WorkflowError(str(error))
validate(config, "workflow/schemas/config.schema.yaml")


include: "workflow/rules/common.smk"
include: "workflow/rules/video.smk"
include: "workflow/rules/shard.smk"
include: "workflow/rules/report.smk"


rule all:
    default_target: True
    input:
        targets,
        report_so_far,


onsuccess:
    end_of_run()


onerror:
    end_of_run()
