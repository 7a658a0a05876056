"""A folder with an ARM64 Python and the runtimes' ARM64 wheels, made once and kept in the user's cache.

Python and the libraries below it are packages of this machine's own distribution, which apt fetches for ARM64 into a
state of its own: nothing of the machine is changed, and no root is needed. The wheels are of the versions that are
installed here, so that both sides run the same runtime.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from importlib import metadata
from pathlib import Path

from mobileseg.errors import MissingExtraError, UnavailableError, UsageError
from mobileseg.validation.devices.emulation import CPUINFO

RUNTIMES = {".tflite": "ai-edge-litert", ".pte": "executorch", ".onnx": "onnxruntime"}
"""Suffix of a file -> the distribution that runs it."""

DEBIAN_PACKAGES = ("python3-minimal", "libpython3-stdlib", "libstdc++6")
"""With what they depend on."""

PLATFORMS = ("manylinux2014_aarch64", *(f"manylinux_2_{minor}_aarch64" for minor in range(17, 29)))
"""What the runtimes' wheels are built for; every distribution with a Python that they take has a newer C library."""

LAYOUT = 1
"""Raised where what is installed changes, so that an older folder is not used."""

_RECORD = "installation.json"
_CPUINFO = "cpuinfo"

Stage = Callable[[str], AbstractContextManager[None]]
"""Shows the name of what is done within it."""


@dataclass(frozen=True)
class Installation:
    """What a device needs, in place. ``packages``: versions by name; ``python``: the ARM64 one's version; ``made``:
    whether it was made just now."""

    device: str
    folder: Path
    python: str
    packages: Mapping[str, str]
    bytes: int
    made: bool = False

    @property
    def root(self) -> Path:
        return self.folder / "root"

    @property
    def cpuinfo(self) -> Path:
        return self.folder / _CPUINFO

    @property
    def interpreter(self) -> Path:
        return self.root / "usr" / "bin" / "python3"

    @property
    def environment(self) -> dict[str, str]:
        """All that the ARM64 Python is to see: what points this machine's programs to libraries is not for it."""
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "PYTHONPATH": str(self.folder / "site"),
            "LC_ALL": "C.UTF-8",
        }


def cache_folder() -> Path:
    """$XDG_CACHE_HOME/mobileseg, or ~/.cache/mobileseg."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mobileseg"


def find(device: str) -> Installation:
    """What was set up for the versions that are installed here. Raises `UnavailableError` where nothing was."""
    folder = _folder(device, wanted())
    try:
        found = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
        return Installation(device, folder, found["python"], found["packages"], found["bytes"])
    except (OSError, ValueError, KeyError, TypeError):
        raise UnavailableError(
            f"{device} is not set up for the versions that are installed here. Set it up with: mobileseg setup {device}"
        ) from None


def wanted() -> dict[str, str]:
    """NumPy and the runtimes that are installed here, with their versions. Raises `MissingExtraError` without any."""
    found = {}
    for name in RUNTIMES.values():
        try:
            # A local version (1.5.1+cpu) names this machine's build of the public one.
            found[name] = metadata.version(name).partition("+")[0]
        except metadata.PackageNotFoundError:
            continue
    if not found:
        raise MissingExtraError("tflite", "ai_edge_litert")
    return {"numpy": metadata.version("numpy"), **found}


def install(device: str, sources: Path | None, check: Callable[[Installation], None], stage: Stage) -> Installation:
    """What `find` finds, else made now: fetched, unpacked, checked by ``check``, and only then given its name.

    ``sources``: a list of package sources, as apt has them (.list or .sources), instead of the machine's own.
    Raises `UnavailableError` for a program that is missing, sources without ARM64 packages, or a network that is not
    there, `UsageError` where ``sources`` is no file, and what ``check`` raises.
    """
    packages = wanted()
    folder = _folder(device, packages)
    with suppress(UnavailableError):
        return find(device)
    with _temporary(folder) as making:
        with stage("Fetch an ARM64 Python of the distribution"):
            fetch_python(making, sources)
        version = (making / "root" / "usr" / "bin" / "python3").readlink().name.removeprefix("python")
        with stage(f"Fetch the ARM64 wheels for Python {version}"):
            fetch_wheels(making / "site", version, packages)
        (making / _CPUINFO).write_text(CPUINFO, encoding="ascii")
        with stage("Load the runtimes under emulation"):
            check(Installation(device, making, version, packages, 0))
        size = sum(path.lstat().st_size for path in making.rglob("*") if not path.is_dir())
        record = {"python": version, "packages": packages, "bytes": size}
        (making / _RECORD).write_text(json.dumps(record), encoding="utf-8")
        try:
            return find(device)  # another process was quicker
        except UnavailableError:
            shutil.rmtree(folder, ignore_errors=True)
            making.rename(folder)
    return Installation(device, folder, version, packages, size, made=True)


def _folder(device: str, packages: Mapping[str, str]) -> Path:
    names = json.dumps([LAYOUT, sorted(packages.items())])
    return cache_folder() / device / sha256(names.encode()).hexdigest()[:12]


@contextmanager
def _temporary(folder: Path) -> Iterator[Path]:
    """A folder beside ``folder``, and gone afterwards unless it was renamed."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        making = Path(tempfile.mkdtemp(prefix=".making-", dir=folder.parent))
    except OSError as error:
        raise UnavailableError(
            f"The cache '{folder.parent}' cannot be written: {error.strerror}. Name another with XDG_CACHE_HOME."
        ) from error
    try:
        yield making
    except OSError as error:
        raise UnavailableError(f"'{making}' cannot be filled: {error}.") from error
    finally:
        shutil.rmtree(making, ignore_errors=True)


def fetch_python(making: Path, sources: Path | None) -> None:
    """The distribution's Python and what it needs, unpacked below ``making/root``."""
    for program, package in (("apt-get", "apt"), ("dpkg-deb", "dpkg")):
        if shutil.which(program) is None:
            raise UnavailableError(
                f"The program {program} (package {package}) is not here: the set-up takes the packages of Debian or "
                "Ubuntu. On another distribution, run mobileseg in a container of one of these."
            )
    if sources is not None and not sources.is_file():
        raise UsageError(f"There is no list of package sources '{sources}' (--sources).")
    apt = making / "apt"
    for name in ("lists/partial", "cache/archives/partial", "log"):
        (apt / name).mkdir(parents=True)
    (apt / "status").touch()
    (apt / "apt.conf").write_text(_apt_configuration(apt, sources), encoding="utf-8")
    command = ["apt-get", "-c", str(apt / "apt.conf"), "--yes", "--quiet=2"]
    updated = _run([*command, "update"])
    fetched = _run([*command, "install", "--download-only", *DEBIAN_PACKAGES])
    if fetched.returncode:
        # Of a failure to reach the sources the second command only shows what follows from it.
        said = _last(updated, "E:") or _last(updated, "W:") or _last(fetched, "E:") or f"status {fetched.returncode}"
        raise UnavailableError(
            f"apt finds no ARM64 packages in {sources or 'the package sources of this machine'}: {said}. Check the "
            "network; where the sources have none (Ubuntu's are elsewhere), name a list of others: --sources FILE."
        )
    for archive in sorted((apt / "cache" / "archives").glob("*.deb")):
        unpacked = _run(["dpkg-deb", "--extract", str(archive), str(making / "root")])
        if unpacked.returncode:
            raise UnavailableError(f"dpkg-deb cannot unpack '{archive.name}': {unpacked.stderr.strip()}")
    shutil.rmtree(apt)
    # Where /lib is part of /usr, no package that was fetched has the link that says so.
    if not (making / "root" / "lib").exists():
        (making / "root" / "lib").symlink_to("usr/lib")


def _apt_configuration(apt: Path, sources: Path | None) -> str:
    """A state of its own, for ARM64, with the machine's keys and, where no ``sources`` are named, its sources."""
    lines = [
        f'Dir::State "{apt}";',
        f'Dir::State::lists "{apt}/lists";',
        f'Dir::State::status "{apt}/status";',
        f'Dir::Cache "{apt}/cache";',
        f'Dir::Log "{apt}/log";',
        'APT::Architecture "arm64";',
        "#clear APT::Architectures;",
        'APT::Architectures { "arm64"; };',
        'APT::Install-Recommends "0";',
        'Acquire::Languages "none";',
        # The user _apt may not enter a home; and what the machine does after an update is not for this one.
        'APT::Sandbox::User "root";',
        "#clear APT::Update::Post-Invoke;",
        "#clear APT::Update::Post-Invoke-Success;",
    ]
    if sources is not None:
        lines += [f'Dir::Etc::sourcelist "{sources.resolve()}";', 'Dir::Etc::sourceparts "/dev/null";']
    return "\n".join(lines) + "\n"


def fetch_wheels(site: Path, python: str, packages: Mapping[str, str]) -> None:
    """Those of ``packages`` for an ARM64 CPython of that version, unpacked into ``site``. What they depend on is left
    out: the runtimes run without."""
    if importlib.util.find_spec("pip") is None:
        raise UnavailableError("pip is not installed in this environment. Install it with: python -m ensurepip")
    wheels = site.with_name("wheels")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-cache-dir", "--quiet"]
    options = ["--implementation", "cp", "--python-version", python, "--dest", str(wheels)]
    platforms = [f"--platform={name}" for name in PLATFORMS]
    names = [f"{name}=={version}" for name, version in packages.items()]
    fetched = _run([*command, *options, *platforms, *names])
    if fetched.returncode:
        said = _last(fetched, "ERROR:") or f"status {fetched.returncode}"
        raise UnavailableError(
            f"pip finds no ARM64 wheels of {', '.join(names)} for Python {python}: {said}. Check the network."
        )
    for wheel in sorted(wheels.glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(site)
    shutil.rmtree(wheels)


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"}
    return subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env=environment,
        text=True,
        errors="replace",
        check=False,
    )


def _last(done: subprocess.CompletedProcess[str], mark: str) -> str:
    """The last line on stderr that begins with ``mark``, without it."""
    lines = [line.removeprefix(mark).strip() for line in done.stderr.splitlines() if line.startswith(mark)]
    return re.sub(r"\s+", " ", lines[-1]).rstrip(".") if lines else ""
