"""The storage formats of flow, behind one interface (`m3flow.results.forms.base.Form`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from m3flow.layout import FLOW_FILES, flow_form
from m3flow.results.forms.arrays import H5, Npz
from m3flow.results.forms.base import Contents, FlowWriter, Form, Stream
from m3flow.results.forms.images import Images
from m3flow.results.forms.mp4 import Mp4
from m3flow.results.quantisation import DEFAULT_BOUND, Quantisation

__all__ = ["FORMS", "Contents", "FlowWriter", "Form", "Stream", "form_in", "form_of", "quantisation_of"]

FORMS: dict[str, Form] = {
    "mp4": Mp4("mp4"),
    **{name: Images(name) for name in ("jpg", "jpg.zip", "png", "png.zip", "flo", "flo.zip")},
    "npz": Npz("npz"),
    "h5": H5("h5"),
}
assert tuple(FORMS) == tuple(FLOW_FILES)


def form_of(settings: dict[str, Any]) -> Form:
    """The form of flow with these settings (`FlowSettings.identity`); mp4 if they lack it."""
    return FORMS[flow_form(settings)]


def form_in(folder: Path | str) -> Form:
    """The form of the flow stored in a video's folder; mp4 if there is none."""
    found = (form for form in FORMS.values() if any(path.is_file() for path in form.files(folder)))
    return next(found, FORMS["mp4"])


def quantisation_of(settings: dict[str, Any]) -> Quantisation:
    """The quantisation of flow stored with these settings; {} means another program's mp4 files."""
    return Quantisation(
        float(settings.get("bound", DEFAULT_BOUND)),
        form_of(settings).scale(settings),
        dither=bool(settings.get("dither", False)),
        step=abs(int(settings.get("step", 1))),
    )
