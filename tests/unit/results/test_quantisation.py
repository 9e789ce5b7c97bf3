"""Displacements as 8-bit levels: the formula of the contract, and exactly nothing for nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from m3flow.results.quantisation import quantise, restore, table

BOUNDS = [0.5, 1, 7.3, 15, 20, 32, 100]


def contract(values: np.ndarray, bound: float) -> np.ndarray:
    """round(255 (v + bound) / (2 bound)), saturated, in double precision."""
    exact = 255 * (values.astype(np.float64) + bound) / (2 * bound)
    return np.clip(np.floor(exact + 0.5), 0, 255)


@pytest.mark.parametrize("bound", BOUNDS)
def test_the_formula(bound: float) -> None:
    values = np.random.default_rng(0).uniform(-1.2 * bound, 1.2 * bound, (2, 100_000)).astype(np.float32)
    exact = 255 * (values.astype(np.float64) + bound) / (2 * bound)
    # Half-way between two levels, single precision may fall on either side.
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
