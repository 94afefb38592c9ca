import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import torch
from fault_server import IMPATIENT, FaultServer

import downloads
from data_utils import DATASET_NAME
from demo_data import demo_messages
from gpt_model import GPTConfig

torch.set_num_threads(min(2, torch.get_num_threads()))


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
def fault_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultServer]:
    """A server on localhost, and downloads from it that soon lose patience."""
    for name, value in IMPATIENT.items():
        monkeypatch.setattr(downloads, name, value)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
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
