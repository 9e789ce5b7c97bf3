# From a list of videos to optical flow and trajectories. Settings: config.yaml; machine: profiles/.
from snakemake.exceptions import WorkflowError
from snakemake.utils import min_version, validate

from m3flow.errors import UsageError
from m3flow.experiment.config import Experiment, typed

min_version("9.0")


configfile: "config.yaml"


# The nested values of `--config flow='{step: 2}'` arrive as text.
config.update(
    {key: typed(value) for key, value in config.items() if isinstance(value, dict)}
)
try:
    # Report one line per mistake; the schema's own message would print the whole schema.
    Experiment.of(config)
except UsageError as error:
    raise WorkflowError(str(error))
if workflow.is_main_process:
    # Not again in the processes of the jobs, which start faster without it.
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
