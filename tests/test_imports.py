"""Imports between the folders go one way."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("runtime", "families", "detection", "export", "analysis", "drawing", "training", "report", "studies")
# What each folder may import of the repository, besides itself
ALLOWED = {
    "external": set(),
    "models": {"external"},
    "db": set(),
    "sample": {"db"},
    "configs": {"db", "sample", "models", "nnet"},
    "nnet": {"db", "sample", "models", "external"},
}
# Run by `python -m`, or imported by users: they may read configs
ENTRY_POINTS = {"nnet/analysis/tables.py", "nnet/api.py", "nnet/drawing/browse.py", "nnet/training/cost.py"}
ENTRY_POINTS |= {f"nnet/report/{name}.py" for name in ("__main__", "compare", "runs")}


def imported(path: Path) -> set[str]:
    """The modules of the repository that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.partition(".")[0] in ALLOWED}


@pytest.mark.parametrize("folder", ALLOWED)
def test_folders_import_one_way(folder):
    paths = sorted((ROOT / folder).rglob("*.py"))
    assert paths
    for path in paths:
        name = path.relative_to(ROOT).as_posix()
        allowed = ALLOWED[folder] | {folder} | ({"configs"} if name in ENTRY_POINTS else set())
        above = {module for module in imported(path) if module.partition(".")[0] not in allowed}
        assert not above, f"{name} imports {above}"


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_of_nnet_import_those_before_them(room):
    allowed = ROOMS[: ROOMS.index(room) + 1]
    for path in sorted((ROOT / "nnet" / room).rglob("*.py")):
        rooms = {module.split(".")[1] for module in imported(path) if module.startswith("nnet.")}
        above = rooms & set(ROOMS) - set(allowed)
        assert not above, f"{path.relative_to(ROOT)} imports {above}"


def test_every_room_is_known():
    assert {path.parent.name for path in (ROOT / "nnet").glob("*/__init__.py")} == set(ROOMS)
