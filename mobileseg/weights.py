"""Weights from a file, wherever in it they lie, and how well they fit a network.

Files are opened with ``weights_only=True`` always, so that none runs code of its own. The weights may be the whole
file or lie anywhere in nested dictionaries, under any common prefix (``module.``, ``model.``, ``_orig_mod.``, ...), in
half precision or as quantized tensors.
"""

from __future__ import annotations

import hashlib
import re
import struct
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

from mobileseg.errors import CheckpointError, UnsafeCheckpointError

if TYPE_CHECKING:
    from torch import Tensor, nn

State = dict[str, "Tensor"]

PREFERRED = ("state_dict", "model_state_dict", "model_state", "model", "network", "net", "weights")
"""Names under which trainers put the weights, before others (``ema``, ``teacher``) that may hold a network too."""

BESIDE = ("criterion.", "loss.", "loss_fn.")
"""Prefixes of what training frameworks keep among the weights although no network computes with it."""

COUNTER = "num_batches_tracked"

# All that torch.load and the unpickler below it were seen to raise on truncated, altered and random files.
UNREADABLE: tuple[type[Exception], ...] = (
    RuntimeError,
    OSError,
    EOFError,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    AssertionError,
    OverflowError,
    MemoryError,
    struct.error,
    zipfile.BadZipFile,
)

RESAVE = (
    "Where it was trained, save the weights alone, torch.save(model.state_dict(), 'weights.pth'), or, if the file is a "
    "dictionary that you trust, torch.save(torch.load('{name}', weights_only=False)['state_dict'], 'weights.pth')."
)
NOT_WEIGHTS = {
    b"version https://git-lfs": "is a Git LFS pointer, not the file itself. Fetch it with: git lfs pull",
    b"<": "is a web page, not a checkpoint. Download the file itself (on GitHub: the 'raw' link).",
}


# Reading the file


def read_states(path: Path) -> list[State]:
    """The weights in a file, the likeliest first, `unified`. Raises `CheckpointError` where there are none."""
    states = [unified(state) for state in state_dicts(read(path))]
    if not states:
        raise CheckpointError(
            f"'{path}' holds no weights: nowhere in it is there a dictionary of named tensors. "
            "Save them with torch.save(model.state_dict(), 'weights.pth')."
        )
    return states


def read(path: Path) -> Any:
    """What the file holds, tensors on the CPU. Raises `CheckpointError`, or `UnsafeCheckpointError`."""
    if path.is_dir():
        raise CheckpointError(f"'{path}' is a directory. Name the checkpoint file in it.")
    try:
        with path.open("rb") as file:
            start = file.read(64)
    except FileNotFoundError:
        raise CheckpointError(f"There is no file '{path}'. Check the path to the checkpoint.") from None
    except OSError as error:
        raise CheckpointError(f"'{path}' cannot be opened: {error.strerror}. Check its permissions.") from error
    if not start:
        raise CheckpointError(f"'{path}' is empty. Copy or download the checkpoint again.")
    for signature, what in NOT_WEIGHTS.items():
        if start.lstrip().startswith(signature):
            raise CheckpointError(f"'{path}' {what}")
    return read_safetensors(path) if path.suffix == ".safetensors" else read_pickle(path)


def read_safetensors(path: Path) -> Any:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise CheckpointError(
            f"'{path}' is not a whole safetensors file ({error}). Copy or download it again."
        ) from error


def read_pickle(path: Path) -> Any:
    import torch

    resave = RESAVE.format(name=path.name)
    try:
        if is_torchscript(path):
            raise UnsafeCheckpointError(
                f"'{path}' is a TorchScript program, not weights. Take them out, if you trust the file: "
                f"torch.save(torch.jit.load('{path.name}', 'cpu').state_dict(), 'weights.pth')."
            )
        with torch.serialization.safe_globals(numpy_scalars()):
            return torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        needed = re.search(r"GLOBAL (\S+)", str(error))
        if needed is None:
            raise CheckpointError(unreadable(path)) from error
        raise UnsafeCheckpointError(
            f"'{path}' would have to run '{needed[1]}' to be read, and so could run anything: it holds a whole module "
            f"or objects beside the weights. {resave}"
        ) from error
    except UNREADABLE as error:
        if "legacy .tar format" in str(error):
            raise UnsafeCheckpointError(
                f"'{path}' is no checkpoint, or in the tar format of PyTorch 0.1, which is not safe to read. {resave}"
            ) from error
        raise CheckpointError(unreadable(path)) from error


def unreadable(path: Path) -> str:
    return (
        f"'{path}' ({path.stat().st_size} bytes) cannot be read as a checkpoint: it is truncated, damaged, or another "
        "kind of file. Expected is what torch.save writes, or a .safetensors file. Copy or download it again."
    )


def is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def numpy_scalars() -> list[Any]:
    """What unpickling a NumPy scalar needs, under the module names of NumPy 1 and 2: trainers save scores so."""
    import numpy as np

    scalar = np.float64(0).__reduce__()[0]
    dtypes = [type(np.dtype(code)) for code in "?bBhHiIlLqQefd"]
    return [(scalar, "numpy.core.multiarray.scalar"), (scalar, "numpy._core.multiarray.scalar"), np.dtype, *dtypes]


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of(state: Mapping[str, Tensor]) -> str:
    """Of weights that are in no file: each key, shape and type with the numbers, in the keys' order."""
    import torch

    digest = hashlib.sha256()
    for key, tensor in sorted(state.items()):
        digest.update(f"{key} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


# Finding the weights in what was read


def state_dicts(content: Any, depth: int = 4) -> Iterator[State]:
    """Every mapping from names to tensors in ``content`` and ``depth`` levels below it, the likeliest first."""
    if depth < 0 or not isinstance(content, Mapping) or not all(isinstance(key, str) for key in content):
        return
    import torch

    tensors = {key: value for key, value in content.items() if isinstance(value, torch.Tensor)}
    if tensors:
        yield tensors
    rank = {key: i for i, key in enumerate(PREFERRED)}
    for key in sorted(content, key=lambda k: rank.get(k, len(rank))):
        yield from state_dicts(content[key], depth - 1)


def unified(state: State) -> State:
    """Without what is no part of a network; quantized and half-precision tensors in float32."""
    import torch

    kept = {key: tensor.detach() for key, tensor in state.items() if not key.startswith(BESIDE)}
    plain = {key: tensor.dequantize() if tensor.is_quantized else tensor for key, tensor in kept.items()}
    return {key: tensor.to(torch.float32) if tensor.is_floating_point() else tensor for key, tensor in plain.items()}


def stripped(state: State) -> Iterator[State]:
    """``state`` as it is, then without each further name that all its keys begin with."""
    yield state
    heads = {key.partition(".")[0] for key in state}
    if len(heads) == 1 and all("." in key for key in state):
        yield from stripped({key.partition(".")[2]: tensor for key, tensor in state.items()})


# Holding them against a network


@dataclass(frozen=True)
class Comparison:
    """``state``: those weights whose keys are a network's, and the keys by which the two differ."""

    state: State = field(repr=False)
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    reshaped: tuple[str, ...] = ()

    @property
    def distance(self) -> int:
        return len(self.missing) + len(self.unexpected) + len(self.reshaped)

    def __str__(self) -> str:
        differences = {"missing": self.missing, "unexpected": self.unexpected, "of another shape": self.reshaped}
        return "; ".join(f"{len(keys)} tensors {what} ({few(keys)})" for what, keys in differences.items() if keys)


def compared(network: nn.Module, state: State) -> Comparison:
    """``state``, in the network's own keys, held against the network, whose weights may be on the meta device."""
    expected = network.state_dict()
    own = complete(network, state)
    return Comparison(
        {key: tensor for key, tensor in own.items() if key in expected},
        missing=tuple(key for key in expected if key not in own and not key.endswith(COUNTER)),
        unexpected=tuple(key for key in own if key not in expected and not key.endswith(COUNTER)),
        reshaped=tuple(
            f"{key} {tuple(own[key].shape)} instead of {tuple(tensor.shape)}"
            for key, tensor in expected.items()
            if key in own and own[key].shape != tensor.shape
        ),
    )


def complete(network: nn.Module, state: State) -> State:
    """``state`` with the further names of shared tensors, of which a file may hold only one (safetensors does)."""
    shared: dict[int, list[str]] = {}
    for key, tensor in network.state_dict(keep_vars=True).items():
        shared.setdefault(id(tensor), []).append(key)
    filled = dict(state)
    for keys in shared.values():
        present = [key for key in keys if key in state]
        if present:
            filled.update({key: state[present[0]] for key in keys if key not in state})
    return filled


def load_into(network: nn.Module, state: State) -> nn.Module:
    """The network with weights that fit, in eval mode, frozen."""
    counters = {key: value for key, value in network.state_dict().items() if key.endswith(COUNTER)}
    network.load_state_dict({**counters, **state}, strict=True)
    return network.eval().requires_grad_(False)


def check_finite(source: str, state: Mapping[str, Tensor]) -> None:
    """Raise `CheckpointError` for weights that are no numbers; ``source``: what the message calls them."""
    bad = [key for key, tensor in state.items() if tensor.is_floating_point() and not bool(tensor.isfinite().all())]
    if bad:
        raise CheckpointError(
            f"{source} has weights that are not finite numbers (NaN or infinite) in {len(bad)} tensors, the first of "
            f"them '{bad[0]}': training diverged or the file is damaged. Take an earlier checkpoint."
        )


def few(keys: Sequence[str], count: int = 4) -> str:
    return ", ".join(keys[:count]) + (", ..." if len(keys) > count else "")
