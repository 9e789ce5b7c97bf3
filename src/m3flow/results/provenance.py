"""Provenance of results, as stored in their files."""

from __future__ import annotations

import hashlib
import json
import platform
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from m3flow.version import __version__

if TYPE_CHECKING:
    from m3flow.camera.compensation import MotionEstimator
    from m3flow.results.homographies import Camera
    from m3flow.videos.decoder import Decoded
    from m3flow.videos.limits import Limits


def made_by(
    settings: dict[str, Any],
    source: dict[str, Any],
    decoded: Decoded,
    motion: MotionEstimator,
    camera: Camera,
) -> dict[str, Any]:
    """The provenance of a video's flow, as JSON values."""
    info = decoded.info
    made: dict[str, Any] = {
        "m3flow": __version__,
        "settings": settings,
        "source": {
            **source,
            "frames": decoded.frames,
            "claimed": info.claimed,
            "width": info.width,
            "height": info.height,
            "rate": str(info.rate),
            **({"video_rate": str(info.video_rate)} if info.video_rate != info.rate else {}),
            "codec": info.codec,
            "rotation": info.rotation,
            **({"key_frames": decoded.key_frames} if decoded.key_frames else {}),
        },
        "used": {
            "backend": motion.estimator.backend,
            "device": motion.estimator.device,
            "versions": _versions(motion.estimator.backend),
            "camera": motion.describe(),
        },
    }
    if stored := camera.stored():
        made["camera"] = stored
    return made


def _versions(backend: str) -> dict[str, str]:
    if backend == "torch":
        import torch

        library = {"torch": str(torch.__version__)}
    else:
        import cv2

        library = {"opencv": cv2.__version__}
    return {"python": platform.python_version(), "numpy": np.__version__, **library}


def same_source(made: dict[str, Any], source: dict[str, Any]) -> bool:
    stored = made.get("source", {})
    return all(stored.get(key) == source.get(key) for key in ("bytes", "sha256"))


def settings_digest(settings: Any) -> str:
    """Digest of settings (JSON values) for comparisons through the records: 12 hexadecimal digits."""
    text = json.dumps(settings, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()


def limits_digest(limits: Limits) -> str:
    """Digest of limits of decoding; 60 seconds and 60.0 are the same."""
    return settings_digest({name: float(value) for name, value in asdict(limits).items()})


def trajectory_digest(settings: dict[str, Any], flow_digest: str) -> str:
    """Digest of trajectory settings and of the digest (`settings_digest`) of the tracked flow's settings.

    It is prefixed by the length, since files of different lengths coexist.
    """
    return f"{settings.get('length', 0)}:{settings_digest([settings, flow_digest])}"


def source_text(source: dict[str, Any]) -> str:
    """The content fingerprint of a video as in the records: bytes and hash."""
    return f"{source['bytes']}:{source['sha256']}" if "sha256" in source else ""
