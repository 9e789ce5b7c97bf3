"""`snakemake report` and `snakemake --report`, over made-up records."""

from __future__ import annotations

import base64
import csv
import re
import subprocess
import sys
from pathlib import Path

from m3flow.layout import Outputs
from m3flow.results.records import Record, RecordFile
from support.clips import write_list
from support.paths import REPOSITORY


def snakemake(folder: Path, *arguments: str) -> str:
    command = [
        *(sys.executable, "-m", "snakemake", "--snakefile", str(REPOSITORY / "Snakefile")),
        *("--configfile", str(REPOSITORY / "config.yaml"), "--directory", str(folder), "--cores", "1"),
        *arguments,
        *("--config", f"videos={folder / 'list.txt'}", "output=results"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def embedded(report: Path, name: str) -> bytes:
    """A file inside Snakemake's report."""
    found = re.search(
        rf"filename={re.escape(name)};base64,([A-Za-z0-9+/=]+)", report.read_text(encoding="utf-8")
    )
    assert found, f"{name} is not in the report"
    return base64.b64decode(found[1])


def test_the_page_and_the_counts_are_in_the_report_of_snakemake(tmp_path: Path) -> None:
    write_list(tmp_path / "list.txt", [f"set/{name}.mp4" for name in "abcd"])
    outputs = Outputs(tmp_path / "results")
    with RecordFile(outputs.records / "flow.csv") as file:
        file.append(Record(video="set/a.mp4", status="done", frames=9, speed=1.0))
        for name in "bc":
            file.append(Record(video=f"set/{name}.mp4", status="rejected", reason=f"no such file: '{name}'"))
    said = snakemake(tmp_path, "report")
    assert "results/report.html: 3 videos (2 rejected, 1 done)" in said
    with outputs.summary.open(newline="") as table:
        rows = list(csv.reader(table))
    assert rows == [
        ["status", "reason", "videos", "example"],
        ["done", "", "1", "set/a.mp4"],
        ["rejected", "no such file: …", "2", "set/b.mp4"],
        ["not begun", "", "1", "set/d.mp4"],
    ]
    for arguments in (["report"], []):
        own = tmp_path / f"own{len(arguments)}.html"
        snakemake(tmp_path, *arguments, "--report", str(own))
        assert embedded(own, "report.html") == outputs.report.read_bytes()
        assert embedded(own, "summary.csv") == outputs.summary.read_bytes()
