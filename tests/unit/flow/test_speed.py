"""The choice between a GPU and the cores by their measured speed, with pretended machines."""

from __future__ import annotations

import json
import logging
import subprocess
from pathlib import Path
from typing import Any

import pytest

from m3flow.extraction import dispatch
from m3flow.extraction.dispatch import devices_of
from m3flow.extraction.work import Work
from m3flow.flow import speed
from m3flow.flow.speed import faster_on_gpu, measure
from m3flow.layout import Outputs
from m3flow.settings import FlowSettings

FAST, SLOW = {"torch": 3000.0, "opencv": 120.0}, {"torch": 200.0, "opencv": 120.0}


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """A machine whose GPU model and speed can be set; `measured` lists what was measured."""
    it: dict[str, Any] = {"gpu": "H200", "rates": FAST, "measured": []}

    def measured_apart(name: str, parameters: dict[str, Any]) -> dict[str, float]:
        it["measured"].append((it["gpu"], name, parameters))
        if isinstance(it["rates"], Exception):
            raise it["rates"]
        return it["rates"]

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(speed, "measured_apart", measured_apart)
    monkeypatch.setattr(speed, "gpu_model", lambda: it["gpu"])
    monkeypatch.setattr(dispatch, "gpu_count", lambda: 2)
    monkeypatch.setattr(dispatch, "available_cores", lambda: 16)
    return it


@pytest.mark.usefixtures("machine")
def test_the_faster_one_is_chosen() -> None:
    assert faster_on_gpu("dis", {}, gpus=1, cores=16)
    assert not faster_on_gpu("dis", {}, gpus=1, cores=26)
    assert faster_on_gpu("dis", {}, gpus=2, cores=26)


def test_it_is_measured_once_for_each_gpu_model_and_estimator(
    machine: dict[str, Any], tmp_path: Path
) -> None:
    for _ in range(3):
        faster_on_gpu("dis", {}, gpus=1, cores=16)
    faster_on_gpu("dis", {"preset": "fast"}, gpus=1, cores=16)
    machine |= {"gpu": "T4", "rates": SLOW}
    for _ in range(2):
        assert not faster_on_gpu("dis", {}, gpus=1, cores=16)
    machine["gpu"] = "H200"
    assert faster_on_gpu("dis", {}, gpus=1, cores=16)
    assert machine["measured"] == [
        ("H200", "dis", {}),
        ("H200", "dis", {"preset": "fast"}),
        ("T4", "dis", {}),
    ]
    assert len(json.loads((tmp_path / "m3flow/speed.json").read_text())) == 3


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"other": {}}'])
def test_a_damaged_file_is_measured_anew(machine: dict[str, Any], tmp_path: Path, content: str) -> None:
    (tmp_path / "m3flow").mkdir()
    (tmp_path / "m3flow/speed.json").write_text(content)
    assert faster_on_gpu("dis", {}, gpus=1, cores=16) and faster_on_gpu("dis", {}, gpus=1, cores=16)
    assert len(machine["measured"]) == 1


def test_a_folder_that_cannot_be_written_is_no_failure(
    machine: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "m3flow").write_text("a file in the way")
    assert faster_on_gpu("dis", {}, gpus=1, cores=16)
    assert "cannot be kept" in caplog.text and len(machine["measured"]) == 1


@pytest.mark.parametrize(
    "error", [ValueError("CUDA error"), subprocess.TimeoutExpired("python", 180)], ids=str
)
def test_without_a_measurement_the_gpu_is_used_and_the_log_says_so(
    machine: dict[str, Any], caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    machine["rates"] = error
    with caplog.at_level(logging.WARNING):
        assert faster_on_gpu("dis", {}, gpus=1, cores=1000)
    assert "so the GPU is used" in caplog.text


def work(tmp_path: Path, **how: Any) -> Work:
    flow = FlowSettings(estimator=how.pop("estimator", "dis"))
    return Work(outputs=Outputs(tmp_path), flow=flow, **how)


def test_a_run_takes_the_cores_where_they_are_faster(machine: dict[str, Any], tmp_path: Path) -> None:
    gpus = ("cuda:0", "cuda:1")
    assert devices_of(work(tmp_path)) == gpus
    machine |= {"gpu": "T4", "rates": SLOW}
    assert devices_of(work(tmp_path)) == ("cpu",)
    # What was asked for goes first, and what only torch has.
    measured = len(machine["measured"])
    assert devices_of(work(tmp_path), gpus=1) == ("cuda:0",)
    assert devices_of(work(tmp_path, device="cuda")) == gpus
    assert devices_of(work(tmp_path, backend="torch")) == gpus
    assert devices_of(work(tmp_path, estimator="brox")) == gpus
    assert len(machine["measured"]) == measured


@pytest.mark.slow
def test_both_backends_are_measured() -> None:
    rates = measure("dis", {"preset": "ultrafast"}, "cpu", seconds=0)
    assert rates.keys() == {"opencv", "torch"} and min(rates.values()) > 0
    with pytest.raises(ValueError, match=r"CUDA|cuda|GPU"):
        speed.measured_apart("dis", {})
