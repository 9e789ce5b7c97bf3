"""Number formats of the page."""

from __future__ import annotations

import numpy as np


def number(value: float) -> str:
    """Three significant digits, or all digits of a whole number."""
    if not np.isfinite(value):
        return "–"
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


def short(value: float) -> str:
    """With the unit prefixes M and G."""
    for power, letter in ((1e9, "G"), (1e6, "M")):
        if value >= power:
            return f"{value / power:.3g} {letter}"
    return number(value)


def share(value: float) -> str:
    return f"{value:.1%}"


def duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.3g} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 120 else f"{number(minutes / 60)} h"
