"""RAFT (Teed and Deng, ECCV 2020) with torchvision's networks and weights; the flow equals its own, to the bit.

Frames are padded to multiples of 8, and to 128 px at least, by repeating their right and lower edge; the flow there is
discarded.
"""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from m3flow.errors import UsageError
from m3flow.flow.parameters import RAFTParameters
from m3flow.flow.torch_base import TorchEstimator
from m3flow.system import user_cache

MULTIPLE, SMALLEST = 8, 128


class RAFT(TorchEstimator):
    """Base class of the two sizes."""

    parameters: RAFTParameters
    # Frames and features, without the correlation volume, which grows with the square of the size.
    bytes_per_pixel = 1500

    def __init__(self, parameters: RAFTParameters, *, device: str) -> None:
        super().__init__(parameters, device=device)
        network = getattr(torchvision_flow(), self.name)()
        network.load_state_dict(_state(self.name, parameters.weights))
        self._network = network.to(device).eval()
        self._bfloat16 = in_bfloat16(parameters.precision, device)

    def flow(self, previous: Tensor, current: Tensor) -> Tensor:
        height, width = previous.shape[1:3]
        with torch.autocast(torch.device(self.device).type, torch.bfloat16, enabled=self._bfloat16):
            flows = self._network(
                _prepared(previous), _prepared(current), num_flow_updates=max(1, self.parameters.updates)
            )
        return flows[-1][:, :, :height, :width].float().contiguous()

    @classmethod
    def fetch(cls) -> Path:
        """Fetch the default weights; returns their file.

        Raises UsageError if they cannot be fetched.
        """
        path = weights_file(cls.name)
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            url = _weights(cls.name).url
            try:
                # The name ends with the beginning of the content's hash, which is compared.
                torch.hub.download_url_to_file(url, str(path), hash_prefix=path.stem.rpartition("-")[2])
            except (OSError, RuntimeError) as error:
                raise UsageError(
                    f"the weights of {cls.name} cannot be fetched from {url} ({error}); put the file at {path}"
                ) from error
        return path


def in_bfloat16(precision: str, device: str) -> bool:
    """Whether to compute in bfloat16; raises UsageError if it is asked for and the GPU does not have it."""
    on_gpu = device.startswith("cuda")
    # Older GPUs emulate it, which is slower than float32.
    has_it = on_gpu and torch.cuda.is_bf16_supported(including_emulation=False)
    if precision == "bfloat16" and on_gpu and not has_it:
        raise UsageError("precision is bfloat16, which this GPU does not have; use auto or float32")
    return precision == "bfloat16" or (precision == "auto" and has_it)


class RAFTLarge(RAFT):
    name = "raft_large"


class RAFTSmall(RAFT):
    name = "raft_small"


def _prepared(frames: Tensor) -> Tensor:
    """uint8 [B, H, W, 3] -> float32 [B, 3, H', W'] from -1 to 1, as torchvision's transforms do."""
    values = (frames.permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5
    height, width = values.shape[2:]
    right, below = (max(SMALLEST, -(-size // MULTIPLE) * MULTIPLE) - size for size in (width, height))
    return functional.pad(values, (0, right, 0, below), mode="replicate").contiguous()


def weights_file(name: str) -> Path:
    """The file of an estimator's fetched weights, in the user's cache folder."""
    return user_cache() / "weights" / _weights(name).url.rpartition("/")[2]


def _weights(name: str) -> Any:
    models = torchvision_flow()
    return {"raft_large": models.Raft_Large_Weights, "raft_small": models.Raft_Small_Weights}[name].DEFAULT


def _state(name: str, weights: str) -> dict[str, Tensor]:
    fetched = weights == "fetched"
    path = weights_file(name) if fetched else Path(weights)
    if not path.is_file():
        how = f"fetch them with `m3flow weights {name}`" if fetched else "the parameter weights names a file"
        raise UsageError(f"no weights of {name} at {path}; {how}")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UsageError(f"{path}: not weights of {name} ({' '.join(str(error).split())[:200]})") from error


@cache
def torchvision_flow() -> Any:
    """The module `torchvision.models.optical_flow`.

    A torchvision built for another torch fails to import because two operators of object detection are missing.
    They are then declared without a body; flow needs neither.

    Raises UsageError if torchvision is not installed or cannot be imported.
    """
    try:
        return _imported()
    except ImportError as error:
        raise UsageError(f"RAFT needs torchvision: pip install m3flow[raft] ({error})") from error
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise UsageError(f"torchvision does not fit torch {torch.__version__}: {error}") from error
    for module in [module for module in sys.modules if module.partition(".")[0] == "torchvision"]:
        del sys.modules[module]
    for operator in ("nms", "qnms"):
        torch.library.define(
            f"torchvision::{operator}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        )
    try:
        return _imported()
    except (ImportError, RuntimeError) as error:
        raise UsageError(f"torchvision does not fit torch {torch.__version__}: {error}") from error


def _imported() -> Any:
    from torchvision.models import optical_flow

    return optical_flow
