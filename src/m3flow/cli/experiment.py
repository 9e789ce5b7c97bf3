"""The experiment of a command: config.yaml, overridden by the command line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from m3flow.errors import UsageError
from m3flow.experiment.config import SECTIONS, Experiment, every_key, nearest_key, read_config
from m3flow.validation import SettingsError

Config = Annotated[
    Path, typer.Option(help="The configuration; a LIST replaces it if the file does not exist.")
]
OptionalList = Annotated[
    str | None,
    typer.Argument(
        metavar="[LIST]",
        help="The list of videos, a folder or one video; by default the configuration's.",
        show_default=False,
    ),
]
OptionalRoot = Annotated[
    Path | None,
    typer.Option("--root", help="The folder to which relative paths of the list refer.", show_default=False),
]
OptionalOutput = Annotated[
    Path | None, typer.Option("--output", "-o", help="The folder for the results.", show_default=False)
]
OptionalParts = Annotated[
    int | None,
    typer.Option(
        "--parts",
        min=1,
        help="Number of trailing parts of a video's path that make up its output name.",
        show_default=False,
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="A key of the configuration, such as flow.step=2, or a parameter of the estimator, such as levels=3 "
        "(short for flow.parameters.levels=3). Repeatable.",
    ),
]


class Configuration:
    """The keys of config.yaml, overridden by the options of a command.

    Attributes
    ----------
    values: as in config.yaml.
    given: the keys set on the command line, such as `flow.step`.
    """

    def __init__(self, values: dict[str, Any] | None = None) -> None:
        self.values = values or {}
        self.given: set[str] = set()
        self._options: set[str] = set()

    def put(self, options: Mapping[str, Any]) -> Configuration:
        """Set keys to the values of options; None is an option that was not given."""
        for key, value in options.items():
            if value is not None:
                self._put(key, str(value) if isinstance(value, Path) else value)
                self._options.add(key)
        return self

    def set(self, settings: list[str] | None) -> Configuration:
        """Set keys from the `KEY=VALUE` texts of --set; raises UsageError for any other form."""
        for setting in settings or []:
            key, equals, text = setting.partition("=")
            if not equals or not key:
                raise UsageError(f"--set {setting!r}: write it as key=value, for example --set flow.step=2")
            try:
                value = yaml.safe_load(text)
            except yaml.YAMLError as error:
                raise UsageError(f"--set {setting!r}: the value is not YAML") from error
            if _is_parameter(key):
                key = f"flow.parameters.{key}"
            self._put(key, value)
            self._options.discard(key)
        return self

    def experiment(self) -> Experiment:
        """The experiment; a UsageError names the option that set an invalid value."""
        try:
            return Experiment.of(self.values, kept=self.given)
        except SettingsError as error:
            raise SettingsError([(self._shown(key), text) for key, text in error.problems]) from error

    def _put(self, key: str, value: Any) -> None:
        self.given.add(key)
        *sections, name = key.split(".")
        values = self.values
        for section in sections:
            inner = values.get(section)
            if inner is not None and not isinstance(inner, dict):
                return  # the section itself is refused
            values[section] = values = dict(inner or {})
        values[name] = value

    def _shown(self, key: str) -> str:
        if key not in self._options:
            return f"--set {key}" if key in self.given else key
        section, _, name = key.rpartition(".")
        if key == "videos":
            return "LIST"
        return f"--limit {name}" if section == "limits" else f"--{name.replace('_', '-')}"


def _is_parameter(name: str) -> bool:
    """Whether a key of --set is read as a parameter of the estimator: it is one, or resembles no other key.

    The parameter `preset` of dis takes precedence over the configuration's key.
    """
    if "." in name or name in SECTIONS:
        return False
    from m3flow.flow import ESTIMATORS

    if any(name in entry.parameters.__dataclass_fields__ for entry in ESTIMATORS.values()):
        return True
    return name not in every_key() and not nearest_key(name)


def experiment_of(config: Path, settings: list[str] | None, options: Mapping[str, Any]) -> Experiment:
    """The experiment of a configuration file, overridden by options (by their keys) and settings.

    Raises UsageError if there is neither a configuration nor a list, and for invalid settings.
    """
    if not config.exists() and options.get("videos") is None:
        raise UsageError(f"no LIST given, and there is no {config}; see --help")
    configuration = Configuration(read_config(config) if config.exists() else {})
    return configuration.put(options).set(settings).experiment()
