"""Everything worth knowing about a GPU machine, in one command and under nine minutes.

    python benchmarks/gpu.py              # or: make gpu
    python benchmarks/gpu.py --smoke      # the same on a CPU, tiny, to see that it works
    python benchmarks/gpu.py --only speed node

Sections, in this order: pairs per second of every estimator against OpenCV, and agreement with it; camera
compensation; CUDA graphs; memory; a real out-of-memory; results equal to the CPU's; numbers of workers; frames per
second of the node against the limit set by its cores; the tests marked `gpu`. Each section runs in its own process
with a time limit: one that fails or takes too long is reported, and the others still run.

Needs torch, NumPy and OpenCV; Triton, PyAV, ISA-L and pytest are used where they are installed. The JSON is
written after each section, to $OUT/gpu.json or benchmarks/results/gpu-<the GPU's name>.json, and its
summary printed and written beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import machine

HERE = Path(__file__).resolve().parent
# Seconds at most, in the order of the sections.
SECTIONS = {
    "speed": 145,
    "camera": 40,
    "graphs": 25,
    "memory": 40,
    "out_of_memory": 30,
    "equality": 45,
    "workers": 70,
    "node": 80,
    "tests": 60,
}


def main() -> None:
    options = parse()
    end = time.monotonic() + 60 * options.minutes
    device = options.device or _device()
    result: dict[str, Any] = {"machine": machine.describe(), "device": device, "smoke": options.smoke}
    path = options.output or _path(result["machine"])
    path.parent.mkdir(parents=True, exist_ok=True)
    for name in options.only or SECTIONS:
        seconds = min(SECTIONS[name], end - time.monotonic())
        print(f"{name} …", file=sys.stderr, flush=True)
        if seconds < 1:
            result[name] = {"error": "no time left"}
        else:
            result[name] = run(name, device, smoke=options.smoke, seconds=seconds)
        path.write_text(json.dumps(result, indent=1) + "\n")
    text = summary(result)
    path.with_suffix(".md").write_text(text)
    print(f"{text}\nwritten: {path}")
    sys.exit(any("error" in result[name] for name in options.only or SECTIONS))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", help="torch device; default: the first GPU")
    parser.add_argument("--smoke", action="store_true", help="tiny, on the CPU if there is no GPU")
    parser.add_argument("--minutes", type=float, default=8.7, help="stop everything after this time")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, help="these sections alone")
    parser.add_argument("--output", type=Path, help="where to write the JSON")
    options = parser.parse_args()
    if not (options.smoke or options.device or _device() != "cpu"):
        parser.error("torch sees no GPU; --smoke tries the command on the CPU")
    return options


def run(name: str, device: str, *, smoke: bool, seconds: float) -> dict[str, Any]:
    """A section's result; after a failure what it had measured, with the error."""
    with tempfile.TemporaryDirectory(prefix="m3flow-gpu-") as folder:
        values = {"device": device, "smoke": smoke, "folder": folder, "seconds": seconds}
        began = time.monotonic()
        # A process group of its own, so that its workers end with it.
        child = subprocess.Popen(
            [sys.executable, HERE / "gpu_sections.py", name, json.dumps(values)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            env=_environment(),
        )
        try:
            output, _ = child.communicate(timeout=seconds)
            error = "" if child.returncode == 0 else f"exit status {child.returncode}: {_last(output)}"
        except subprocess.TimeoutExpired:
            error = f"not finished after {seconds:.0f} s"
            os.killpg(child.pid, signal.SIGKILL)
            output, _ = child.communicate()
        file = Path(folder, "result.json")
        result: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
        result["seconds"] = round(time.monotonic() - began, 1)
    if error:
        print(f"{name}: {error}\n{output[-4000:]}", file=sys.stderr)
        result["error"] = error
    return result


def _environment() -> dict[str, str]:
    """One thread for each library; the package need not be installed, in worker processes neither."""
    paths = [str(HERE.parent / "src"), os.environ.get("PYTHONPATH", "")]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "OMP_NUM_THREADS": "1",
        "OPENCV_FFMPEG_THREADS": "1",
    }


def summary(result: dict[str, Any]) -> str:
    """The main figures as Markdown."""
    lines = [f"# {_name(result['machine'])}, {result['machine']['date']}", ""]
    if rows := result.get("speed", {}).get("rows"):
        lines += [
            "| estimator | size | how | batch | pairs/s | median px from OpenCV |",
            "|---|---|---|---|---|---|",
        ]
        for row in rows:
            agreement = row.get("against_opencv", {}).get("median")
            shown = "" if agreement is None else f"{agreement:.1e}"
            about = (
                row["estimator"],
                row["size"],
                row["how"],
                row["batch"],
                f"{row['pairs_per_s']:.0f}",
                shown,
            )
            lines.append(f"| {' | '.join(map(str, about))} |")
    for name in SECTIONS:
        section = result.get(name, {})
        plain = {key: value for key, value in section.items() if not isinstance(value, list)}
        if plain:
            lines += ["", f"**{name.replace('_', ' ')}**: {json.dumps(plain, ensure_ascii=False)}"]
        lines += [f"- {line}" for line in section.get("left_out", [])]
    return "\n".join(lines) + "\n"


def _device() -> str:
    try:
        import torch
    except ImportError:
        sys.exit("torch is not installed")
    return "cuda:0" if torch.cuda.device_count() else "cpu"


def _path(described: dict[str, Any]) -> Path:
    if "OUT" in os.environ:
        return Path(os.environ["OUT"], "gpu.json")
    slug = "".join(char if char.isalnum() else "-" for char in _name(described).lower())
    return HERE / "results" / f"gpu-{slug}.json"


def _name(described: dict[str, Any]) -> str:
    return described["gpus"][0]["name"] if described["gpus"] else "no GPU"


def _last(output: str) -> str:
    return (output.strip().splitlines() or ["no output"])[-1]


if __name__ == "__main__":
    main()
