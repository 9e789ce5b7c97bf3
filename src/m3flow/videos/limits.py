"""Limits on decoding; apart from the decoder, whose libraries a reader of the configuration does not need."""

from __future__ import annotations

from dataclasses import dataclass

from m3flow.validation import number, problems_of, refuse


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits on decoding one video; a video that exceeds one is rejected.

    Attributes
    ----------
    seconds: timeout for the next frame.
    frames: number of frames of a video.
    megapixels: size of a frame.
    memory_gb: address space of the decoding process, in GiB.
    """

    seconds: float = number(60.0, above=0)
    frames: int = number(2_000_000, least=1)
    megapixels: float = number(40.0, above=0)
    memory_gb: float = number(8.0, above=0)

    def __post_init__(self) -> None:
        refuse(problems_of(self))
