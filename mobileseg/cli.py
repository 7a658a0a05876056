"""The command line: its commands are in `mobileseg.commands`; here are the program around them and its exit codes."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from mobileseg import __version__
from mobileseg.commands import COMMANDS
from mobileseg.errors import MobilesegError, UsageError
from mobileseg.failures import Failures
from mobileseg.interruption import KEYBOARD_INTERRUPT, watched
from mobileseg.noise import Log

app = typer.Typer(
    name="mobileseg",
    help="Trained real-time segmentation checkpoints to files that phones run, proven equal to the checkpoint.",
    add_completion=False,
    # Rich's help pages would double the time that --help takes.
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Returns its exit code: 0 done; 1 a fault of ours; 2 wrong usage or bad input; 3 a gate was not
    met; 4 a backend is not available; 130 or 143 interrupted."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    failures = Failures(as_json="--json" in words, verbose=not {"--verbose", "-v"}.isdisjoint(words))
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    log = Log()
    with watched() as interruption:
        try:
            code = int(app(words or ["--help"], prog_name="mobileseg", standalone_mode=False, obj=log) or 0)
            # Typer makes a KeyboardInterrupt an exit code, always SIGINT's.
            stopped = code == KEYBOARD_INTERRUPT or interruption.received is not None
            code = failures.interrupted(interruption) if stopped else code
        except MobilesegError as error:
            fault = error.exit_code == MobilesegError.exit_code
            code = failures.fault(error, log) if fault else failures.told(error, error.exit_code)
        except typer.TyperException as error:
            code = failures.told(UsageError(f"{error.format_message()} (See mobileseg --help.)"), UsageError.exit_code)
        except KeyboardInterrupt:
            code = failures.interrupted(interruption)
        # The outermost boundary: what arrives here is a defect of ours or of a library, of whatever kind, and a user
        # gets a paragraph and the place of the log instead of a traceback.
        except Exception as error:  # noqa: BLE001
            code = failures.interrupted(interruption) if interruption.received else failures.fault(error, log)
        finally:
            log.close()
    return code


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"mobileseg {__version__}")
        raise typer.Exit


@app.callback()
def _all_commands(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show it.")] = False,
) -> None:
    pass


for _name, _command in COMMANDS.items():
    app.command(_name)(_command)
