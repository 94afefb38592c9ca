"""README.md and docs/: what is generated is fresh, commands parse or run, what is named exists."""

import importlib.util
import itertools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from helpers import environment_without_network, make_result

from ablation.config import rules
from ablation.config.command_line import parse_command_line
from ablation.config.options import ExperimentConfig
from ablation.config.rows import ROWS
from ablation.config.runs import Run
from ablation.finetuning import experiment
from ablation.finetuning.outcomes import ExperimentResult
from ablation.sweeps.records import read_records
from docs import drawings

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
TEXTS = {path.name: path.read_text() for path in PAGES}
EXTENDING = TEXTS["extending.md"]
needs_vocabulary = pytest.mark.skipif(
    "TIKTOKEN_CACHE_DIR" not in os.environ, reason="needs GPT-2's vocabulary"
)


def all_blocks(text: str) -> list[tuple[str, str]]:
    """Language and content of each block of code, in their order."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def code_blocks(text: str, language: str) -> list[str]:
    return [code for name, code in all_blocks(text) if name == language]


@pytest.fixture(scope="module")
def build() -> ModuleType:
    spec = importlib.util.spec_from_file_location("build_docs", ROOT / "docs" / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# ---------------------------------------------------------------- what is written


def test_generated_pieces_are_fresh(build: ModuleType) -> None:
    for path, content in build.build().items():
        assert (ROOT / path).read_text() == content, f"{path} is stale: run python docs/build.py"


def test_the_readme_is_short() -> None:
    assert len(TEXTS["README.md"].splitlines()) <= 180


def test_the_readme_begins_with_the_two_commands_of_ci() -> None:
    install_and_demo, tests = code_blocks(TEXTS["README.md"], "bash")[:2]
    assert install_and_demo.endswith("python additional_experiments.py --demo\n")
    assert tests.endswith("python -m pytest\n")
    assert install_and_demo.count("\n") == tests.count("\n") == 1


def test_what_the_readme_says_of_the_figures(build: ModuleType) -> None:
    """The baseline beats twelve rows, and random weights turn two lessons round."""
    svm = 100 * drawings.SVM_CORRECT / drawings.N_TEST
    assert f"{svm:.2f}" == "97.67"
    assert sum(row.published.test < svm for row in ROWS.values()) == 12
    measured = build.random_weights(read_records(ROOT / "results"))
    test = {number: found.percent("test").mean() for number, found in measured.items()}
    assert test[16] < test[1] < test[13]
    assert ROWS[13].published.test < ROWS[1].published.test < ROWS[16].published.test
    within = [
        n
        for n, row in ROWS.items()
        if n > 1 and abs(row.published.test - ROWS[1].published.test) * 3 < 6
    ]
    assert within == [5, 7, 10, 11, 17, 18, 19], "less than 6 of 300 messages from row 1"


def anchor_of(heading: str) -> str:
    """What a link to a heading ends with, on GitHub."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_what_is_named_exists(path: Path) -> None:
    text = path.read_text()
    assert not re.search(r"/(work|tmp|home|root)/", text), "a path of some machine"
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith("http"):
            continue
        name, _, heading = target.partition("#")
        assert (path.parent / name).exists(), target
        if heading:
            page = path.parent / name if name else path
            headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
            assert heading in map(anchor_of, headings), target
    named = set(re.findall(r"`([\w./-]+\.(?:py|md|txt|csv|json|svg))`", text))
    written = {"result.json", "predictions.csv", "report.html", "report.md", "config.json"}
    written |= {"split-HASH.csv", "merges.txt", "vocab.json", "ablation/data/echo.py"}
    for name in named - written:
        assert (ROOT / name).exists(), f"{path.name} names {name}"
    for folder in re.findall(r"`([\w./]+/)`", text):
        made = folder.startswith(("runs", "data", "DIR"))
        assert made or (ROOT / folder).is_dir(), f"{path.name} names {folder}"


def test_the_tree_is_that_of_the_project() -> None:
    (tree,) = (block for block in code_blocks(TEXTS["README.md"], "") if "gpt_model.py" in block)
    top = set(re.findall(r"^(\w+\.py) ", tree, re.MULTILINE))
    assert top == {path.name for path in ROOT.glob("*.py")}
    packages = {f"{path.parent.name}/" for path in ROOT.glob("ablation/*/__init__.py")}
    assert set(re.findall(r"^  (\w+/)", tree, re.MULTILINE)) == packages


# ---------------------------------------------------------------- commands


@pytest.mark.parametrize("name", sorted(TEXTS.keys() - {"extending.md"}))
def test_commands_parse(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)  # some name files that are there
    monkeypatch.setattr(rules, "tracker_problems", lambda name: [])  # they need not be installed
    commands = re.findall(
        r"(?:python|torchrun [^\n`]+) additional_experiments\.py([^\n`|;&]*)", TEXTS[name]
    )
    for command in commands:
        request = parse_command_line(shlex.split(command, comments=True))
        assert (
            request.runs or request.writes_report or request.compare or request.plan or request.text
        )
    assert len(commands) >= {"README.md": 6, "rows.md": len(ROWS), "lesson.md": 4}.get(name, 0)


def test_commands_of_predict_have_its_flags() -> None:
    found = subprocess.run(
        [sys.executable, ROOT / "predict.py", "--help"], capture_output=True, text=True
    )
    known = set(re.findall(r"--\w+", found.stdout))
    commands = re.findall(r"python predict\.py (.*)", "\n".join(TEXTS.values()))
    assert len(commands) > 3
    assert set(re.findall(r"--\w+", " ".join(commands))) <= known
    folders = set(re.findall(r"runs/(row-\d+_seed\S+)", " ".join(commands)))
    assert folders == {Run(ROWS[16].config).name}


def test_the_lesson_rests_on_its_commands() -> None:
    asked = set()
    for line in "".join(code_blocks(TEXTS["lesson.md"], "bash")).splitlines():
        asked |= {run.name for run in parse_command_line(shlex.split(line)[2:]).runs}
    assert {record.folder.name for record in read_records(ROOT / "docs" / "lesson")} == asked


def test_python_on_the_page_of_flags(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    (code,) = code_blocks(TEXTS["flags.md"], "python")
    asked = []

    def run(config: ExperimentConfig) -> ExperimentResult:
        asked.append(config)
        return make_result([0, 1, 1], [0, 1, 0])

    monkeypatch.setattr(experiment, "run_experiment", run)
    exec(code, {})
    assert asked == [ROWS[16].config]
    assert capsys.readouterr().out == "2 of 3\n"


def test_python_on_its_page(
    few_demo_messages: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One block after the other, as a reader runs them."""
    monkeypatch.chdir(tmp_path)
    blocks = code_blocks(TEXTS["python.md"], "python")
    assert len(blocks) > 5
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "docs/python.md", "exec"), names)
    assert names["results"].table["n"].tolist() == [2, 2, 1]  # one has two epochs only
    assert names["labels"]["label"].isin(["ham", "spam"]).all()
    shown = re.findall(r"`results\.(\w+)", TEXTS["python.md"])
    assert {*shown} <= {*dir(names["results"])}


def shell(commands: str, folder: Path) -> subprocess.CompletedProcess:
    """Commands of a page, with this Python, in a folder that has what they name."""
    python = f'python() {{ {shlex.quote(sys.executable)} "$@"; }}\n'
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", python + commands],
        cwd=folder,
        env=environment_without_network(folder, COLUMNS="100"),
        capture_output=True,
        text=True,
        timeout=300,
    )


def shape(line: str) -> str:
    """A line without its figures, which are of one machine."""
    return re.sub(r"\s+", " ", re.sub(r"\d+", "#", line)).strip()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("page", "part"),
    [
        pytest.param("README.md", "--table", marks=needs_vocabulary),
        ("README.md", "--save_model"),
        pytest.param("own-data.md", "--save_model", marks=needs_vocabulary),
        pytest.param("own-data.md", "--group_column", marks=needs_vocabulary),
    ],
)
def test_commands_print_what_is_pasted(page: str, part: str, tmp_path: Path) -> None:
    for path in (*ROOT.glob("*.py"), ROOT / "ablation", ROOT / "examples"):
        (tmp_path / path.name).symlink_to(path)
    pairs = itertools.pairwise(all_blocks(TEXTS[page]))
    ((commands, pasted),) = (
        (block, output)
        for (language, block), (_, output) in pairs
        if language == "bash" and part in block
    )
    finished = shell(commands, tmp_path)
    assert finished.returncode == 0, finished.stderr
    printed = {shape(line) for line in finished.stdout.splitlines()}
    for line in pasted.splitlines():
        assert line == "..." or shape(line) in printed, finished.stdout


# ---------------------------------------------------------------- extending it


@pytest.fixture
def extended_project(tmp_path: Path) -> Path:
    """A copy of the project with the changes of docs/extending.md."""
    shutil.copytree(ROOT / "ablation", tmp_path / "ablation")
    for path in ROOT.glob("*.py"):
        shutil.copy(path, tmp_path)
    changes = re.findall(
        r"In (a new file )?`([^`]+)`(?:, (above|below) `([^`]+)`)?:\n\n"
        r"```(?:python|toml)\n(.*?)```",
        EXTENDING,
        re.DOTALL,
    )
    assert len(changes) == 8
    for is_new, name, side, anchor, code in changes:
        path = tmp_path / name
        assert bool(is_new) != path.exists(), name
        lines = [] if is_new else path.read_text().splitlines(keepends=True)
        places = [i for i, line in enumerate(lines) if anchor and line.startswith(anchor)]
        assert is_new or len(places) == 1, f"{anchor} in {name}"
        place = 0 if is_new else places[0] + (side == "below")
        path.write_text("".join([*lines[:place], code, *lines[place:]]))
    return tmp_path


def test_additions_fit(extended_project: Path) -> None:
    commands = "python additional_experiments.py --table lora.toml --rows list --output_dir none"
    finished = shell(commands, extended_project)
    assert "a smaller LoRA?" in finished.stdout, finished.stderr


@pytest.mark.slow
@needs_vocabulary
def test_what_is_added_works(extended_project: Path) -> None:
    finished = shell("".join(code_blocks(EXTENDING, "bash")), extended_project)
    assert finished.returncode == 0, finished.stderr
    assert "a smaller LoRA?" in finished.stdout
    results = [
        json.loads(path.read_text()) for path in extended_project.glob("runs/**/result.json")
    ]
    by_command = {result["command"]: result for result in results}
    assert len(by_command) == 4, by_command.keys()
    (few,) = (found for command, found in by_command.items() if "--train_texts 80" in command)
    assert few["accuracy"]["train"]["total"] == 80
    (echo,) = (found for command, found in by_command.items() if "--echo" in command)
    assert echo["data"]["name"] == "echo"
    (mini,) = (found for command, found in by_command.items() if "gpt2-mini" in command)
    assert mini["flags"]["model_size"] == "gpt2-mini (8M)"
    (lora,) = (found for command, found in by_command.items() if "--lora_rank 4" in command)
    assert lora["row"] is None, "with --demo it is a variant"
