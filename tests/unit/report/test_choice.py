"""Selection of videos by their records, as lists that every command reads."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from m3flow.cli import app
from m3flow.errors import UsageError
from m3flow.report.choice import chosen_videos
from m3flow.results.records import Record, RecordFile
from m3flow.videos.videolist import Video, VideoList

DONE = Record(video="", status="done", frames=100, speed=1.0, speed_p95=3.0, still=0.2, camera=0.9)
MADE = [
    replace(DONE, video="set/slow.mp4", speed=0.1, still=0.9),
    replace(DONE, video="set/fast.mp4", speed=5.0, speed_p95=12.0),
    replace(DONE, video="set/usual.mp4"),
    Record(video="set/broken.mp4", status="rejected", reason="no frame decodes"),
]


@pytest.fixture
def records(tmp_path: Path) -> Path:
    with RecordFile(tmp_path / "out" / "records" / "flow-0001.csv") as file:
        for record in MADE:
            file.append(record)
    with RecordFile(tmp_path / "out" / "records" / "trajectories-0001.csv") as file:
        file.append(replace(DONE, video="set/fast.mp4", speed=0, still=0, windows=94, reliable=0.7))
    return tmp_path / "out" / "records"


@pytest.fixture
def videos(tmp_path: Path) -> list[Video]:
    (tmp_path / "list.csv").write_text(
        "".join(f"set/{name}.mp4 {name[0]}\n" for name in ("slow", "fast", "usual", "broken", "unseen"))
    )
    return VideoList(tmp_path / "list.csv", tmp_path).read()


def names(*arguments: object, **named: object) -> list[str]:
    table = chosen_videos(*arguments, **named)  # type: ignore[arg-type]
    return [Path(path).stem for path in table["path"]]


def test_conditions_order_and_number(videos: list[Video], records: Path) -> None:
    assert names(videos, records) == ["slow", "fast", "usual", "broken"]
    assert names(videos, records, where=["speed > 0.5"]) == ["fast", "usual"]
    assert names(videos, records, where=["speed > 0.5", "speed_p95 < 10 and still < 0.5"]) == ["usual"]
    assert names(videos, records, where=["status == 'rejected'"]) == ["broken"]
    assert names(videos, records, where=["reliable > 0.5"]) == ["fast"]
    assert names(videos, records, where=["status == 'done'"], sort="-speed") == ["fast", "usual", "slow"]
    assert names(videos, records, where=["status == 'done'"], sort="speed", limit=1) == ["slow"]


def test_the_command_writes_a_list(videos: list[Video], records: Path, tmp_path: Path) -> None:
    to = tmp_path / "chosen.csv"
    call = ["select", tmp_path / "list.csv", "--root", tmp_path, "--output", tmp_path / "out", "--to", to]
    done = CliRunner().invoke(app, [*map(str, call), "--where", "speed > 0.5", "--sort", "-speed"])
    assert done.exit_code == 0, done.output
    assert f"{to}: 2 of 5 videos" in done.output
    again = VideoList(to, tmp_path).read()
    by_name = {video.name: video for video in videos}
    assert records.is_dir()
    assert [video.name for video in again] == ["set/fast.mp4", "set/usual.mp4"]
    for video in again:
        assert (video.source, video.label) == (by_name[video.name].source, by_name[video.name].label)


def test_what_cannot_be_read_is_refused(videos: list[Video], records: Path, tmp_path: Path) -> None:
    for where in ("speedy > 1", "speed >", "speed", "speed.__class__"):
        with pytest.raises(UsageError, match="--where"):
            names(videos, records, where=[where])
    with pytest.raises(UsageError, match="choose from status"):
        names(videos, records, sort="-speedy")
    with pytest.raises(UsageError, match="no records"):
        names(videos, tmp_path / "nothing")
