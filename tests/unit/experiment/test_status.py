"""How far a list is, told from files and records."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from m3flow.experiment.config import Experiment
from m3flow.experiment.status import GONE, NO_FLOW, NO_TRAJECTORIES, NOT_BEGUN, status_of
from m3flow.results.records import Record, RecordFile


class Results:
    """An output folder, filled by hand."""

    def __init__(self, folder: Path, names: list[str]) -> None:
        self.out = folder / "out"
        self.names = names
        (folder / "list.txt").write_text("".join(f"{name} 0\n" for name in names))
        self.config = {"videos": str(folder / "list.txt"), "output": str(self.out)}

    def experiment(self, **values: object) -> Experiment:
        return Experiment.of({**self.config, **values})

    def flow(self, name: str) -> None:
        (self.out / "flows" / name).mkdir(parents=True, exist_ok=True)

    def trajectories(self, name: str, length: int = 6) -> None:
        path = self.out / "trajs" / f"{name}_{length}.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()

    def record(self, file: str, *records: Record) -> None:
        with RecordFile(self.out / "records" / file) as lines:
            for record in records:
                lines.append(record)


@pytest.fixture
def results(tmp_path: Path) -> Results:
    return Results(tmp_path, [f"set/c{number % 2}/v{number}" for number in range(8)])


def test_nothing_yet(results: Results) -> None:
    found = status_of(results.experiment())
    assert found.counts == {"done": 0, "rejected": 0, "failed": 0, "missing": 8}
    assert found.why() == [("missing", NOT_BEGUN, 8, "set/c0/v0")]


def test_every_state_and_its_reason(results: Results) -> None:
    names = results.names
    results.flow(names[0])
    results.trajectories(names[0])
    results.flow(names[1])
    results.trajectories(names[2])
    results.record(
        "list.txt/flow-00000.csv",
        Record(video=names[0], status="done", frames=30, time="2026-01-01"),
        Record(video=names[3], status="rejected", reason="no such file", time="2026-01-01"),
        Record(video=names[4], status="failed", reason="disk full", time="2026-01-01"),
        Record(video=names[5], status="done", frames=9, time="2026-01-01"),
    )
    results.record(
        "list.txt/trajectories-00000.csv",
        Record(video=names[3], status="rejected", reason="no flow file", time="2026-01-02"),
        Record(video=names[5], status="done", frames=9, time="2026-01-02"),
    )
    found = status_of(results.experiment())
    assert found.counts == {"done": 1, "rejected": 1, "failed": 1, "missing": 5}
    assert found.reasons == {
        names[1]: NO_TRAJECTORIES,
        names[2]: NO_FLOW,
        # What became of the flow, not what followed from it.
        names[3]: "no such file",
        names[4]: "disk full",
        names[5]: GONE,
        names[6]: NOT_BEGUN,
        names[7]: NOT_BEGUN,
    }
    assert found.frames == {names[0]: 30, names[5]: 9}


def test_the_last_line_counts_not_the_last_file(results: Results) -> None:
    name = results.names[0]
    results.record("flow-0002.csv", Record(video=name, status="failed", reason="early", time="2026-01-01"))
    results.record("flow-0001.csv", Record(video=name, status="rejected", reason="late", time="2026-01-02"))
    assert status_of(results.experiment()).reasons[name] == "late"
    results.flow(name)
    results.trajectories(name)
    assert status_of(results.experiment()).states[name] == "done"


def test_what_is_wanted_depends_on_the_settings(results: Results) -> None:
    for name in results.names:
        results.trajectories(name)
    assert status_of(results.experiment()).counts["done"] == 0
    assert status_of(results.experiment(flow={"keep": False})).counts["done"] == 8
    assert status_of(results.experiment(trajectories={"job": "mvs"})).counts["done"] == 8
    longer = results.experiment(flow={"keep": False}, trajectories={"length": 8})
    assert status_of(longer).counts["done"] == 0


def test_lines_cut_off_and_other_tables_are_left_out(results: Results) -> None:
    name = results.names[0]
    results.record("flow-0001.csv", Record(video=name, status="rejected", reason="short", time="2026-01-01"))
    path = results.out / "records/flow-0001.csv"
    path.write_text(path.read_text() + f"{results.names[1]},fai")
    (results.out / "records/table.csv").write_text("a,b\n1,2\n")
    found = status_of(results.experiment())
    assert found.counts == {"done": 0, "rejected": 1, "failed": 0, "missing": 7}


def test_a_listing_for_each_folder_and_no_look_at_each_video(
    results: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in results.names:
        results.flow(name)
        results.trajectories(name)
    experiment = results.experiment()
    videos = experiment.videos.read()
    calls: list[str] = []

    def counted(name: str) -> Callable[..., Any]:
        real = getattr(os, name)

        def call(path: Any, *arguments: Any, **options: Any) -> Any:
            if not isinstance(path, int) and os.fspath(path).startswith(
                (str(results.out / "flows"), str(results.out / "trajs"))
            ):
                calls.append(name)
            return real(path, *arguments, **options)

        return call

    with monkeypatch.context() as patch:
        for name in ("listdir", "scandir", "stat", "lstat"):
            patch.setattr(os, name, counted(name))
        found = status_of(experiment, videos)
    assert found.counts["done"] == 8
    # Two folders of videos, in each of two trees.
    assert calls == ["listdir"] * 4
