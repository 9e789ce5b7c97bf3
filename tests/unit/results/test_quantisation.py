"""Displacements as 8-bit levels: the formula of the specification, and exactly 0 for no motion."""

from __future__ import annotations

import math
from typing import Any, get_args

import numpy as np
import pytest
import torch

from m3flow.results.quantisation import Quantisation, Scale, quantise, restore, table

BOUNDS = [0.5, 1, 7.3, 15, 20, 32, 100]


def contract(values: np.ndarray, bound: float) -> np.ndarray:
    """round(255 (v + bound) / (2 bound)), saturated, in double precision."""
    exact = 255 * (values.astype(np.float64) + bound) / (2 * bound)
    return np.clip(np.floor(exact + 0.5), 0, 255)


@pytest.mark.parametrize("bound", BOUNDS)
def test_the_formula(bound: float) -> None:
    values = np.random.default_rng(0).uniform(-1.2 * bound, 1.2 * bound, (2, 100_000)).astype(np.float32)
    exact = 255 * (values.astype(np.float64) + bound) / (2 * bound)
    # Halfway between two levels, single precision may round to either side.
    clear = np.abs(exact - np.floor(exact) - 0.5) > 1e-4
    assert clear.mean() > 0.99
    levels = quantise(values, bound)
    assert levels.dtype == np.uint8
    assert np.array_equal(levels[clear], contract(values, bound)[clear])


@pytest.mark.parametrize("bound", BOUNDS)
def test_saturation(bound: float) -> None:
    values = np.array([[-np.inf, -1e30, -bound, bound, 1e30, np.inf]], np.float32)
    assert quantise(values, bound).tolist() == [[0, 0, 0, 255, 255, 255]]
    assert restore(np.array([0, 255], np.uint8), bound) == pytest.approx([-bound, bound])


@pytest.mark.parametrize("bound", BOUNDS)
def test_still_is_exactly_still(bound: float) -> None:
    for nothing in (0.0, -0.0, 1e-20, -1e-20):
        restored = restore(quantise(np.full((2, 5), nothing, np.float32), bound), bound)
        assert (restored == 0).all() and not np.signbit(restored).any()


@pytest.mark.parametrize("bound", BOUNDS)
def test_back_by_the_formula_and_the_same_both_ways(bound: float) -> None:
    levels = np.arange(256)
    expected = levels * 2 * bound / 255 - bound
    expected[127:129] = 0
    assert table(bound) == pytest.approx(expected, abs=1e-5 * bound)
    assert table(bound).dtype == np.float32
    assert table(bound) == pytest.approx(-table(bound)[::-1], abs=1e-6 * bound)
    moving = np.delete(levels, [127, 128])
    assert np.array_equal(quantise(table(bound)[None, moving], bound)[0], moving)


@pytest.mark.parametrize("bound", BOUNDS)
def test_no_further_off_than_half_a_level_but_for_the_still_ones(bound: float) -> None:
    values = np.random.default_rng(1).uniform(-bound, bound, (2, 50_000)).astype(np.float32)
    error = np.abs(restore(quantise(values, bound), bound) - values)
    half = bound / 255
    moving = np.abs(values) > 2 * half
    assert error[moving].max() <= half * 1.001
    assert error.max() <= 2 * half * 1.001


@pytest.mark.parametrize("bound", BOUNDS)
def test_torch_says_the_same(bound: float) -> None:
    values = np.random.default_rng(2).normal(0, bound / 2, (3, 2, 40, 50)).astype(np.float32)
    levels = quantise(torch.from_numpy(values), bound)
    assert levels.dtype == torch.uint8
    assert np.array_equal(levels.numpy(), quantise(values, bound))


@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_what_is_given_is_left_as_it_is(kind: str) -> None:
    values = np.ones((2, 2, 4, 4), np.float32)
    quantise(values if kind == "numpy" else torch.from_numpy(values), 20.0)
    assert (values == 1).all()


class TestFineLevels:
    @pytest.mark.parametrize("bound", BOUNDS)
    def test_the_formula(self, bound: float) -> None:
        values = np.random.default_rng(0).uniform(-1.2 * bound, 1.2 * bound, (2, 10_000)).astype(np.float32)
        levels = np.asarray(Quantisation(bound, "fine").stored(values))
        assert levels.dtype == np.uint8
        for value, level in zip(values.ravel()[:500].tolist(), levels.ravel()[:500].tolist(), strict=True):
            exact = 128 + 127 * math.asinh(10 * value / bound) / math.asinh(10)
            assert abs(min(max(exact, 1), 255) - level) <= 0.501

    @pytest.mark.parametrize("bound", BOUNDS)
    def test_back_within_half_the_distance_of_two_levels(self, bound: float) -> None:
        fine = Quantisation(bound, "fine")
        values = np.random.default_rng(1).uniform(-bound, bound, (2, 50_000)).astype(np.float32)
        levels = np.asarray(fine.stored(values))
        read, table = fine.pixels(levels), fine.table
        assert table is not None and (np.diff(table[1:]) > 0).all()
        gap = np.maximum(np.diff(table, append=np.inf)[levels], 0)
        gap = np.maximum(
            np.where(levels < 255, gap, 0), np.where(levels > 1, np.diff(table, prepend=0)[levels], 0)
        )
        assert (np.abs(read - values) <= 0.51 * gap + 1e-5 * bound).all()

    @pytest.mark.parametrize("bound", BOUNDS)
    def test_still_is_still_and_both_directions_are_alike(self, bound: float) -> None:
        fine = Quantisation(bound, "fine")
        assert not fine.pixels(np.asarray(fine.stored(np.zeros((1, 9), np.float32)))).any()
        table = fine.table
        assert table is not None
        assert table[1:] == pytest.approx(-table[:0:-1], abs=1e-6 * bound)
        assert table[[0, 1, 255]] == pytest.approx([-bound, -bound, bound])


class TestDither:
    @pytest.mark.parametrize("bound", BOUNDS)
    @pytest.mark.parametrize("step", [1, 2, 3, 4])
    def test_the_errors_of_four_steps_of_a_trajectory_cancel(self, bound: float, step: int) -> None:
        """A constant motion of each speed, read at frames t, t + step, …, beginning at every t."""
        speeds = np.linspace(-0.95 * bound, 0.95 * bound, 2001, dtype=np.float32)
        flow = np.broadcast_to(speeds, (8 * step, len(speeds)))
        read = {
            dither: restore(
                np.asarray(Quantisation(bound, dither=dither, step=step).stored(flow.copy())), bound
            )
            for dither in (False, True)
        }
        level = 2 * bound / 255
        # Slower than a level the two readings of zero leave a part of the motion out.
        fast = np.abs(speeds) > 1.5 * level
        for first in range(4 * step):
            sums = {dither: read[dither][first : first + 4 * step : step].sum(0) for dither in read}
            errors = {dither: np.abs(sums[dither] - 4 * speeds)[fast] / level for dither in read}
            assert errors[True].max() <= 0.51
            assert errors[False].max() > 1.9
        slow = np.abs(speeds) < 1.5 * level
        lost = {dither: np.abs(read[dither][: 4 * step : step].sum(0) - 4 * speeds)[slow] for dither in read}
        assert lost[True].mean() < 0.75 * lost[False].mean()

    def test_a_frame_has_one_offset_and_a_part_of_a_video_has_its_own_ones(self) -> None:
        flow = np.random.default_rng(5).normal(0, 3, (11, 2, 12, 16)).astype(np.float32)
        dithered, plain = Quantisation(8.0, dither=True, step=2), Quantisation(8.0)
        whole = np.asarray(dithered.stored(flow))
        for start in range(11):
            assert np.array_equal(dithered.stored(flow[start:], start), whole[start:])
        expected = [-0.375, -0.375, 0.125, 0.125, -0.125, -0.125, 0.375, 0.375, -0.375, -0.375, 0.125]
        for frame, stored, offset in zip(flow, whole, expected, strict=True):
            moved = frame + np.float32(offset * 2 * 8 / 255)
            assert (np.asarray(plain.stored(moved[None]))[0] != stored).mean() < 1e-3

    @pytest.mark.parametrize("bound", BOUNDS)
    def test_still_is_still(self, bound: float) -> None:
        dithered = Quantisation(bound, dither=True)
        levels = np.asarray(dithered.stored(np.zeros((9, 2, 4, 4), np.float32)))
        assert set(np.unique(levels)) == {127, 128}
        assert not dithered.pixels(levels).any()

    def test_on_torch(self) -> None:
        values = np.random.default_rng(2).normal(0, 8, (9, 2, 20, 30)).astype(np.float32)
        dithered = Quantisation(20.0, dither=True)
        levels: Any = dithered.stored(torch.from_numpy(values), 3)
        assert levels.dtype == torch.uint8
        assert np.array_equal(levels.numpy(), dithered.stored(values, 3))

    @pytest.mark.parametrize("scale", ["fine", "float16", "float32"])
    def test_only_linear_levels_are_dithered(self, scale: Scale) -> None:
        values = np.random.default_rng(2).normal(0, 8, (5, 2, 20, 30)).astype(np.float32)
        plain, dithered = (
            Quantisation(20.0, scale, dither=dither).stored(values) for dither in (False, True)
        )
        assert np.array_equal(plain, dithered)


@pytest.mark.parametrize("scale", get_args(Scale))
def test_every_scale_is_the_same_on_torch(scale: Scale) -> None:
    values = np.random.default_rng(2).normal(0, 8, (3, 2, 40, 50)).astype(np.float32)
    quantisation = Quantisation(20.0, scale)
    ours = quantisation.stored(torch.from_numpy(values))
    assert torch.is_tensor(ours)
    numpy = np.asarray(quantisation.stored(values))
    # Single precision on either side of half-way between two levels.
    assert (ours.numpy() != numpy).mean() < 1e-3
    assert ours.numpy().dtype == numpy.dtype
    read = quantisation.pixels(numpy)
    assert read.dtype == np.float32
    slow = np.abs(values) < 15
    assert (
        np.abs(read - values)[slow].max()
        < {"linear": 0.16, "fine": 0.2, "float16": 0.008, "float32": 1e-9}[scale]
    )
