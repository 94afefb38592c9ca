"""Every fault of a server, a file or a folder: the right result or a clear error, in bounded time,
and nothing half-written. On localhost, and without a network."""

import errno
import hashlib
import io
import json
import os
import struct
import subprocess
import sys
import threading
import time
import tracemalloc
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from fault_server import (
    IMPATIENT,
    Answer,
    FaultServer,
    drip,
    drip_headers,
    endless,
    hang_up,
    redirect_to,
    reset,
    send,
    send_rest,
    stall,
)
from helpers import PATCHED

from ablation.config.sizes import PUBLISHED_WEIGHTS
from ablation.data import sms
from ablation.data.sms import DATASET_NAME, find_dataset
from ablation.system.errors import DataError

pytestmark = pytest.mark.slow

CONTENT = b"".join(b"ham\thello %d\nspam\tfree money %d\n" % (i, i) for i in range(40))
DATASET = {
    "DATASET_SHA256": hashlib.sha256(CONTENT).hexdigest(),
    "DATASET_BYTES": len(CONTENT),
    "MAX_ZIP_BYTES": 300_000,
}
TINY = ["--model_size", "gpt2-tiny (3M)", "--weights", "random", "--max_steps", "1"]


def make_zip(*members: tuple[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return buffer.getvalue()


@cache
def make_bombs() -> tuple[bytes, bytes]:
    """Two zips of 0.1 MB whose member has 100 MB; the second says that it has the right size."""
    n_bytes = 100_000_000
    bomb = make_zip((DATASET_NAME, bytes(n_bytes)))
    return bomb, bomb.replace(struct.pack("<L", n_bytes), struct.pack("<L", len(CONTENT)))


def send_bomb(handler: BaseHTTPRequestHandler) -> None:
    send(make_bombs()[0])(handler)


def send_lying_bomb(handler: BaseHTTPRequestHandler) -> None:
    send(make_bombs()[1])(handler)


def flip(content: bytes, start: int, stop: int) -> bytes:
    """The content with the bits of some of its bytes flipped."""
    return content[:start] + bytes(b ^ 255 for b in content[start:stop]) + content[stop:]


GOOD = make_zip((DATASET_NAME, CONTENT), ("readme", b"nothing to see"))
HALF = len(GOOD) // 128 * 64  # whole pieces
TAG = '"1"'
CUT = send(GOOD[:HALF], announced=len(GOOD), ETag=TAG)
PAGE = b"<!DOCTYPE html><html>please log in</html>"
EVIL_NAMES = ("../escaped", "../../escaped", "/escaped", "..\\escaped", f"../{DATASET_NAME}")
EVIL = [(name, CONTENT) for name in EVIL_NAMES]
REST = {"status": 206, "Content_Range": f"bytes {HALF}-{len(GOOD) - 1}/{len(GOOD)}", "ETag": TAG}


def send_zip(*members: tuple[str, bytes]) -> Answer:
    return send(make_zip(*members))


# What an address answers, in order; and why that is nothing, or that it is right in the end.
# Nothing is resumed within a file: what was cut off comes anew and whole, and a part is no answer.
RIGHT = "right"
NO_ZIP = "not a readable zip"
TOO_LARGE = "larger than 300,000 bytes"
FAULTS: dict[str, tuple[Sequence[Answer], str]] = {
    "truncates": ([send(GOOD[:HALF], announced=len(GOOD))], "IncompleteRead"),
    "truncates, and says it is whole": ([send(GOOD[:HALF])], NO_ZIP),
    "truncates once": ([CUT, send(GOOD)], RIGHT),
    "truncates the rest": (
        [
            CUT,
            send(GOOD[HALF : HALF + 64], announced=len(GOOD) - HALF, **REST),
            send_rest(GOOD, ETag=TAG),
        ],
        RIGHT,
    ),
    "corrupts the beginning": ([send(flip(GOOD, 0, 4))], NO_ZIP),
    "corrupts the middle": ([send(flip(GOOD, 60, 80))], NO_ZIP),
    "corrupts the end": ([send(flip(GOOD, len(GOOD) - 6, len(GOOD)))], NO_ZIP),
    "corrupts the rest": (
        [CUT, send(flip(GOOD, HALF, HALF + 9)[HALF:], **REST)],
        "206 Partial Content",
    ),
    "stalls": ([stall(GOOD)], "Read timed out"),
    "stalls once": ([stall(GOOD), send_rest(GOOD)], RIGHT),
    "resets": ([reset(GOOD)], "reset by peer"),
    "resets once": ([reset(GOOD), send_rest(GOOD)], RIGHT),
    "hangs up": ([hang_up], "closed connection without response"),
    "hangs up once": ([hang_up, send(GOOD)], RIGHT),
    "drips the body": ([drip(GOOD)], "not complete after 2.0 s"),
    "drips the headers": ([drip_headers], "not complete after 2.0 s"),
    "404": ([send(status=404)], "404 Not Found"),
    "403": ([send(status=403)], "403 Forbidden"),
    "429": ([send(status=429)], "429 Too Many Requests"),
    "429, then fine": ([send(status=429, Retry_After="1"), send(GOOD)], RIGHT),
    "429 for an hour": ([send(status=429, Retry_After="3600")], "too late to wait 3600.0 s"),
    "500, then fine": ([send(status=500), send(GOOD)], RIGHT),
    "500 always": ([send(status=500)], "500 Internal Server Error"),
    "503 in the middle": ([CUT, send(status=503), send_rest(GOOD, ETag=TAG)], RIGHT),
    "redirects in a circle": ([redirect_to()], "redirects in a circle"),
    "redirects with endless bodies": ([endless(302, Location="/0")], "redirects in a circle"),
    "redirects to nowhere": ([redirect_to("http://[::1")], "Invalid IPv6 URL"),
    "redirects to a file": ([redirect_to("file:///file")], "No connection adapters"),
    "an HTML page": ([send(PAGE, Content_Type="text/html")], "a web page came instead"),
    "nothing at all": ([send(b"")], NO_ZIP),
    "an endless file": ([endless()], TOO_LARGE),
    "an endless page of an error": ([endless(404)], "404 Not Found"),
    "a file announced as huge": ([send(GOOD, announced=10**15)], TOO_LARGE),
    "a length that is no number": ([send(GOOD, announced="many")], RIGHT),
    "a zip bomb": ([send_bomb], f"larger than {len(CONTENT):,} bytes"),
    "a zip bomb that says it is none": ([send_lying_bomb], NO_ZIP),
    "a zip with ../ names": ([send_zip(*EVIL)], f"holds no {DATASET_NAME}"),
    "a zip with ../ names beside": ([send_zip(*EVIL, (DATASET_NAME, CONTENT))], RIGHT),
    "a zip without the member": ([send_zip(("readme", CONTENT))], f"holds no {DATASET_NAME}"),
    "a zip of nothing": ([send_zip()], f"holds no {DATASET_NAME}"),
    "wrong bytes in the member": ([send_zip((DATASET_NAME, flip(CONTENT, 0, 9)))], "SHA-256"),
    "too few bytes in the member": ([send_zip((DATASET_NAME, CONTENT[:-1]))], "SHA-256"),
    "one byte too many": ([send_zip((DATASET_NAME, CONTENT + b"\n"))], "larger than"),
    "resume honoured": ([CUT, send_rest(GOOD, ETag=TAG)], RIGHT),
    "resume refused": ([CUT, send(status=416), send(GOOD)], RIGHT),
    "resume ignored": ([CUT, send(GOOD)], RIGHT),
    "resume with changed ETag": ([CUT, send_rest(GOOD, ETag='"2"')], RIGHT),
    "resume of another file": (
        [CUT, send(bytes(99), **{**REST, "ETag": '"2"'})],
        "206 Partial Content",
    ),
}


def files_below(folder: Path) -> list[str]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return sorted(path.relative_to(folder).as_posix() for path in found)


@contextmanager
def bounded(seconds: float, n_bytes: int = 30_000_000) -> Iterator[None]:
    """That what is inside takes no more time and memory."""
    tracemalloc.start()
    started = time.monotonic()
    try:
        yield
        assert time.monotonic() - started < seconds
        assert tracemalloc.get_traced_memory()[1] < n_bytes
    finally:
        tracemalloc.stop()


@pytest.fixture
def addresses(fault_server: FaultServer, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Where a small dataset is looked for, to be filled."""
    for name, value in DATASET.items():
        monkeypatch.setattr(sms, name, value)
    urls: list[str] = []
    monkeypatch.setattr(sms, "DATASET_URLS", urls)
    make_bombs()  # before time and memory are measured
    return urls


@pytest.mark.faults("servers and zips")
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_at_both_addresses(
    fault_server: FaultServer, addresses: list[str], tmp_path: Path, fault: str
) -> None:
    answers, expected = FAULTS[fault]
    addresses += [fault_server.address(*answers), fault_server.address(*answers)]
    folder = tmp_path / "a" / "data"
    with bounded(6):
        if expected == RIGHT:
            assert find_dataset(folder).read_bytes() == CONTENT
            assert set(fault_server.paths) == {"/0"}
        else:
            with pytest.raises(DataError) as error:
                find_dataset(folder)
            message = str(error.value)
            assert message.count(expected) == 2
            assert all(url in message for url in addresses)
            assert len(message.splitlines()) == 1
            assert "Without a network, put the file" in message
    assert files_below(tmp_path) == ([f"a/data/{DATASET_NAME}"] if expected == RIGHT else [])


@pytest.mark.faults("servers and zips")
@pytest.mark.parametrize("fault", [name for name in FAULTS if FAULTS[name][1] != RIGHT])
def test_a_fault_at_the_first_address(
    fault_server: FaultServer, addresses: list[str], tmp_path: Path, fault: str
) -> None:
    addresses += [fault_server.address(*FAULTS[fault][0]), fault_server.address(send(GOOD))]
    with bounded(4):
        assert find_dataset(tmp_path).read_bytes() == CONTENT
    assert fault_server.paths[-1] == "/1"
    assert files_below(tmp_path) == [DATASET_NAME]


# ---------------------------------------------------------------- folders, processes


@pytest.mark.faults("a read-only folder")
def test_a_folder_that_is_read_only(
    fault_server: FaultServer, addresses: list[str], tmp_path: Path
) -> None:
    addresses.append(fault_server.address(send(GOOD)))
    folder = tmp_path / "data"
    folder.mkdir(mode=0o555)
    if os.geteuid() == 0:  # who may write to any folder but this one
        folder = Path("/proc/self")
    with pytest.raises(DataError, match=r"cannot be read or written.*--data_dir"):
        find_dataset(folder)
    assert files_below(tmp_path) == []


@pytest.mark.faults("a full disk")
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_disk_that_fails_in_the_middle(
    fault_server: FaultServer,
    addresses: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    code: int,
) -> None:
    addresses.append(fault_server.address(send(GOOD)))

    def write_half(path: Path, content: bytes) -> None:
        with path.open("wb") as file:
            file.write(content[: len(content) // 2])
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Path, "write_bytes", write_half)
    with pytest.raises(DataError, match=f"{os.strerror(code)}.*--data_dir"):
        find_dataset(tmp_path)
    assert files_below(tmp_path) == []


VOCABULARY = (b"merges " * 50, b"ranks " * 50)


class Script:
    """The script in processes of its own, with small files from a server on localhost."""

    def __init__(self, server: FaultServer, folder: Path) -> None:
        self.server = server
        self.folder = folder
        self.cache = folder / "cache"
        self.settings: dict[str, object] = {"ablation.system.downloads": IMPATIENT}
        self.environment: dict[str, str] = {}

    def serve(self, dataset: Sequence[Answer], *vocabulary: Sequence[Answer]) -> list[str]:
        """Serve the dataset, and one or both files of a vocabulary. Returns their addresses."""
        url = self.server.address(*dataset)
        self.settings["ablation.data.sms"] = {**DATASET, "DATASET_URLS": [url]}
        answers = [*vocabulary, *([send(content)] for content in VOCABULARY[len(vocabulary) :])]
        urls = [self.server.address(*given) for given in answers]
        checksums = (hashlib.sha256(content).hexdigest() for content in VOCABULARY)
        self.settings["ablation.data.vocabulary"] = {
            "FILES": dict(zip(urls, checksums, strict=True))
        }
        self.environment["HF_ENDPOINT"] = self.server.address(send(status=404))
        return [url, *urls]

    def cached(self) -> list[str]:
        """The names of the vocabulary's files in tiktoken's cache."""
        urls = self.settings["ablation.data.vocabulary"]["FILES"]
        return sorted(hashlib.sha1(url.encode()).hexdigest() for url in urls)

    def fill(self) -> None:
        """Put everything where it belongs."""
        (self.folder / "data").mkdir(exist_ok=True)
        (self.folder / "data" / DATASET_NAME).write_bytes(CONTENT)
        self.cache.mkdir(exist_ok=True)
        for url, content in zip(
            self.settings["ablation.data.vocabulary"]["FILES"], VOCABULARY, strict=True
        ):
            (self.cache / hashlib.sha1(url.encode()).hexdigest()).write_bytes(content)

    def start(self, *flags: str) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, PATCHED, json.dumps(self.settings), *flags],
            cwd=self.folder,
            env={
                **os.environ,
                "HF_HUB_OFFLINE": "",
                "HF_HOME": str(self.folder / "hf"),
                "TIKTOKEN_CACHE_DIR": str(self.cache),
                "NO_PROXY": "127.0.0.1",
                **self.environment,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *flags: str) -> tuple[int, str, str]:
        """Exit status, standard output, standard error."""
        process = self.start(*flags)
        out, err = process.communicate(timeout=100)
        assert "Traceback" not in err, err
        return process.returncode, out, err


@pytest.fixture
def script(fault_server: FaultServer, tmp_path: Path) -> Script:
    return Script(fault_server, tmp_path)


@pytest.mark.faults("servers and zips")
def test_the_script_gets_over_faults(script: Script) -> None:
    script.serve(
        [send(status=503), CUT, send_rest(GOOD, ETag='"1"')],
        [send(VOCABULARY[0][:3], announced=len(VOCABULARY[0])), send_rest(VOCABULARY[0])],
        [reset(VOCABULARY[1]), send_rest(VOCABULARY[1])],
    )
    status, out, err = script.run(*TINY)
    assert status == 0, err
    assert "Test accuracy: " in out
    assert err.count("trying again") == 4
    expected = [f"data/{name}.csv" for name in ("test", "train", "validation")]
    expected = sorted([*expected, f"data/{DATASET_NAME}", *(f"cache/{n}" for n in script.cached())])
    assert [name for name in files_below(script.folder) if not name.startswith("runs")] == expected


@pytest.mark.faults("servers and zips")
@pytest.mark.parametrize(
    "fault", ["404", "truncates", "an HTML page", "redirects in a circle", "an endless file"]
)
def test_the_script_ends_with_1(script: Script, fault: str) -> None:
    answers, reason = FAULTS[fault]
    url, *_ = script.serve(answers)
    status, out, err = script.run(*TINY)
    assert (status, out) == (1, "")
    assert f"Error: The SMS Spam Collection could not be downloaded: tried {url} (" in err
    assert reason in err
    assert [name for name in files_below(script.folder) if not name.startswith("runs")] == []


@pytest.mark.faults("servers and zips")
def test_the_script_ends_with_1_without_a_vocabulary(script: Script) -> None:
    _, _, url = script.serve([send(GOOD)], [send(VOCABULARY[0])], [send(PAGE)])
    status, out, err = script.run(*TINY)
    assert (status, out) == (1, "")
    assert "Error: GPT-2's vocabulary could not be downloaded: tried http" in err
    assert "/resolve/" in err
    assert f" (404 Not Found) and {url} (a web page" in err
    assert "TIKTOKEN_CACHE_DIR" in err
    first = hashlib.sha1(
        next(iter(script.settings["ablation.data.vocabulary"]["FILES"])).encode()
    ).hexdigest()
    assert files_below(script.cache) == [first]


def together(answer: Answer, n: int) -> Answer:
    """The answer, not before so many have asked for it."""
    gate = threading.Barrier(n)

    def wait(handler: BaseHTTPRequestHandler) -> None:
        gate.wait(timeout=60)
        answer(handler)

    return wait


@pytest.mark.faults("several processes at once")
def test_several_processes_at_once_end_with_one_good_file(script: Script) -> None:
    n = 3
    script.serve(
        [together(send(GOOD), n)],
        *([together(send(content), n)] for content in VOCABULARY),
    )
    script.settings["ablation.system.downloads"] = {**IMPATIENT, "TIMEOUT_SECONDS": (60, 60)}
    script.settings["ablation.system.downloads"]["DEADLINE_SECONDS"] = 60
    processes = [script.start(*TINY, "--output_dir", f"runs/{i}") for i in range(n)]
    for process in processes:
        _, err = process.communicate(timeout=100)
        assert process.returncode == 0, err
    hub = script.environment["HF_ENDPOINT"].rpartition("/")[2]  # which has nothing
    asked = [path for path in script.server.paths if path.split("/")[1] != hub]
    assert len(asked) == 3 * n, "they did download at once"
    assert (script.folder / "data" / DATASET_NAME).read_bytes() == CONTENT
    names = ["test.csv", "train.csv", "validation.csv", DATASET_NAME]
    assert files_below(script.folder / "data") == sorted(names)
    assert files_below(script.cache) == script.cached()


@pytest.mark.faults("several processes at once")
def test_a_process_that_is_killed_leaves_nothing(script: Script) -> None:
    script.serve([stall(GOOD)])
    script.settings["ablation.system.downloads"] = {**IMPATIENT, "TIMEOUT_SECONDS": (60, 60)}
    process = script.start(*TINY)
    give_up = time.monotonic() + 60
    while not script.server.asked and time.monotonic() < give_up:
        time.sleep(0.01)
    process.kill()
    process.communicate()
    assert script.server.asked
    assert files_below(script.folder / "data") == []


# ---------------------------------------------------------------- the hub


HUB_FAULTS = {
    "404": ([send(status=404)], "404"),
    "429": ([send(status=429)], "429"),
    "500": ([send(status=500)], "500"),
    "hangs up": ([hang_up], "disconnected"),
    "nothing listens": (None, "refused"),
}


@pytest.mark.faults("faults of the Hugging Face hub")
@pytest.mark.parametrize("fault", HUB_FAULTS)
def test_faults_of_the_hub(script: Script, fault: str) -> None:
    answers, reason = HUB_FAULTS[fault]
    script.serve([send(GOOD)])
    script.fill()
    endpoint = script.server.address(*answers) if answers else "http://127.0.0.1:9"
    script.environment["HF_ENDPOINT"] = endpoint
    script.settings["no_waits"] = True
    status, out, err = script.run("--weights_dir", "weights")
    assert (status, out) == (1, "")
    (message,) = err[err.index("Error: ") :].splitlines()
    assert "not found in Hugging Face's cache, and not downloaded" in message
    assert reason in message
    assert "put that file at weights/gpt2/model.safetensors" in message
    assert not list((script.folder / "weights").rglob("model.safetensors"))


# ---------------------------------------------------------------- offline


OFFLINE = {"by flag": (["--offline"], "0"), "by environment": ([], "1")}


def perform(script: Script, *commands: Sequence[str]) -> tuple[list[tuple[int, str]], str]:
    """Exit status and messages of each, where the network is forbidden; and what reached for it."""
    script.settings["forbid_network"] = True
    script.settings["commands"] = commands
    status, out, err = script.run()
    assert status == 0, err
    return json.loads(out), err


@pytest.mark.faults("no network allowed")
@pytest.mark.parametrize("way", OFFLINE)
def test_offline_touches_no_network(script: Script, way: str) -> None:
    flags, script.environment["HF_HUB_OFFLINE"] = OFFLINE[way]
    script.serve([send(GOOD)])
    script.fill()
    weights = script.folder / "weights" / "gpt2-medium"
    weights.mkdir(parents=True)
    (weights / "model.safetensors").touch()
    medium = PUBLISHED_WEIGHTS["gpt2-medium (355M)"]
    hub = script.folder / "hf" / "hub" / f"models--{medium.repository.replace('/', '--')}"
    (hub / "snapshots" / medium.revision).mkdir(parents=True)
    (hub / "snapshots" / medium.revision / "model.safetensors").touch()
    cases = {
        ("--demo", "--max_steps", "1"): "Record: ",
        (*TINY,): "Record: ",
        (*TINY, "--rows", "1,2"): "Seconds: ",
        (*TINY, "--data_dir", "missing"): f"at {Path('missing', DATASET_NAME)}",
        ("--report", "--data_dir", "missing"): f"at {Path('missing', DATASET_NAME)}",
        (): "WEIGHTS_DIR/gpt2/model.safetensors",
        ("--weights_dir", "weights"): "weights/gpt2/model.safetensors",
        # Files that are there, though empty, in the folder and in the hub's cache.
        (
            "--weights_dir",
            "weights",
            "--rows",
            "6",
        ): "model.safetensors is not the model.safetensors of",
        ("--rows", "6"): f"{medium.revision}/model.safetensors is not the model",
    }
    results, err = perform(script, *([*case, *flags] for case in cases))
    assert "NETWORK" not in err
    for (case, part), (status, message) in zip(cases.items(), results, strict=True):
        is_done = part in ("Record: ", "Seconds: ")
        assert status == (0 if is_done else 1), (case, message)
        assert part in message, case
        assert ("this is offline" in message) == (not is_done and "--rows" not in case), case
    assert script.server.asked == []
    assert files_below(script.folder / "missing") == []
    assert files_below(script.folder / "weights") == ["gpt2-medium/model.safetensors"]


@pytest.mark.faults("no network allowed")
@pytest.mark.parametrize("way", OFFLINE)
@pytest.mark.parametrize("state", ["missing", "damaged"])
def test_offline_without_a_vocabulary(script: Script, way: str, state: str) -> None:
    flags, script.environment["HF_HUB_OFFLINE"] = OFFLINE[way]
    script.serve([send(GOOD)])
    script.fill()
    path = script.cache / script.cached()[0]
    path.unlink() if state == "missing" else path.write_bytes(b"half")
    before = files_below(script.cache)
    (result,), err = perform(script, [*TINY, *flags])
    assert "NETWORK" not in err
    assert result[0] == 1
    assert f"GPT-2's vocabulary is {state} ({path}), and nothing is downloaded" in result[1]
    assert "TIKTOKEN_CACHE_DIR" in result[1]
    assert files_below(script.cache) == before
    assert script.server.asked == []


def test_what_is_forbidden_is_noticed(script: Script) -> None:
    """Online, each of the three reaches for the network, and is caught."""
    script.serve([send(GOOD)])
    script.settings["no_waits"] = True
    _, err = perform(script, TINY)
    assert "NETWORK" in err
    script.fill()
    _, err = perform(script, [])
    assert "NETWORK" in err
    for name in script.cached():
        (script.cache / name).unlink()
    (result,), err = perform(script, TINY)
    assert "NETWORK" in err
    assert "GPT-2's vocabulary could not be downloaded" in result[1]


@pytest.mark.faults("no network allowed")
@pytest.mark.parametrize("way", OFFLINE)
def test_offline_on_the_real_data(script: Script, real_data_dir: Path, way: str) -> None:
    flags, script.environment["HF_HUB_OFFLINE"] = OFFLINE[way]
    script.cache = Path(os.environ["SPAM_TEST_DATA"]) / "tiktoken_cache"
    if not script.cache.exists():
        pytest.skip("the real data has no vocabulary beside it")
    (result,), err = perform(script, [*TINY, "--data_dir", str(real_data_dir), *flags])
    assert result[0] == 0, result[1]
    assert "Record: " in result[1]
    assert "NETWORK" not in err
