"""The code that ``--model`` names: found, run, and called for a network.

A user who names code has it run, as ``python file.py`` would run it; checkpoint files never are (`mobileseg.weights`).
"""

from __future__ import annotations

import copy
import importlib
import importlib.util
import inspect
import operator
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeAlias

from mobileseg.errors import MobilesegError, OptionError, suggest

if TYPE_CHECKING:
    from torch import nn

Model: TypeAlias = "str | nn.Module | Callable[..., nn.Module]"
"""``"package.module:factory"``, ``"path/to/file.py:factory"``, a factory, or a network."""

CLASS_COUNTS = frozenset(
    (
        *("num_classes", "n_classes", "num_class", "n_class", "nclass", "nclasses", "nb_classes", "classes"),
        *("class_num", "num_cls", "n_cls", "num_labels", "out_channels", "out_ch", "output_channels"),
    )
)
"""What people call a factory's parameter for the number of classes."""

CHANNEL_COUNTS = frozenset(("in_channels", "n_channels", "in_ch", "in_chans", "input_channels", "num_channels"))
"""What people call the one for the picture's channels, which are three."""

EXPECTED = "Expected is --model FILE.py:FACTORY or --model PACKAGE.MODULE:FACTORY"
WRAPPER = "write a file of your own, def build(): return {call}, and name it: --model that_file.py:build"
ENTRY_NAME = "mobileseg_model"
"""What a named file is called as a module, so that it shadows none; its siblings keep their own names."""


class Folder:
    """Where a user's modules lie. Within `importable` they are found first, as for a script that lies there.

    Afterwards they are put away again, so that the ``utils.py`` of one network is not taken for another's.
    """

    def __init__(self, path: Path | None) -> None:
        self.search = [] if path is None else [str(path)]
        self.modules: dict[str, ModuleType] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> Folder:
        return self  # a copied network's code lies where the network's does

    @contextmanager
    def importable(self) -> Iterator[None]:
        path, others = list(sys.path), {name.partition(".")[0] for name in sys.modules}
        displaced = {name: sys.modules[name] for name in self.modules if name in sys.modules}
        sys.path[:0] = self.search
        sys.modules.update(self.modules)
        try:
            yield
        finally:
            self.search = [entry for entry in sys.path if entry not in path]
            new = {name: module for name, module in sys.modules.items() if name.partition(".")[0] not in others}
            self.modules.update({name: module for name, module in new.items() if self._holds(name, module)})
            for name in self.modules:
                sys.modules.pop(name, None)
            sys.modules.update(displaced)
            sys.path[:] = path

    def _holds(self, name: str, module: ModuleType) -> bool:
        """Whether ``module`` was found through this folder."""
        file = getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", [])), None)
        if file is None:
            return False
        roots = [Path(entry) for entry in self.search if Path(file).is_relative_to(entry)]
        top = name.partition(".")[0]
        return any(Path(file).relative_to(root).parts[0].partition(".")[0] == top for root in roots)


@dataclass(frozen=True)
class Built:
    """``network`` as its factory gave it: eval mode, float32, on the CPU, frozen. ``factory``: its name; ``stem``: what
    files of it are called; ``code``: as messages call it; ``takes_classes``: whether it was told the number of
    classes."""

    network: nn.Module
    factory: str
    stem: str
    code: str
    takes_classes: bool
    folder: Folder


def build(model: Model, num_classes: int | None = None) -> Built:
    """The network that ``model`` names.

    A factory is called with ``num_classes`` where that is given and its signature has a parameter of such a name, and
    with 3 for a required number of input channels; a network is copied.

    Raises `OptionError`, which names the remedy, for code that is not there, cannot be imported, needs other arguments,
    raises, or gives no `nn.Module`.
    """
    folder, factory, code = _found(model)
    name = str(getattr(factory, "__qualname__", type(factory).__name__)).rpartition(".<locals>.")[2]
    stem = name
    if isinstance(model, str):
        source, _, name = model.rpartition(":")
        stem = f"{Path(source.removesuffix('.py')).name.rpartition('.')[2]}-{name}"
    arguments = _arguments(factory, num_classes, code)
    takes_classes = any(key.lower() in CLASS_COUNTS for key in arguments)
    with folder.importable():
        network = _called(factory, arguments, code, takes_classes)
    return Built(network, name, stem.replace(".", "-").strip("<>"), code, takes_classes, folder)


@contextmanager
def blaming(what: str, remedy: str, kind: type[MobilesegError] = OptionError) -> Iterator[None]:
    """Whatever a user's code raises becomes an error that names ``what``, the exception, its place and the remedy."""
    try:
        yield
    except (Exception, SystemExit) as error:
        raise kind(f"{what} {_told(error)}. {remedy}") from error


def _told(error: BaseException) -> str:
    if isinstance(error, SystemExit):
        return f"ended the program (exit status {error.code})"
    said = " ".join(str(error).split())
    if isinstance(error, SyntaxError):
        place = f" ({Path(error.filename or '').name}, line {error.lineno})"
        return f"raised {type(error).__name__}: {error.msg}{place}"
    # The last place outside installed packages: theirs say less to the file's author.
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if "site-packages" not in f.filename and not f.filename.startswith("<frozen")]
    last = (own or frames)[-1]
    place = f" ({Path(last.filename).name}, line {last.lineno})"
    return f"raised {type(error).__name__}: {said[:300]}{'...' if len(said) > 300 else ''}{place}"


# Finding the factory


def _found(model: Model) -> tuple[Folder, Any, str]:
    """Where the code lies, the factory, and what messages call it."""
    if not isinstance(model, str):
        return Folder(None), model, f"the model {getattr(model, '__qualname__', type(model).__name__)}"
    source, colon, attribute = model.rpartition(":")
    if not colon or not source or not attribute:
        example = f"--model {model.strip(':') or 'my_net.py'}:build"
        raise OptionError(
            f"'{model}' does not say both where the code is and what in it makes the network. {EXPECTED}, "
            f"for example {example}."
        )
    is_file = source.endswith(".py") or "/" in source or Path(source).is_file()
    folder, module = _from_file(Path(source)) if is_file else _from_package(source)
    try:
        factory = operator.attrgetter(attribute)(module)
    except AttributeError:
        offered = [
            name
            for name, value in vars(module).items()
            if callable(value) and getattr(value, "__module__", None) == module.__name__ and not name.startswith("_")
        ]
        there = f" It defines: {', '.join(offered[:12])}." if offered else ""
        raise OptionError(f"'{source}' has no '{attribute}'.{suggest(attribute, offered)}{there} {EXPECTED}.") from None
    return folder, factory, f"'{model}'"


def _from_file(path: Path) -> tuple[Folder, ModuleType]:
    path = path.expanduser()
    if not path.is_file():
        what = "is a folder: name a file in it" if path.is_dir() else "is not there: check the path"
        raise OptionError(f"The file of --model, '{path}', {what}. {EXPECTED}.")
    resolved = path.resolve()
    spec = importlib.util.spec_from_file_location(ENTRY_NAME, resolved)
    if spec is None or spec.loader is None:
        raise OptionError(f"'{path}' is no Python source file. {EXPECTED}.")
    module = importlib.util.module_from_spec(spec)
    folder = Folder(resolved.parent)
    folder.modules[ENTRY_NAME] = module
    remedy = (
        "Mend it so that the file can be imported: what parses arguments or trains belongs under "
        "if __name__ == '__main__', and what it imports must be installed or lie beside it."
    )
    if (resolved.parent / "__init__.py").is_file():
        remedy += " A file of a package is named as --model PACKAGE.MODULE:FACTORY, from the folder above the package."
    with folder.importable(), blaming(f"Importing '{path}'", remedy):
        spec.loader.exec_module(module)
    return folder, module


def _from_package(name: str) -> tuple[Folder, ModuleType]:
    folder = Folder(Path.cwd())
    remedy = (
        f"{EXPECTED}; a package must be installed in this Python environment or lie in the current folder, and what it "
        "imports must be installed."
    )
    with folder.importable(), blaming(f"Importing '{name}' for --model", remedy):
        return folder, importlib.import_module(name)


# Calling it


def _arguments(factory: Any, num_classes: int | None, code: str) -> dict[str, int]:
    """What the factory is called with. Raises `OptionError` that names required parameters of other kinds."""
    from torch import nn

    if isinstance(factory, nn.Module):
        return {}
    if not callable(factory):
        raise OptionError(
            f"{code} is of type {type(factory).__name__}: expected is a function or class that gives a torch.nn.Module."
        )
    try:
        parameters: Mapping[str, inspect.Parameter] = inspect.signature(factory).parameters
    except (TypeError, ValueError):  # of a builtin
        return {}
    arguments: dict[str, int] = {}
    missing = []
    for name, parameter in parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        required, key = parameter.default is parameter.empty, name.lower()
        # (A default that is no number means something else by that name: a list of classes.)
        counts_classes = key in CLASS_COUNTS and (required or isinstance(parameter.default, (int, type(None))))
        if parameter.kind is parameter.POSITIONAL_ONLY:
            missing += [name] if required else []
        elif counts_classes and num_classes is not None and not CLASS_COUNTS & {a.lower() for a in arguments}:
            arguments[name] = num_classes
        elif required and key in CHANNEL_COUNTS:
            arguments[name] = 3
        elif required and counts_classes:
            raise OptionError(f"{code} needs the number of classes ('{name}'). Say it: --num-classes N.")
        elif required:
            missing.append(name)
    if missing:
        short = code.strip("'").rpartition(":")[2].rpartition(" ")[2]
        call = f"{short}({', '.join(f'{name}=...' for name in [*arguments, *missing])})"
        raise OptionError(
            f"{code} needs arguments that only you can choose: {', '.join(missing)}. Fill them in: "
            f"{WRAPPER.format(call=call)}."
        )
    return arguments


def _called(factory: Any, arguments: Mapping[str, int], code: str, takes_classes: bool) -> nn.Module:
    import torch
    from torch import nn

    given = ", ".join(f"{name}={value}" for name, value in arguments.items())
    what = f"Calling {code} with ({given})" if given else f"Calling {code}"
    with blaming(what, f"Mend it, or {WRAPPER.format(call='YourNetwork(...)')}."):
        network = copy.deepcopy(factory) if isinstance(factory, nn.Module) else factory(**arguments)
    while isinstance(network, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        network = network.module
    if not isinstance(network, nn.Module):
        raise OptionError(
            f"{code} gave {type(network).__name__} instead of a torch.nn.Module. Return the network from it."
        )
    if isinstance(network, torch.jit.ScriptModule):
        raise OptionError(f"{code} gave a TorchScript program, which cannot be rewritten. Return the Python network.")
    return network.cpu().float().eval().requires_grad_(False)
