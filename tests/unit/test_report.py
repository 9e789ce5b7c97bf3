"""The report: what it counts, what it names, how large it gets, and that nothing in a name runs."""

from __future__ import annotations

import base64
import io
import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from typer.testing import CliRunner

from clips import clip
from m3flow.cli import app
from m3flow.errors import UsageError
from m3flow.extraction.extractor import Extractor
from m3flow.extraction.work import Work
from m3flow.layout import Outputs
from m3flow.report import charts, records_table, selection
from m3flow.report.page import write_report
from m3flow.results.records import Record, RecordFile
from m3flow.settings import FlowSettings, TrajectorySettings
from m3flow.videos.videolist import Video

HOSTILE = [
    "a/<script>alert(1)</script>.mp4",
    'a/"><img src=x onerror=alert(2)>.mp4',
    "a/</script><svg onload=alert(3)>.mp4",
    "a/bad\udcff bytes & 日本語 \x1b[31m.mp4",
    "a/{{ 7*7 }}{% raw %}.mp4",
]
DONE = Record(
    video="a/b.mp4", status="done", frames=100, seconds=2.0, wait=0.1, decode=0.2, flow=1.0, encode=0.5,
    speed=1.5, speed_p95=4.0, saturated=0.01, still=0.4, camera=0.9, camera_shift=1.0, host="one", device="cpu",
    time="2026-01-01T10:00:00+00:00",
)  # fmt: skip
TRACKED = Record(
    video="a/b.mp4", status="done", frames=100, seconds=1.0, decode=0.3, track=0.6, windows=94, outside=0.05,
    host="one", device="cpu", time="2026-01-01T11:00:00+00:00",
)  # fmt: skip


def write(outputs: Outputs, name: str, *records: Record) -> None:
    with RecordFile(outputs.records / name) as file:
        for record in records:
            file.append(record)


def table_of(outputs: Outputs) -> pd.DataFrame:
    return records_table.videos_of(records_table.read_lines(outputs.records))


class Page(HTMLParser):
    """The elements and attributes of a page, as a browser would see them, and the text of its scripts."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: dict[str, str] = {}
        self.shown = ""
        self._script: str | None = None
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.shown += " "
        self._script = (dict(attrs).get("id") or "code") if tag == "script" else None

    def handle_endtag(self, tag: str) -> None:
        self._script = None if tag == "script" else self._script

    def handle_data(self, data: str) -> None:
        if self._script is None:
            self.shown += data
        else:
            self.scripts[self._script] = self.scripts.get(self._script, "") + data

    @property
    def rows(self) -> list[list]:
        return json.loads(self.scripts["rows"])


def test_flow_and_trajectories_of_a_video_become_one_row(tmp_path: Path) -> None:
    outputs = Outputs(tmp_path)
    write(outputs, "flow-0001.csv", DONE)
    write(outputs, "trajectories-0001.csv", TRACKED)
    (row,) = table_of(outputs).itertuples()
    assert (row.status, row.frames, row.windows) == ("done", 100, 94)
    assert (row.speed, row.outside, row.camera) == (1.5, 0.05, 0.9)
    assert row.seconds == pytest.approx(3.0) and row.decode == pytest.approx(0.5)


def test_a_run_that_found_the_files_there_leaves_the_numbers(tmp_path: Path) -> None:
    outputs = Outputs(tmp_path)
    kept = Record(video="a/b.mp4", status="kept", seconds=0.01, time="2026-01-02T10:00:00+00:00")
    write(outputs, "flow-0001.csv", DONE, kept)
    (row,) = table_of(outputs).itertuples()
    assert (row.status, row.frames, row.speed, row.seconds) == ("done", 100, 1.5, 2.0)


def test_files_that_were_never_recorded_as_made_count_without_their_times(tmp_path: Path) -> None:
    outputs = Outputs(tmp_path)
    write(outputs, "flow-0001.csv", replace(DONE, status="kept", seconds=0.01))
    (row,) = table_of(outputs).itertuples()
    assert (row.status, row.frames, row.speed) == ("done", 100, 1.5)
    assert np.isnan(row.seconds) and np.isnan(row.flow)


def test_the_latest_line_says_how_a_video_is(tmp_path: Path) -> None:
    outputs = Outputs(tmp_path)
    failed = replace(DONE, status="failed", reason="out of memory", time="2026-01-01T09:00:00+00:00")
    # The later file holds the earlier line: times decide.
    write(outputs, "flow-0001.csv", DONE)
    write(outputs, "flow-0002.csv", failed)
    assert table_of(outputs)["status"].to_list() == ["done"]
    write(outputs, "flow-0003.csv", replace(failed, time="2026-01-03T09:00:00+00:00"))
    assert table_of(outputs)["status"].to_list() == ["failed"]


def test_the_reason_is_the_one_that_the_other_follows_from(tmp_path: Path) -> None:
    outputs = Outputs(tmp_path)
    write(
        outputs,
        "trajectories.csv",
        Record(video="v", status="rejected", reason="no flow file", time="2026-01-02"),
    )
    write(
        outputs,
        "flow.csv",
        Record(video="v", status="rejected", reason="no such file: 'v'", time="2026-01-01"),
    )
    assert table_of(outputs)["reason"].to_list() == ["no such file: 'v'"]


def test_a_run_in_one_pass_takes_the_place_of_trajectories_that_failed_before(tmp_path: Path) -> None:
    outputs = Outputs(tmp_path)
    rejected = Record(video="a/b.mp4", status="rejected", reason="no flow", time="2026-01-01T08:00:00+00:00")
    write(outputs, "trajectories-0001.csv", rejected)
    write(outputs, "train.csv/motion-0000.csv", replace(DONE, windows=94, outside=0.2, track=0.3))
    (row,) = table_of(outputs).itertuples()
    assert (row.status, row.outside, row.track) == ("done", 0.2, 0.3)


def test_what_was_not_measured_is_no_zero(tmp_path: Path) -> None:
    outputs = Outputs(tmp_path)
    write(outputs, "flow.csv", replace(DONE, camera=-1.0), replace(DONE, video="still", speed=0, still=1.0))
    write(outputs, "trajectories.csv", replace(TRACKED, video="codec"))
    table = table_of(outputs)
    assert np.isnan(table.loc["a/b.mp4", "camera"]) and np.isnan(table.loc["a/b.mp4", "outside"])
    assert np.isnan(table.loc["codec", "speed"])
    assert table.loc["still", "speed"] == 0


def test_busy_time_counts_what_ran_side_by_side_once() -> None:
    times = ["10:00:10", "10:00:10", "10:00:12", "11:00:00"]
    lines = pd.DataFrame(
        {"time": [f"2026-01-01T{time}+00:00" for time in times], "seconds": [10.0, 4.0, 3.0, 5.0]}
    )
    # 10:00:00 to 10:00:13 and 10:59:55 to 11:00:01, each to the end of its last second.
    assert records_table.busy_seconds(lines) == pytest.approx(13 + 6)


def test_reasons_of_one_kind_are_counted_together(tmp_path: Path) -> None:
    outputs = Outputs(tmp_path)
    missing = [
        Record(video=f"v{i}", status="rejected", reason=f"no such file: '/data/v{i}'") for i in range(5)
    ]
    hangs = Record(video="h", status="rejected", reason="the decoder hangs: no frame for 60 s after 7 frames")
    crash = Record(video="c", status="failed", reason="RuntimeError: CUDA error")
    write(outputs, "flow.csv", *missing, hangs, crash)
    found, left = selection.reasons(table_of(outputs))
    assert [(reason.status, reason.count) for reason in found] == [
        ("failed", 1),
        ("rejected", 5),
        ("rejected", 1),
    ]
    assert found[1].kind == "no such file: …" and left == 0


def test_outliers_are_found(tmp_path: Path) -> None:
    outputs = Outputs(tmp_path)
    write(
        outputs,
        "flow.csv",
        DONE,
        replace(DONE, video="frozen", still=1.0),
        replace(DONE, video="flicker", saturated=0.7),
        replace(DONE, video="lost", camera=0.1),
        replace(DONE, video="short", reason="50 of the 100 frames that the header claims decode"),
    )
    found = {
        one.outlier.key: [name for name, _ in one.first] for one in selection.outliers(table_of(outputs))
    }
    assert found == {"still": ["frozen"], "saturated": ["flicker"], "camera": ["lost"], "remark": ["short"]}


def test_hostile_names_are_text(tmp_path: Path) -> None:
    outputs = Outputs(tmp_path / "<b>out</b>")
    statuses = ("done", "rejected", "failed", "rejected", "done")
    write(
        outputs,
        "flow.csv",
        *(
            replace(
                DONE, video=name, status=status, still=1.0, reason="" if status == "done" else f"why {name}"
            )
            for name, status in zip(HOSTILE, statuses, strict=True)
        ),
    )
    path = tmp_path / "report.html"
    write_report(path, outputs)
    page = Page(path)
    tags = [tag for tag, _ in page.elements]
    assert tags.count("script") == 3 and "img" not in tags
    assert "<b>out</b>" in page.shown
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
    assert sorted(row[0] for row in page.rows) == sorted(HOSTILE)
    assert HOSTILE[0] in page.shown and "{{ 7*7 }}" in page.shown and "49" not in page.shown.split()


def test_the_page_loads_nothing(tmp_path: Path) -> None:
    outputs = Outputs(tmp_path)
    write(outputs, "flow.csv", DONE)
    write_report(tmp_path / "report.html", outputs)
    page = Page(tmp_path / "report.html")
    for tag, attributes in page.elements:
        for name in ("src", "href", "xlink:href", "srcset", "action", "data"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:", "#")), f"<{tag} {name}={value}>"
    text = (tmp_path / "report.html").read_text()
    assert "@import" not in text and "http" not in text.replace("http-equiv", "")
    assert "default-src 'none'" in text


def test_the_page_counts_and_shows_clips(tmp_path: Path) -> None:
    outputs = Outputs(tmp_path / "out")
    videos = [Video(str(clip(tmp_path / f"{i}.mkv", frames=12, seed=i)), f"set/{i}.mkv") for i in range(2)]
    videos.append(Video(str(tmp_path / "missing.mkv"), "set/missing.mkv"))
    work = Work(outputs=outputs, flow=FlowSettings(estimator="dis"), trajectories=TrajectorySettings())
    with Extractor(work) as extract:
        write(outputs, "motion-0001.csv", *(extract(video) for video in videos))
    never = Video("never.mkv", "set/never.mkv")
    write_report(tmp_path / "report.html", outputs, [*videos, never], sheets=1)
    page = Page(tmp_path / "report.html")
    words = " ".join(page.shown.split())
    for expected in (
        "2 videos done",
        "1 rejected",
        "0 failed",
        "1 not begun",
        "24 frames",
        "12 trajectory windows",
    ):
        assert expected in words
    (source,) = [attributes["src"] for tag, attributes in page.elements if tag == "img"]
    assert source is not None
    picture = Image.open(io.BytesIO(base64.b64decode(source.partition("base64,")[2])))
    assert picture.format == "WEBP" and picture.width > 1000
    assert "estimator dis" in words and "parameters.preset" in words


def test_a_large_run_stays_a_small_page_and_keeps_its_problems(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs = Outputs(tmp_path)
    count = 20_000
    random = np.random.default_rng(0)
    values = random.random((count, 3))
    monkeypatch.setattr(selection, "ROWS", 3_000)
    write(
        outputs,
        "flow.csv",
        *(
            replace(
                DONE,
                video=f"kinetics/class/{i:011d}_000000_000010.mp4",
                speed=values[i, 0],
                still=values[i, 1],
            )
            if i % 50
            else Record(
                video=f"kinetics/class/{i:011d}.mp4", status="rejected", reason=f"no such file: 'v{i}'"
            )
            for i in range(count)
        ),
    )
    write_report(tmp_path / "report.html", outputs)
    assert (tmp_path / "report.html").stat().st_size < 1_500_000
    page = Page(tmp_path / "report.html")
    assert len(page.rows) == 3_000
    assert sum(row[1] == 1 for row in page.rows) == count // 50
    assert "19,600 videos done" in " ".join(page.shown.split())


def test_rows_fit_the_page_however_long_names_are(tmp_path: Path) -> None:
    outputs = Outputs(tmp_path)
    write(outputs, "flow.csv", *(replace(DONE, video=f"{'long' * 200}/{i}.mp4") for i in range(4000)))
    rows = selection.table(table_of(outputs))
    assert len(rows) < 1.1 * selection.ROW_BYTES
    assert 1000 < len(json.loads(rows)) < 4000


def test_a_chart_holds_every_value() -> None:
    values = np.array([0.0, 1, 1, 2, 1000, np.nan])
    assert "median 1" in charts.histogram("one", values, unit="px")
    assert charts.histogram("none", np.array([np.nan]), unit="px") == ""


def test_no_records_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no records"):
        write_report(tmp_path / "report.html", Outputs(tmp_path))


def test_the_command_writes_the_page(tmp_path: Path) -> None:
    write(Outputs(tmp_path), "flow-0001.csv", DONE)
    result = CliRunner().invoke(app, ["report", "--output", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert "1 videos (1 done)" in result.output
    assert (tmp_path / "report.html").is_file()
