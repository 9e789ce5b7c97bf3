"""Progress of a list, from files and records."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from m3flow.experiment.config import Experiment
from m3flow.experiment.status import (
    GONE,
    NO_FLOW,
    NO_TRAJECTORIES,
    NOT_BEGUN,
    REPLACED,
    status_of,
    summary,
)
from m3flow.results.provenance import limits_digest, settings_digest, trajectory_digest
from m3flow.results.records import Record, RecordFile, timestamp
from m3flow.results.stored_flow import NO_FLOW_FILE


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

    def done(self, *names: str, **config: object) -> None:
        """The results of a run that made flow and trajectories with these settings."""
        experiment = self.experiment(**config)
        flow = settings_digest(experiment.flow.identity()) if experiment.wants_flow else settings_digest({})
        trajectories = trajectory_digest(experiment.trajectories.identity(), flow)
        length = experiment.trajectories.length
        for name in names:
            if experiment.wants_flow:
                self.flow(name)
                self.record("flow-0001.csv", Record(video=name, status="done", frames=30, flow_settings=flow))
            self.trajectories(name, length)
            self.record(
                "trajectories-0001.csv",
                Record(video=name, status="done", frames=30, trajectory_settings=trajectories),
            )

    def record(self, file: str, *records: Record) -> None:
        with RecordFile(self.out / "records" / file) as lines:
            for record in records:
                lines.append(record)


@pytest.fixture
def results(tmp_path: Path) -> Results:
    return Results(tmp_path, [f"set/c{number % 2}/v{number}" for number in range(8)])


def status(results: Results, **config: object) -> Any:
    return status_of(results.experiment(**config), every_file=False)


def counts(**given: int) -> dict[str, int]:
    return {"done": 0, "partial": 0, "rejected": 0, "failed": 0, "outdated": 0, "missing": 0, **given}


def test_nothing_yet(results: Results) -> None:
    found = status(results)
    assert found.counts == counts(missing=8)
    assert found.why() == [("missing", NOT_BEGUN, 8, "set/c0/v0")]


def test_every_state_and_its_reason(results: Results) -> None:
    names = results.names
    results.done(names[0], names[1], names[2], names[5])
    (results.out / "trajs" / f"{names[1]}_6.gz").unlink()
    (results.out / "flows" / names[2]).rmdir()
    (results.out / "trajs" / f"{names[5]}_6.gz").unlink()
    (results.out / "flows" / names[5]).rmdir()
    results.flow(names[7])
    results.record(
        "list.txt/flow-00000.csv",
        Record(video=names[3], status="rejected", reason="no such file: '/d/v3'", time="2026-01-01"),
        Record(video=names[4], status="failed", reason="disk full", time="2026-01-01"),
        Record(video=names[6], status="rejected", reason="only 1 frame(s)", time="2026-01-01"),
    )
    results.record(
        "list.txt/trajectories-00000.csv",
        Record(video=names[3], status="rejected", reason="no flow file", time="2026-01-02"),
    )
    found = status(results)
    assert found.counts == counts(done=1, partial=1, rejected=1, failed=1, missing=4)
    assert found.reasons == {
        names[1]: GONE,
        names[2]: NO_FLOW,
        # The failure of the flow, not its consequences; the file is still missing.
        names[3]: "no such file: '/d/v3'",
        names[4]: "disk full",
        names[5]: GONE,
        # The rejected video is not in any record, so it is tried again.
        names[6]: "was rejected (only 1 frame(s)), will be tried again",
        # A folder without readable flow in it.
        names[7]: NOT_BEGUN,
    }
    assert found.frames == dict.fromkeys((names[0], names[1], names[2], names[5]), 30)
    text = summary(results.experiment(), found)
    assert text[0] == "m3flow: 1 done, 1 partial, 1 rejected, 1 failed, 4 missing of 8 videos"
    assert "  1 rejected: no such file (such as set/c1/v3)" in text
    assert "  2 missing: was made, but its files are gone (such as set/c1/v1)" in text


def test_flow_without_trajectories(results: Results) -> None:
    digest = settings_digest(results.experiment().flow.identity())
    results.flow(results.names[0])
    results.record("flow.csv", Record(video=results.names[0], status="done", flow_settings=digest))
    assert status(results).reasons[results.names[0]] == NO_TRAJECTORIES


def test_trajectories_rejected_before_their_flow_was_made(results: Results) -> None:
    name = results.names[0]
    reason = f"{NO_FLOW_FILE} out/flows/{name}/x.mp4; make the flow first"
    rejected = Record(video=name, status="rejected", reason=reason, time="2026-01-01")
    results.record("trajectories.csv", rejected)
    assert status(results).states[name] == "missing"
    digest = settings_digest(results.experiment().flow.identity())
    results.flow(name)
    results.record("flow.csv", Record(video=name, status="done", flow_settings=digest, time="2026-01-02"))
    assert (status(results).states[name], status(results).reasons[name]) == ("partial", NO_TRAJECTORIES)


def test_other_settings_are_to_do(results: Results) -> None:
    results.done(*results.names)
    assert status(results).counts == counts(done=8)
    other = status(results, flow={"estimator": "farneback"})
    assert other.counts == counts(outdated=8)
    assert other.to_do == 8
    assert status(results, trajectories={"tracking": "integer"}).counts == counts(outdated=8)
    assert status(results, trajectories={"job": "trajs"}).counts == counts(outdated=8)


def test_another_video_under_the_name_is_to_do(results: Results, tmp_path: Path) -> None:
    digest = settings_digest(results.experiment().flow.identity())
    name = results.names[0]
    results.done(name)
    (tmp_path / "set/c0").mkdir(parents=True)
    (tmp_path / name).write_bytes(b"another")
    record = Record(
        video=name, status="kept", flow_settings=digest, source="9:abc", modified="9:1", time="2027"
    )
    results.record("flow-0002.csv", record)
    assert status(results, root=str(tmp_path)).reasons[name] == REPLACED


@pytest.mark.parametrize("exclude", [None, "rejected"])
def test_a_rejected_video_is_tried_again_when_it_changes(
    results: Results, tmp_path: Path, exclude: str | None
) -> None:
    from m3flow.results.provenance import source_text
    from m3flow.videos.identity import identity, stamp, stamp_text

    name, experiment = results.names[0], results.experiment()
    path = tmp_path / name
    path.parent.mkdir(parents=True)
    path.write_bytes(b"no video")
    results.record(
        "flow.csv",
        Record(
            video=name,
            status="rejected",
            reason="not a video",
            flow_settings=settings_digest(experiment.flow.identity()),
            limits=limits_digest(experiment.limits),
            source=source_text(identity(path)),
            modified=stamp_text(stamp(str(path))),
        ),
    )
    config = {"root": str(tmp_path), "exclude": exclude}
    assert status(results, **config).states[name] == "rejected"
    path.touch()
    assert status(results, **config).states[name] == "rejected"
    again = "rejected" if exclude else "missing"
    assert status(results, **config, limits={"seconds": 90}).states[name] == again
    # As the schema's defaults have it.
    assert status(results, **config, limits={"seconds": 60, "memory_gb": 8}).states[name] == "rejected"
    path.write_bytes(b"no video, but another")
    assert status(results, **config).states[name] == again


def test_a_missing_video_is_tried_when_it_is_there(results: Results, tmp_path: Path) -> None:
    name = results.names[0]
    results.record("flow.csv", Record(video=name, status="rejected", reason="no such file: 'a/b'"))
    assert status(results, root=str(tmp_path)).states[name] == "rejected"
    (tmp_path / name).parent.mkdir(parents=True)
    (tmp_path / name).touch()
    assert status(results, root=str(tmp_path)).states[name] == "missing"


def test_the_last_line_counts_not_the_last_file(results: Results) -> None:
    name = results.names[0]
    results.record("flow-0002.csv", Record(video=name, status="failed", reason="early", time="2026-01-01"))
    results.record("flow-0001.csv", Record(video=name, status="failed", reason="late", time="2026-01-02"))
    assert status(results).reasons[name] == "late"
    results.done(name)
    assert status(results).states[name] == "done"


def test_the_later_of_two_attempts_within_a_second_decides(results: Results) -> None:
    name = results.names[0]
    early = Record(video=name, status="failed", reason="early", time=timestamp())
    late = Record(video=name, status="failed", reason="late", time=early.time)
    while late.time == early.time:
        late.time = timestamp()
    # Files are read in the order of their names.
    results.record("flow-0002.csv", early)
    results.record("flow-0001.csv", late)
    assert status(results).reasons[name] == "late"


def test_what_is_wanted_depends_on_the_settings(results: Results) -> None:
    names = results.names
    results.done(*names)
    for name in names:
        (results.out / "flows" / name).rmdir()
    assert status(results).counts["done"] == 0
    assert status(results, flow={"keep": False}).counts["done"] == 8
    assert status(results, flow={"keep": False}, trajectories={"length": 8}).counts["done"] == 0
    results.done(*names, trajectories={"job": "mvs"})
    assert status(results, trajectories={"job": "mvs"}).counts["done"] == 8


def test_lines_cut_off_and_other_tables_are_left_out(results: Results) -> None:
    name = results.names[0]
    results.record("flow-0001.csv", Record(video=name, status="failed", reason="short", time="2026-01-01"))
    path = results.out / "records/flow-0001.csv"
    path.write_text(path.read_text() + f"{results.names[1]},fai")
    (results.out / "records/table.csv").write_text("a,b\n1,2\n")
    assert status(results).counts == counts(failed=1, missing=7)


def test_a_listing_for_each_folder_and_no_look_at_each_video(
    results: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    results.done(*results.names)
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
        found = status_of(experiment, videos, every_file=False)
    assert found.counts["done"] == 8
    # Two folders of videos, in each of two trees.
    assert calls == ["listdir"] * 4
