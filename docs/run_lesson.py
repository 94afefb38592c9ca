"""Run docs/lesson.ipynb, and store what its cells show.

    python docs/run_lesson.py data

runs it in an empty folder, on the messages in the folder that is named; without one, on the demo's.
"""

import os
import shutil
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).with_name("lesson.ipynb")
MESSAGES = "SMSSpamCollection"
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}


def run_lesson(folder: Path, data_dir: Path | None) -> nbformat.NotebookNode:
    """The notebook with the outputs of a run in ``folder``, without the network. Raises
    ``CellExecutionError`` if a cell fails.

    Args:
        data_dir: holds the messages.
    """
    if data_dir:
        (folder / "data").mkdir()
        shutil.copy(data_dir / MESSAGES, folder / "data")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client = NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    )
    client.record_timing, client.coalesce_streams = False, True
    project = str(NOTEBOOK.parent.parent)
    client.execute(env={**os.environ, **OFFLINE, "PYTHONPATH": project})
    notebook.metadata["language_info"] = {"name": "python"}  # and not of which version
    return notebook


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        data = Path(sys.argv[1]) if len(sys.argv) > 1 else None
        nbformat.write(run_lesson(Path(made), data), NOTEBOOK)
