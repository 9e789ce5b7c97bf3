"""The report: its counts, its lists, its size, and names that must not be executed."""

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

from m3flow.cli import app
from m3flow.errors import UsageError
from m3flow.extraction.extractor import Extractor
from m3flow.extraction.work import Work
from m3flow.layout import Outputs
from m3flow.report import charts, previews, records_table, selection, summary
from m3flow.report.page import write_report
from m3flow.results.records import Record, RecordFile
from m3flow.settings import FlowSettings, TrajectorySettings
from m3flow.text import reason_kind
from m3flow.videos.videolist import Video
from support.clips import clip

HOSTILE = [
    "a/<script>alert(1)</script>.mp4",
    'a/"><img src=x onerror=alert(2)>.mp4',
    "a/</script><svg onload=alert(3)>.mp4",
    "a/bad\udcff bytes & 日本語 \x1b[31m.mp4",
    "a/{{ 7*7 }}{% raw %}.mp4",
]
DONE = Record(
    video="a/b.mp4", status="done", frames=100, seconds=2.0, wait=0.1, decode=0.2, flow=1.0, encode=0.5,
    speed=1.5, speed_p95=4.0, saturated=0.01, still=0.4, camera=0.9, camera_shift=1.0, camera_confidence=0.8, cuts=2,
    host="one", device="cpu", time="2026-01-01T10:00:00+00:00",
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
    """The elements and attributes of a page as parsed by a browser, and the text of its scripts."""

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

    @property
    def about(self) -> dict:
        return json.loads(self.scripts["about"])

    def pictures(self, *, sheet: bool) -> list[Image.Image]:
        """The contact sheets, or the animations."""
        sources = [
            attributes["src"] or ""
            for tag, attributes in self.elements
            if tag == "img" and (attributes.get("class") == "sheet") is sheet
        ]
        return [
            Image.open(io.BytesIO(base64.b64decode(source.partition("base64,")[2]))) for source in sources
        ]


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
    # The later file has the earlier line: times decide.
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
    sheet, animation = (page.pictures(sheet=wanted)[0] for wanted in (True, False))
    assert sheet.format == "WEBP" and sheet.width > 1000 and not sheet.is_animated
    # Frame, flow and trajectories side by side; 12 frames have 6 windows.
    assert animation.is_animated and animation.n_frames == 3 and animation.width == 3 * 176
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
    table = table_of(outputs)
    rows = selection.rows(table, selection.classes(table.index.to_list(), [])).rows
    assert len(rows) < 1.1 * selection.ROW_BYTES
    assert 1000 < len(json.loads(rows)) < 4000


def test_a_list_filters_the_report(tmp_path: Path) -> None:
    outputs = Outputs(tmp_path / "out")
    of_old_list = Record(video="old/gone.mp4", status="rejected", reason="no such file")
    write(outputs, "flow.csv", of_old_list, DONE, replace(DONE, video="a/c.mp4"))
    videos = [Video("data/a/b.mp4", "a/b.mp4"), Video("data/a/d.mp4", "a/d.mp4")]
    table = write_report(tmp_path / "report.html", outputs, videos)
    assert table.index.to_list() == ["a/b.mp4"]
    page = Page(tmp_path / "report.html")
    assert "old/gone" not in page.shown and [row[0] for row in page.rows] == ["a/b.mp4"]
    assert "1 not begun" in " ".join(page.shown.split()) and "100 frames" in " ".join(page.shown.split())
    with pytest.raises(UsageError, match=r"no records on the 1 videos of the list, such as x\.mp4"):
        write_report(tmp_path / "report.html", outputs, [Video("x.mp4", "x.mp4")])


CLASSES = {
    "folders": (["", "", ""], ["jump", "run", "jump"]),
    "numbers": (["3", "12", "3"], ["jump (3)", "run (12)", "jump (3)"]),
    "numbers over folders": (["3", "3", "1"], ["3", "3", "1"]),
    "texts": (["up", "down", ""], ["up", "down", ""]),
}


@pytest.mark.parametrize("case", CLASSES)
def test_the_class_is_the_label_or_the_folder(case: str) -> None:
    labels, expected = CLASSES[case]
    names = ["jump/a.mp4", "run/b.mp4", "jump/c.mp4"]
    videos = [Video(name, name, label) for name, label in zip(names, labels, strict=True)]
    assert selection.classes(names, videos).to_list() == expected


def test_rows_have_their_class_and_the_counts_are_of_all_videos(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs = Outputs(tmp_path)
    write(outputs, "flow.csv", *(replace(DONE, video=f"{c}/{i}.mp4") for c in "ab" for i in range(3)))
    table = table_of(outputs)
    monkeypatch.setattr(selection, "ROWS", 4)
    found = selection.rows(table, selection.classes(table.index.to_list(), []))
    rows = json.loads(found.rows)
    assert found.classes == ["a", "b"] and len(rows) == 4
    assert all(found.classes[row[4]] == row[0].split("/")[0] for row in rows)
    assert found.counts["class"] == {"a": 3, "b": 3} and found.counts["status"] == {"done": 6}


def test_every_number_of_the_list_is_in_the_row(tmp_path: Path) -> None:
    outputs = Outputs(tmp_path)
    write(outputs, "flow.csv", DONE)
    write(outputs, "trajectories.csv", TRACKED)
    write_report(tmp_path / "report.html", outputs)
    page = Page(tmp_path / "report.html")
    headings = [column["heading"] for column in page.about["columns"]]
    numbers = dict(zip(headings, page.rows[0][5:], strict=True))
    assert numbers == {
        "Mean px": 1.5, "p95 px": 4, "At the bound": 0.01, "Still": 0.4, "Outside": 0.05, "Camera found": 0.9,
            "Camera sure": 0.8, "Cuts": 2,
        "Frames": 100, "Seconds": 3,
    }  # fmt: skip


def test_outliers_come_before_random_videos_in_the_pictures(tmp_path: Path) -> None:
    outputs = Outputs(tmp_path)
    usual = [replace(DONE, video=f"v{i}") for i in range(30)]
    frozen = [replace(DONE, video=f"frozen{i}", still=1.0) for i in range(5)]
    long = replace(DONE, video="long", saturated=0.9, frames=9000)
    write(outputs, "flow.csv", *usual, *frozen, long, replace(DONE, video="flicker", saturated=0.5))
    table = table_of(outputs)
    names = previews.chosen(table, selection.outliers(table), 4)
    assert names[:2] == [("frozen0", "Nothing moves"), ("flicker", "Motion beyond the bound")]
    assert {why for _, why in names[2:14]} == {previews.AT_RANDOM}
    assert "long" not in dict(names)


def test_mixed_settings_are_named(tmp_path: Path) -> None:
    outputs = Outputs(tmp_path / "out")
    videos = [Video(str(clip(tmp_path / f"{i}.mkv", frames=4, seed=i)), f"set/{i}.mkv") for i in range(3)]
    for number, (bound, some) in enumerate(((20.0, videos[:2]), (10.0, videos[2:]))):
        work = Work(outputs=outputs, flow=FlowSettings(estimator="dis", camera="none", bound=bound))
        with Extractor(work) as extract:
            write(outputs, f"flow-{number}.csv", *(extract(video) for video in some))
        write_report(tmp_path / "report.html", outputs, sheets=0)
        words = " ".join(Page(tmp_path / "report.html").shown.split())
        assert ("Mixed settings" in words) is (number == 1)
    assert "bound: 20.0 in 2, 10.0 in 1" in words


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a/b.mp4", "it's a/$(name).mp4"])
def test_the_command_of_a_row_shows_its_video(name: str, tmp_path: Path) -> None:
    """The parts joined by the page's script: root, name, options."""
    outputs = Outputs(tmp_path / "out")
    video = Video(str(clip(tmp_path / "data" / name, frames=8)), name)
    work = Work(outputs=outputs, flow=FlowSettings(estimator="dis"), trajectories=TrajectorySettings())
    with Extractor(work) as extract:
        write(outputs, "flow.csv", extract(video))
    write_report(tmp_path / "report.html", outputs, [video], sheets=0)
    about = Page(tmp_path / "report.html").about
    picture = tmp_path / "picture.png"
    call = ["show", name, "--root", about["roots"][""], *about["options"], "--to", str(picture)]
    result = CliRunner().invoke(app, call)
    assert result.exit_code == 0 and "stored in" in result.output, result.output
    assert Image.open(picture).width > 800


def test_a_share_is_counted_on_a_linear_scale_in_a_small_run() -> None:
    values = np.concatenate([np.zeros(90), np.ones(10)])
    few, many = (
        charts.histogram("few", values, unit="px", share=True),
        charts.histogram("many", np.repeat(values, 20), unit="px", share=True),
    )
    # A logarithmic axis would have labels at powers of ten.
    assert ">100<" not in few and ">1,000<" in many and ">100<" in many


def test_throughput_counts_a_frame_once(tmp_path: Path) -> None:
    outputs = Outputs(tmp_path)
    write(outputs, "flow.csv", DONE)
    write(outputs, "trajectories.csv", TRACKED)
    lines = records_table.read_lines(outputs.records)
    tiles = {tile.name: tile.value for tile in summary.tiles(records_table.videos_of(lines), lines, [])}
    # 100 frames; 2 s and 1 s of work, each to the end of its last second.
    assert (tiles["frames"], tiles["time busy"], tiles["frames/s"]) == ("100", "5 s", "20")


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("no such file: '/data/v 1.mp4'", "no such file: …"),
        (
            "videos/a/b.avi: only 1 frame(s) decode; flow needs more",
            "…: only N frame(s) decode; flow needs more",
        ),
        ("no flow file out/flows/v.avi/x.mp4; make it", "no flow file …; make it"),
        ("the decoder hangs: no frame for 60 s", "the decoder hangs: no frame for N s"),
    ],
)
def test_reasons_lose_what_is_the_videos_own(reason: str, kind: str) -> None:
    assert reason_kind(reason) == kind


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
