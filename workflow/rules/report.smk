# The page by which to judge a run: `snakemake report`, as often as wanted. `snakemake --report FILE report` puts it
# and the table of counts into Snakemake's own report. Its inputs are the records of all jobs so far, whether or not
# these went well; no job of the list has to be done for it.


rule report:
    input:
        records_so_far,
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
    script:
        "../scripts/report.py"
