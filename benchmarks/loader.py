"""Clips per second of the data sets for training, beside loaders that only decode the same frames:
`python benchmarks/loader.py [CLIPS]`, by default the clips of `make demo`.

Each clip is made 10 s long (forwards, backwards, …) with a short side of 256 px, in H.264 as copies of Kinetics are:
once with a key frame a second, once with x264's own choice of key frames. A sample is 16 frames at stride 4 of 224x224.
One thread everywhere; all loaders in turn, on the same samples.
"""

from __future__ import annotations

import argparse
import gzip
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import chain, cycle, islice
from pathlib import Path
from statistics import median
from typing import Any

import av
import cv2
import numpy as np
import torch

from m3flow.data import TrajectoryClips
from m3flow.data.sampling import Window, cut, read_frames
from m3flow.data.trajectory_clips import windows_of
from m3flow.extraction.extractor import Extractor
from m3flow.extraction.work import Work
from m3flow.layout import Outputs
from m3flow.results import safe_pickle
from m3flow.results.trajectoryfile import Trajectories
from m3flow.settings import FlowSettings, TrajectorySettings
from m3flow.videos.frames import Frames, colour_frames
from m3flow.videos.resize import Resize
from m3flow.videos.videolist import Video, VideoList
from machine import describe
from real_clips import add_clips, chosen_clips

RESULTS = Path(__file__).parent / "results" / "loader.json"
SECONDS, RATE, SHORT_SIDE = 10, 25, 256
KEY_FRAMES = {"a key frame every second": RATE, "key frames chosen by x264": 250}
FRAMES, STRIDE, CROP, LENGTH = 16, 4, (224, 224), 6

Sample = tuple[Video, Window, list[int]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=24, help="of each video in a round")
    parser.add_argument("--rounds", type=int, default=3)
    add_clips(parser)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    clips = chosen_clips(parser, options)
    measured = {}
    for name, interval in KEY_FRAMES.items():
        with tempfile.TemporaryDirectory() as folder:
            data = prepare(Path(folder), clips, interval)
            measured[name] = measure(data, options.samples, options.rounds)
    result = {"machine": describe(), "clips": len(clips), "videos": measured}
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(measured, indent=1))


def prepare(folder: Path, clips: list[Path], interval: int) -> TrajectoryClips:
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
    return TrajectoryClips(
        listed, folder / "out", root=folder, parts=1, length=LENGTH, frames=FRAMES, stride=STRIDE, crop=CROP
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


def measure(data: TrajectoryClips, samples: int, rounds: int) -> dict[str, Any]:
    """Clips per second of each loader, and the ratios that matter."""
    loaders = {
        "m3flow": ours,
        "m3flow before the index of key frames": before,
        "PyAV with seeks, frames alone": pyav_frames,
        **installed(),
    }
    seeds = [(index, 1000 * index + number) for number in range(samples) for index in range(len(data))]
    drawn = [(data, index, seed, sample_of(data, data.videos[index], seed)) for index, seed in seeds]
    rates: dict[str, list[float]] = {name: [] for name in loaders}
    for _ in range(rounds):
        for name, load in loaders.items():
            began = time.perf_counter()
            for arguments in drawn:
                load(*arguments)
            rates[name].append(len(drawn) / (time.perf_counter() - began))
    of_loader = {name: round(median(values), 2) for name, values in rates.items()}
    decoding = max(rate for name, rate in of_loader.items() if not name.startswith("m3flow"))
    return {
        "clips_per_second": of_loader,
        "over_decoding_alone": round(of_loader["m3flow"] / decoding, 3),
        "over_before": round(of_loader["m3flow"] / of_loader["m3flow before the index of key frames"], 2),
    }


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sample_of(data: TrajectoryClips, video: Video, seed: int) -> Sample:
    """The window that the data set draws with this seed."""
    stored = data._load(video)
    source = stored.made["source"]
    size = (source["height"], source["width"])
    window = data._sampling.window(video, size, data._starts(stored), generator(seed))
    return video, window, data._sampling.numbers(window)


def ours(data: TrajectoryClips, index: int, seed: int, _: Sample) -> None:
    data.draw(index, generator(seed))


def before(data: TrajectoryClips, _: int, __: int, sample: Sample) -> None:
    """All of the trajectory file, by Python's gzip, and the video from its start."""
    video, window, numbers = sample
    content = safe_pickle.load(gzip.decompress(data.result(video).read_bytes()))
    whole = Trajectories(content["traj_feat"], content["traj_type"], LENGTH, json.loads(content["made"]))
    source = whole.made["source"]
    cut(read_frames(video.source, numbers, (source["height"], source["width"])), window)
    windows_of(whole, numbers[::2], window)


def pyav_frames(_: TrajectoryClips, __: int, ___: int, sample: Sample) -> None:
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
            yield convert.reformat(frame, format="rgb24").to_ndarray()
        if frame.pts >= last:
            return


def installed() -> dict[str, Callable[..., None]]:
    """Other libraries that decode frames by their numbers, where they are installed."""
    found: dict[str, Callable[..., None]] = {}
    try:
        import decord

        def by_decord(_: Any, __: int, ___: int, sample: Sample) -> None:
            decord.VideoReader(sample[0].source, num_threads=1).get_batch(sample[2]).asnumpy()

        found["decord, frames alone"] = by_decord
    except ImportError:
        pass
    try:
        from torchcodec.decoders import VideoDecoder

        def by_torchcodec(_: Any, __: int, ___: int, sample: Sample) -> None:
            decoder = VideoDecoder(sample[0].source, num_ffmpeg_threads=1, seek_mode="approximate")
            decoder.get_frames_at(sample[2])

        found["torchcodec, frames alone"] = by_torchcodec
    except (ImportError, RuntimeError, OSError):
        pass
    return found


if __name__ == "__main__":
    main()
