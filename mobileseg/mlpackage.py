"""Core ML packages: the folder around a program, written so that equal programs give equal bytes, and read back whole.

A package is a manifest, the program (a protobuf of MIL, Core ML's intermediate language) and one file of weights that
the program points into. coremltools draws the manifest's identifiers at random and notes the day; here the identifiers
follow from the items' paths, and no time is kept.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
import shutil
import uuid
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mobileseg.errors import MissingExtraError, UsageError

WEIGHTS_DIGEST = "weights_sha256"
"""Under this key of the user-defined metadata stands the SHA-256 of the file of weights."""

_AUTHOR = "com.apple.CoreML"
_PROGRAM = f"{_AUTHOR}/model.mlmodel"
_WEIGHTS = f"{_AUTHOR}/weights"
_DATA = "Data"
_DESCRIPTIONS = {_PROGRAM: "CoreML Model Specification", _WEIGHTS: "CoreML Model Weights"}
_NOT_OURS = ("com.github.apple.coremltools.conversion_date",)
_TALKATIVE = ("coremltools", "torchao", "torch.utils._pytree")


@dataclass(frozen=True)
class Package:
    """A package that was read. ``spec``: coremltools' ``Model`` message; ``program``: its MIL program, weights
    included."""

    path: Path
    spec: Any
    program: Any

    @property
    def function(self) -> Any:
        """The program's one function."""
        return self.program.functions["main"]

    @property
    def weights(self) -> Path:
        """The folder that holds the file of weights."""
        return self.path / _DATA / _WEIGHTS


def import_coremltools() -> Any:
    """coremltools, without what it says about the versions of other packages.

    Raises `MissingExtraError` where it is not installed.
    """
    with quietly():
        try:
            import coremltools
        except ModuleNotFoundError as error:
            raise MissingExtraError("coreml", error.name or "coremltools") from error
    return coremltools


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """coremltools' progress bars go to stderr, and what it logs below an error concerns untested versions."""
    loggers = [logging.getLogger(name) for name in _TALKATIVE]
    levels = [logger.level for logger in loggers]
    with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def write(spec: Any, weights: Path, path: Path) -> None:
    """A package at ``path``, in place of what is there: ``spec`` and a copy of the folder ``weights``.

    ``spec`` is changed: the day goes out of its metadata, the weights' digest in.
    """
    noted = spec.description.metadata.userDefined
    for key in _NOT_OURS:
        noted.pop(key, None)
    noted[WEIGHTS_DIGEST] = _digest(weights)
    if path.is_dir():
        shutil.rmtree(path)
    (path / _DATA / _WEIGHTS).mkdir(parents=True)
    for file in weights.iterdir():
        (path / _DATA / _WEIGHTS / file.name).write_bytes(file.read_bytes())
    (path / _DATA / _PROGRAM).write_bytes(spec.SerializeToString(deterministic=True))
    (path / "Manifest.json").write_text(json.dumps(_manifest(), indent=4, sort_keys=True), encoding="utf-8")


def _manifest() -> dict[str, Any]:
    identifiers = {item: str(uuid.uuid5(uuid.NAMESPACE_OID, item)) for item in _DESCRIPTIONS}
    return {
        "fileFormatVersion": "1.0.0",
        "itemInfoEntries": {
            identifiers[item]: {
                "author": _AUTHOR,
                "description": description,
                "name": item.rpartition("/")[2],
                "path": item,
            }
            for item, description in _DESCRIPTIONS.items()
        },
        "rootModelIdentifier": identifiers[_PROGRAM],
    }


def read(path: Path) -> Package:
    """The package at ``path``, with every weight read.

    Raises `UsageError` where it is not a package with a program, or is damaged; `MissingExtraError` without
    coremltools.
    """
    spec, folder = read_spec(path)
    from coremltools.converters.mil.frontend.milproto.load import load

    try:
        with quietly():
            program = load(spec, spec.specificationVersion, str(folder))
    # What a wrong program meets first: a value that is missing, of another type or shape, or outside the file.
    except (AttributeError, IndexError, KeyError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        raise _damaged(path, f"its program does not load ({error})") from error
    if list(program.functions) != ["main"]:
        raise UsageError(f"'{path}' holds the functions {', '.join(program.functions)}; expected one, 'main'.")
    return Package(path, spec, program)


def read_spec(path: Path) -> tuple[Any, Path]:
    """coremltools' ``Model`` message and the folder of its weights; no weight is read.

    Raises as `read` does.
    """
    spec = _read_spec(import_coremltools(), path)
    kind = spec.WhichOneof("Type")
    if kind != "mlProgram":
        raise UsageError(
            f"'{path}' holds a Core ML model of kind '{kind}'; expected an mlProgram. Make one with: "
            "mobileseg convert CHECKPOINT --to coreml"
        )
    folder = path / _DATA / _WEIGHTS
    _check_digest(spec, folder, path)
    return spec, folder


def _read_spec(coremltools: Any, path: Path) -> Any:
    from google.protobuf.message import DecodeError

    program = path / _DATA / _PROGRAM
    if not path.is_dir():
        raise _damaged(path, "it is no folder")
    try:
        manifest = json.loads((path / "Manifest.json").read_bytes())
        listed = {entry["path"] for entry in manifest["itemInfoEntries"].values()}
        content = program.read_bytes()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(path, f"its manifest or its program cannot be read ({error})") from error
    if _PROGRAM not in listed:
        raise _damaged(path, f"its manifest does not list {_PROGRAM}")
    try:
        spec = coremltools.proto.Model_pb2.Model.FromString(content)
    except DecodeError as error:
        raise _damaged(path, f"{program.name} is no Core ML model") from error
    if not spec.specificationVersion:
        raise _damaged(path, f"{program.name} is empty")
    return spec


def _digest(folder: Path) -> str:
    """Of all files: one, or none where a network has no weights to speak of."""
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def _check_digest(spec: Any, folder: Path, path: Path) -> None:
    expected = spec.description.metadata.userDefined.get(WEIGHTS_DIGEST)
    if expected and _digest(folder) != expected:
        raise _damaged(path, "its weights are not those it was written with")


def _damaged(path: Path, why: str) -> UsageError:
    return UsageError(f"'{path}' does not load as a Core ML package: {why}. Convert it again.")
