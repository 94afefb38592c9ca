"""The notebook: what is stored is whole, and it still runs."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import nbformat
import pytest

DOCS = Path(__file__).parent.parent / "docs"


@pytest.fixture(scope="module")
def lesson() -> ModuleType:
    spec = importlib.util.spec_from_file_location("run_lesson", DOCS / "run_lesson.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def code_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def require_whole(notebook: nbformat.NotebookNode) -> None:
    """Every cell ran, in order, shows something, and did not fail."""
    nbformat.validate(notebook)
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == [*range(1, len(cells) + 1)]
    for cell in cells:
        assert cell.outputs, cell.source
        kinds = {output.output_type for output in cell.outputs}
        assert "error" not in kinds


def test_what_is_stored_is_whole() -> None:
    notebook = nbformat.read(DOCS / "lesson.ipynb", as_version=4)
    require_whole(notebook)
    streams = [output.get("name") for cell in code_cells(notebook) for output in cell.outputs]
    assert "stderr" not in streams
    text = (DOCS / "lesson.ipynb").read_text()
    assert not re.search(r"/(work|tmp|home|root|usr)/|[A-Z]:\\\\", text), "a path of some machine"
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        assert (DOCS / target).exists(), target
    outputs = "".join(str(cell.outputs) for cell in code_cells(notebook))
    assert "The texts are the SMS Spam Collection." in outputs
    # The figures are those of the page, whose records are in docs/lesson.
    table = re.findall(r"\| \w+ token \| \w+ \| ([\d.]+) \| ([\d.]+) \|", page())
    said = re.findall(r"seed \d+: ([\d.]+) %", outputs)
    assert [float(figure) for row in table for figure in row] == [float(figure) for figure in said]


def page() -> str:
    return (DOCS / "lesson.md").read_text()


@pytest.mark.slow
def test_it_runs_on_the_demo(lesson: ModuleType, tmp_path: Path) -> None:
    require_whole(lesson.run_lesson(tmp_path, None))


@pytest.mark.slow
def test_it_runs_on_the_messages(lesson: ModuleType, tmp_path: Path, real_data_dir: Path) -> None:
    notebook = lesson.run_lesson(tmp_path, real_data_dir)
    require_whole(notebook)
    shown = code_cells(notebook)[0].outputs[0].text
    assert shown == "The texts are the SMS Spam Collection.\n"
