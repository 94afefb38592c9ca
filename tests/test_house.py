"""The plan of the house: which way imports run, and how long files are."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from ablation.system.version import PROJECT, code_files

# A room may import itself, and those that stand above it here.
FLOORS = (
    ("ablation.system",),
    ("ablation.config",),
    ("gpt_model", "lora", "data_utils"),
    ("ablation.data", "ablation.classifier"),
    ("ablation.finetuning",),
    ("ablation.sweeps",),
    ("ablation.reports",),
    ("ablation.interface",),
    ("additional_experiments", "predict"),
)
FLOOR_OF = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}


def room_of(module: str) -> str | None:
    """The room that a module of this project is in; none if it is not of this project."""
    name = ".".join(module.split(".")[: 2 if module.startswith("ablation") else 1])
    return name if name in FLOOR_OF else None


def imported_by(path: Path) -> Iterator[str]:
    """The modules that a file imports, wherever it does so."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path} imports relatively"
            yield node.module  # a module, or a package
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", code_files(), ids=lambda path: str(path.relative_to(PROJECT)))
def test_imports_run_one_way(path: Path) -> None:
    module = ".".join(path.relative_to(PROJECT).with_suffix("").parts)
    if module == "ablation.__init__":
        return
    own = room_of(module)
    assert own, f"{path} is in no room of the plan"
    upward = [
        name
        for name in imported_by(path)
        if (room := room_of(name)) and room != own and FLOOR_OF[room] >= FLOOR_OF[own]
    ]
    # On one floor, gpt_model, lora and data_utils are neighbours that do not know each other.
    assert not upward


def test_packages_say_what_they_are_for_and_export_nothing() -> None:
    folders = {path.parent for path in code_files()} - {PROJECT}
    for folder in folders:
        body = ast.parse((folder / "__init__.py").read_text()).body
        assert [type(node) for node in body] == [ast.Expr], folder


# What trains a row, from the model to the loop.
SIX_ROOMS = (
    *("gpt_model.py", "lora.py", "data_utils.py", "ablation/classifier/build.py"),
    *("ablation/finetuning/frozen_features.py", "ablation/finetuning/training.py"),
)


def test_the_code_is_read_in_an_evening() -> None:
    lines = {str(f.relative_to(PROJECT)): len(f.read_text().splitlines()) for f in code_files()}
    assert {name: n for name, n in lines.items() if n > 350} == {}
    assert sum(lines[name] for name in SIX_ROOMS) <= 1250
    assert len(FLOOR_OF) <= 16


# Of the reports, what makes the page of --html.
PAGE_OF_TOKENS = {"ablation.reports.pages", "ablation.reports.token_strip"}


def test_predict_needs_nothing_of_sweeps_and_of_reports_a_page() -> None:
    seen, waiting = set(), ["predict"]
    while waiting:
        module = waiting.pop()
        path = PROJECT.joinpath(*module.split(".")).with_suffix(".py")
        if module in seen or not path.exists():
            continue
        seen.add(module)
        waiting += imported_by(path)
    assert "ablation.classifier.saved_models" in seen
    assert "ablation.sweeps" not in {room_of(module) for module in seen}
    assert {name for name in seen if room_of(name) == "ablation.reports"} == PAGE_OF_TOKENS
