"""Clips per second of `m3flow.live.MotionTargets`: `python benchmarks/live.py [CLIPS]`, by default the clips of
`make demo`.

Clips of 16 consecutive frames of 224x224; windows of 6 steps at every second frame. On a CPU one thread, in CPU time;
on a GPU (`--device cuda`) time until the device is done, beside the training step of a ViT-B on the same clips.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from m3flow.live import MotionTargets
from m3flow.videos.frames import colour_frames
from m3flow.videos.resize import Resize
from machine import describe
from real_clips import add_clips, chosen_clips

RESULTS = Path(__file__).parent / "results"
FRAMES, SIZE, LENGTH, STRIDE = 16, 224, 6, 2
SETTINGS: dict[str, dict[str, Any]] = {
    "dis": {"estimator": "dis"},
    "dis, camera and cuts": {"estimator": "dis", "camera": "warp", "cuts": True},
    "farneback": {"estimator": "farneback"},
    "farneback, camera and cuts": {"estimator": "farneback", "camera": "warp", "cuts": True},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--rounds", type=int, default=3)
    add_clips(parser)
    options = parser.parse_args()
    torch.set_num_threads(1)
    clips = chosen_clips(parser, options)
    largest = torch.from_numpy(cut_clips(clips, max(options.batches))).to(options.device)
    rows = []
    for batch in options.batches:
        frames = largest[:batch]
        modules = {name: MotionTargets(length=LENGTH, stride=STRIDE, **of) for name, of in SETTINGS.items()}
        jobs: dict[str, Callable[[], object]] = {
            name: lambda module=module, frames=frames: module(frames) for name, module in modules.items()
        }
        if options.device == "cuda":
            jobs["training step of a ViT-B"] = training_step(frames)
        times = measured(jobs, options.rounds, options.device)
        rows += [
            {"what": name, "batch": batch, "ms_per_clip": round(1000 * seconds / batch, 1)}
            for name, seconds in times.items()
        ]
    result = {"machine": describe(), "clips": len(clips), "device": options.device, "rows": rows}
    (RESULTS / f"live-{options.device}.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(rows, indent=1))


def cut_clips(paths: list[Path], count: int) -> np.ndarray:
    """Clips of the videos in turn, one after the other: uint8 [count, T, 3, H, W]."""
    clips = []
    for number in range(count):
        path, start = paths[number % len(paths)], FRAMES * (number // len(paths))
        resize = Resize(size=f"{SIZE}x{SIZE}")
        clips.append(np.stack([*colour_frames(path, range(start, start + FRAMES), resize)]))
    return np.ascontiguousarray(np.stack(clips).transpose(0, 1, 4, 2, 3))


def measured(jobs: dict[str, Callable[[], object]], rounds: int, device: str) -> dict[str, float]:
    """The least seconds of each job over several rounds of all in turn."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    best = dict.fromkeys(jobs, float("inf"))
    for number in range(rounds + (device == "cuda")):
        for name, job in jobs.items():
            began = clock()
            job()
            if device == "cuda":
                torch.cuda.synchronize()
                if number == 0:
                    continue  # kernels are compiled
            best[name] = min(best[name], clock() - began)
    return best


class VisionTransformer(nn.Module):
    """ViT-B on tokens of 2 frames x 16 x 16 px, all of them seen."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv3d(3, 768, (2, 16, 16), (2, 16, 16))
        layer = nn.TransformerEncoderLayer(
            768, 12, 3072, dropout=0, activation="gelu", batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, 12, enable_nested_tensor=False)

    def forward(self, frames: Tensor) -> Tensor:
        tokens = self.embed(frames.transpose(1, 2).float() / 127.5 - 1)
        return self.encoder(tokens.flatten(2).transpose(1, 2))


def training_step(frames: Tensor) -> Callable[[], None]:
    model = VisionTransformer().to(frames.device)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4)

    def step() -> None:
        with torch.autocast(frames.device.type, torch.bfloat16):
            loss = model(frames).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


if __name__ == "__main__":
    main()
