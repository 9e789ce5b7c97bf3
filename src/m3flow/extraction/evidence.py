"""Evidence for the confidence of trajectories: the frames and the backward flow."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from m3flow.errors import BadInput
from m3flow.flow.base import in_grey, is_tensor
from m3flow.results.quantisation import Piece
from m3flow.trajectories.confidence import Evidence, round_trip

if TYPE_CHECKING:
    from m3flow.camera.compensation import Motion, MotionEstimator
    from m3flow.flow.base import Array


def evidence_of(
    confidence: str, motion: MotionEstimator, frames: Array, step: int, found: Motion
) -> Evidence | None:
    """The evidence for trajectories along the motion of the frames [F, H, W]; None for "none".

    The frames are copied: they are a view of a buffer, and tracking happens later.
    """
    if confidence == "none":
        return None
    if is_tensor(found.flow):
        import torch

        frames = torch.as_tensor(frames, device=found.flow.device).clone()
    else:
        frames = np.array(frames)
    trips = None
    if confidence == "forward-backward":
        from m3flow.camera.backward import backward_flow

        back = backward_flow(motion.estimator, frames, step, found.homographies)
        trips = round_trip(found.flow, back)
    return Evidence(in_grey(frames), step, found.homographies, trips)


def with_frames(pieces: Iterator[Piece], blocks: Iterator[np.ndarray], step: int) -> Iterator[Piece]:
    """Pieces of stored flow together with the frames from which it was computed.

    Raises BadInput if fewer frames decode than the flow has.
    """
    held: np.ndarray | None = None
    for piece in pieces:
        needed = len(piece) + step
        while held is None or len(held) < needed:
            block = next(blocks, None)
            if block is None:
                raise BadInput("the video has fewer frames than its flow; make the flow again")
            held = np.asarray(block) if held is None else np.concatenate((held, block))
        yield replace(piece, evidence=Evidence(held[:needed], step, piece.homographies))
        held = held[len(piece) :]
