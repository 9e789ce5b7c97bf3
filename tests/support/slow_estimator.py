"""An installed estimator with a known minimum time per frame pair, for tests that interrupt jobs in progress: whether a
job is still running then does not depend on the speed of the machine."""

from __future__ import annotations

from pathlib import Path

PAIRS_PER_SECOND = 50

MODULE = f'''
import time
from dataclasses import dataclass

import numpy as np

from m3flow.flow.opencv import OpenCVEstimator
from m3flow.flow.parameters import Parameters
from m3flow.flow.registry import Entry


@dataclass(frozen=True, kw_only=True)
class SlowParameters(Parameters):
    """No motion, slowly."""


class Slow(OpenCVEstimator):
    name = "slow"

    def __init__(self, parameters):
        self.parameters = parameters

    def pair(self, previous, current):
        time.sleep(1 / {PAIRS_PER_SECOND})
        return np.zeros((*previous.shape, 2), np.float32)


SLOW = Entry(SlowParameters, {{"opencv": "slow_estimator:Slow"}})
'''


def install_slow_estimator(folder: Path) -> Path:
    """Install the estimator `slow` into a folder, to be added to PYTHONPATH; returns the folder."""
    metadata = folder / "slow_estimator-1.0.dist-info"
    metadata.mkdir(parents=True)
    (folder / "slow_estimator.py").write_text(MODULE)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: slow-estimator\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[m3flow.estimators]\nslow = slow_estimator:SLOW\n")
    return folder
