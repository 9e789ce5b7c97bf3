"""The whole extraction: against a plain loop over OpenCV, against a lower bound, split by stage.

    python benchmarks/extract.py [CLIPS…] [--repeat N] [--output FILE]

Each case runs in a separate process, whose processor time (children included) is the figure that other
work on the machine disturbs least; wall times are reported too. Without CLIPS the clips of `make demo` are
used. A whole node with a GPU is measured by benchmarks/gpu.py.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from real_clips import add_clips, chosen_clips

RESULTS = Path(__file__).parent / "results"
REPOSITORY = Path(__file__).parent.parent


def cpu_seconds() -> float:
    return sum(
        usage.ru_utime + usage.ru_stime
        for usage in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


def peak_mib() -> float:
    return (
        max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        / 1024
    )


def measured(work: Callable[[], int]) -> dict[str, float]:
    """Frames, wall and processor seconds of `work`, which returns its number of frames."""
    cpu, wall = cpu_seconds(), time.perf_counter()
    frames = work()
    return {
        "frames": frames,
        "wall": time.perf_counter() - wall,
        "cpu": cpu_seconds() - cpu,
        "peak_mib": peak_mib(),
    }


# The cases. Each returns the result of `measured`, with further figures if there are any.


def estimator_alone(clips: list[Path], name: str, keep_memory: bool = False) -> dict[str, float]:
    """The estimator on frames in memory; with `keep_memory` as in the workers."""
    from m3flow.flow import estimator
    from m3flow.system import keep_freed_memory
    from m3flow.videos.frames import Frames

    if keep_memory:
        keep_freed_memory()
    chosen = estimator(name, backend="opencv")
    videos = [np.stack(list(Frames(clip))) for clip in clips]
    return measured(lambda: sum(len(chosen.sequence(frames)) + 1 for frames in videos))


def decode_alone(clips: list[Path]) -> dict[str, float]:
    from m3flow.videos.frames import Frames

    return measured(lambda: sum(1 for clip in clips for _ in Frames(clip)))


def encode_alone(clips: list[Path], folder: Path) -> dict[str, float]:
    from fractions import Fraction

    from m3flow.flow import estimator
    from m3flow.results.forms.mp4 import Mp4Writer
    from m3flow.results.quantisation import quantise
    from m3flow.videos.frames import Frames

    quick = estimator("dis", backend="opencv", preset="ultrafast")
    videos = [quantise(quick.sequence(np.stack(list(Frames(clip)))), 20) for clip in clips]

    def encode() -> int:
        for index, levels in enumerate(videos):
            height, width = levels.shape[2:]
            target = folder / str(index)
            with Mp4Writer(target, codec="mpeg4", rate=Fraction(25), width=width, height=height) as writer:
                writer.write(levels)
                writer.close({})
        return sum(len(levels) for levels in videos)

    return measured(encode)


def plain(clips: list[Path], folder: Path, name: str, camera: str) -> dict[str, float]:
    import plain_loop

    return measured(
        lambda: sum(plain_loop.extract(clip, folder / clip.name, name, camera == "warp") for clip in clips)
    )


def ours(
    clips: list[Path],
    folder: Path,
    name: str,
    camera: str,
    workers: int,
    kind: str = "both",
    keep: bool = True,
    backend: str = "opencv",
    device: str = "auto",
    parameters: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """m3flow over the clips: `kind` is both (one pass), flow, or trajectories; 0 workers is the default."""
    from m3flow.extraction.run import execute
    from m3flow.extraction.work import Work
    from m3flow.layout import Outputs
    from m3flow.settings import FlowSettings, TrajectorySettings
    from m3flow.videos.videolist import Video

    if workers == 1:
        # One worker must use one core, including its decoding.
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    flow = FlowSettings(estimator=name, camera=camera, parameters=parameters or {})  # type: ignore[arg-type]
    work = Work(
        outputs=Outputs(folder),
        flow=None if kind == "trajectories" else flow,
        trajectories=None if kind == "flow" else TrajectorySettings(),
        keep_flow=keep,
        backend=backend,
        device=device,
    )
    videos = [Video(str(clip.resolve()), f"{index}/{clip.name}") for index, clip in enumerate(clips)]
    records = folder / "records" / "benchmark.csv"

    def run() -> int:
        status = execute("benchmark", videos, work, records=records, workers=workers)
        assert status == 0, f"exit status {status}"
        return 0

    result: dict[str, Any] = measured(run)
    with records.open() as file:
        rows = list(csv.DictReader(file))[-len(videos) :]
    result["frames"] = sum(int(row["frames"]) for row in rows)
    stages = ("seconds", "wait", "decode", "flow", "encode", "track")
    result["stages"] = {stage: sum(float(row[stage]) for row in rows) for stage in stages}
    return result


def first_record(clips: list[Path], folder: Path) -> dict[str, float]:
    """The time of a run over one short video, nearly all of it startup."""
    return ours(clips[:1], folder, "dis", "none", 1, parameters={"preset": "ultrafast"})


def read_flow(clips: list[Path], folder: Path) -> dict[str, float]:
    from m3flow.results.forms import FORMS

    folders = [folder / "flows" / str(index) / clip.name for index, clip in enumerate(clips)]
    return measured(lambda: sum(len(piece) for one in folders for piece in FORMS["mp4"].read(one)))


def compress(clips: list[Path], folder: Path) -> dict[str, float]:
    import gzip

    from isal import igzip

    from m3flow.results.trajectoryfile import COMPRESSION_LEVEL

    raw = [
        gzip.decompress((folder / "trajs" / str(index) / f"{clip.name}_6.gz").read_bytes())
        for index, clip in enumerate(clips)
    ]
    return measured(lambda: sum(len(igzip.compress(data, COMPRESSION_LEVEL)) * 0 for data in raw))


CASES: dict[str, Callable[..., dict[str, Any]]] = {
    function.__name__: function
    for function in (
        estimator_alone,
        decode_alone,
        encode_alone,
        plain,
        ours,
        read_flow,
        compress,
        first_record,
    )
}


def in_process(case: str, clips: list[Path], **arguments: Any) -> dict[str, Any]:
    """A case in a fresh process, with one thread for the libraries."""
    text = json.dumps([case, [str(clip) for clip in clips], arguments], default=str)
    done = subprocess.run(
        [sys.executable, __file__, "--case", text],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "OPENCV_FFMPEG_THREADS": "1"},
    )
    if done.returncode:
        sys.exit(f"{case} {arguments}: {done.stderr}")
    result = json.loads(done.stdout.splitlines()[-1])
    result["cpu_ms_a_frame"] = 1000 * result["cpu"] / max(result["frames"], 1)
    print(
        f"{case} {arguments}: {result['wall']:.1f} s wall, {result['cpu']:.1f} s cpu",
        file=sys.stderr,
        flush=True,
    )
    return result


def run_case(text: str) -> None:
    cv2.setNumThreads(1)
    case, clips, arguments = json.loads(text)
    if "folder" in arguments:
        arguments["folder"] = Path(arguments["folder"])
    print(json.dumps(CASES[case]([Path(clip) for clip in clips], **arguments)))


def generated(folder: Path, count: int, frames: int, size: tuple[int, int] = (64, 64)) -> list[Path]:
    """`count` links to one clip of a moving texture of `size` (height, width)."""
    import av

    sys.path.insert(0, str(REPOSITORY / "tests"))
    from clips import moving_frames

    few = moving_frames(40, *size)
    # Forward and backward, so that the motion never jumps.
    both_ways = [*few, *few[-2:0:-1]]
    folder.mkdir(parents=True, exist_ok=True)
    clip = folder / "clip.mp4"
    with av.open(str(clip), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
        for index in range(frames):
            frame = av.VideoFrame.from_ndarray(both_ways[index % len(both_ways)], format="gray")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    links = [folder / f"{index:05d}.mp4" for index in range(count)]
    for link in links:
        link.hardlink_to(clip)
    return links


def repeated(clips: list[Path], folder: Path, times: int) -> list[Path]:
    """The clips repeated `times` times, under different names."""
    folder.mkdir(parents=True, exist_ok=True)
    links = [
        folder / f"{time}-{index}{clip.suffix}" for time in range(times) for index, clip in enumerate(clips)
    ]
    for index, link in enumerate(links):
        link.symlink_to(clips[index % len(clips)].resolve())
    return links


def benchmark(clips: list[Path], many: int, long: int, rounds: int) -> dict[str, Any]:
    import machine

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        cases: dict[str, dict[str, Any]] = {
            "decode alone": in_process("decode_alone", clips),
            "encode alone": in_process("encode_alone", clips, folder=folder / "e"),
        }
        for name in ("farneback", "dis"):
            cases[f"{name} estimator alone, freed memory kept"] = in_process(
                "estimator_alone", clips, name=name, keep_memory=True
            )
            for camera, times in (("none", rounds), ("warp", 1)):
                # Interleaved, so that a machine that slows down affects all of them.
                for turn in range(times):
                    target = folder / f"{name}-{camera}-{turn}"
                    for title, result in rivals(clips, target, name, camera):
                        cases[title] = better(cases.get(title), result)
        common: dict[str, Any] = {"name": "dis", "camera": "none", "workers": 2}
        cases |= one_or_two_jobs(clips, folder, common, rounds)
        cases["flow read alone"] = in_process("read_flow", clips, folder=folder / "two")
        cases["compression alone"] = in_process("compress", clips, folder=folder / "two")
        for count in (many // 10, many):
            small = generated(folder / f"many-{count}", count, 16)
            cases[f"{count} small clips"] = in_process(
                "ours", small, folder=folder / f"out-{count}", **common
            )
        one_worker = {**common, "workers": 1}
        for frames in (long // 20, long, 3 * long):
            one = generated(folder / f"long-{frames}", 1, frames)
            cases[f"one clip of {frames} frames"] = in_process(
                "ours", one, folder=folder / f"long-out-{frames}", **one_worker
            )
        for frames in (100, 400):
            one = generated(folder / f"large-{frames}", 1, frames, (1080, 1920))
            cases[f"one clip of {frames} frames of 1920x1080"] = in_process(
                "ours",
                one,
                folder=folder / f"large-out-{frames}",
                parameters={"preset": "ultrafast"},
                **one_worker,
            )
        return {
            "machine": machine.describe(),
            "clips": len(clips),
            "cases": cases,
            "ratios": ratios(cases, many, long),
        }


def rivals(clips: list[Path], folder: Path, name: str, camera: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The estimator alone, the plain loop, and m3flow with one and two workers."""
    title = f"{name} camera {camera}"
    if camera == "none":
        yield f"{name} estimator alone", in_process("estimator_alone", clips, name=name)
    yield (
        f"{title}: plain loop",
        in_process("plain", clips, folder=folder / "plain", name=name, camera=camera),
    )
    for workers in (1, 2):
        yield (
            f"{title}: {workers} worker",
            in_process(
                "ours", clips, folder=folder / str(workers), name=name, camera=camera, workers=workers
            ),
        )


def one_or_two_jobs(
    clips: list[Path], folder: Path, common: dict[str, Any], rounds: int
) -> dict[str, dict[str, Any]]:
    """Flow and trajectories in two jobs and in one, interleaved; the flow of the first round stays in "two"."""
    cases: dict[str, dict[str, Any]] = {}
    for turn in range(rounds):
        two = folder / ("two" if turn == 0 else f"two-{turn}")
        jobs: dict[str, dict[str, Any]] = {
            "flow job": {"folder": two, "kind": "flow"},
            "trajectory job": {"folder": two, "kind": "trajectories"},
            "one pass": {"folder": folder / f"one-{turn}"},
            "one pass, flow not kept": {"folder": folder / f"nokeep-{turn}", "keep": False},
        }
        for title, job in jobs.items():
            cases[title] = better(cases.get(title), in_process("ours", clips, **job, **common))
    return cases


def better(one: dict[str, Any] | None, two: dict[str, Any]) -> dict[str, Any]:
    """The result with less processor time, with the shorter of both wall times."""
    if one is None:
        return two
    best = min(one, two, key=lambda result: result["cpu"])
    return best | {"wall": min(one["wall"], two["wall"])}


def ratios(cases: dict[str, dict[str, Any]], many: int, long: int) -> dict[str, float]:
    """The results of the cases as ratios within this run."""

    def cpu(name: str) -> float:
        return cases[name]["cpu"]

    def wall(name: str) -> float:
        return cases[name]["wall"]

    def peak(name: str) -> float:
        return cases[f"one clip of {name}"]["peak_mib"]

    farneback, dis = "farneback camera none", "dis camera none"
    return {
        "farneback, camera none: core-seconds over the estimator's own": cpu(f"{farneback}: 2 worker")
        / cpu("farneback estimator alone"),
        "farneback, camera none, 1 worker: core-seconds over the estimator's own": cpu(
            f"{farneback}: 1 worker"
        )
        / cpu("farneback estimator alone"),
        "the same with the estimator's own as our workers run it (freed memory kept)": cpu(
            f"{farneback}: 1 worker"
        )
        / cpu("farneback estimator alone, freed memory kept"),
        "farneback, camera none: plain loop's wall time over ours on 2 workers": wall(
            f"{farneback}: plain loop"
        )
        / wall(f"{farneback}: 2 worker"),
        "farneback, camera warp: plain loop's core-seconds over ours": cpu(
            "farneback camera warp: plain loop"
        )
        / cpu("farneback camera warp: 2 worker"),
        "dis on 2 workers over the farneback plain loop, frames/s": wall(f"{farneback}: plain loop")
        / wall(f"{dis}: 2 worker"),
        "dis, camera none: plain loop's wall time over ours on 2 workers": wall(f"{dis}: plain loop")
        / wall(f"{dis}: 2 worker"),
        "tracking and storing trajectories over reading the flow, seconds of work": cases["trajectory job"][
            "stages"
        ]["track"]
        / cases["trajectory job"]["stages"]["decode"],
        "compression over reading the flow, core-seconds": cpu("compression alone") / cpu("flow read alone"),
        "two jobs over one pass, core-seconds": (cpu("flow job") + cpu("trajectory job")) / cpu("one pass"),
        "two jobs over one pass, wall": (wall("flow job") + wall("trajectory job")) / wall("one pass"),
        "two jobs over one pass that keeps no flow, core-seconds": (cpu("flow job") + cpu("trajectory job"))
        / cpu("one pass, flow not kept"),
        "1 worker over 2 workers, wall (farneback)": wall(f"{farneback}: 1 worker")
        / wall(f"{farneback}: 2 worker"),
        f"{many} small clips over {many // 10}, wall": wall(f"{many} small clips")
        / wall(f"{many // 10} small clips"),
        f"one clip of {long} frames over one of {long // 20}, peak memory": peak(f"{long} frames")
        / peak(f"{long // 20} frames"),
        f"one clip of {3 * long} frames over one of {long}, peak memory": peak(f"{3 * long} frames")
        / peak(f"{long} frames"),
        "400 frames of 1920x1080 over 100, peak memory": peak("400 frames of 1920x1080")
        / peak("100 frames of 1920x1080"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_clips(parser)
    parser.add_argument("--output", type=Path, default=RESULTS / "extract-cpu.json")
    parser.add_argument("--repeat", type=int, default=1, help="number of times to repeat the clips")
    parser.add_argument("--rounds", type=int, default=2, help="number of rounds, of which the best counts")
    parser.add_argument("--many", type=int, default=1000, help="small clips in the scaling case")
    parser.add_argument("--long", type=int, default=20_000, help="frames of the long clip")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        return run_case(options.case)
    clips = chosen_clips(parser, options)
    options.output.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        if options.repeat > 1:
            clips = repeated(clips, Path(folder), options.repeat)
        result = benchmark(clips, options.many, options.long, options.rounds)
    options.output.write_text(json.dumps(result, indent=1) + "\n")
    for name, value in result.get("ratios", {}).items():
        print(f"{value:8.2f}  {name}")
    return None


if __name__ == "__main__":
    main()
