"""The command line: `m3flow …`."""

from __future__ import annotations

import sys
from typing import Any

import typer
from rich.console import Console

from m3flow.cli import (
    calibrate,
    doctor,
    estimators,
    extract,
    init,
    pack,
    plan,
    report,
    score,
    select,
    show,
    status,
    verify,
)
from m3flow.errors import BadInput, Interrupted, UsageError
from m3flow.version import __version__

HELP = """Turn videos into motion data for training: dense optical flow with camera motion removed, stored as
video, then dense motion trajectories, stored as compressed pickles.

Exit status: 0 every video has its outputs; 3 done, but some videos were rejected (bad input, listed with the
reason); 2 wrong usage or a bad list, nothing was started; 1 failed or stopped: run again."""

# The parser's errors about options and arguments; typer exports only a subclass.
WRONG_CALL: Any = typer.BadParameter.__base__

app = typer.Typer(
    name="m3flow",
    help=HELP,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)
extract.register(app)
plan.register(app)
calibrate.register(app)
status.register(app)
verify.register(app)
doctor.register(app)
init.register(app)
estimators.register(app)
report.register(app)
show.register(app)
pack.register(app)
score.register(app)
select.register(app)


def _version(requested: bool) -> None:
    if requested:
        typer.echo(f"m3flow {__version__}")
        raise typer.Exit


@app.callback(help=HELP)
def _options(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Show the version and exit."
    ),
) -> None:
    del version


def main() -> None:
    """The console script: runs a command and reports errors as one line each and the exit status."""
    try:
        sys.exit(app(standalone_mode=False, prog_name="m3flow"))
    except WRONG_CALL as error:
        _print_error(_wrong_call(error))
        sys.exit(2)
    except UsageError as error:
        _print_error(str(error))
        sys.exit(2)
    except BadInput as error:
        _print_error(str(error))
        sys.exit(3)
    except Interrupted as error:
        _print_error(str(error))
        sys.exit(1)
    except OSError as error:
        _print_error(f"{error.filename or 'the system'}: {error.strerror or error}")
        sys.exit(1)


def _wrong_call(error: Any) -> str:
    context = error.ctx
    command = "m3flow" if context is None else context.command_path
    return f"{' '.join(error.format_message().split()).rstrip('.')} (see {command} --help)"


def _print_error(text: str) -> None:
    console = Console(stderr=True)
    for line in text.splitlines():
        console.print(f"m3flow: {line}", style="red", markup=False, highlight=False, soft_wrap=True)
