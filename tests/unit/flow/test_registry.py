"""Estimators of installed packages beside our own."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint
from types import ModuleType

import pytest

from m3flow.cli import main
from m3flow.errors import UsageError
from m3flow.flow import ESTIMATORS, registry
from m3flow.flow.parameters import DISParameters
from m3flow.flow.registry import GROUP, Entry, Registry

OURS = Entry(DISParameters, {"opencv": "m3flow.flow.opencv:DIS"})
THEIRS = Entry(DISParameters, {"torch": "theirs.flow:Theirs"}, colour=True, largest_batch=4)


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Registry:
    """A registry beside a package with a good plug-in, one of the wrong kind, and two that cannot be imported."""
    module = ModuleType("theirs")
    module.__dict__.update(THEIRS=THEIRS, WRONG=DISParameters)
    monkeypatch.setitem(sys.modules, "theirs", module)
    names = {
        "good": "theirs:THEIRS",
        "wrong": "theirs:WRONG",
        "absent": "no.such.module:X",
        "dis": "theirs:THEIRS",
    }
    points = [EntryPoint(name, value, GROUP) for name, value in names.items()]
    monkeypatch.setattr(registry, "entry_points", lambda group: points if group == GROUP else [])
    return Registry({"dis": OURS})


def test_plugins_are_found_and_ours_go_first(installed: Registry) -> None:
    assert list(installed) == ["dis", "good", "wrong", "absent"] and len(installed) == 4
    assert installed["good"] is THEIRS and "good" in installed
    assert installed["dis"] is OURS and installed.package("dis") == "m3flow"
    assert "nothing" not in installed and installed.own == ("dis",)
    with pytest.raises(KeyError):
        installed["nothing"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("wrong", r"estimator 'wrong': theirs:WRONG is not an m3flow\.flow\.Entry"),
        (
            "absent",
            r"estimator 'absent': the plug-in no\.such\.module:X cannot be loaded: No module named 'no'",
        ),
    ],
)
def test_a_broken_one_is_named_in_one_line(installed: Registry, name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        installed[name]
    assert "\n" not in str(caught.value)
    assert installed["good"] is THEIRS


def called(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["m3flow", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def test_the_command_lists_them(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert called(monkeypatch, "estimators") == 0
    listed = capsys.readouterr().out
    for name in ESTIMATORS.own:
        assert f"\n{name} (m3flow" in f"\n{listed}"
        for parameter, default in ESTIMATORS[name].parameters.of(name, {}).as_dict().items():
            assert f"    {parameter} = {default!r} (" in listed
    assert "raft_large (m3flow; torch; colour frames, at most 32 pairs at a time)" in listed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("estimators", "nope"), "unknown estimator 'nope'; choose from farneback"),
        (("weights", "nope"), "unknown estimator 'nope'; choose from farneback"),
        (("weights", "dis"), "estimator 'dis' has no weights to fetch"),
    ],
)
def test_wrong_calls(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    message: str,
) -> None:
    assert called(monkeypatch, *arguments) == 2
    assert message in capsys.readouterr().err
