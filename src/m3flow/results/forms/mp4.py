"""Flow as two videos, x.mp4 and y.mp4: writing, reading, and what the files say of themselves."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import chain, islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from m3flow.atomic import complete_or_absent
from m3flow.errors import BadInput, UsageError
from m3flow.layout import flow_files
from m3flow.results.forms.base import (
    PIECE_FRAMES,
    Contents,
    FlowWriter,
    Form,
    Stream,
    no_such_file,
    remove_other_forms,
)
from m3flow.results.quantisation import Scale

# PyAV is imported when a file is opened, so that runs without flow files do not need it.
if TYPE_CHECKING:
    import av

    from m3flow.videos.decoder import Decoder

COMPONENTS = ("x", "y")
# Packets are spooled until the file's tags are known; long videos spill to disk.
SPOOL_BYTES = 4 * 2**20


@dataclass(frozen=True, kw_only=True)
class Codec:
    """Encoding of a component.

    Attributes
    ----------
    encoder, pix_fmt, options: as FFmpeg names them.
    quantiser: fixed; None if the encoder chooses.
    key_frames: the key frame interval; None if the encoder chooses.
    scale: of the levels, see `m3flow.results.quantisation`.
    """

    encoder: str
    pix_fmt: str
    options: dict[str, str] = field(default_factory=dict)
    quantiser: int | None = None
    key_frames: int | None = None
    scale: Scale = "linear"


# MPEG-4: predicted frames inherit the error of the frames before them, which accumulates along a trajectory; key
# frames do not, and take less time. Up to a quantiser of 4 a block's mean is stored in whole levels, so that still
# areas are exactly still. x264: the fastest preset, with CABAC and key frames alone, takes a quarter of the time of
# slower ones at about their size. The fastest preset is lossless too, and a tenth to a fifth larger. Figures:
# docs/formats.md.
CODECS: dict[str, Codec] = {
    "mpeg4": Codec(encoder="mpeg4", pix_fmt="yuv420p", quantiser=4, key_frames=1),
    "fine": Codec(encoder="mpeg4", pix_fmt="yuv420p", quantiser=4, key_frames=1, scale="fine"),
    "h264": Codec(
        encoder="libx264",
        pix_fmt="gray",
        options={"crf": "18", "preset": "ultrafast", "coder": "1"},
        key_frames=1,
    ),
    "h264-lossless": Codec(encoder="libx264", pix_fmt="gray", options={"qp": "0", "preset": "ultrafast"}),
}


class Mp4(Form):
    """x.mp4 and y.mp4."""

    def scale(self, settings: dict[str, Any]) -> Scale:
        codec = CODECS.get(settings.get("codec", ""))
        return codec.scale if codec else "linear"

    def writer(self, folder: Path, settings: dict[str, Any], stream: Stream) -> FlowWriter:
        return Mp4Writer(
            folder, codec=settings["codec"], rate=stream.rate, width=stream.width, height=stream.height
        )

    def made(self, path: Path) -> dict[str, Any]:
        return read_comment(path)

    def frames(self, folder: Path) -> int:
        import av

        path, _ = self.files(folder)
        try:
            with av.open(_location(path), metadata_errors="replace") as container:
                return container.streams.video[0].frames
        except (av.FFmpegError, OSError, IndexError) as error:
            raise BadInput(f"{path}: not a readable flow file ({error})") from error

    def read(self, folder: Path, start: int = 0, stop: int | None = None) -> Iterator[np.ndarray]:
        x, y = self.files(folder)
        for path in (x, y):
            if not path.is_file():
                raise no_such_file(path)
        pairs = zip(read_levels(x, start, stop), read_levels(y, start, stop), strict=True)
        try:
            while piece := list(islice(pairs, PIECE_FRAMES)):
                yield np.asarray(piece)
        except ValueError as error:
            raise BadInput(f"{folder}: x.mp4 and y.mp4 do not have the same frames") from error

    def check(self, path: Path, made: dict[str, Any], decoder: Decoder) -> Contents:
        if "packets" in made and made["packets"] != packet_digest(path):
            raise BadInput(f"{path}: damaged (its content is not what was written)")
        try:
            decoded = decoder.open(str(path.absolute()))
            for _ in decoded.blocks:
                pass
        except BadInput as error:
            raise BadInput(f"{path}: damaged ({error})") from error
        return Contents(decoded.frames, decoded.info.width, decoded.info.height)


class Mp4Writer(FlowWriter):
    """Writes x.mp4 and y.mp4, both or neither."""

    def __init__(self, folder: Path, *, codec: str, rate: Fraction, width: int, height: int) -> None:
        if codec not in CODECS:
            raise UsageError(f"unknown codec {codec!r}; choose from {', '.join(CODECS)}")
        self.folder = folder
        self._encoders = [_Encoder(codec, rate, width, height) for _ in COMPONENTS]

    def discard(self) -> None:
        for encoder in self._encoders:
            encoder.discard()

    def write(self, values: np.ndarray) -> None:
        for frame in values:
            for encoder, plane in zip(self._encoders, frame, strict=True):
                encoder.write(plane)

    def close(self, provenance: dict[str, Any]) -> None:
        for encoder in self._encoders:
            encoder.finish()
        with complete_or_absent(*flow_files(self.folder)) as temporaries:
            for encoder, temporary, name in zip(self._encoders, temporaries, COMPONENTS, strict=True):
                about = {"component": name, **provenance, "packets": encoder.digest()}
                encoder.save(temporary, json.dumps(about, separators=(",", ":")))
            remove_other_forms(self.folder, "mp4")


class _Encoder:
    """One component, encoded into a spool; its tags are written when it is saved."""

    def __init__(self, codec: str, rate: Fraction, width: int, height: int) -> None:
        import av
        from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc

        settings = CODECS[codec]
        self._spool: IO[bytes] = tempfile.SpooledTemporaryFile(SPOOL_BYTES)  # noqa: SIM115 (closed in discard)
        self._container = av.open(self._spool, "w", format="mp4")
        stream: Any = self._container.add_stream(settings.encoder, rate=rate)
        stream.width, stream.height, stream.pix_fmt = width, height, settings.pix_fmt
        context = stream.codec_context
        context.options = {**settings.options}
        # Videos are processed in parallel; threads within one small frame would only add overhead.
        context.thread_count = 1
        if settings.quantiser:
            context.qmin = context.qmax = settings.quantiser
        if settings.key_frames:
            context.gop_size = settings.key_frames
        # Full range, signalled in the stream and the container: without all four tags the container loses the
        # range, and readers stretch the levels by up to 20.
        context.color_range = ColorRange.JPEG
        context.color_primaries = ColorPrimaries.BT709
        context.color_trc = ColorTrc.BT709
        context.colorspace = Colorspace.ITU709
        self._stream = stream
        self._size = (width, height, settings.pix_fmt)

    def write(self, plane: np.ndarray) -> None:
        frame = _video_frame(plane, *self._size)
        self._container.mux(self._stream.encode(frame))

    def finish(self) -> None:
        self._container.mux(self._stream.encode(None))
        self._container.close()

    def digest(self) -> str:
        self._spool.seek(0)
        return _digest(self._spool)

    def save(self, path: Path, comment: str) -> None:
        import av

        self._spool.seek(0)
        with ExitStack() as files:
            source = files.enter_context(av.open(self._spool, "r", format="mp4"))
            target = files.enter_context(av.open(_location(path), "w", format="mp4"))
            target.metadata["comment"] = comment
            stream = target.add_stream_from_template(source.streams.video[0])
            for packet in source.demux(video=0):
                if packet.dts is not None:
                    packet.stream = stream
                    target.mux(packet)

    def discard(self) -> None:
        self._spool.close()


def _location(path: Path | str) -> str:
    # FFmpeg interprets "a:b" as a protocol; an absolute path is always a file.
    return str(Path(path).absolute())


def _digest(file: str | IO[bytes]) -> str:
    import av

    digest = hashlib.sha256()
    with av.open(file, "r", format="mp4", metadata_errors="replace") as container:
        for packet in container.demux(video=0):
            digest.update(bytes(packet))
    return digest.hexdigest()[:32]


def packet_digest(path: Path | str) -> str:
    """The hash of a flow file's encoded frames ("packets" in its provenance), without decoding.

    It detects a single wrong byte, which a decoder would turn into spurious motion.

    Raises BadInput if the file cannot be opened as a video.
    """
    import av

    try:
        return _digest(_location(path))
    except (av.FFmpegError, OSError, IndexError) as error:
        raise BadInput(f"{path}: not a readable flow file ({error})") from error


def _video_frame(plane: np.ndarray, width: int, height: int, pix_fmt: str) -> av.VideoFrame:
    import av
    from av.video.reformatter import ColorRange

    frame = av.VideoFrame(width, height, pix_fmt)
    for index, target in enumerate(frame.planes):
        pixels = np.frombuffer(memoryview(target), np.uint8).reshape(target.height, target.line_size)
        if index == 0:
            pixels[:, :width] = plane
        else:
            pixels[:] = 128
    frame.color_range = ColorRange.JPEG
    return frame


def read_levels(path: Path | str, start: int = 0, stop: int | None = None) -> Iterator[np.ndarray]:
    """Frames `start` to `stop` (exclusive; None: the end) of one component: uint8 [H, W] levels, in order.

    Decoding starts at the last key frame before `start`.

    Raises BadInput if the file is not a video or ends early.
    """
    import av

    path = Path(path)
    count = 0
    try:
        with av.open(_location(path), metadata_errors="replace") as container:
            stream = container.streams.video[0]
            if stream.codec_context is None:
                raise BadInput(f"{path}: not a readable flow file (unknown codec)")
            stream.codec_context.thread_count = 1
            for number, frame in _numbered(container, stream, start):
                if stop is not None and number >= stop:
                    return
                if number >= start:
                    count += 1
                    yield _luma(frame)
    except (av.FFmpegError, OSError, IndexError) as error:
        raise BadInput(f"{path}: not a readable flow file ({error})") from error
    end = stream.frames if stop is None else min(stop, stream.frames)
    if stream.frames and count != max(0, end - start):
        raise BadInput(f"{path}: {start + count} of {stream.frames} frames can be read; the file is damaged")


def _numbered(
    container: av.container.InputContainer, stream: av.VideoStream, start: int
) -> Iterator[tuple[int, av.VideoFrame]]:
    """(number, frame), beginning at or shortly before frame `start`."""
    first = 0
    # The frames of these files are evenly spaced, so timestamps give frame numbers.
    spacing = (
        1 / (stream.average_rate * stream.time_base) if stream.average_rate and stream.time_base else None
    )
    frames = container.decode(stream)
    if start and spacing:
        container.seek(round(start * spacing) + (stream.start_time or 0), stream=stream)
        frames = container.decode(stream)
        earliest = next(frames, None)
        if earliest is None:
            return
        first = round(((earliest.pts or 0) - (stream.start_time or 0)) / spacing)
        frames = chain([earliest], frames)
    yield from enumerate(frames, first)


def _luma(frame: av.VideoFrame) -> np.ndarray:
    from av.video.reformatter import ColorRange

    if frame.color_range != ColorRange.JPEG:
        # Not our file: OpenCV's writer stores limited range, which the conversion to grey stretches back.
        return frame.to_ndarray(format="gray")
    plane = frame.planes[0]
    return np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, plane.line_size)[:, : frame.width]


def read_comment(path: Path | str) -> dict[str, Any]:
    """The provenance of a flow file, without decoding it; {} for a file of another program.

    Raises BadInput if the file cannot be opened as a video, or is truncated.
    """
    import av

    try:
        with av.open(_location(path), metadata_errors="replace") as container:
            _refuse_cut_off(path)
            comment = container.metadata.get("comment", "")
    except (av.FFmpegError, OSError) as error:
        raise BadInput(f"{path}: not a readable flow file ({error})") from error
    try:
        provenance = json.loads(comment)
    except ValueError:
        return {}
    return provenance if isinstance(provenance, dict) else {}


def _refuse_cut_off(path: Path | str) -> None:
    """Raises BadInput if a box of the MP4 file extends beyond its end.

    A decoder does not notice if only the tags at the end are missing, but the bound is in them.
    """
    with Path(path).open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        box = 0
        while box < size:
            file.seek(box)
            header = file.read(16)
            length = int.from_bytes(header[:4])
            if length == 1:  # a 64-bit length follows the box's name
                length = int.from_bytes(header[8:16])
            if length < 8:
                return  # up to the end of the file, or not an MP4
            box += length
    if box > size:
        raise BadInput(f"{path}: the file is truncated")
