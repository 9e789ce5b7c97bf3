"""On a GPU a batch is launched without waiting: on a pretended device no operation asks for a value."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from m3flow.camera import candidates_torch
from m3flow.camera.backward import backward_flow
from m3flow.camera.compensation import MotionEstimator
from m3flow.camera.selection import Selection
from m3flow.flow import estimator
from m3flow.results.quantisation import quantise
from m3flow.trajectories.tracking import Tracker
from support.pretended_device import DEVICE, pretended_copies, pretended_device, pretended_kernels

PAIRS, HEIGHT, WIDTH = 4, 64, 80


@pytest.fixture
def early_reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many tensors were read at a time; reading is pretended, as are uploads."""
    return pretended_copies(
        monkeypatch, "flow.transfer", "camera.candidates_torch", "camera.compensation_torch"
    )


def launched(monkeypatch: pytest.MonkeyPatch, make: Callable[[], Callable[[torch.Tensor], Any]]) -> list[str]:
    """The waits of a second call; at the first one constants are copied to the device."""
    with pretended_device(monkeypatch) as waits:
        frames = torch.empty(PAIRS + 1, HEIGHT, WIDTH, dtype=torch.uint8, device=DEVICE)
        call = make()
        call(frames)
        waits.found.clear()
        call(frames)
    return waits.found


@pytest.fixture(params=["torch operations", "fused kernels"])
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> set[str] | None:
    """The names of the fused kernels that were launched; None where there are none."""
    return pretended_kernels(monkeypatch) if request.param == "fused kernels" else None


FEW = {
    "dis": {},
    "farneback": {},
    "brox": {"outer": 3, "inner": 2, "solver": 2},
    "tvl1": {"scales": 2, "warps": 2, "outer": 2, "inner": 2},
}


@pytest.mark.parametrize("name", FEW)
@pytest.mark.slow
def test_an_estimator_waits_for_nothing(
    monkeypatch: pytest.MonkeyPatch, kernels: set[str] | None, name: str
) -> None:
    def make() -> Callable[[torch.Tensor], Any]:
        return estimator(name, backend="torch", device=DEVICE, **FEW[name]).sequence  # type: ignore[return-value]

    assert launched(monkeypatch, make) == []
    expected = {
        "dis": {"search_stripes", "average_patches", "linearise", "half_sweep"},
        "farneback": {"sum_rows_and_solve"},
        "brox": {"half_sweep"},
        "tvl1": set(),
    }
    assert kernels is None or (kernels >= expected[name] and bool(kernels) == bool(expected[name]))


def moving_camera() -> Selection:
    homographies = np.tile(np.eye(3), (PAIRS, 1, 1))
    homographies[1:, 0, 2] = 2.5
    return Selection(
        homographies=homographies,
        accepted=np.ones(PAIRS, bool),
        confidence=np.ones(PAIRS, np.float32),
        cut=np.array([False, False, True, False]),
        bars=np.array([[4, 0, 0, 3]] * PAIRS, np.int32),
    )


@pytest.mark.parametrize("how", [{"scheme": "one-pass"}, {"scheme": "two-pass"}, {"camera": "none"}], ids=str)
@pytest.mark.slow
def test_compensation_quantising_and_tracking_wait_for_nothing(
    monkeypatch: pytest.MonkeyPatch,
    early_reads: list[int],
    kernels: set[str] | None,
    how: dict[str, str],
) -> None:
    def make() -> Callable[[torch.Tensor], Any]:
        chosen = estimator("farneback", backend="torch", device=DEVICE, levels=1, iterations=1)
        motion = MotionEstimator(chosen, **how)  # type: ignore[arg-type]
        tracker = Tracker(length=3, job="trajs_dense", tracking="subpixel")

        def call(frames: torch.Tensor) -> Any:
            found = motion(frames, 1, moving_camera())
            backward_flow(chosen, frames, 1, found.homographies)
            return tracker.push(quantise(found.flow, 20))

        return call

    assert launched(monkeypatch, make) == []
    assert early_reads == []
    assert kernels is None or ("resample_levels" in kernels) == ("scheme" in how)


@pytest.mark.slow
def test_the_camera_search_waits_for_its_results(
    monkeypatch: pytest.MonkeyPatch, early_reads: list[int], kernels: set[str] | None
) -> None:
    """And, while the device tracks, for which pairs differ in brightness."""

    def make() -> Callable[[torch.Tensor], Any]:
        return lambda frames: candidates_torch.find_candidates(frames, 1)

    assert launched(monkeypatch, make) == []
    assert early_reads == [1, 9] * 2
    expected = {
        "count_dark_lines",
        "best_of_cells",
        "compare_levels",
        "track_level",
        "judge",
        "fit_pairs",
        "sum_in_cells",
        "compare_greys",
    }
    assert kernels is None or kernels >= expected


def test_a_wait_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def make() -> Callable[[torch.Tensor], Any]:
        def call(frames: torch.Tensor) -> None:
            if frames.sum() > 0:
                frames[frames > 3] = 0
            frames.cpu()
            torch.zeros(2).to(DEVICE)

        return call

    found = launched(monkeypatch, make)
    assert [wait.partition(" at")[0] for wait in found] == [
        "bool()",
        "boolean index",
        "cpu()",
        "copy between host and device",
    ]
