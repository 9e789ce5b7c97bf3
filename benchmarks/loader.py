"""Clips per second of the data sets for training, beside loaders that only decode the same frames:
`python benchmarks/loader.py [CLIPS]`, by default the clips of `make demo`.

Each clip is made 10 s long (forwards, backwards, …) with a short side of 256 px, in H.264 as copies of Kinetics are,
with key frames at several distances; 250 frames are x264's default. A sample is 16 frames at stride 4 of 224x224.
One thread everywhere; all loaders in turn, on the same samples. Rates are per second of CPU time, so that other work
on the machine does not count. One process is measured too, in wall time on a quiet machine: `ClipStream` with a
thread per core beside the loader before, which had one.

A library is left out where it is not installed, and the results say why.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from importlib.metadata import version
from itertools import chain, cycle, islice
from pathlib import Path
from statistics import median
from typing import Any

import av
import cv2
import numpy as np
import torch

from m3flow.data import ClipStream, TrajectoryClips
from m3flow.data.sampling import Window
from m3flow.data.trajectory_clips import windows_of
from m3flow.errors import UsageError
from m3flow.extraction.extractor import Extractor
from m3flow.extraction.work import Work
from m3flow.layout import Outputs
from m3flow.packs.packing import pack_shard
from m3flow.results import safe_pickle
from m3flow.results.trajectoryfile import Trajectories
from m3flow.settings import FlowSettings, TrajectorySettings
from m3flow.videos.frames import Frames, colour_frames
from m3flow.videos.key_frames import KeyFrames, Reader, chosen_frames
from m3flow.videos.resize import Resize
from m3flow.videos.videolist import Video, VideoList
from machine import describe
from real_clips import add_clips, chosen_clips

RESULTS = Path(__file__).parent / "results" / "loader.json"
SECONDS, RATE, SHORT_SIDE = 10, 30, 256
KEY_FRAMES = (12, 48, 250)
OURS, PACKED, OURS_TORCHCODEC, OUR_FRAMES, BEFORE = (
    "m3flow",
    "m3flow, from packs",
    "m3flow, by torchcodec",
    "m3flow, frames alone",
    "m3flow before the index of key frames",
)
STREAM = "ClipStream with a thread per core"
FRAMES, STRIDE, CROP, LENGTH = 16, 4, (224, 224), 6
THREADS = len(os.sched_getaffinity(0))

Sample = tuple[Video, Window, list[int]]


@dataclass(frozen=True)
class DataSets:
    """The same videos and results, in single files and in packs, and read by torchcodec if there is one."""

    single: TrajectoryClips
    packed: TrajectoryClips
    by_torchcodec: TrajectoryClips | None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=16, help="of each video in a round")
    parser.add_argument("--rounds", type=int, default=3)
    add_clips(parser)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    clips = chosen_clips(parser, options)
    loaders, missing = installed()
    measured = {}
    for interval in KEY_FRAMES:
        with tempfile.TemporaryDirectory() as folder:
            data = prepare(Path(folder), clips, interval)
            measured[f"every {interval} frames"] = measure(data, loaders, options.samples, options.rounds)
    result = {
        "threads": THREADS,
        "machine": describe(),
        "others": {name: version(name) for name in ("decord", "torchcodec") if name not in missing},
        "not_measured": missing,
        "clips": len(clips),
        "key_frames": measured,
    }
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({"not_measured": missing, **measured}, indent=1))


def prepare(folder: Path, clips: list[Path], interval: int) -> DataSets:
    """The data set of 10-second copies of the clips, with their trajectories."""
    names = [f"{number}.mp4" for number in range(len(clips))]
    for name, clip in zip(names, clips, strict=True):
        encode(folder / name, clip, interval)
    listed = folder / "list.txt"
    listed.write_text("".join(f"{name} 0\n" for name in names))
    work = Work(
        outputs=Outputs(folder / "out"),
        flow=FlowSettings(estimator="dis", parameters={"preset": "ultrafast"}, camera="none"),
        trajectories=TrajectorySettings(length=LENGTH),
        keep_flow=False,
    )
    with Extractor(work) as extractor:
        for video in VideoList(listed, folder, 1).read():
            assert extractor(video).status == "done"
    videos = VideoList(listed, folder, 1).read()
    shutil.copytree(folder / "out", folder / "packed")
    pack_shard(Outputs(folder / "packed"), "list", "00000", videos, LENGTH, remove=True)
    try:
        by_torchcodec = data_set(folder, folder / "out", "torchcodec")
    except UsageError:
        by_torchcodec = None
    return DataSets(data_set(folder, folder / "out"), data_set(folder, folder / "packed"), by_torchcodec)


def data_set(folder: Path, output: Path, reader: Reader = "pyav") -> TrajectoryClips:
    return TrajectoryClips(
        folder / "list.txt",
        output,
        root=folder,
        parts=1,
        length=LENGTH,
        frames=FRAMES,
        stride=STRIDE,
        crop=CROP,
        reader=reader,
    )


def encode(target: Path, clip: Path, interval: int) -> None:
    numbers = range(sum(1 for _ in Frames(clip)))
    pictures = list(colour_frames(clip, numbers, Resize(short_side=SHORT_SIDE)))
    height, width = (side // 2 * 2 for side in pictures[0].shape[:2])
    there_and_back = cycle(chain(pictures, reversed(pictures)))
    with av.open(str(target), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(RATE), options={"g": str(interval)})
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        for picture in islice(there_and_back, SECONDS * RATE):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture[:height, :width]))
            container.mux(stream.encode(frame.reformat(format="yuv420p")))
        container.mux(stream.encode(None))


def measure(
    data: DataSets, others: dict[str, Callable[..., None]], samples: int, rounds: int
) -> dict[str, Any]:
    """Clips per second of CPU time of each loader, and the ratios that matter."""
    loaders = {OURS: ours, PACKED: packed, BEFORE: before, OUR_FRAMES: our_frames, **others}
    if data.by_torchcodec is not None:
        loaders[OURS_TORCHCODEC] = ours_by_torchcodec
    seeds = [(index, 1000 * index + number) for number in range(samples) for index in range(len(data.single))]
    drawn = [
        (data, index, seed, sample_of(data.single, data.single.videos[index], seed)) for index, seed in seeds
    ]
    rates: dict[str, list[float]] = {name: [] for name in loaders}
    for _ in range(rounds):
        for name, load in loaders.items():
            began = time.process_time()
            for arguments in drawn:
                load(*arguments)
            rates[name].append(len(drawn) / (time.process_time() - began))
    of_loader = {name: round(median(values), 1) for name, values in rates.items()}
    in_one_process = wall_rates(data, drawn, rounds)
    return {
        "clips_per_second_of_one_process": in_one_process,
        "one_process_over_before": round(in_one_process[STREAM] / in_one_process[BEFORE], 2),
        "clips_per_second": of_loader,
        "over_before": round(of_loader[OURS] / of_loader[BEFORE], 2),
        "over_decoding_alone": round(of_loader[OURS] / max(of_loader[name] for name in others), 2),
        "over_our_decoding_alone": round(of_loader[OURS] / of_loader[OUR_FRAMES], 2),
        "our_decoding_alone_over_before": round(of_loader[OUR_FRAMES] / of_loader[BEFORE], 2),
    }


class Repeated:
    """A data set whose videos are drawn several times in an epoch."""

    def __init__(self, clips: TrajectoryClips, times: int) -> None:
        self._clips, self._times = clips, times

    def __len__(self) -> int:
        return len(self._clips) * self._times

    def draw(self, index: int, generator: torch.Generator) -> Any:
        return self._clips.draw(index % len(self._clips), generator)


def wall_rates(data: DataSets, drawn: list[tuple[Any, ...]], rounds: int) -> dict[str, float]:
    """Clips per second of wall time of one process: the stream with all threads, and the loader before."""
    clips = Repeated(data.single, len(drawn) // len(data.single))
    stream = ClipStream(clips, len(data.single), threads=THREADS)  # type: ignore[arg-type]
    rates: dict[str, list[float]] = {STREAM: [], BEFORE: []}
    for _ in range(rounds):
        began = time.perf_counter()
        for _batch in stream:
            pass
        rates[STREAM].append(len(clips) / (time.perf_counter() - began))
        began = time.perf_counter()
        for arguments in drawn:
            before(*arguments)
        rates[BEFORE].append(len(drawn) / (time.perf_counter() - began))
    return {name: round(median(values), 1) for name, values in rates.items()}


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sample_of(data: TrajectoryClips, video: Video, seed: int) -> Sample:
    """The window that the data set draws with this seed."""
    stored = data._load(video)
    source = stored.made["source"]
    size = (source["height"], source["width"])
    window = data._sampling.window(video, size, data._starts(stored), generator(seed))
    return video, window, data._sampling.numbers(window)


def ours(data: DataSets, index: int, seed: int, _: Sample) -> None:
    data.single.draw(index, generator(seed))


def packed(data: DataSets, index: int, seed: int, _: Sample) -> None:
    data.packed.draw(index, generator(seed))


def ours_by_torchcodec(data: DataSets, index: int, seed: int, _: Sample) -> None:
    assert data.by_torchcodec is not None
    data.by_torchcodec.draw(index, generator(seed))


def our_frames(data: DataSets, index: int, __: int, sample: Sample) -> None:
    """What of our loader is decoding: the same frames by the index of key frames."""
    video, _window, numbers = sample
    key_frames = KeyFrames.from_stored(_of_video(data, index)["key_frames"])
    chosen_frames(video.source, numbers, key_frames)


@cache
def _of_video(data: DataSets, index: int) -> dict[str, Any]:
    return data.single._load(data.single.videos[index]).made["source"]


def before(data: DataSets, _: int, __: int, sample: Sample) -> None:
    """As the loader was: all of the trajectory file, by Python's gzip, the video from its start, cropped by NumPy."""
    video, window, numbers = sample
    content = safe_pickle.load(gzip.decompress(data.single.result(video).read_bytes()))
    whole = Trajectories(content["traj_feat"], content["traj_type"], LENGTH, json.loads(content["made"]))
    pictures = np.stack(list(colour_frames(video.source, numbers)))
    rows = slice(window.top, window.top + window.height)
    columns = np.arange(window.first_column, window.first_column + window.width)
    columns = columns.clip(max=pictures.shape[2] - 1)[:: -1 if window.flip else 1]
    np.ascontiguousarray(pictures[:, rows, columns].transpose(0, 3, 1, 2))
    windows_of(whole, numbers[::2], window)


def pyav_frames(_: DataSets, __: int, ___: int, sample: Sample) -> None:
    video, _window, numbers = sample
    with av.open(video.source) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        spacing = 1 / (stream.average_rate * stream.time_base)
        container.seek(int(numbers[0] * spacing), stream=stream)
        wanted = {int(number * spacing) for number in numbers}
        np.stack([*_pictures(container.decode(stream), wanted)])


def _pictures(frames: Iterator[av.VideoFrame], wanted: set[int]) -> Iterator[np.ndarray]:
    last, convert = max(wanted), av.video.reformatter.VideoReformatter()
    for frame in frames:
        if frame.pts in wanted:
            yield convert.reformat(frame, format="rgb24", threads=1).to_ndarray()
        if frame.pts >= last:
            return


def installed() -> tuple[dict[str, Callable[..., None]], dict[str, str]]:
    """Loaders that only decode frames by their numbers, and why others cannot be measured here."""
    found: dict[str, Callable[..., None]] = {"PyAV with seeks, frames alone": pyav_frames}
    missing = {}
    try:
        import decord

        def by_decord(_: Any, __: int, ___: int, sample: Sample) -> None:
            decord.VideoReader(sample[0].source, num_threads=1).get_batch(sample[2]).asnumpy()

        found["decord, frames alone"] = by_decord
    except (ImportError, OSError) as error:
        missing["decord"] = _first_line(error)
    try:
        from torchcodec.decoders import VideoDecoder

        def by_torchcodec(_: Any, __: int, ___: int, sample: Sample) -> None:
            decoder = VideoDecoder(sample[0].source, num_ffmpeg_threads=1, seek_mode="approximate")
            decoder.get_frames_at(sample[2])

        found["torchcodec, frames alone"] = by_torchcodec
    except (ImportError, RuntimeError, OSError) as error:
        missing["torchcodec"] = _first_line(error)
    return found, missing


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


if __name__ == "__main__":
    main()
