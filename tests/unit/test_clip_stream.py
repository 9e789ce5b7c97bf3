"""Batches over ranks and workers: against the items of the data set, counted one by one."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from m3flow.data import ClipStream, FlowClips, TrajectoryClips
from m3flow.errors import UsageError
from m3flow.extraction.extractor import Extractor
from m3flow.extraction.work import Work
from m3flow.layout import Outputs
from m3flow.settings import FlowSettings, TrajectorySettings
from m3flow.videos import key_frames
from m3flow.videos.videolist import VideoList
from support.clips import moving_texture, write_list, write_video

VIDEOS, LENGTH = 10, 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten extracted videos of 20 frames with B-pictures."""
    base = tmp_path_factory.mktemp("stream")
    for number in range(VIDEOS):
        frames = moving_texture(20, 48, 64, seed=number)
        write_video(base / f"{number}.mp4", frames, codec="libx264", pix_fmt="yuv420p")
    listed = write_list(base / "list.txt", [f"{number}.mp4" for number in range(VIDEOS)])
    work = Work(
        outputs=Outputs(base / "out"),
        flow=FlowSettings(estimator="dis", camera="none"),
        trajectories=TrajectorySettings(length=LENGTH),
    )
    with Extractor(work) as extractor:
        for video in VideoList(listed, base, 1).read():
            extractor(video)
    return base


def clips(folder: Path, **options: Any) -> TrajectoryClips:
    return TrajectoryClips(
        folder / "list.txt", folder / "out", root=folder, parts=1,
        **{"length": LENGTH, "frames": 4, "stride": 2, "crop": (32, 32), **options},
    )  # fmt: skip


def stream(folder: Path, batch_size: int = 2, **options: Any) -> ClipStream:
    return ClipStream(clips(folder), batch_size, **options)


def names(batches: Any) -> list[list[str]]:
    return [batch["name"] for batch in batches]


def same(some: list[Any], others: list[Any]) -> bool:
    return len(some) == len(others) and all(
        torch.equal(a[key], b[key]) if isinstance(a[key], torch.Tensor) else a[key] == b[key]
        for a, b in zip(some, others, strict=True)
        for key in a
    )


def test_extraction_leaves_an_index_that_is_used(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sought, kept = [], key_frames._sought
    monkeypatch.setattr(
        key_frames, "_sought", lambda *arguments: sought.append(kept(*arguments)) or sought[-1]
    )
    clips(folder)[3]
    FlowClips(folder / "list.txt", folder / "out", root=folder, parts=1, crop=(32, 32))[3]
    assert len(sought) == 2 and all(pictures is not None for pictures in sought)


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_an_epoch_has_every_clip_once(ranks: int, folder: Path) -> None:
    every = [stream(folder, rank=rank, ranks=ranks, drop_last=False) for rank in range(ranks)]
    read = [names(one) for one in every]
    assert sorted(name for rank in read for batch in rank for name in batch) == sorted(
        f"{number}.mp4" for number in range(VIDEOS)
    )
    assert [len(batches) for batches in read] == [len(one) for one in map(_again, every)]
    whole = [stream(folder, rank=rank, ranks=ranks) for rank in range(ranks)]
    assert len({len(one) for one in whole}) == 1
    assert all(names(one) == batches[: len(one)] for one, batches in zip(whole, read, strict=True))


def _again(one: ClipStream) -> ClipStream:
    assert (one.epoch, one.batch) == (1, 0)
    return one


def test_workers_and_threads_change_nothing(folder: Path) -> None:
    expected = list(stream(folder, seed=5))
    assert same(list(stream(folder, seed=5, threads=3)), expected)
    assert same(list(DataLoader(stream(folder, seed=5), batch_size=None, num_workers=2)), expected)
    torch.manual_seed(1)  # a seed of one's own decides, not torch's
    assert same(list(stream(folder, seed=5)), expected)
    assert not same(list(stream(folder, seed=6)), expected)


def test_epochs_differ_in_order_and_crops(folder: Path) -> None:
    one = stream(folder, batch_size=1)
    first, second = list(one), list(one)
    assert one.epoch == 2 and names(first) != names(second)
    of_video = {batch["name"][0]: batch["frames"] for batch in first}
    assert any(not torch.equal(of_video[batch["name"][0]], batch["frames"]) for batch in second)


@pytest.mark.parametrize("stop", [0, 1, 3, 5])
def test_a_run_goes_on_where_it_was(stop: int, folder: Path) -> None:
    whole = stream(folder, threads=2)
    expected = [*whole, *whole]
    interrupted = stream(folder)
    begun = list(islice(interrupted, stop)) if stop else []
    resumed = stream(folder, threads=2)
    resumed.load_state_dict(interrupted.state_dict())
    rest = [*resumed, *resumed]
    assert same([*begun, *rest][: len(expected)], expected)
    loaded = stream(folder)
    loaded.load_state_dict({"epoch": 0, "batch": stop})
    assert same(list(DataLoader(loaded, batch_size=None, num_workers=2)), expected[stop:5])


def test_the_list_in_its_order(folder: Path) -> None:
    batches = names(stream(folder, batch_size=4, shuffle=False, drop_last=False))
    assert batches == [[f"{n}.mp4" for n in part] for part in ((0, 1, 2, 3), (4, 5, 6, 7), (8, 9))]


@pytest.mark.parametrize(
    "options",
    [{"batch_size": 0}, {"threads": 0}, {"rank": 2, "ranks": 2}, {"batch_size": 11}, {"ranks": 6}],
)
def test_wrong_parameters_are_refused(options: dict[str, int], folder: Path) -> None:
    with pytest.raises(UsageError):
        stream(folder, **options)


def test_an_error_of_an_item_ends_the_iteration(folder: Path) -> None:
    broken = clips(folder, transform=lambda item: 1 // (item["label"] - 4))
    with pytest.raises(ZeroDivisionError):
        list(ClipStream(broken, 2, threads=2))
