"""Classes that read and write the flatbuffers of ExecuTorch's delegates, made of the schemas that it ships by flatc,
which it brings along. flatc's other way, JSON, gives floats six decimals, and infinities in words that JSON has not."""

from __future__ import annotations

import functools
import importlib.util
import tempfile
from importlib import resources
from pathlib import Path
from types import ModuleType


@functools.cache
def tables(schema: str) -> ModuleType:
    """``schema``: its path inside the package ``executorch``."""
    from executorch.exir._serialize._flatbuffer import _run_flatc

    with tempfile.TemporaryDirectory() as folder:
        copied = Path(folder, "delegate.fbs")
        # Not through the package that it lies in, which imports all of ExecuTorch's compiler for the delegate.
        copied.write_bytes(resources.files("executorch").joinpath(schema).read_bytes())
        _run_flatc(["--python", "--gen-object-api", "--gen-onefile", "-o", folder, str(copied)])
        return _imported(Path(folder, "delegate_generated.py"), f"mobileseg_{schema.replace('/', '_')}_tables")


def _imported(path: Path, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    spec.loader.exec_module(module)  # type: ignore[union-attr]
    # flatc calls XNodeUnionCreator what it defines as XnodeUnionCreator.
    creators = {name.lower(): value for name, value in vars(module).items() if name.endswith("Creator")}
    for known in [known for known in vars(module) if f"{known}Creator".lower() in creators]:
        setattr(module, f"{known}Creator", creators[f"{known}Creator".lower()])
    return module
