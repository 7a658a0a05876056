"""What a wheel would hold, and what static tools see."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("converters", "quantization", "validation", "mobile_assets")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def packages_on_disk() -> set[str]:
    ours = {p.parent for p in (ROOT / "mobileseg").glob("**/__init__.py")} - {
        p.parent for f in FOLDERS for p in (ROOT / "mobileseg" / f).glob("**/__init__.py")
    }
    names = {".".join(p.relative_to(ROOT).parts) for p in ours}
    for folder in FOLDERS:
        for init in (ROOT / folder).glob("**/__init__.py"):
            names.add(".".join(("mobileseg", *init.parent.relative_to(ROOT).parts)))
    return names


def test_every_package_is_listed() -> None:
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == packages_on_disk()


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_folder_is_linked_mapped_and_banned_by_its_bare_name(folder: str) -> None:
    link = ROOT / "mobileseg" / folder
    assert link.is_symlink()
    assert link.readlink() == Path("..") / folder
    assert PROJECT["tool"]["setuptools"]["package-dir"][f"mobileseg.{folder}"] == folder
    assert folder in PROJECT["tool"]["ruff"]["lint"]["flake8-tidy-imports"]["banned-api"]


def test_the_readme_has_both_commands_each_sufficient_alone() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()
    main = [line for line in lines if "pip install -e '.[all]'" in line]
    test = [line for line in lines if "pip install -e '.[all,test]'" in line]
    assert len(main) == len(test) == 1
    assert main[0].startswith("python3 -m venv ")
    assert main[0].endswith("mobileseg convert --to tflite --int8")
    assert test[0].startswith("python3 -m venv ")
    assert test[0].endswith("pytest")


def test_every_converter_is_pinned_to_a_minor_version() -> None:
    extras = PROJECT["project"]["optional-dependencies"]
    for extra in ("tflite", "onnx", "coreml", "executorch"):
        for requirement in extras[extra]:
            assert re.search(r"~=\d+\.\d+", requirement), requirement


def test_no_file_names_a_path_of_a_machine() -> None:
    own = re.compile(r"(?<![\w.])/(?:work|root|home|tmp)/[\w.]")
    tracked = [p for f in (*FOLDERS, "mobileseg", "docs", "benchmarks") for p in (ROOT / f).glob("**/*") if p.is_file()]
    named = [str(p) for p in tracked if p.suffix in {".py", ".md", ".json", ".toml"} and own.search(p.read_text())]
    assert named == []
