import gc
import logging
import os
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import transformers
from browser import chromium
from fault_server import IMPATIENT, FaultServer
from helpers import count_faults

from ablation.config.sizes import MODEL_SIZES, GPTConfig
from ablation.data import corpora
from ablation.data.demo import demo_messages
from ablation.data.sms import DATASET_NAME
from ablation.finetuning import frozen_features, memory
from ablation.system import downloads

# A shell has what it starts in the background ignore SIGINT, which tests send.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Tests run side by side, so each has one thread, and so have the scripts that it starts.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"


def pytest_collection_finish() -> None:
    """A sweep collects garbage after each run: what modules and tests hold by now is none."""
    gc.freeze()


@pytest.fixture(autouse=True)
def no_log_handlers() -> Iterator[None]:
    """The script logs to the standard error of its time, which a test's end closes."""
    yield
    logging.getLogger("experiments").handlers.clear()


@pytest.fixture(autouse=True)
def empty_folder(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that a test runs in, which gets the records of its runs."""
    folder = tmp_path_factory.mktemp("current")
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def gpt_config() -> GPTConfig:
    return GPTConfig(emb_dim=16, n_layers=3, n_heads=4, vocab_size=97, context_length=32)


@pytest.fixture(scope="session")
def few_messages() -> pd.DataFrame:
    """Synthetic messages that make 28 training, 4 validation and 8 test texts."""
    messages = demo_messages()
    return pd.concat([messages[:25], messages[-20:]], ignore_index=True)


@pytest.fixture
def few_demo_messages(few_messages: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo has only a few messages."""
    monkeypatch.setattr(corpora, "demo_messages", lambda: few_messages)


@pytest.fixture
def resize(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, GPTConfig], None]]:
    """Gives a model size another shape, also where models of that name were built before."""

    def resize(name: str, shape: GPTConfig) -> None:
        monkeypatch.setitem(MODEL_SIZES, name, shape)
        memory._build_gpt.cache_clear()

    yield resize
    memory._build_gpt.cache_clear()


@pytest.fixture
def small_models(resize: Callable[[str, GPTConfig], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Every size is small, and batches on a card are as large as on a CPU: the same sums."""
    for name in MODEL_SIZES:
        resize(name, GPTConfig(emb_dim=8, n_layers=3, n_heads=2, context_length=128))
    tokens = frozen_features.TOKENS_PER_BATCH
    monkeypatch.setitem(tokens, "cuda", tokens["cpu"])


@pytest.fixture
def plain_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports of runs are written sooner, for tests that look at no picture: pictures are drawn
    but not rendered, and a plan is simulated a few times."""
    picture = b"<svg xmlns='http://www.w3.org/2000/svg'/>"
    monkeypatch.setattr("ablation.reports.drawing._to_svg", lambda _: picture)
    monkeypatch.setattr("ablation.reports.answers.N_REPEATS_OF_REPORT", 20)


@pytest.fixture
def fault_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultServer]:
    """A server on localhost, and downloads from it that soon lose signals."""
    for name, value in IMPATIENT.items():
        monkeypatch.setattr(downloads, name, value)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for name in downloads.OFFLINE_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    server = FaultServer()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def real_data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the real SMS Spam Collection, from that in SPAM_TEST_DATA; skips without."""
    folder = os.environ.get("SPAM_TEST_DATA")
    if not folder or not (Path(folder) / DATASET_NAME).exists():
        pytest.skip("SPAM_TEST_DATA names no folder that holds the SMS Spam Collection")
    copied = tmp_path_factory.mktemp("data")
    shutil.copy(Path(folder) / DATASET_NAME, copied)
    return copied


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Weights that do not change with the seed, as published ones do not."""
    shape = MODEL_SIZES["gpt2-tiny (3M)"]
    gpt2 = transformers.GPT2Config(
        n_embd=shape.emb_dim, n_layer=shape.n_layers, n_head=shape.n_heads
    )
    folder = tmp_path_factory.mktemp("weights")
    transformers.GPT2Model(gpt2).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Chromium; skips where there is none."""
    with chromium() as started:
        yield started


# ---------------------------------------------------------------- the count of faults


@pytest.fixture(autouse=True)
def note_faults(request: pytest.FixtureRequest, record_property: Callable) -> None:
    for fault in count_faults([request.node]).items():
        record_property("fault", fault)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what was survived."""
    counts: Counter[str] = Counter()
    for passed in terminalreporter.stats.get("passed", []):
        for name, value in passed.user_properties:
            if name == "fault":
                counts[value[0]] += value[1]
    if counts:
        terminalreporter.section(f"survived {counts.total()} faults")
        for kind, number in sorted(counts.items()):
            terminalreporter.line(f"{number:4}  {kind}")
