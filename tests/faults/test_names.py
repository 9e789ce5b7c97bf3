"""Hostile file names: they work, or are rejected before anything starts."""

from __future__ import annotations

import csv
import os
import unicodedata
from pathlib import Path

import pytest

from support.fault_cases import QUICK, encode, here, rejections, results, run, statuses

# Each is one part of a path. If executed, `touch escaped` leaves a file of that name.
NAMES = {
    "space": "two  words .mp4",
    "quotes": 'it\'s "so".mp4',
    "newline": "two\nlines.mp4",
    "carriage return": "re\rturn.mp4",
    "leading dash": "--version.mp4",
    "command": "$(touch escaped)`touch escaped`;touch escaped.mp4",
    "composed": unicodedata.normalize("NFC", "é日本.mp4"),
    "decomposed": unicodedata.normalize("NFD", "é日本.mp4"),
    "braces": "{wildcard}{0}{{x}}.mp4",
    "percent": "%s%d%%.mp4",
    "glob": "*?[a].mp4",
    "backslash": "a\\b\\n.mp4",
    "escape": "\x1b[31mred\x1b]0;title\x07.mp4",
    "protocol": "concat:a|b.mp4",
    "hash": "#1?t=2&x.mp4",
    "longest": "l" * 244 + ".mp4",
    "dots": "...mp4",
    "tilde": "~root.mp4",
    "no suffix": "clip",
    "markup": "[red]<b>&amp;<br>[bold].mp4",
    "comma": "a,b;c.mp4",
    "right to left": "\u202egpj.mp4",
}


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A list (a CSV, which can quote anything) with a clip of each name."""
    list_file = tmp_path / "list.csv"
    with list_file.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label"])
        for index, name in enumerate(NAMES.values()):
            clip = encode(tmp_path / "in" / str(index) / name, frames=9, seed=index)
            writer.writerow([clip.relative_to(tmp_path / "in"), name])
    return list_file


def everything_in(folder: Path) -> set[str]:
    return {f"{where}/{name}" for where, _, names in os.walk(folder) for name in names}


def test_hostile_names_work(tmp_path: Path, hostile: Path) -> None:
    output = tmp_path / "out"
    place = [hostile, "--root", tmp_path / "in", "--output", output]
    before = everything_in(tmp_path)
    for command in (["flow", *place, *QUICK], ["trajectories", *place], ["verify", *place]):
        done = run(*command, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert done.stderr.isascii() or done.stderr.isprintable()
    expected = {
        path
        for index, name in enumerate(NAMES.values())
        for path in (
            f"flows/{index}/{name}/x.mp4",
            f"flows/{index}/{name}/y.mp4",
            f"trajs/{index}/{name}_6.gz",
        )
    }
    assert set(results(output)) == expected
    assert all(path.startswith(os.fspath(output)) for path in everything_in(tmp_path) - before)
    # The records have each name unchanged.
    assert {video for _, video, _ in statuses(output)} == {
        f"{index}/{name}" for index, name in enumerate(NAMES.values())
    }
    again = run("flow", *place, *QUICK)
    assert again.returncode == 0 and f"{len(NAMES)} kept" in again.stderr


def test_the_terminal_and_the_log_get_no_control_characters(tmp_path: Path, hostile: Path) -> None:
    for clip in (tmp_path / "in").rglob("*"):
        if clip.is_file():
            clip.write_bytes(b"no video")
    output = tmp_path / "out"
    for command in (
        ["flow", hostile, "--root", tmp_path / "in", "--output", output, *QUICK],
        ["verify", hostile, "--root", tmp_path / "in", "--input", "--table", tmp_path / "inventory.csv"],
    ):
        done = run(*command)
        assert done.returncode == 3
        lines = [line for line in done.stderr.split("\n") if line.startswith("rejected: ")]
        assert rejections(done.stderr) == len(NAMES)
        assert all(line.isprintable() for line in lines)
    log = (output / "logs/flow-0001.log").read_text(encoding="utf-8")
    assert sum(" INFO rejected " in line for line in log.split("\n")) == len(NAMES)
    assert all(line.isprintable() for line in log.split("\n"))


def test_the_inventory_of_hostile_names_excludes_them(tmp_path: Path, hostile: Path) -> None:
    kept = tmp_path / "in/0" / NAMES["space"]
    for clip in (tmp_path / "in").rglob("*"):
        if clip.is_file() and clip != kept:
            clip.write_bytes(b"no video")
    table = tmp_path / "inventory.csv"
    assert run("verify", hostile, "--root", tmp_path / "in", "--input", "--table", table).returncode == 3
    output = tmp_path / "out"
    done = run("flow", hostile, "--root", tmp_path / "in", "--output", output, "--exclude", table, *QUICK)
    assert done.returncode == 0
    assert [video for _, video, _ in statuses(output)] == [f"0/{NAMES['space']}"]


@pytest.mark.parametrize("name", ["{two} it's é.mp4", "$(touch escaped).mp4"])
def test_one_video_of_such_a_name_on_the_command_line(tmp_path: Path, name: str) -> None:
    encode(tmp_path / name)
    done = run("flow", name, "--output", "out", *QUICK, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert set(results(tmp_path / "out")) == {f"flows/{name}/x.mp4", f"flows/{name}/y.mp4"}


def test_a_video_with_a_leading_dash_behind_two_dashes(tmp_path: Path) -> None:
    encode(tmp_path / "-v.mp4")
    done = run("flow", "--output", "out", *QUICK, "--", "-v.mp4", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert set(results(tmp_path / "out")) == {"flows/-v.mp4/x.mp4", "flows/-v.mp4/y.mp4"}


def test_a_name_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.mp4")
    encode(tmp_path / name)
    done = run("flow", name, "--output", "out", *QUICK, cwd=tmp_path)
    assert done.returncode == 3 and "is not UTF-8 text" in done.stderr
    assert done.stderr.count("rejected: ") == 1 and results(tmp_path / "out") == {}
    assert [video for _, video, _ in statuses(tmp_path / "out")] == [name]
    assert run("verify", name, "--input", "--table", "t.csv", cwd=tmp_path).returncode == 3
    assert run("verify", name, "--output", "out", cwd=tmp_path).returncode in (2, 3)


def test_a_list_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_bytes(b"a.mp4\ncaf\xe9.mp4\n")
    refused = run("flow", "list.csv", "--output", "out", cwd=tmp_path)
    assert (refused.returncode, "not UTF-8" in refused.stderr) == (2, True)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("../../..", "outside the output folder"),
        ("..", "outside the output folder"),
        ("/", "outside the output folder"),
        (".", "outside the output folder"),
        ("a/../..", "outside the output folder"),
        ("l" * 249 + ".mp4", "longer than"),
        ("a/" + "é" * 130 + "/b.mp4", "longer than"),
    ],
)
def test_names_whose_outputs_have_no_place_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, reason: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list.csv").write_text(f"good.mp4\n{path}\n")
    status, said = here("flow", "list.csv", "--output", "out")
    assert status == 2 and reason in said and "list.csv:2" in said
    assert not (tmp_path / "out").exists()


def test_absolute_paths_and_paths_upward_stay_inside_the_output(tmp_path: Path) -> None:
    encode(tmp_path / "data/a/b/one.mp4", seed=1)
    encode(tmp_path / "elsewhere/two.mp4", seed=2)
    here = tmp_path / "data"
    (here / "list.csv").write_text(f"{tmp_path}/data/a/b/one.mp4\na/../../elsewhere/two.mp4\n")
    before = everything_in(tmp_path)
    done = run("flow", "list.csv", "--output", "out", "--parts", "2", *QUICK, cwd=here)
    assert done.returncode == 0, done.stderr
    assert set(results(here / "out")) == {
        f"flows/{name}/{file}" for name in ("b/one.mp4", "elsewhere/two.mp4") for file in ("x.mp4", "y.mp4")
    }
    assert all(path.startswith(os.fspath(here / "out")) for path in everything_in(tmp_path) - before)


def test_links_are_followed_to_videos_and_loops_are_rejected(tmp_path: Path) -> None:
    encode(tmp_path / "far/away/real.mp4")
    root = tmp_path / "root"
    root.mkdir()
    (root / "out-of-root.mp4").symlink_to(tmp_path / "far/away/real.mp4")
    (root / "loop.mp4").symlink_to("loop.mp4")
    (root / "nowhere.mp4").symlink_to("/no/such/file.mp4")
    (root / "folder.mp4").symlink_to("/")
    os.mkfifo(root / "pipe.mp4")
    names = [entry.name for entry in sorted(root.iterdir())]
    (tmp_path / "list.csv").write_text("\n".join(names))
    output = tmp_path / "out"
    done = run("flow", tmp_path / "list.csv", "--root", root, "--output", output, *QUICK)
    assert done.returncode == 3, done.stderr
    assert {video: status for _, video, status in statuses(output)} == {
        name: "done" if name == "out-of-root.mp4" else "rejected" for name in names
    }
    assert set(results(output)) == {"flows/out-of-root.mp4/x.mp4", "flows/out-of-root.mp4/y.mp4"}


@pytest.mark.parametrize("output", ["concat:a|b", "{o} u t%03d", "-out"])
def test_output_folders_of_hostile_names(tmp_path: Path, output: str) -> None:
    encode(tmp_path / "clip.mp4")
    place = ["clip.mp4", f"--output={output}"]
    assert run("flow", *place, *QUICK, cwd=tmp_path).returncode == 0
    assert run("trajectories", *place, cwd=tmp_path).returncode == 0
    assert run("verify", *place, cwd=tmp_path).returncode == 0
    assert set(results(tmp_path / output)) == {
        "flows/clip.mp4/x.mp4",
        "flows/clip.mp4/y.mp4",
        "trajs/clip.mp4_6.gz",
    }
