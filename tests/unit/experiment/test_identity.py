"""What determines the content of flow files: settings without effect are no part of it."""

from __future__ import annotations

from typing import Any

import pytest

from m3flow.settings import FlowSettings


@pytest.mark.parametrize(
    ("settings", "dithered"),
    [
        ({}, True),
        ({"dither": False}, False),
        ({"codec": "h264-lossless"}, True),
        ({"codec": "fine"}, False),
        ({"store": "jpg", "codec": "fine"}, True),
        ({"store": "flo"}, False),
        ({"store": "npz"}, False),
        ({"store": "npz", "values": "uint8"}, True),
    ],
    ids=str,
)
def test_dither_is_named_only_where_levels_are_dithered(settings: dict[str, Any], dithered: bool) -> None:
    """So that files without it, made before there was one, stay current with `dither: false`."""
    identity = FlowSettings(**settings).identity()
    assert identity.get("dither", False) is dithered
    without = FlowSettings(**{**settings, "dither": False}).identity()
    assert "dither" not in without
    assert (identity == without) is not dithered
