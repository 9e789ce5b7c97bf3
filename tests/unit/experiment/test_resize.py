"""The sizes that flow can be made at: one of a short side, a long side, and a width and height."""

from __future__ import annotations

import pytest

from m3flow.errors import UsageError
from m3flow.settings import FlowSettings, resize_of
from m3flow.videos.resize import Resize


@pytest.mark.parametrize(
    "resize", [Resize(), Resize(120), Resize(long_side=320), Resize(size="340x256")], ids=str
)
def test_the_settings_hold_it_and_their_identity_gives_it_back(resize: Resize) -> None:
    settings = FlowSettings(short_side=resize.short_side, long_side=resize.long_side, size=resize.size)
    assert settings.resize == resize
    assert resize_of(settings.identity()) == resize


def test_files_from_before_stay_current() -> None:
    assert not {"long_side", "size"} & FlowSettings(short_side=120).identity().keys()


@pytest.mark.parametrize("size", ["340", "340x", "x256", "8x256", "340x8", "340 x 256", "-3x4"])
def test_what_is_no_size(size: str) -> None:
    with pytest.raises(UsageError, match="it must be like 340x256, 16 pixels or more"):
        FlowSettings(size=size)


def test_one_of_them_alone() -> None:
    with pytest.raises(UsageError, match="only one of short_side, long_side and size"):
        FlowSettings(short_side=120, size="340x256")
