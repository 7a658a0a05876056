"""The commands, one module each: its function parses, calls one library function, shows what that returns, and ends
with its exit code."""

from __future__ import annotations

from collections.abc import Callable

from mobileseg.commands.convert import convert
from mobileseg.commands.doctor import doctor
from mobileseg.commands.inspect import inspect
from mobileseg.commands.list import list_
from mobileseg.commands.predict import predict
from mobileseg.commands.sensitivity import sensitivity
from mobileseg.commands.setup import setup
from mobileseg.commands.validate import validate

COMMANDS: dict[str, Callable[..., None]] = {
    "convert": convert,
    "validate": validate,
    "sensitivity": sensitivity,
    "predict": predict,
    "doctor": doctor,
    "setup": setup,
    "inspect": inspect,
    "list": list_,
}
"""In the order in which ``--help`` shows them."""
