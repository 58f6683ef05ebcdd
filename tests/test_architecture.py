"""The plan of the house, held by tests: who may import what, how long a module may be, what a process loads."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.servers import ROOT

LONGEST_MODULE_LINES = 400
PACKAGES = ("gateway", "ensembles", "backends")
FILE_LIBRARIES = ("sqlalchemy", "aiosqlite", "asyncpg", "alembic", "lancedb", "pyarrow", "numpy", "xberg", "pypdfium2")
ENGINE_LIBRARIES = ("torch", "vllm", "sglang", "tensorrt_llm", "transformers", "onnxruntime", "xllamacpp")


def modules(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def test_the_import_contracts_are_kept():
    lint = Path(sys.executable).with_name("lint-imports")
    ended = subprocess.run([lint, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_no_module_is_longer_than_400_lines():
    lengths = {path: path.read_bytes().count(b"\n") for path in modules(*PACKAGES, "tests", "deploy")}
    too_long = {str(path.relative_to(ROOT)): lines for path, lines in lengths.items() if lines > LONGEST_MODULE_LINES}
    assert not too_long


def test_every_module_says_its_one_idea_in_one_line():
    for path in modules(*PACKAGES):
        docstring = ast.get_docstring(ast.parse(path.read_bytes()))
        assert docstring, f"{path.relative_to(ROOT)} has no docstring"
        assert len(docstring.splitlines()[0]) > 10, path


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("gateway.supervisor", ENGINE_LIBRARIES),
        ("gateway.cli", ENGINE_LIBRARIES),
        ("gateway.server", (*ENGINE_LIBRARIES, *FILE_LIBRARIES)),
    ],
    ids=["supervisor", "cli", "server"],
)
def test_no_process_of_the_gateway_loads_an_engine_library_nor_one_of_files_before_it_is_asked(module, unwanted):
    code = f"import sys, {module}; print(*(name for name in {unwanted} if name in sys.modules))"
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert not ended.stdout.split()


def test_every_locked_package_has_one_exact_version_and_every_direct_one_is_locked():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    locked = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    installed = ("llamacpp", "onnxruntime", "text", "kserve", "images", "rag", "postgres", "dev")
    for requirement in [*project["dependencies"], *(each for extra in installed for each in extras[extra])]:
        name = requirement.split(">=")[0].split("[")[0]
        assert name in locked, f"{name} is not in constraints.txt: run `make lock`"
