"""The scripts of docs/datasets.md that make a list, run on small annotations of the official forms."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from m3flow.videos.videolist import VideoList
from support.paths import REPOSITORY


def run_script(section: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the Python block of a section of the page in a folder."""
    page = (REPOSITORY / "docs" / "datasets.md").read_text(encoding="utf-8")
    text = page.split(f"\n## {section}\n")[1].split("\n## ")[0]
    block = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert block is not None
    monkeypatch.chdir(folder)
    exec(compile(block[1], section, "exec"), {"__name__": "page"})


def listed(path: Path) -> list[tuple[str, str]]:
    """(path, label) of every entry of a list."""
    return [(video.source, video.label) for video in VideoList(path, Path("/data")).read()]


def test_ucf101(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "ucfTrainTestlist"
    folder.mkdir()
    (folder / "classInd.txt").write_bytes(b"1 ApplyEyeMakeup\r\n2 ApplyLipstick\r\n\r\n")
    (folder / "trainlist01.txt").write_bytes(b"ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1\r\n")
    (folder / "testlist01.txt").write_bytes(b"ApplyLipstick/v_ApplyLipstick_g01_c01.avi\r\n")
    run_script("UCF-101", tmp_path, monkeypatch)
    assert listed(tmp_path / "ucf101.csv") == [
        ("/data/ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi", "0"),
        ("/data/ApplyLipstick/v_ApplyLipstick_g01_c01.avi", "1"),
    ]
    assert listed(folder / "trainlist01.txt") == [("/data/ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi", "1")]


def test_hmdb51(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "testTrainMulti_7030_splits"
    folder.mkdir()
    (folder / "brush_hair_test_split1.txt").write_text("a_brush.avi 1 \nb_brush.avi 2 \nc_brush.avi 0 \n")
    (folder / "wave_test_split1.txt").write_text("a!&_wave.avi 1 \n")
    run_script("HMDB51", tmp_path, monkeypatch)
    assert listed(tmp_path / "hmdb51-train.csv") == [
        ("/data/videos/brush_hair/a_brush.avi", "0"),
        ("/data/videos/wave/a!&_wave.avi", "1"),
    ]


def test_kinetics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "kinetics_train.csv").write_text(
        "label,youtube_id,time_start,time_end,split\n"
        "testifying,---QUuC4vJs,84,94,train\n"
        '"arm wrestling",_4YTwq0-73Y,44,54,train\n'
    )
    run_script("Kinetics-400", tmp_path, monkeypatch)
    assert listed(tmp_path / "k400-train.csv") == [
        ("/data/kinetics400/train_video/testifying/---QUuC4vJs_000084_000094.mp4", "1"),
        ("/data/kinetics400/train_video/arm wrestling/_4YTwq0-73Y_000044_000054.mp4", "0"),
    ]


def test_something_something(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = {"Holding something": "0", "Moving something up": "1"}
    items = [{"id": "78687", "template": "Moving [something] up"}]
    (tmp_path / "something-something-v2-labels.json").write_text(json.dumps(labels))
    (tmp_path / "something-something-v2-train.json").write_text(json.dumps(items))
    run_script("Something-Something V2", tmp_path, monkeypatch)
    assert listed(tmp_path / "ssv2-train.csv") == [("/data/20bn-something-something-v2/78687.webm", "1")]
