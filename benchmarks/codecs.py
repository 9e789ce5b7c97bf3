"""Candidates for the default codec, all measured in one run as in `storage.py`.

    python benchmarks/codecs.py [CLIPS…] [--output FILE]      # about 3 minutes of one core

Levels: linear, the same with dither over time, or fine. Streams: MPEG-4 at several quantisers and H.264 at several
presets and rate factors, with key frames alone or one in 12. Tables: `python benchmarks/tables.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from m3flow.results.forms.mp4 import CODECS, Codec
from m3flow.results.quantisation import Scale
from storage import Storing, run, stored


def mpeg4(quantiser: int, scale: Scale, **options: str) -> Codec:
    return Codec(
        encoder="mpeg4",
        pix_fmt="yuv420p",
        quantiser=quantiser,
        key_frames=1,
        scale=scale,
        options=options,
    )


def h264(preset: str, crf: int, scale: Scale, key_frames: int = 1, **options: str) -> Codec:
    options = {"crf": str(crf), "preset": preset, "bf": "0", **options}
    return Codec(encoder="libx264", pix_fmt="gray", key_frames=key_frames, scale=scale, options=options)


# Name -> codec, and whether its levels are dithered.
CANDIDATES: dict[str, tuple[Codec, bool]] = {
    **{
        f"mpeg4, quantiser {quantiser}{', dithered' if dither else ''}": (mpeg4(quantiser, "linear"), dither)
        for dither in (False, True)
        for quantiser in (2, 3, 4)
    },
    "mpeg4, quantiser 4, fine": (mpeg4(4, "fine"), False),
    "mpeg4, quantiser 4, fine, AC prediction": (mpeg4(4, "fine", flags="+aic"), False),
    "mpeg4, quantiser 4, fine, trellis": (mpeg4(4, "fine", trellis="1"), False),
    **{
        f"h264 {preset}, crf {crf}, 12 frames": (h264(preset, crf, "linear", 12), False)
        for preset, crf in (("veryfast", 10), ("veryfast", 12), ("veryfast", 16), ("superfast", 12))
    },
    "h264 veryfast, crf 12, 12 frames, stillimage": (
        h264("veryfast", 12, "linear", 12, tune="stillimage"),
        False,
    ),
    "h264 veryfast, crf 12, 12 frames, dithered": (h264("veryfast", 12, "linear", 12), True),
    "h264 ultrafast, crf 16": (h264("ultrafast", 16, "linear"), False),
    **{
        f"h264 ultrafast, CABAC, crf {crf}, dithered": (h264("ultrafast", crf, "linear", coder="1"), True)
        for crf in (16, 18, 20)
    },
    **{
        f"h264 ultrafast, CABAC, crf {crf}, fine": (h264("ultrafast", crf, "fine", coder="1"), False)
        for crf in (18, 20, 22)
    },
    "h264 veryfast, crf 20, 12 frames, fine": (h264("veryfast", 20, "fine", 12), False),
}


@contextmanager
def in_place_of_mpeg4(codec: Codec) -> Iterator[None]:
    """A candidate under the name of an existing codec."""
    now = CODECS["mpeg4"]
    CODECS["mpeg4"] = codec
    try:
        yield
    finally:
        CODECS["mpeg4"] = now


def compared() -> Iterator[tuple[str, Storing]]:
    for name, (codec, dither) in CANDIDATES.items():
        with in_place_of_mpeg4(codec):
            yield name, stored({"codec": "mpeg4", "dither": dither})


if __name__ == "__main__":
    run(__doc__, "codecs.json", compared)
