"""Common mistakes with the command line and the workflow, and their table in the documentation.

Run as a program, with --write, it runs all of them and updates the table in docs/troubleshooting.md.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

from support.clips import clip
from support.paths import REPOSITORY

PAGE = REPOSITORY / "docs" / "troubleshooting.md"
BEGIN, END = "<!-- mistakes:begin -->", "<!-- mistakes:end -->"
MOST_LINES = 3
PROGRESS = ("calibrate: 0/", "report: 0/")

COMMANDS = """
flow
flow none.csv -o out
flow one.csv
flow empty.csv -o out
flow twice.csv -o out
flow clash.csv -o out --parts 1
flow header.csv -o out
flow comma.csv -o out
flow semicolons.csv -o out
flow space.txt -o out
flow quote.csv -o out
flow latin1.csv -o out
flow table.xlsx -o out
flow notes.gz -o out
flow nothing -o out
flow one.csv --root elsewhere -o out
flow one.csv -o one.csv
flow one.csv -o out --estimator farnback
flow one.csv -o out --estimator raft
flow one.csv -o out --backend numpy
flow one.csv -o out --device gpu
flow one.csv -o out --device cuda:99
flow one.csv -o out --backend opencv --device cuda
flow one.csv -o out --estimator brox --backend opencv
flow one.csv -o out --camera on
flow one.csv -o out --codec vp9
flow one.csv -o out --bound 0
flow one.csv -o out --bound many
flow one.csv -o out --step 0
flow one.csv -o out --step 1.5
flow one.csv -o out --short-side 3
flow one.csv -o out --gpus 99
flow one.csv -o out --workers -1
flow one.csv -o out --parts 0
flow one.csv -o out --limit hours=1
flow one.csv -o out --limit seconds
flow one.csv -o out --limit seconds=soon
flow one.csv -o out --exclude none.csv
flow one.csv -o out --exclude one.csv
flow one.csv -o out --set levels
flow one.csv -o out --set levels=many
flow one.csv -o out --set depth=3
flow one.csv -o out --set flow=dis
flow one.csv -o out --set flow.bound=many
flow one.csv -o out --set flow.step=two
flow one.csv -o out --set flow.step=1.5
flow one.csv -o out --set flow.short_side=abc
flow one.csv -o out --set flow.parameters=3
flow one.csv -o out --set flow.keep=maybe
flow one.csv -o out --set layout.parts=many
flow one.csv -o out --set limits.seconds=abc
flow one.csv -o out --set run.workers=many
flow one.csv -o out --set root=3
flow one.csv -o out --set exclude=3
flow one.csv -o out --set flow.estimater=dis
flow one.csv -o out --estimator farnback --codec vp9 --step 0
trajectories one.csv -o out
trajectories one.csv -o made --length 0
trajectories one.csv -o made --length six
trajectories one.csv -o made --job dense
trajectories one.csv -o made --tracking exact
trajectories one.csv -o made --track pixels --tracking integer
trajectories one.csv -o made --confidence high
trajectories one.csv -o made --confidence forward-backward
trajectories one.csv -o made --device mps
trajectories one.csv -o made --job mvs --gpus 1
plan
plan none.csv
plan one.csv --set trajectories.length=6.5
plan --config none.yaml
plan --config broken.yaml
plan --config list.yaml
plan --config misspelt.yaml
plan --config types.yaml
calibrate none.csv
calibrate one.csv --cluster pbs
status
status none.csv
verify
verify one.csv
verify one.csv --input -o made
verify one.csv -o out
report -o nowhere
show none.mkv
show a/one.mkv --to one.tiff
show a/one.mkv --mp4 --to one.png
select one.csv -o nowhere --sort beauty --to best.csv
score
score tracks.npz
score tracks.npz --truth truth.npz
score --estimator dis --scene moon
dance
flow one.csv -o out --fast
--versoin
"""

WORKFLOW = """
videos=none.csv
videos=
videos=twice.csv
videos=one.csv root=elsewhere
videos=one.csv flow=dis
videos=one.csv flow='{estimator: farnback}'
videos=one.csv flow='{step: two, bound: 0}'
videos=one.csv flow='{estimater: dis}'
videos=one.csv granularity=gpu
videos=one.csv trajectories='{length: six}'
videos=one.csv limit=3
"""


@dataclass(frozen=True)
class Outcome:
    """The visible outcome: the lines on the terminal and the exit status."""

    typed: str
    lines: list[str]
    status: int


def prepare(folder: Path) -> None:
    """Write the files used by the commands."""
    clip(folder / "a" / "one.mkv", 4)
    (folder / "nothing").mkdir()
    files = {
        "one.csv": "a/one.mkv\n",
        "empty.csv": "",
        "twice.csv": "a/one.mkv\na/one.mkv\n",
        "clash.csv": "a/one.mkv\nb/one.mkv\n",
        "header.csv": "file,class\na/one.mkv,run\n",
        "comma.csv": "a/one.mkv,run\n",
        "semicolons.csv": "a/one.mkv;run\n",
        "space.txt": "a/my one.mkv\n",
        "quote.csv": 'path,label\n"a/one.mkv,run\n',
        "broken.yaml": "flow: [\n",
        "list.yaml": "- videos\n",
        "misspelt.yaml": "videos: one.csv\nflow:\n  estimater: dis\n",
        "types.yaml": "videos: one.csv\nflow:\n  step: two\n  bound: 0\ntrajectories:\n  length: six\n",
    }
    for name, text in files.items():
        (folder / name).write_text(text)
    (folder / "latin1.csv").write_bytes("a/één.mkv\n".encode("latin1"))
    (folder / "table.xlsx").write_bytes(b"PK\x03\x04" + bytes(60))
    (folder / "notes.gz").write_bytes(gzip.compress(b"a/one.mkv\n")[:12])


def tried(folder: Path) -> Iterator[Outcome]:
    """Run every mistake on the command line in `folder`, in this process."""
    with contextlib.chdir(folder):
        here("flow one.csv -o made --estimator dis --camera none --workers 1")
        for line in COMMANDS.strip().splitlines():
            yield here(line)


def here(line: str) -> Outcome:
    from m3flow.cli import main

    text = io.StringIO()
    status = 0
    with (
        patch.object(sys, "argv", ["m3flow", *shlex.split(line)]),
        contextlib.redirect_stderr(text),
        contextlib.redirect_stdout(text),
    ):
        try:
            main()
        except SystemExit as end:
            status = int(end.code or 0)
    return Outcome(
        f"m3flow {line}",
        [machine_independent(one) for one in text.getvalue().splitlines() if not one.startswith(PROGRESS)],
        status,
    )


def tried_in_workflow(folder: Path) -> Iterator[Outcome]:
    """Run every mistake in the workflow's configuration, as dry runs."""
    for name in ("Snakefile", "config.yaml", "workflow"):
        if not (folder / name).exists():
            (folder / name).symlink_to(REPOSITORY / name)
    for line in WORKFLOW.strip().splitlines():
        command = [sys.executable, "-m", "snakemake", "--dry-run", "--config", *shlex.split(line)]
        done = subprocess.run(
            command,
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | {"NO_COLOR": "1"},
        )
        yield Outcome(
            f"snakemake -n --config {line}", _error_lines(done.stdout + done.stderr), done.returncode
        )


def _error_lines(text: str) -> list[str]:
    """The lines of a Snakemake run about its error, without its own frame around our message."""
    lines = text.splitlines()
    starts = [
        number for number, line in enumerate(lines) if line.startswith(("WorkflowError", "Building DAG"))
    ]
    if not starts:
        return lines
    return [line for line in lines[starts[0] + 1 :] if line and not line.startswith("  File ")]


def table(outcomes: list[Outcome]) -> str:
    """The outcomes as a Markdown table."""
    rows = ["| typed | printed | status |", "|---|---|---|"]
    for one in outcomes:
        printed = "<br>".join(f"`{line.removeprefix('m3flow: ')}`".replace("|", "\\|") for line in one.lines)
        rows.append(f"| `{one.typed}` | {printed} | {one.status} |")
    return "\n".join(rows)


def table_in_page() -> str:
    text = PAGE.read_text(encoding="utf-8")
    return text[text.index(BEGIN) + len(BEGIN) : text.index(END)].strip()


def machine_independent(text: str) -> str:
    """The text without torch's version, the number of GPUs and the reason for having none."""
    return re.sub(r"torch (\S+ )?sees .*", "torch sees …", text)


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        prepare(Path(name))
        outcomes = [*tried(Path(name)), *tried_in_workflow(Path(name))]
    for outcome in outcomes:
        print(outcome.status, outcome.typed, *(f"    {line}" for line in outcome.lines), sep="\n")
    if "--write" in sys.argv:
        page = PAGE.read_text(encoding="utf-8")
        before, rest = page.split(BEGIN)
        after = rest.split(END)[1]
        PAGE.write_text(f"{before}{BEGIN}\n{table(outcomes)}\n{END}{after}", encoding="utf-8")
