"""The set-up: what is fetched, that it is made whole or not at all, and what is said where it cannot be."""

from __future__ import annotations

import importlib.util
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

import pytest

from mobileseg.errors import MissingExtraError, UnavailableError, UsageError
from mobileseg.validation.devices import arm64_root
from mobileseg.validation.devices.arm64_root import Installation, fetch_python, fetch_wheels, find, install, wanted

Programs = Callable[..., Path]
PACKAGES = {"numpy": "2.4.6", "ai-edge-litert": "2.3.0"}
WRITES_DEB = ': > "${2%/apt.conf}/cache/archives/a.deb"'


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "mobileseg" / "somewhere"


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was fetched, by stand-ins that leave what the real ones leave."""
    done = list[str]()

    def python(making: Path, sources: Path | None) -> None:
        done.append(f"python from {sources}")
        (making / "root" / "usr" / "bin").mkdir(parents=True)
        (making / "root" / "usr" / "bin" / "python3").symlink_to("python3.12")

    def wheels(site: Path, python: str, packages: dict[str, str]) -> None:
        done.append(f"wheels for {python}")
        site.mkdir()
        (site / "module.py").write_text("x = 1\n")

    monkeypatch.setattr(arm64_root, "fetch_python", python)
    monkeypatch.setattr(arm64_root, "fetch_wheels", wheels)
    monkeypatch.setattr(arm64_root, "wanted", lambda: PACKAGES)
    return done


@contextmanager
def stage(name: str) -> Iterator[None]:
    yield


def test_it_is_made_once_and_found_from_then_on(fetched: list[str], cache: Path) -> None:
    checked = list[Installation]()
    made = install("somewhere", None, checked.append, stage)
    again = install("somewhere", None, checked.append, stage)
    assert fetched == ["python from None", "wheels for 3.12"]
    assert len(checked) == 1
    assert checked[0].folder != made.folder
    assert (made.made, again.made) == (True, False)
    assert find("somewhere") == again
    assert (made.folder, made.python, made.packages, made.bytes) == (again.folder, "3.12", PACKAGES, again.bytes)
    assert made.interpreter.is_symlink()
    assert [p.name for p in cache.iterdir()] == [made.folder.name]


def test_other_versions_are_another_installation(fetched: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    first = install("somewhere", None, lambda made: None, stage)
    monkeypatch.setattr(arm64_root, "wanted", lambda: {**PACKAGES, "numpy": "2.5.0"})
    with pytest.raises(UnavailableError, match="mobileseg setup somewhere"):
        find("somewhere")
    assert install("somewhere", None, lambda made: None, stage).folder != first.folder


def test_what_fails_its_check_leaves_nothing(fetched: list[str], cache: Path) -> None:
    def fails(made: Installation) -> None:
        raise UnavailableError("it does not load")

    with pytest.raises(UnavailableError, match="it does not load"):
        install("somewhere", None, fails, stage)
    assert list(cache.iterdir()) == []
    with pytest.raises(UnavailableError, match="mobileseg setup somewhere"):
        find("somewhere")


def test_another_process_may_be_quicker(fetched: list[str], cache: Path) -> None:
    inner = list[Installation]()

    def meanwhile(made: Installation) -> None:
        if not inner:
            inner.append(made)
            inner.append(install("somewhere", None, meanwhile, stage))

    outer = install("somewhere", None, meanwhile, stage)
    assert outer.folder == inner[1].folder
    assert [p.name for p in cache.iterdir()] == [outer.folder.name]


@pytest.mark.parametrize("record", ["", "{}", "[1", "[]"])
def test_a_damaged_record_is_no_installation(fetched: list[str], record: str) -> None:
    made = install("somewhere", None, lambda made: None, stage)
    (made.folder / "installation.json").write_text(record)
    with pytest.raises(UnavailableError, match="mobileseg setup somewhere"):
        find("somewhere")
    assert install("somewhere", None, lambda made: None, stage).made
    assert find("somewhere").packages == PACKAGES


def test_a_cache_that_cannot_be_written(fetched: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(UnavailableError, match="XDG_CACHE_HOME"):
        install("somewhere", None, lambda made: None, stage)


def test_the_versions_are_those_that_are_installed_here(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {"numpy": "2.4.6", "executorch": "1.5.1+cpu"}

    def version(name: str) -> str:
        if name not in versions:
            raise metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(metadata, "version", version)
    assert wanted() == {"numpy": "2.4.6", "executorch": "1.5.1"}
    del versions["executorch"]
    with pytest.raises(MissingExtraError, match="mobileseg\\[tflite\\]"):
        wanted()


def test_the_python_is_fetched_with_a_state_of_its_own(programs: Programs, tmp_path: Path) -> None:
    programs(
        apt_get=f'/bin/cat "$2" > "{tmp_path}/seen"; {WRITES_DEB}',
        dpkg_deb='/bin/mkdir -p "$3/usr/bin" && /bin/ln -s python3.11 "$3/usr/bin/python3"',
    )
    (tmp_path / "making").mkdir()
    (tmp_path / "other.sources").touch()
    fetch_python(tmp_path / "making", tmp_path / "other.sources")
    configuration = (tmp_path / "seen").read_text()
    assert 'APT::Architecture "arm64";' in configuration
    assert f'Dir::State "{tmp_path}/making/apt";' in configuration
    assert f'Dir::Etc::sourcelist "{tmp_path}/other.sources";' in configuration
    assert sorted(p.name for p in (tmp_path / "making").iterdir()) == ["root"]
    assert (tmp_path / "making" / "root" / "lib").readlink() == Path("usr/lib")


def test_no_apt(programs: Programs, tmp_path: Path) -> None:
    programs()
    with pytest.raises(UnavailableError, match="in a container of one of these"):
        fetch_python(tmp_path, None)


def test_no_list_of_sources(programs: Programs, tmp_path: Path) -> None:
    programs(apt_get="exit 0", dpkg_deb="exit 0")
    with pytest.raises(UsageError, match=r"absent\.list"):
        fetch_python(tmp_path, tmp_path / "absent.list")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (
            '[ "$5" = update ] || { echo "E: Unable to locate package python3-minimal" >&2; exit 100; }',
            "Unable to locate",
        ),
        (
            'echo "W: Failed to fetch it  Could not resolve" >&2; [ "$5" = update ] || exit 100',
            "Failed to fetch it Could",
        ),
        ('[ "$5" = update ] || exit 100', "status 100"),
    ],
)
def test_sources_without_arm64(programs: Programs, tmp_path: Path, body: str, said: str) -> None:
    programs(apt_get=body, dpkg_deb="exit 0")
    with pytest.raises(UnavailableError, match=rf"{said}.*--sources FILE"):
        fetch_python(tmp_path, None)


def test_a_package_that_cannot_be_unpacked(programs: Programs, tmp_path: Path) -> None:
    programs(apt_get=WRITES_DEB, dpkg_deb="echo 'no space left' >&2; exit 2")
    with pytest.raises(UnavailableError, match=r"a\.deb': no space left"):
        fetch_python(tmp_path, None)


def test_the_wheels_are_unpacked_without_what_they_depend_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of wheels stands in for the registry."""
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    for name, tag in (("thing", "cp312-cp312-manylinux_2_28_aarch64"), ("other", "py3-none-any")):
        with zipfile.ZipFile(shelf / f"{name}-1.0-{tag}.whl", "w") as wheel:
            wheel.writestr(f"{name}/__init__.py", "")
            text = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\nRequires-Dist: absent-from-the-shelf\n"
            wheel.writestr(f"{name}-1.0.dist-info/METADATA", text)
            wheel.writestr(f"{name}-1.0.dist-info/WHEEL", f"Wheel-Version: 1.0\nTag: {tag}\n")
    for variable, value in (("PIP_NO_INDEX", "1"), ("PIP_FIND_LINKS", str(shelf)), ("PIP_CONFIG_FILE", "/dev/null")):
        monkeypatch.setenv(variable, value)
    making = tmp_path / "making"
    making.mkdir()
    fetch_wheels(making / "site", "3.12", {"thing": "1.0", "other": "1.0"})
    assert {p.name for p in making.iterdir()} == {"site"}
    assert {p.name for p in (making / "site").iterdir()} >= {"thing", "other"}
    with pytest.raises(UnavailableError, match=r"no ARM64 wheels of thing==1\.0 for Python 3\.11: .*thing"):
        fetch_wheels(making / "none", "3.11", {"thing": "1.0"})


def test_no_pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UnavailableError, match="ensurepip"):
        fetch_wheels(tmp_path / "site", "3.12", PACKAGES)
