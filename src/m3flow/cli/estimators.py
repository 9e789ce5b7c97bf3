"""`m3flow estimators` lists the installed estimators; `m3flow weights` fetches the weights of one."""

from __future__ import annotations

from dataclasses import fields
from typing import Annotated, Literal, get_args, get_origin, get_type_hints

import typer
from rich.console import Console

from m3flow.flow.parameters import Parameters

LIST_EXAMPLES = """Examples:

`m3flow estimators` — all installed estimators, with their parameters

`m3flow estimators raft_large` — one of them"""
WEIGHTS_EXAMPLES = """Examples:

`m3flow weights raft_large` — on a machine with a network, before jobs on machines without"""


def register(app: typer.Typer) -> None:
    app.command("estimators", epilog=LIST_EXAMPLES)(estimators)
    app.command("weights", epilog=WEIGHTS_EXAMPLES)(weights)


def estimators(
    names: Annotated[
        list[str] | None, typer.Argument(help="Names of estimators; all if none is given.")
    ] = None,
) -> None:
    """List the installed estimators, our own and plug-ins, with their parameters."""
    from m3flow.flow import ESTIMATORS

    console = Console()
    for name in names or list(ESTIMATORS):
        entry = ESTIMATORS[_known(name)]
        frames = "colour" if entry.colour else "grey"
        batch = f", at most {entry.largest_batch} pairs at a time" if entry.largest_batch else ""
        where = f"{ESTIMATORS.package(name)}; {', '.join(entry.backends)}; {frames} frames{batch}"
        _say(console, f"{name} ({where})")
        _say(console, f"    {entry.about}")
        for line in _parameters(entry.parameters):
            _say(console, f"    {line}")


def weights(name: Annotated[str, typer.Argument(help="The estimator, such as raft_large.")]) -> None:
    """Fetch the weights of an estimator once, on a machine with a network: jobs never fetch any."""
    from m3flow.errors import UsageError
    from m3flow.flow import ESTIMATORS, implementation_of

    backends = ESTIMATORS[_known(name)].backends
    fetch = getattr(implementation_of(name, next(reversed(backends))), "fetch", None)
    if fetch is None:
        raise UsageError(f"estimator {name!r} has no weights to fetch")
    typer.echo(fetch())


def _known(name: str) -> str:
    from m3flow.errors import UsageError
    from m3flow.flow import ESTIMATORS

    if name not in ESTIMATORS:
        raise UsageError(f"unknown estimator {name!r}; choose from {', '.join(ESTIMATORS)}")
    return name


def _parameters(parameters: type[Parameters]) -> list[str]:
    """One line per parameter: name, default and allowed values."""
    hints = get_type_hints(parameters)
    lines = []
    for item in fields(parameters):
        kind = hints[item.name]
        allowed = " | ".join(map(str, get_args(kind))) if get_origin(kind) is Literal else kind.__name__
        lines.append(f"{item.name} = {item.default!r} ({allowed})")
    return lines


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)
