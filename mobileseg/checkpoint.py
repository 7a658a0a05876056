"""Trained weights from a file to a network: which architecture, variant and widths they are of is read from their keys.

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

from mobileseg import registry
from mobileseg.errors import (
    CheckpointError,
    OptionError,
    UnknownArchitectureError,
    UnsafeCheckpointError,
    UsageError,
    unknown_option,
)
from mobileseg.types import Checkpoint, Variant

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


def load_checkpoint(
    path: str | Path,
    *,
    architecture: str | None = None,
    variant: str | None = None,
    num_classes: int | None = None,
) -> Checkpoint:
    """The network of a ``.pth``, ``.pt``, ``.pth.tar`` or ``.safetensors`` file, in eval mode, on the CPU, in float32.

    ``architecture`` and ``variant`` limit what is looked for (names: `mobileseg.registry`); ``num_classes`` must be
    the file's own.

    Raises `OptionError` for an override that does not exist or fit, `UnsafeCheckpointError` for a file that needs code
    to be unpickled, `UnknownArchitectureError` for weights of none or of several known networks, and `CheckpointError`
    for a file that is missing, unreadable, or holds no or non-finite weights.
    """
    path = Path(path).expanduser()
    variants = candidates(architecture, variant)
    states = list(state_dicts(read(path)))
    if not states:
        raise CheckpointError(
            f"'{path}' holds no weights: nowhere in it is there a dictionary of named tensors. "
            "Save them with torch.save(model.state_dict(), 'weights.pth')."
        )
    fit = choose(path, [unified(state) for state in states], variants)
    classes = int(fit.hyperparameters["num_classes"])
    if classes < 1:
        raise CheckpointError(f"'{path}' has no classes: its last layer has no outputs. Take another checkpoint.")
    if num_classes not in (None, classes):
        raise OptionError(
            f"'{path}' has {classes} classes, not {num_classes}: its last layer has {classes} outputs. "
            f"Leave --num-classes out, or say --num-classes {classes}."
        )
    check_finite(path, fit.state)
    network = load(fit)
    return Checkpoint(
        network=network,
        architecture=fit.variant.architecture,
        variant=fit.variant.name,
        num_classes=classes,
        hyperparameters=fit.hyperparameters,
        preprocessing=registry.preprocessing(fit.variant.preprocessing(classes)),
        size=default_size(fit.variant, classes),
        size_multiple=fit.variant.size_multiple,
        min_size=fit.variant.min_size,
        parameters=sum(p.numel() for p in network.parameters()),
        sha256=sha256(path),
        path=path,
        notices=tuple(n for n in fit.variant.notices if n.num_classes in (None, classes)),
    )


def candidates(architecture: str | None, variant: str | None) -> Sequence[Variant]:
    """The variants that the overrides leave. Raises `OptionError` where there is none."""
    known = registry.variants(architecture)
    chosen = [v for v in known if variant in (None, v.name)]
    if variant is not None and not chosen:
        raise unknown_option(f"variant of {architecture or 'any architecture'}", variant, {v.name for v in known})
    return chosen


# Reading the file


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


# Finding the network that the weights are of


@dataclass(frozen=True)
class Fit:
    """How well a variant's network fits: ``state`` in its keys, and the keys by which the two differ."""

    variant: Variant
    hyperparameters: dict[str, Any]
    state: State = field(repr=False)
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    reshaped: tuple[str, ...] = ()

    @property
    def distance(self) -> int:
        return len(self.missing) + len(self.unexpected) + len(self.reshaped)


def match(variant: Variant, state: State) -> Fit | None:
    """The comparison of ``state`` with the variant's network, or None where its tell-tale keys are absent."""
    import torch

    hyperparameters = variant.infer(state)
    if hyperparameters is None:
        return None
    try:
        with torch.device("meta"):
            network = variant.build(**hyperparameters)
    except (ValueError, RuntimeError, UsageError):  # widths of which no such network can be made
        return None
    expected = network.state_dict()
    own = complete(network, variant.rename(state) if variant.rename else state)
    return Fit(
        variant,
        hyperparameters,
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


def choose(path: Path, states: Sequence[State], variants: Sequence[Variant]) -> Fit:
    """The one variant that fits the first of ``states`` that any fits. Raises `UnknownArchitectureError`."""
    tried: list[Fit] = []
    for state in states:
        for level in stripped(state):
            fits = [fit for variant in variants if (fit := match(variant, level)) is not None]
            exact = [fit for fit in fits if fit.distance == 0]
            names = {(fit.variant.architecture, fit.variant.name) for fit in exact}
            chosen = [fit for fit in exact if (fit.variant.architecture, fit.variant.twin_of) not in names]
            if len(chosen) == 1:
                return chosen[0]
            if chosen:
                named = ", ".join(f"--arch {f.variant.architecture} --variant {f.variant.name}" for f in chosen)
                raise UnknownArchitectureError(f"'{path}' fits more than one known network. Say which: {named}.")
            tried += fits
    nearest = min(tried, key=lambda fit: fit.distance, default=None)
    raise UnknownArchitectureError(unknown(path, states[0], variants, nearest))


def unknown(path: Path, state: State, variants: Sequence[Variant], nearest: Fit | None) -> str:
    """The message for weights that fit none of ``variants``."""
    looked = ", ".join(f"{v.architecture} {v.name}" for v in variants)
    if nearest is None:
        found = f"Its {len(state)} tensors begin with {few(list(state))}, which are no key of these networks."
    else:
        differences = {
            "missing": nearest.missing,
            "unexpected": nearest.unexpected,
            "of another shape": nearest.reshaped,
        }
        told = "; ".join(f"{len(keys)} tensors {what} ({few(keys)})" for what, keys in differences.items() if keys)
        found = f"Nearest is {nearest.variant.architecture} {nearest.variant.name}: {told}."
    return (
        f"'{path}' is of no known network; looked for: {looked}. {found} Look for others with --arch and --variant, "
        "or convert a checkpoint of a known network (mobileseg list architectures)."
    )


def few(keys: Sequence[str], count: int = 4) -> str:
    return ", ".join(keys[:count]) + (", ..." if len(keys) > count else "")


# Loading


def check_finite(path: Path, state: State) -> None:
    bad = [key for key, tensor in state.items() if tensor.is_floating_point() and not bool(tensor.isfinite().all())]
    if bad:
        raise CheckpointError(
            f"'{path}' has weights that are not finite numbers (NaN or infinite) in {len(bad)} tensors, the first of "
            f"them '{bad[0]}': training diverged or the file is damaged. Take an earlier checkpoint."
        )


def load(fit: Fit) -> nn.Module:
    """The network with the weights, eval mode, frozen."""
    network = fit.variant.build(**fit.hyperparameters)
    counters = {key: value for key, value in network.state_dict().items() if key.endswith(COUNTER)}
    network.load_state_dict({**counters, **fit.state}, strict=True)
    return network.eval().requires_grad_(False)


def default_size(variant: Variant, num_classes: int) -> tuple[int, int]:
    from mobileseg.architectures.blocks import default_size as usual

    return (variant.default_size or usual(variant.size_multiple))(num_classes)
