"""Checks of a machine: versions, GPUs, codecs, disk space, Snakemake and Slurm, each tried, with advice."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import numpy as np

from m3flow.version import __version__

State = Literal["ok", "note", "wrong"]

LIBRARIES = ("numpy", "opencv-contrib-python-headless", "av", "torch", "pandas", "isal", "rich", "typer")
WORKFLOW = ("snakemake", "snakemake-executor-plugin-slurm", "submitit")
# Codecs of common data sets, each with an encoder that makes a clip to test the decoder.
TRIED = {
    "h264": "libx264",
    "mpeg4": "mpeg4",
    "hevc": "libx265",
    "vp8": "libvpx",
    "vp9": "libvpx-vp9",
    "av1": "libsvtav1",
    "mjpeg": "mjpeg",
}
FEW_BYTES = 10 * 2**30
SCHEDULER_SECONDS = 15


@dataclass(frozen=True)
class Finding:
    """The result of one check: "ok", "note" (a run works without it) or "wrong" (see `advice`)."""

    state: State
    what: str
    found: str
    advice: str = ""


def examine(output: Path) -> Iterator[Finding]:
    """Run all checks; `output` is the folder for results."""
    checks: tuple[Callable[[], Iterator[Finding]], ...] = (
        _versions,
        _cores,
        _gpu,
        _encoders,
        _decoders,
        lambda: _space(output),
        _workflow,
        _slurm,
    )
    for check in checks:
        yield from check()


def _versions() -> Iterator[Finding]:
    yield Finding("ok", "m3flow", f"{__version__}, python {platform.python_version()}, {platform.machine()}")
    for name in LIBRARIES:
        version = _version(name)
        if version:
            yield Finding("ok", name, version)
        elif name.startswith("opencv"):
            yield _other_opencv()
        else:
            yield Finding("wrong", name, "is not installed", f"pip install {name}")


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def _other_opencv() -> Finding:
    try:
        import cv2
    except ImportError as error:
        return Finding("wrong", "opencv", str(error), "pip install opencv-contrib-python-headless")
    found = f"{cv2.__version__}, another build"
    if hasattr(cv2, "optflow"):
        return Finding("ok", "opencv", found)
    advice = "estimator tvl1 on the opencv backend needs opencv-contrib-python-headless"
    return Finding("note", "opencv", f"{found} without contrib modules", advice)


def _cores() -> Iterator[Finding]:
    import psutil

    from m3flow.system import available_cores

    memory = psutil.virtual_memory()
    yield Finding(
        "ok",
        "machine",
        f"{available_cores()} of {os.cpu_count()} cores for this process, {memory.total / 2**30:.1f} GiB of "
        f"memory, {memory.available / 2**30:.1f} free",
    )


def _gpu() -> Iterator[Finding]:
    try:
        import torch
    except ImportError as error:
        yield Finding("wrong", "torch", f"cannot be imported: {error}", "pip install torch")
        return
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            yield _one_gpu(index)
        return
    if shutil.which("nvidia-smi") is None:
        yield Finding("note", "GPU", "none here; the CPU is used")
    elif torch.version.cuda is None:
        advice = "install the build of torch for CUDA"
        yield Finding("wrong", "GPU", f"there is a driver, but torch {torch.__version__} is for CPUs", advice)
    else:
        advice = "check nvidia-smi; in a Slurm job, check that it requested a GPU (CUDA_VISIBLE_DEVICES)"
        found = f"torch {torch.__version__} (CUDA {torch.version.cuda}) sees none"
        yield Finding("wrong", "GPU", found, advice)


def _one_gpu(index: int) -> Finding:
    import torch

    properties = torch.cuda.get_device_properties(index)
    capability = (properties.major, properties.minor)
    name = f"{properties.name} (compute capability {capability[0]}.{capability[1]})"
    built_for = torch.cuda.get_arch_list()
    if torch.version.hip is None and not has_code_for(capability, built_for):
        found = f"{name}, but torch {torch.__version__} is built only for {', '.join(built_for)}"
        return Finding("wrong", f"GPU {index}", found, torch_build_for(capability))
    try:
        torch.ones(8, device=f"cuda:{index}").sum().item()
    except RuntimeError as error:
        advice = "install a driver and a torch build for this GPU"
        return Finding("wrong", f"GPU {index}", f"{name}: {str(error).splitlines()[0]}", advice)
    memory = f"{properties.total_memory / 2**30:.0f} GiB"
    return Finding("ok", f"GPU {index}", f"{name}, {memory}, computes")


def has_code_for(capability: tuple[int, int], built_for: Sequence[str]) -> bool:
    """Whether a torch build has code for a GPU.

    Parameters
    ----------
    capability: the GPU's compute capability, (major, minor).
    built_for: the result of `torch.cuda.get_arch_list`. Binary code ("sm_80") runs on GPUs of the same major
        and the same or a higher minor number, PTX ("compute_90") on every later GPU. Code for a
        single architecture ("sm_90a") runs on no other.
    """
    for name in built_for:
        kind, _, number = name.partition("_")
        if not number.rstrip("af").isdecimal():
            continue
        code = divmod(int(number.rstrip("af")), 10)
        same_major = kind == "sm" and code[0] == capability[0] and code[1] <= capability[1]
        if same_major and (code == capability or not number.endswith("a")):
            return True
        if kind == "compute" and number.isdecimal() and code <= capability:
            return True
    return False


def torch_build_for(capability: tuple[int, int]) -> str:
    """The build of torch to install for a GPU of this compute capability; see docs/cluster.md."""
    if capability < (7, 5):
        return "install a cu126 build of torch, the last with code for Maxwell, Pascal and Volta"
    if capability >= (10, 0):
        return "install a cu128 or cu130 build of torch, which have code for Blackwell"
    return "install a current build of torch for CUDA"


def _encoders() -> Iterator[Finding]:
    """Write flow with each codec and read it back."""
    from m3flow.results.forms import FORMS
    from m3flow.results.forms.mp4 import CODECS, Mp4Writer

    levels = np.random.default_rng(0).integers(0, 256, (4, 2, 24, 33), np.uint8)
    for codec in CODECS:
        with tempfile.TemporaryDirectory() as folder:
            try:
                with Mp4Writer(Path(folder), codec=codec, rate=Fraction(25), width=33, height=24) as writer:
                    writer.write(levels)
                    writer.close({})
                back = np.concatenate(list(FORMS["mp4"].read(Path(folder))))
            except Exception as error:  # any error is the finding
                advice = "install the wheel of av (pip install av); a custom build needs libx264"
                yield Finding("wrong", f"codec {codec}", f"{type(error).__name__}: {error}", advice)
                continue
        exact = codec != "h264-lossless" or np.array_equal(back, levels)
        if back.shape == levels.shape and exact:
            yield Finding("ok", f"codec {codec}", "writes and reads")
        else:
            advice = "do not use this codec here; report the versions above"
            yield Finding("wrong", f"codec {codec}", "reads back different levels than written", advice)


def _decoders() -> Iterator[Finding]:
    """Decode a clip of each codec that has an encoder here, in the process that decodes videos."""
    from m3flow.errors import BadInput
    from m3flow.videos.decoder import Decoder

    works: list[str] = []
    fails: list[str] = []
    untried: list[str] = []
    with tempfile.TemporaryDirectory() as folder, Decoder() as decoder:
        for name, encoder in TRIED.items():
            path = Path(folder, f"{name}.mkv")
            try:
                _write_clip(path, encoder)
            except Exception:
                # Without an encoder there is no clip; the decoder may still work.
                untried.append(name)
                continue
            try:
                decoded = decoder.open(str(path))
                frames = sum(len(block) for block in decoded.blocks)
                (works if frames == 3 else fails).append(name)
            except (BadInput, RuntimeError):
                fails.append(name)
    if works:
        yield Finding("ok", "decoders", ", ".join(works))
    if untried:
        yield Finding("note", "decoders", f"not tried, no encoder: {', '.join(untried)}")
    if fails:
        advice = "videos of this codec will be rejected; convert them first, for example to H.264"
        yield Finding(
            "wrong" if not works else "note", "decoders", f"do not work: {', '.join(fails)}", advice
        )


def _write_clip(path: Path, encoder: str) -> None:
    import av

    # Both libraries print their settings whatever the log level.
    options = {"x265-params": "log-level=none"} if encoder == "libx265" else {}
    os.environ.setdefault("SVT_LOG", "-1")
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(encoder, rate=25, options=options)
        stream.width, stream.height = 64, 64
        stream.pix_fmt = "yuvj420p" if encoder == "mjpeg" else "yuv420p"
        for shade in (30, 90, 150):
            picture = np.full((64, 64, 3), shade, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))


def _space(output: Path) -> Iterator[Finding]:
    existing = next(folder for folder in (output.absolute(), *output.absolute().parents) if folder.is_dir())
    for what, folder in (("output", existing), ("temporary files", Path(tempfile.gettempdir()))):
        free = shutil.disk_usage(folder).free
        found = f"{folder}: {free / 2**30:.1f} GiB free"
        try:
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            advice = "choose a writable folder"
            yield Finding("wrong", what, f"{folder}: cannot be written ({error.strerror})", advice)
            continue
        if free < FEW_BYTES:
            advice = "flow takes about 3 kB per frame of 320x240 (mpeg4), or 15 kB (h264-lossless)"
            yield Finding("note", what, found, advice)
        else:
            yield Finding("ok", what, found)


def _workflow() -> Iterator[Finding]:
    for name in WORKFLOW:
        version = _version(name)
        if version:
            yield Finding("ok", name, version)
        else:
            yield Finding("note", name, "is not installed", f"for the workflow: pip install {name}")
    if _version("snakemake") and shutil.which("snakemake", path=Path(sys.executable).parent) is None:
        advice = f"run {sys.executable} -m snakemake"
        yield Finding("note", "snakemake", "is not in the folder of this python", advice)


def _slurm() -> Iterator[Finding]:
    if shutil.which("sbatch") is None:
        yield Finding("note", "Slurm", "no sbatch here; runs use this machine")
        return
    answer = _ask(["sinfo", "--noheader", "--format=%P"])
    if answer is None:
        # Slurm's commands may be installed on a laptop without a cluster; local runs do not need it.
        advice = "runs on this machine work; on a cluster, check that slurmctld is up and that this is a login node"
        yield Finding("note", "Slurm", "sbatch is here but the controller does not answer", advice)
        return
    yield Finding("ok", "Slurm", f"answers; partitions: {', '.join(answer.split()) or 'none'}")
    if _ask(["sacct", "--noheader", "--starttime=now"]) is None:
        advice = "set slurm-status-command: squeue in the profile"
        yield Finding("note", "Slurm", "has no accounting database", advice)


def _ask(command: list[str]) -> str | None:
    """The standard output of a command; None if it fails or does not end in time."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=SCHEDULER_SECONDS, check=True, errors="replace"
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout
