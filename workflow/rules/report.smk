# The page by which to judge a run: `snakemake report`, as often as wanted. `snakemake --report FILE report` puts it
# and the table of counts into Snakemake's own report. Its inputs are the records of all jobs so far, whether or not
# these went well; no job of the list has to be done for it.

import sys


rule report:
    output:
        page=report(
            str(outputs.report),
            caption="../report/motion.rst",
            category="Motion",
            labels={"what": "the page"},
        ),
        summary=report(
            str(outputs.summary),
            caption="../report/summary.rst",
            category="Motion",
            labels={"what": "the counts"},
        ),
    log:
        str(outputs.log("report")),
    localrule: True
    conda:
        "../envs/m3flow.yaml"
    params:
        records=records_so_far,
    script:
        "../scripts/report.py"


def report_so_far(wildcards):
    """The report, where there is one and Snakemake is asked for its own: no run waits for it."""
    asked = any(
        argument == "--report" or argument.startswith("--report=")
        for argument in sys.argv
    )
    made = outputs.report.exists() and outputs.summary.exists()
    return [str(outputs.report), str(outputs.summary)] if asked and made else []
