# The report on a run: `snakemake report`, at any time. `snakemake --report FILE report` embeds it and the table of
# counts in Snakemake's own report. Its inputs are the records of all jobs so far, successful or not; it does not
# depend on any job of the list.


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
