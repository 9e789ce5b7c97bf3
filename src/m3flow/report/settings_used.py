"""Settings of the stored results, read from the files' provenance, and whether they are mixed."""

from __future__ import annotations

import json
import random
from collections import Counter
from dataclasses import dataclass
from typing import Any

import pandas as pd

from m3flow.errors import BadInput
from m3flow.layout import Outputs
from m3flow.results.forms import form_in
from m3flow.results.trajectoryfile import read_made

FILES_READ = 100
GROUPS = 6
VALUES = 4


@dataclass(frozen=True)
class Group:
    """Videos with the same settings and versions.

    Attributes
    ----------
    count: their number among the sampled videos. example: the name of one of them.
    settings: (name, value) of the settings that determine the results; versions: of the software used.
    """

    count: int
    example: str
    settings: list[tuple[str, str]]
    versions: list[tuple[str, str]]


@dataclass(frozen=True)
class Difference:
    """A setting that differs between results: its values, each with its number of videos."""

    name: str
    values: list[tuple[str, int]]


def groups(outputs: Outputs, lines: pd.DataFrame, table: pd.DataFrame, length: int) -> list[Group]:
    """Groups of equal settings and versions, from a sample of the files that covers as many runs as possible."""
    counts: Counter[str] = Counter()
    examples: dict[str, str] = {}
    for name in _sample(lines, table):
        made = _made(outputs, name, length)
        if made:
            text = json.dumps(made)
            counts[text] += 1
            examples.setdefault(text, name)
    found = []
    for text, count in counts.most_common():
        made = json.loads(text)
        found.append(Group(count, examples[text], _flat(made["settings"]), _flat(made["versions"])))
    return found


def differences(found: list[Group]) -> list[Difference]:
    """The settings in which the groups differ."""
    names = dict.fromkeys(name for group in found for name, _ in group.settings)
    differing = []
    for name in names:
        counts: Counter[str] = Counter()
        for group in found:
            counts[dict(group.settings).get(name, "(unknown)")] += group.count
        if len(counts) > 1:
            differing.append(Difference(name, counts.most_common(VALUES)))
    return differing


def _sample(lines: pd.DataFrame, table: pd.DataFrame) -> list[str]:
    """Names of done videos: the last one of every run, then others, drawn at random with a fixed seed."""
    done = table.index[table["status"] == "done"]
    last_of_run = lines[lines["status"] == "done"].groupby("run", observed=True)["video"].last()
    of_runs = [name for name in dict.fromkeys(last_of_run) if name in done]
    draw = random.Random(0)
    first = draw.sample(of_runs, min(FILES_READ, len(of_runs)))
    others = draw.sample(done.to_list(), min(FILES_READ, len(done)))
    return list(dict.fromkeys([*first, *others]))[:FILES_READ]


def _made(outputs: Outputs, name: str, length: int) -> dict[str, Any]:
    """The settings and versions in the provenance of a video's files; {} if there are no files."""
    form = form_in(outputs.flow(name))
    flow, tracked = form.files(outputs.flow(name))[0], outputs.trajectories(name, length)
    try:
        made = form.made(flow) if flow.is_file() else {}
        about = read_made(tracked) if tracked.is_file() else {}
    except BadInput:
        return {}  # reported by `m3flow verify`
    if not flow.is_file() and not tracked.is_file():
        return {}
    one = made or about
    used = one.get("used", {})
    of_flow = made.get("settings", about.get("flow", {}))
    settings = {**of_flow, **({"trajectories": about["settings"]} if about.get("settings") else {})}
    versions = {
        "m3flow": one.get("m3flow", "(unknown)"),
        "backend": used.get("backend", ""),
        "device": used.get("device", ""),
        **used.get("versions", {}),
    }
    return {"settings": settings, "versions": versions}


def _flat(values: dict[str, Any]) -> list[tuple[str, str]]:
    pairs = []
    for name, value in values.items():
        if isinstance(value, dict):
            pairs += [(f"{name}.{inner}", str(one)) for inner, one in value.items()]
        elif value != "":
            pairs.append((name, str(value)))
    return pairs
