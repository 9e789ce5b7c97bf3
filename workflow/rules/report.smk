# The page by which to judge a run: `snakemake report`, as often as wanted, and `snakemake --report FILE report`.
# Its inputs are the records of all jobs so far, whether or not these went well; no job of the list has to be
# done for it.


rule report:
    output:
        report(
            str(outputs.report),
            caption="../report/motion.rst",
            category="Motion",
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
