"""The experiment that a command is about: config.yaml, with what the command line sets over it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from m3flow.errors import UsageError
from m3flow.experiment.config import Experiment, read_config

Config = Annotated[
    Path, typer.Option(help="The configuration; left out where it does not exist and a LIST is given.")
]
OptionalList = Annotated[
    str | None,
    typer.Argument(metavar="[LIST]", help="The list of videos; else the one that the configuration names."),
]
OptionalRoot = Annotated[
    Path | None, typer.Option("--root", help="In place of the configuration's `root`.", show_default=False)
]
OptionalOutput = Annotated[
    Path | None,
    typer.Option("--output", help="In place of the configuration's `output`.", show_default=False),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="In place of a key of the configuration, such as flow.estimator=dis; may be repeated.",
    ),
]


def experiment_of(
    config: Path, list_file: str | None, root: Path | None, output: Path | None, settings: list[str] | None
) -> Experiment:
    """The experiment of a configuration file, with the list, the folders and single keys replaced.

    Raises UsageError where neither a configuration nor a list is there, and for settings that cannot be.
    """
    if not config.exists() and list_file is None:
        raise UsageError(f"no LIST given, and there is no {config}; see --help")
    values: dict[str, Any] = read_config(config) if config.exists() else {}
    for key, value in (("videos", list_file), ("root", root), ("output", output)):
        if value is not None:
            values[key] = str(value)
    for setting in settings or []:
        key, equals, text = setting.partition("=")
        if not equals or not key:
            raise UsageError(
                f"--set {setting!r}: write it as key=value, for example --set flow.estimator=dis"
            )
        section, dot, name = key.partition(".")
        value = yaml.safe_load(text)
        if dot:
            values[section] = {**(values.get(section) or {}), name: value}
        else:
            values[section] = value
    return Experiment.of(values)
