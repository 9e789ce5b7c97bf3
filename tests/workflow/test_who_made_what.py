"""Results made again, counted for each combination of first run, change and next run.

Jobs run in this process, by the functions called by the workflow's scripts; test_video_granularity and
test_shard_granularity check that Snakemake calls them for exactly the jobs that are due.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from m3flow import settings as result_settings
from m3flow.experiment.config import Experiment
from m3flow.experiment.jobs import due, run_shard, run_video, work_of
from m3flow.extraction.run import ALL_DONE, execute
from support.clips import clip

NAMES = [f"set/a/v{number}.mkv" for number in range(2)]
WHO = ("command line", "job per video", "shards")


def experiment(folder: Path, **config: Any) -> Experiment:
    values = {"flow": {"estimator": "dis", "camera": "none"}, "shard": {"videos": 1}, "run": {"workers": 1}}
    paths = {"videos": folder / "list.txt", "root": folder / "data", "output": folder / "out"}
    return Experiment.of(values | {key: str(path) for key, path in paths.items()} | config)


def make(who: str, given: Experiment) -> None:
    """Run the jobs that are due, in the way of `who`."""
    videos = given.videos.read()
    if who == "command line":
        for kind in ("flow", "trajectories"):
            records = given.outputs.records / f"{kind}-{len(list(given.outputs.records.glob('*')))}.csv"
            assert execute(kind, videos, work_of(given, kind), records=records, workers=1) == ALL_DONE
        return
    granularity = "video" if who == "job per video" else "shard"
    for kind, units in due(given, granularity).units.items():
        for unit in units:
            log, outcome = given.outputs.log(kind), given.outputs.folder / "outcome.json"
            if granularity == "shard":
                assert run_shard(given, kind, unit, log, outcome) == 0
            else:
                video = next(video for video in videos if video.name == unit)
                assert run_video(given, kind, video, threads=1, log_file=log, outcome=outcome) == 0


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Finished results made in each of the three ways, with their videos."""
    folders = {who: tmp_path_factory.mktemp("made") for who in WHO}
    for who, folder in folders.items():
        for number, name in enumerate(NAMES):
            clip(folder / "data" / name, seed=number)
        (folder / "list.txt").write_text("".join(f"{name}\n" for name in NAMES))
        make(who, experiment(folder))
    return folders


def nothing(_: Path) -> dict[str, Any]:
    return {}


def records_gone(folder: Path) -> dict[str, Any]:
    shutil.rmtree(folder / "out/records")
    return {}


def video_touched(folder: Path) -> dict[str, Any]:
    (folder / "data" / NAMES[0]).touch()
    return {}


def other_flow(_: Path) -> dict[str, Any]:
    return {"flow": {"estimator": "dis", "camera": "none", "bound": 10}}


def other_tracking(_: Path) -> dict[str, Any]:
    return {"trajectories": {"tracking": "integer"}}


def other_length(_: Path) -> dict[str, Any]:
    return {"trajectories": {"length": 4}}


def video_replaced(folder: Path) -> dict[str, Any]:
    clip(folder / "data" / NAMES[0], seed=9)
    return {}


def flow_lost(folder: Path) -> dict[str, Any]:
    shutil.rmtree(folder / "out/flows" / NAMES[0])
    return {}


def trajectories_lost(folder: Path) -> dict[str, Any]:
    (folder / "out/trajs" / f"{NAMES[0]}_6.gz").unlink()
    return {}


def new_version(_: Path) -> dict[str, Any]:
    result_settings.FLOW_VERSION += 1
    return {}


# Changes, with the numbers of flow pairs and trajectory files made again.
CHANGES: dict[Callable[[Path], dict[str, Any]], tuple[int, int]] = {
    nothing: (0, 0),
    records_gone: (0, 0),
    video_touched: (0, 0),
    other_flow: (2, 2),
    other_tracking: (0, 2),
    other_length: (0, 2),
    video_replaced: (1, 1),
    flow_lost: (1, 0),
    trajectories_lost: (0, 1),
    new_version: (2, 2),
}


def files(output: Path) -> dict[str, int]:
    """Every result with its inode, which changes when it is made again."""
    found = [*output.glob("flows/**/x.mp4"), *output.glob("trajs/**/*.gz")]
    return {str(path.relative_to(output)): path.stat().st_ino for path in found}


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
@pytest.mark.parametrize("following", WHO)
@pytest.mark.parametrize("first", WHO)
def test_what_is_made_again(
    made: dict[str, Path],
    first: str,
    following: str,
    change: Callable[[Path], dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(result_settings, "FLOW_VERSION", result_settings.FLOW_VERSION)
    shutil.copytree(made[first], tmp_path, dirs_exist_ok=True)
    given = experiment(tmp_path, **change(tmp_path))
    before = files(tmp_path / "out")
    make(following, given)
    after = files(tmp_path / "out")
    again = [name for name, inode in after.items() if before.get(name) != inode]
    flows = sum(name.startswith("flows/") for name in again)
    assert (flows, len(again) - flows) == CHANGES[change]
    for granularity in ("video", "shard"):
        assert not any(due(given, granularity).units.values()), "the run after that has nothing to do"
