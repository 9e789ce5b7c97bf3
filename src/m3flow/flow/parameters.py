"""The parameters of each estimator and their defaults, shared by all backends."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from m3flow.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """Base class of the parameter sets; reports unknown names and invalid values in one line."""

    @classmethod
    def of(cls, estimator: str, values: dict[str, Any]) -> Parameters:
        """The parameter set with `values` over the defaults.

        Raises UsageError with one line per unknown name and per invalid value.
        """
        hints = get_type_hints(cls)
        known = ", ".join(f"{f.name} ({f.default})" for f in fields(cls)) or "none"
        problems = []
        for name, value in values.items():
            if name not in hints:
                problems.append(f"estimator {estimator!r} has no parameter {name!r}; it has: {known}")
            elif allowed := _violated(value, hints[name]):
                problems.append(f"estimator {estimator!r}: {name} is {value!r}; {allowed}")
        if problems:
            raise UsageError("\n".join(problems))
        return cls(**{name: _convert(value, hints[name]) for name, value in values.items()})

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def identity(self) -> dict[str, Any]:
        """What determines the flow, as JSON values for its provenance; equal for equal flow.

        A file is represented by its content (`content_of`): its path may be another, or its content.

        Raises UsageError if such a file is missing.
        """
        return self.as_dict()


def content_of(path: Path | str) -> str:
    """The digest of a file's content, "sha256:" and 16 digits; raises UsageError if it cannot be read."""
    path = Path(path)
    try:
        about = path.stat()
        return _digest(path, about.st_size, about.st_mtime_ns, about.st_ino)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error


@lru_cache(maxsize=32)
def _digest(path: Path, *_stamp: int) -> str:
    # Asked for with every video: computed once for each state of the file.
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()[:16]}"


def _violated(value: Any, kind: Any) -> str:
    """The rule that `value` violates as a parameter of type `kind`; "" if it is valid."""
    if get_origin(kind) is Literal:
        return "" if value in get_args(kind) else f"allowed: {', '.join(map(str, get_args(kind)))}"
    accepted: dict[Any, tuple[type, ...]] = {bool: (bool,), int: (int,), float: (int, float), str: (str,)}
    if not isinstance(value, accepted[kind]) or (kind is not bool and isinstance(value, bool)):
        return f"it must be of type {kind.__name__}"
    if kind in (int, float) and float(str(value)) < 0:
        return "it must not be negative"
    return ""


def _convert(value: Any, kind: Any) -> Any:
    return float(value) if kind is float else value


@dataclass(frozen=True, kw_only=True)
class FarnebackParameters(Parameters):
    """Farnebäck 2003, polynomial expansion; the defaults are those of OpenCV's CUDA version."""

    levels: int = 5
    scale: float = 0.5
    window: int = 13
    iterations: int = 10
    poly_n: Literal[5, 7] = 5
    poly_sigma: float = 1.1
    gaussian: bool = False


@dataclass(frozen=True, kw_only=True)
class TVL1Parameters(Parameters):
    """Zach, Pock and Bischof 2007, duality-based TV-L1; the defaults are OpenCV's."""

    tau: float = 0.25
    lambda_: float = 0.15
    theta: float = 0.3
    scales: int = 5
    warps: int = 5
    epsilon: float = 0.01
    inner: int = 30
    outer: int = 10
    scale_step: float = 0.8
    median: Literal[1, 3, 5] = 5


@dataclass(frozen=True, kw_only=True)
class DISParameters(Parameters):
    """Kroeger et al. 2016, dense inverse search, with OpenCV's presets."""

    preset: Literal["ultrafast", "fast", "medium"] = "medium"


@dataclass(frozen=True, kw_only=True)
class BroxParameters(Parameters):
    """Brox et al. 2004, high-accuracy warping; the defaults are those of OpenCV's CUDA version."""

    alpha: float = 0.197
    gamma: float = 50.0
    scale: float = 0.8
    inner: int = 10
    outer: int = 77
    solver: int = 10


@dataclass(frozen=True, kw_only=True)
class RAFTParameters(Parameters):
    """Teed and Deng 2020, recurrent all-pairs field transforms, by torchvision; needs weights.

    `updates`: refinements of the flow. `weights`: a file of a state dict, or those that `m3flow weights`
    fetched. `precision`: of the convolutions; "auto" is bfloat16 on a GPU that has it, else float32.
    """

    updates: int = 12
    weights: str = "fetched"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"

    def identity(self) -> dict[str, Any]:
        fetched = self.weights == "fetched"
        return self.as_dict() | ({} if fetched else {"weights": content_of(self.weights)})
