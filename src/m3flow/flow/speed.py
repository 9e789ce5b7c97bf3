"""The faster backend of an estimator on this machine, measured once per GPU model and kept in the user's cache folder.

    python -m m3flow.flow.speed '{"name": "dis", "parameters": {}, "device": "cuda:0"}'

prints pairs per second. It is a process of its own, so that the caller holds no memory of the GPU.
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from m3flow.atomic import write_text
from m3flow.system import user_cache
from m3flow.version import __version__

HEIGHT, WIDTH = 240, 320
PAIRS = 64  # of a batch on a GPU
SECONDS = 0.5
TIMEOUT = 180.0

log = logging.getLogger("m3flow")


def faster_on_gpu(name: str, parameters: dict[str, Any], *, gpus: int, cores: int) -> bool:
    """Whether these GPUs compute more pairs per second with torch than these cores with OpenCV.

    Measured at the first call for a GPU model, a processor and an estimator, which takes some seconds; True, with
    the reason in the log, if that fails.
    """
    key = json.dumps([__version__, gpu_model(), cpu_model(), name, parameters], sort_keys=True)
    rates = _stored().get(key)
    if rates is None:
        try:
            rates = measured_apart(name, parameters)
        except (OSError, subprocess.SubprocessError, ValueError) as error:
            log.warning("the speed of %s could not be measured, so the GPU is used: %s", name, error)
            return True
        _store(key, rates)
    on_gpu = gpus * rates["torch"] >= cores * rates["opencv"]
    log.info(
        "%s: %.0f pairs/s of %dx%d on a GPU, %.0f on a core: %s",
        name,
        rates["torch"],
        WIDTH,
        HEIGHT,
        rates["opencv"],
        f"{gpus} GPU(s)" if on_gpu else f"{cores} cores",
    )
    return on_gpu


def measured_apart(name: str, parameters: dict[str, Any]) -> dict[str, float]:
    """`measure` on the first GPU, in a process of its own."""
    what = json.dumps({"name": name, "parameters": parameters, "device": "cuda:0"})
    done = subprocess.run(
        [sys.executable, "-m", "m3flow.flow.speed", what], capture_output=True, text=True, timeout=TIMEOUT
    )
    if done.returncode:
        raise ValueError((done.stderr.strip().splitlines() or ["no output"])[-1])
    rates: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return rates


def measure(name: str, parameters: dict[str, Any], device: str, seconds: float = SECONDS) -> dict[str, float]:
    """Pairs per second of OpenCV on one core and of torch on the device, by backend."""
    import cv2
    import torch

    from m3flow.flow import estimator

    cv2.setNumThreads(1)
    random = np.random.default_rng(0)
    texture = cv2.GaussianBlur(random.uniform(0, 255, (HEIGHT + 8, WIDTH + 8)), (0, 0), 2)
    texture = np.clip((texture - texture.mean()) * 5 + 128, 0, 255).astype(np.uint8)
    few = [texture[shift : shift + HEIGHT, shift : shift + WIDTH] for shift in range(8)]
    rates = {}
    for backend, count in (("opencv", 1), ("torch", PAIRS if device.startswith("cuda") else 1)):
        chosen = estimator(
            name, backend=backend, device=device if backend == "torch" else "cpu", **parameters
        )
        frames: Any = np.stack([few[index % len(few)] for index in range(count + 1)])
        if backend == "torch":
            frames = torch.from_numpy(frames).to(device)

        def call(chosen: Any = chosen, frames: Any = frames) -> None:
            result = chosen.sequence(frames)
            if getattr(result, "is_cuda", False):
                torch.cuda.synchronize()

        rates[backend] = round(count / _seconds(call, seconds), 2)
    return rates


def _seconds(call: Callable[[], None], seconds: float) -> float:
    """The mean duration of a call that was made before."""
    call()
    calls, began = 0, time.perf_counter()
    while not calls or time.perf_counter() - began < seconds:
        call()
        calls += 1
    return (time.perf_counter() - began) / calls


def gpu_model() -> str:
    """The model of the first GPU, from the driver's files if they exist, so that torch need not start the GPU."""
    for file in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        for line in file.read_text().splitlines():
            if line.startswith("Model:"):
                return line.partition(":")[2].strip()
    import torch

    try:
        return torch.cuda.get_device_name(0)
    except (AssertionError, RuntimeError):
        return ""


def cpu_model() -> str:
    """The model of the processor."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def _file() -> Path:
    return user_cache() / "speed.json"


def _stored() -> dict[str, dict[str, float]]:
    try:
        stored = json.loads(_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return stored if isinstance(stored, dict) else {}


def _store(key: str, rates: dict[str, float]) -> None:
    try:
        _file().parent.mkdir(parents=True, exist_ok=True)
        write_text(_file(), json.dumps({**_stored(), key: rates}, indent=1) + "\n")
    except OSError as error:
        log.warning("%s: the measured speed cannot be kept: %s", _file(), error.strerror)


if __name__ == "__main__":
    print(json.dumps(measure(**json.loads(sys.argv[1]))))
