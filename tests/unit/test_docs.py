"""The documentation is correct and complete: commands run, links resolve, names exist, nothing is missing.

A code block after a line `<!-- run -->` is run, in the order of its page, in a temporary folder with a video
`clip.mkv` and a list `videos.csv` of three under `clips/`. `<!-- run: write NAME -->` writes it to a file.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import typer
import yaml

from m3flow.cli import app, main
from m3flow.experiment.config import Experiment
from m3flow.extraction.extractor import Extractor
from m3flow.extraction.work import Work
from m3flow.flow import ESTIMATORS
from m3flow.layout import Outputs
from m3flow.results.records import COLUMNS as RECORD_COLUMNS
from m3flow.results.stored_flow import read_provenance
from m3flow.results.trajectoryfile import read_made
from m3flow.settings import FlowSettings, TrajectorySettings
from m3flow.videos.inspection import COLUMNS as INVENTORY_COLUMNS
from m3flow.videos.videolist import Video
from support.clips import moving_texture, write_list, write_lossy_video
from support.paths import REPOSITORY

DOCS = REPOSITORY / "docs"
PAGES = sorted([REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *DOCS.glob("*.md")])
BLOCK = re.compile(
    r"(?:<!-- run(?:: write (?P<file>\S+))? -->\n)?```(?P<language>\w*)\n(?P<code>.*?)```", re.DOTALL
)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")

# Options of Snakemake, Slurm, the original extractor and denseflow that the pages name.
OTHER_PROGRAMS = {"--profile", "--config", "--signal", "--report", "--gres", "--gpus"} | {
    f"--{name}"
    for name in ("ds_base", "dump_base", "num_process", "gpu_num", "traj_len", "job_type", "traj_max_len")
}
OTHER_PROGRAMS |= {
    f"--{name}"
    for name in (
        *("outputDir", "algorithm", "newShort", "newWidth", "newHeight", "classFolder", "inputFrames"),
        *("saveType", "force", "verbose", "deviceId"),
    )
}


def text_of(page: Path) -> str:
    """A page without the table of mistakes, whose calls are wrong on purpose."""
    text = page.read_text(encoding="utf-8")
    return re.sub(r"<!-- mistakes:begin -->.*<!-- mistakes:end -->", "", text, flags=re.DOTALL)


def runnable(page: Path) -> list[tuple[str, str, str]]:
    """The blocks to run, in order: (the file to write or "", language, code)."""
    return [
        (match["file"] or "", match["language"], match["code"])
        for match in BLOCK.finditer(text_of(page))
        if match[0].startswith("<!-- run")
    ]


@pytest.fixture(autouse=True)
def _installed_estimators() -> Iterator[None]:
    """Look for plug-ins again before and after a page that installs one."""
    _forget_plugins()
    yield
    _forget_plugins()


def _forget_plugins() -> None:
    for name in set(ESTIMATORS) - set(ESTIMATORS.own):
        vars(ESTIMATORS)["_entries"].pop(name, None)
    vars(ESTIMATORS).pop("_plugins", None)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a small video and a list, and results of the video."""
    frames = moving_texture(frames=10, height=64, width=96, dx=1.5, dy=0.5)
    write_lossy_video(tmp_path / "clip.mkv", frames)
    names = [f"wave/{name}.mkv" for name in "abc"]
    for name in names:
        write_lossy_video(tmp_path / "clips" / name, frames[:8])
    write_list(tmp_path / "videos.csv", names)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    # Use this test's `m3flow` and Python, wherever it is run from.
    bin_folder = tmp_path / ".bin"
    bin_folder.mkdir()
    (bin_folder / "m3flow").write_text(
        f"#!{sys.executable}\nfrom m3flow.cli import main\nif __name__ == '__main__':\n    main()\n"
    )
    (bin_folder / "pip").write_text(f'#!/bin/sh\nexec {sys.executable} -m pip "$@"\n')
    for program in bin_folder.iterdir():
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{bin_folder}{os.pathsep}{os.environ['PATH']}")
    return tmp_path


def make_results(folder: Path) -> None:
    """Make the results that the pages read: flow (with camera motion) and trajectories of clip.mkv in results/."""
    work = Work(
        outputs=Outputs(folder / "results"), flow=FlowSettings(), trajectories=TrajectorySettings(), threads=1
    )
    with Extractor(work) as extract:
        assert extract(Video("clip.mkv", "clip.mkv")).status == "done"


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if runnable(page)], ids=lambda page: page.stem)
def test_code_blocks_run(page: Path, folder: Path) -> None:
    if page.stem != "index":  # that page makes them itself
        make_results(folder)
    names: dict[str, Any] = {"__name__": "page"}
    for file, language, code in runnable(page):
        if file:
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_text(code, encoding="utf-8")
        elif language == "python":
            exec(compile(code, f"{page.name}", "exec"), names)
        else:
            assert language == "sh", f"a block of {page.name} to run is neither sh nor python"
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", code], capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, f"{code}\n{done.stdout}\n{done.stderr}"
    # Files mentioned at the beginning of a line exist.
    for name in re.findall(r"^(results/\S+)", text_of(page), re.MULTILINE):
        assert (folder / name).stat().st_size > 0


def test_the_readme_runs(folder: Path) -> None:
    """Its commands on a matching data set, then its Python code on the results."""
    video = "UCF-101/Archery/v_Archery_g01_c01.avi"
    frames = moving_texture(frames=10, height=48, width=64, dx=1, dy=0)
    write_lossy_video(folder / "data" / video, frames)
    write_list(folder / "train.csv", [video])
    blocks = [
        (match["language"], match["code"]) for match in BLOCK.finditer(text_of(REPOSITORY / "README.md"))
    ]
    (shell,) = [code for language, code in blocks if language == "sh" and "m3flow flow train.csv" in code]
    (python,) = [code for language, code in blocks if language == "python"]
    calls = shell.replace("/data/ucf101", str(folder / "data")).replace(". .venv/bin/activate\n", "")
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", calls], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    names: dict[str, Any] = {"previous": frames[:-1], "current": frames[1:]}
    exec(compile(python, "README.md", "exec"), names)
    assert names["points"].shape == (7, 4, 6, 8, 2) and names["features"].shape == (12, 4, 6, 8)


@pytest.mark.slow
def test_the_training_page_runs(folder: Path, demo_clips: Path) -> None:
    """Its Python code, including loaders with two workers, on two of the demo's clips, processed as the demo does."""
    videos = [f"UCF-101/Archery/v_Archery_g01_c0{number}.avi" for number in (1, 2)]
    for video, clip in zip(videos, ("street/bikes.mp4", "animation/bigbuckbunny.mp4"), strict=True):
        (folder / "data" / video).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(demo_clips / clip, folder / "data" / video)
    write_list(folder / "train.csv", videos)
    work = Work(
        outputs=Outputs(folder / "out"),
        flow=FlowSettings(short_side=240, parameters={"preset": "ultrafast"}),
        trajectories=TrajectorySettings(),
        threads=1,
    )
    with Extractor(work) as extract:
        assert all(extract(Video(str(folder / "data" / name), name)).status == "done" for name in videos)
    names: dict[str, Any] = {}
    shapes = []
    for match in BLOCK.finditer(text_of(DOCS / "training.md")):
        if match["language"] == "python":
            exec(compile(match["code"].replace("/data", str(folder / "data")), "training.md", "exec"), names)
            shapes.append({name: tuple(names[name].shape) for name in SHAPES if name in names})
    assert shapes[-1] == SHAPES
    assert sorted(names["labels"].tolist()) == [0, 1]


SHAPES = {
    "frames": (2, 16, 3, 224, 224),
    "trajectories": (2, 48, 28, 28, 2),
    "types": (2, 8, 28, 28),
    "appearance": (2, 3, 224, 224),
    "motion": (2, 20, 224, 224),
    "flow": (10, 2, 240, 565),
}


def test_python_blocks_that_are_not_run_are_python() -> None:
    blocks = [
        (page.name, match["code"])
        for page in PAGES
        for match in BLOCK.finditer(text_of(page))
        if match["language"] == "python"
    ]
    for name, code in blocks:
        compile(code, name, "exec")
    assert len(blocks) > 10


def slug(heading: str) -> str:
    """A heading's anchor, as made by the site and by code hosts."""
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", plain).strip().lower())


def anchors(page: Path) -> set[str]:
    without_code = BLOCK.sub("\n", text_of(page))
    return {slug(line.lstrip("# ")) for line in without_code.splitlines() if line.startswith("#")}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    wrong = []
    for target in LINK.findall(BLOCK.sub("\n", text_of(page))):
        if re.match(r"https?:", target):
            continue
        path, _, anchor = target.partition("#")
        there = page.parent / path if path else page
        if not there.exists() or (anchor and anchor not in anchors(there)):
            wrong.append(target)
    assert not wrong


def test_every_page_is_in_the_site_and_in_the_readme() -> None:
    # The site's settings refer to classes of the generator, which are not needed here.
    nav = yaml.safe_load(text_of(REPOSITORY / "mkdocs.yml"))["nav"]
    listed = [page for entry in nav for page in entry.values()]
    assert sorted(listed) == sorted(page.name for page in DOCS.glob("*.md"))
    linked = LINK.findall(text_of(REPOSITORY / "README.md"))
    assert {f"docs/{name}" for name in listed} <= set(linked)


@functools.cache
def commands() -> dict[str, set[str]]:
    """The options of every command."""
    group = typer.main.get_command(app)
    assert isinstance(group, click.Group) or hasattr(group, "commands")
    return {
        name: {option for parameter in command.params for option in parameter.opts}
        | {"--help", "-h", "--version"}
        for name, command in group.commands.items()
    }


def lines_of_commands(text: str) -> list[str]:
    """Every call of m3flow in blocks and in line, with continued lines joined."""
    blocks = [match["code"] for match in BLOCK.finditer(text) if match["language"] in ("", "sh", "bash")]
    calls = [line.partition("#")[0] for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    calls += re.findall(r"`(m3flow [^`]+)`", BLOCK.sub("\n", text))
    found = [re.search(r"\bm3flow (?!&&)(.*)", call) for call in calls]
    return [match[1] for match in found if match]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_and_options_exist(page: Path) -> None:
    wrong = []
    everything = set().union(*commands().values())
    for call in lines_of_commands(text_of(page)):
        name = call.split()[0].rstrip(",;.")
        if name not in commands():
            if re.fullmatch(r"[a-z]+", name):
                wrong.append(call)
            continue
        options = re.findall(r"(?<![\w-])--?[a-z][a-z0-9-]*", call)
        wrong += [f"{name}: {option}" for option in options if option not in commands()[name]]
    # Options mentioned in the text: some command must have them, unless the line is about another program.
    spans = re.findall(r"`(-[^`\n]+)`", BLOCK.sub("\n", text_of(page)))
    mentioned = {option for span in spans for option in re.findall(r"(?<![\w-])--[a-z][\w-]*", span)}
    wrong += sorted(mentioned - everything - OTHER_PROGRAMS)
    assert not wrong


def keys(schema: dict[str, Any], before: str = "") -> list[str]:
    found = []
    for name, inner in schema["properties"].items():
        nested = keys(inner, f"{before}{name}.") if "properties" in inner else [f"{before}{name}"]
        found += nested
    return found


def test_every_key_of_the_configuration_is_described_with_its_default() -> None:
    schema = yaml.safe_load(text_of(REPOSITORY / "workflow/schemas/config.schema.yaml"))
    rows = dict(re.findall(r"^\| `([\w.]+)` \| ([^|]*) \|", text_of(DOCS / "datasets.md"), re.MULTILINE))
    assert sorted(keys(schema)) == sorted(rows)
    for key, shown in rows.items():
        inner = schema
        for name in key.split("."):
            inner = inner["properties"][name]
        default = inner.get("default")
        if default is not None:
            assert shown.strip().strip("`") == (
                default if isinstance(default, str) else json.dumps(default)
            ), key


def test_the_defaults_of_the_schema_are_those_of_the_library() -> None:
    """The jobs of a workflow read the configuration without the schema."""
    schema = yaml.safe_load(text_of(REPOSITORY / "workflow/schemas/config.schema.yaml"))

    def defaults(inner: dict[str, Any]) -> dict[str, Any]:
        found = {}
        for name, value in inner["properties"].items():
            if "properties" in value:
                found[name] = defaults(value)
            elif "default" in value:
                found[name] = value["default"]
        return found

    assert Experiment.of({**defaults(schema), "videos": "list"}) == Experiment.of({"videos": "list"})


def test_configurations_in_the_pages_can_be_read() -> None:
    blocks = [
        (page.name, match["code"])
        for page in PAGES
        for match in BLOCK.finditer(text_of(page))
        if match["language"] == "yaml"
    ]
    assert blocks
    for name, code in blocks:
        assert Experiment.of(yaml.safe_load(code)).videos, name


def dotted(values: dict[str, Any], before: str = "") -> set[str]:
    """`a.b` for every key; values under `settings.parameters`, versions and schemes are not listed one by one."""
    found = set()
    for key, value in values.items():
        name = f"{before}{key}"
        open_ended = name in ("settings.parameters", "used.versions", "used.camera", "camera.schemes", "flow")
        found |= dotted(value, f"{name}.") if isinstance(value, dict) and not open_ended else {name}
    return found


def test_every_key_of_the_files_is_described(folder: Path) -> None:
    make_results(folder)
    page = text_of(DOCS / "formats.md")
    tag = page[page.index("### The comment tag") : page.index("### The camera's homographies")]
    made = read_provenance("results/flows/clip.mkv/x.mp4")
    assert made["camera"]["accepted"].count("1"), "the clip has no camera motion, and so no homographies"
    missing = {key for key in dotted(made) if f"`{key}`" not in tag}
    assert not missing
    assert all(f"`{key}`" in tag for key in made["used"]["camera"] if key != "camera")
    trajectories = page[page.index("## Trajectories") : page.index("## Records")]
    about = read_made("results/trajs/clip.mkv_6.gz")
    assert all(f"`{key}`" in trajectories for key in [*about, *about["settings"]])


@pytest.mark.parametrize(
    ("heading", "columns"),
    [("## Records", RECORD_COLUMNS), ("## The table of `m3flow verify --input`", INVENTORY_COLUMNS)],
)
def test_every_column_of_the_tables_is_described(heading: str, columns: list[str]) -> None:
    page = text_of(DOCS / "formats.md")
    section = page[page.index(heading) + len(heading) :].partition("\n## ")[0]
    described = re.findall(r"^\| (`[^|]+`) \|", section, re.MULTILINE)
    assert [name for cell in described for name in re.findall(r"`(\w+)`", cell)] == columns


def test_estimators_and_their_parameters_are_described() -> None:
    page = text_of(DOCS / "estimators.md")
    section = page[page.index("## Parameters") : page.index("## The camera")]
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", section, re.MULTILINE))
    assert set(rows) == set(ESTIMATORS.own)
    for name in ESTIMATORS.own:
        entry = ESTIMATORS[name]
        described = dict(re.findall(r"`(\w+)` ([\w.]+)", rows[name]))
        defaults = entry.parameters.of(name, {}).as_dict()
        assert described.keys() == defaults.keys()
        for key, value in defaults.items():
            assert yaml.safe_load(described[key]) == value, (name, key)


def fixed_parts(call: ast.Call) -> str:
    """The longest constant part of a message."""
    pieces = [
        node.value
        for argument in call.args[:1]
        for node in ast.walk(argument)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    return max(pieces, key=len, default="")


def test_every_message_is_explained() -> None:
    page = text_of(DOCS / "troubleshooting.md")
    unexplained = []
    for source in (REPOSITORY / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(text_of(source))):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
                continue
            if node.func.id in ("UsageError", "BadInput", "Interrupted"):
                part = fixed_parts(node).strip(" :(").replace("`", "'")
                if len(part) > 3 and part not in page:
                    unexplained.append(f"{source.name}: {part}")
    assert not unexplained, "messages that docs/troubleshooting.md does not have"


def test_the_figures_are_those_of_the_stored_results() -> None:
    import tables

    assert tables.filled("docs/estimators.md") == text_of(DOCS / "estimators.md")


def test_the_help_of_every_command_shows_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    for name in commands():
        with contextlib.suppress(SystemExit), pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["m3flow", name, "--help"])
            main()
        assert f"m3flow {name}" in capsys.readouterr().out.split("Examples")[-1]
