"""Mistakes that affect a whole list, reported before the run."""

from __future__ import annotations

from pathlib import Path

import pytest

from m3flow.errors import UsageError
from m3flow.experiment.preflight import CHECKED, require_flow, require_sources
from m3flow.layout import Outputs
from m3flow.videos.videolist import Video


def listed(folder: Path, count: int) -> list[Video]:
    return [Video(str(folder / f"{number}.mp4"), f"{number}.mp4") for number in range(count)]


def test_one_video_that_exists_is_enough(tmp_path: Path) -> None:
    videos = listed(tmp_path, CHECKED)
    Path(videos[-1].source).touch()
    require_sources([video.source for video in videos], tmp_path)


def test_a_wrong_root_is_asked_for(tmp_path: Path) -> None:
    videos = listed(tmp_path / "elsewhere", CHECKED + 1)
    with pytest.raises(UsageError) as caught:
        require_sources([video.source for video in videos], tmp_path / "elsewhere")
    text = str(caught.value)
    assert f"({CHECKED} checked)" in text
    assert f"'{videos[0].source}'" in text and f"the root ({tmp_path / 'elsewhere'})" in text


def test_trajectories_before_flow(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError,
        match=r"no video of the list has flow .*3 checked.*: no flow file .*make the flow first",
    ):
        require_flow(listed(tmp_path, 3), Outputs(tmp_path / "out"))
