"""Downloads, from servers on localhost: what is tried again, when it ends, what is kept."""

import email.utils
import errno
import hashlib
import io
import os
import threading
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
import requests
import tiktoken
import tiktoken_ext.openai_public
from fault_server import (
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

from ablation.classifier.weight_files import find_weights
from ablation.config.options import ExperimentConfig
from ablation.config.sizes import PUBLISHED_WEIGHTS
from ablation.data import sms, vocabulary
from ablation.data.sms import DATASET_NAME, find_dataset
from ablation.data.vocabulary import gpt2_encoding
from ablation.system import downloads
from ablation.system.downloads import fetch, fetch_first, first_line, is_offline
from ablation.system.errors import DataError, DownloadError

BODY = bytes(range(256)) * 2
CUT = send(BODY[:200], announced=len(BODY), ETag='"1"')


def refuse(url: str, max_bytes: int = 10_000) -> str:
    """Why an address gave nothing, in a line."""
    with pytest.raises(DownloadError) as error:
        fetch(url, max_bytes=max_bytes)
    assert "\n" not in str(error.value)
    return str(error.value)


# ---------------------------------------------------------------- what passes


PASSING = {
    "429": send(status=429),
    "500": send(status=500),
    "503": send(b"<html>back soon</html>", status=503),
    "reset": reset(BODY),
    "hung up": hang_up,
    "truncated": send(BODY[:100], announced=len(BODY)),
    "empty": send(announced=len(BODY)),
    "stalled": stall(BODY),
}


@pytest.mark.parametrize("fault", PASSING)
def test_what_passes_is_tried_again(fault_server: FaultServer, fault: str) -> None:
    url = fault_server.address(PASSING[fault], send_rest(BODY))
    assert fetch(url, max_bytes=10_000) == BODY
    assert len(fault_server.asked) == 2


def test_attempts_are_counted(fault_server: FaultServer) -> None:
    assert refuse(fault_server.address(send(status=503))) == "503 Service Unavailable"
    assert len(fault_server.asked) == downloads.ATTEMPTS


def test_no_connection(fault_server: FaultServer) -> None:
    url = fault_server.address()
    fault_server.stop()
    assert refuse(url).endswith("Connection refused")


FINAL = {
    "404 Not Found": send(status=404),
    "403 Forbidden": send(status=403),
    "204 No Content": send(status=204),
    "redirects in a circle": redirect_to(),
    "Invalid IPv6 URL": redirect_to("http://[::1"),
    "No connection adapters": redirect_to("file:///etc/hostname"),
}


@pytest.mark.parametrize("reason", FINAL)
def test_what_does_not_pass_is_not_tried_again(fault_server: FaultServer, reason: str) -> None:
    assert reason in refuse(fault_server.address(FINAL[reason]))
    assert len(fault_server.asked) == (31 if "circle" in reason else 1)


def test_a_wrong_certificate_does_not_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def get(url: str, **_: object) -> requests.Response:
        asked.append(url)
        raise requests.exceptions.SSLError("[SSL: CERTIFICATE_VERIFY_FAILED] self-signed")

    monkeypatch.setattr(requests, "get", get)
    assert "self-signed" in refuse("https://localhost")
    assert len(asked) == 1


# ---------------------------------------------------------------- waiting


@pytest.fixture
def waits(fault_server: FaultServer, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that downloads wait, which are not waited."""
    waited: list[float] = []
    clock = SimpleNamespace(monotonic=time.monotonic, time=time.time, sleep=waited.append)
    monkeypatch.setattr(downloads, "time", clock)
    monkeypatch.setattr(downloads, "ATTEMPTS", 4)
    monkeypatch.setattr(downloads, "BACKOFF_SECONDS", 0.25)
    return waited


def test_waits_double(fault_server: FaultServer, waits: list[float]) -> None:
    refuse(fault_server.address(send(status=500)))
    assert waits == [0.25, 0.5, 1.0]


@pytest.mark.parametrize(
    ("asked_for", "waited"),
    [
        ("1", 1.0),
        ("0", 0.25),
        # Without the clock: tests that run side by side must have the same names.
        (email.utils.formatdate(0, usegmt=True), 0.25),
        ("soon", 0.25),
        ("-1", 0.25),
        ("", 0.25),
    ],
)
def test_a_server_may_ask_for_a_wait(
    fault_server: FaultServer, waits: list[float], asked_for: str, waited: float
) -> None:
    url = fault_server.address(send(status=429, Retry_After=asked_for), send(BODY))
    assert fetch(url, max_bytes=10_000) == BODY
    assert waits == [waited]


def test_a_wait_may_be_a_date(
    fault_server: FaultServer, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads, "DEADLINE_SECONDS", 100)
    date = email.utils.formatdate(time.time() + 50, usegmt=True)
    fetch(fault_server.address(send(status=503, Retry_After=date), send(BODY)), max_bytes=10_000)
    assert 40 < waits[0] <= 50


@pytest.mark.parametrize("asked_for", ["3600", "9" * 400])
def test_a_wait_beyond_the_deadline_is_not_begun(
    fault_server: FaultServer, waits: list[float], asked_for: str
) -> None:
    reason = refuse(fault_server.address(send(status=429, Retry_After=asked_for)))
    assert reason.startswith("429 Too Many Requests; ")
    assert waits == []
    assert len(fault_server.asked) == 1


# ---------------------------------------------------------------- whole files


OTHER = BODY[::-1]
PART = send(BODY[192:], 206, Content_Range=f"bytes 192-511/{len(BODY)}", ETag='"1"')
ANSWERS_TO_A_CUT = {
    "ranges are honoured": [send_rest(BODY, ETag='"1"')],
    "ranges are ignored": [send(BODY)],
    "it is cut off again": [CUT, send(BODY)],
    "the file has changed": [send_rest(OTHER, ETag='"2"')],
    "it has another length": [send(OTHER[:300])],
    "a part that nobody asked for": [PART, send_rest(BODY)],
    "range not satisfiable": [send(status=416), send_rest(BODY)],
}


@pytest.mark.parametrize("case", ANSWERS_TO_A_CUT)
def test_nothing_is_pieced_together(fault_server: FaultServer, case: str) -> None:
    answers = ANSWERS_TO_A_CUT[case]
    expected = {"the file has changed": OTHER, "it has another length": OTHER[:300]}
    content = fetch(fault_server.address(CUT, *answers), max_bytes=len(BODY))
    assert content == expected.get(case, BODY)
    assert len(fault_server.asked) == 1 + len(answers)
    for _, headers in fault_server.asked:
        assert not {"Range", "If-Range"} & set(headers)


def test_a_part_is_never_the_file(fault_server: FaultServer) -> None:
    assert refuse(fault_server.address(CUT, PART)) == "206 Partial Content"
    assert len(fault_server.asked) == downloads.ATTEMPTS


# ---------------------------------------------------------------- limits


@pytest.mark.parametrize("answer", [drip(BODY), drip_headers], ids=["body", "headers"])
def test_the_deadline_holds_against_one_byte_at_a_time(
    fault_server: FaultServer, monkeypatch: pytest.MonkeyPatch, answer: Answer
) -> None:
    monkeypatch.setattr(downloads, "DEADLINE_SECONDS", 0.2)
    monkeypatch.setattr(downloads, "PIECE_BYTES", 4096)
    started = time.monotonic()
    assert refuse(fault_server.address(answer)) == "not complete after 0.2 s"
    assert time.monotonic() - started < 1


def test_a_late_download_does_not_go_on(
    fault_server: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads, "DEADLINE_SECONDS", 0.1)
    monkeypatch.setattr(downloads, "PIECE_BYTES", 1)
    url = fault_server.address(drip(BODY))
    assert refuse(url) == "not complete after 0.1 s"
    for thread in threading.enumerate():
        if thread.name == f"download of {url}":
            thread.join(timeout=0.5)
            assert not thread.is_alive()


def test_the_deadline_holds_against_names_that_do_not_resolve(
    fault_server: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads, "DEADLINE_SECONDS", 0.1)
    monkeypatch.setattr("socket.getaddrinfo", lambda *_: time.sleep(1))
    started = time.monotonic()
    assert refuse("http://name.invalid") == "not complete after 0.1 s"
    assert time.monotonic() - started < 0.8


def test_the_deadline_is_for_all_attempts(
    fault_server: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads, "ATTEMPTS", 1000)
    monkeypatch.setattr(downloads, "BACKOFF_SECONDS", 0.02)
    monkeypatch.setattr(downloads, "DEADLINE_SECONDS", 0.2)
    started = time.monotonic()
    assert "too late to wait" in refuse(fault_server.address(send(status=500)))
    assert time.monotonic() - started < 1


def test_the_size_is_limited(fault_server: FaultServer) -> None:
    assert fetch(fault_server.address(send(BODY)), max_bytes=len(BODY)) == BODY
    too_large = f"it is larger than {len(BODY) - 1} bytes"
    assert refuse(fault_server.address(send(BODY)), len(BODY) - 1) == too_large
    unknown = fault_server.address(endless(), send(BODY))
    assert refuse(unknown) == "it is larger than 10,000 bytes"
    announced = fault_server.address(send(announced=10**12), send(BODY))
    assert refuse(announced) == "it is larger than 10,000 bytes"


def test_the_body_of_a_redirect_is_not_read(fault_server: FaultServer) -> None:
    good = fault_server.address(send(BODY))
    url = fault_server.address(endless(302, Location=good))
    started = time.monotonic()
    assert fetch(url, max_bytes=10_000) == BODY
    assert time.monotonic() - started < 1


def test_bytes_are_those_of_the_file(fault_server: FaultServer) -> None:
    fetch(fault_server.address(send(BODY)), max_bytes=10_000)
    assert fault_server.asked[0][1]["Accept-Encoding"] == "identity"


def test_progress_is_for_terminals(
    fault_server: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = fault_server.address(send(BODY))
    for is_terminal in (False, True):
        stream = io.StringIO()
        stream.isatty = lambda is_terminal=is_terminal: is_terminal
        monkeypatch.setattr("sys.stderr", stream)
        fetch(url, max_bytes=10_000)
        assert ("512" in stream.getvalue()) == is_terminal


# ---------------------------------------------------------------- several addresses


def demand_body(content: bytes) -> bytes:
    if content != BODY:
        raise DownloadError("another content")
    return b"verified"


def test_the_first_verified_content_is_taken(fault_server: FaultServer) -> None:
    answers = [send(status=404), send(OTHER), send(BODY), send(BODY)]
    urls = [fault_server.address(answer) for answer in answers]
    assert fetch_first(urls, demand_body, max_bytes=10_000) == b"verified"
    assert fault_server.paths == ["/0", "/1", "/2"]
    with pytest.raises(DownloadError) as error:
        fetch_first(urls[:2], demand_body, max_bytes=10_000)
    assert str(error.value) == (f"tried {urls[0]} (404 Not Found) and {urls[1]} (another content)")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
        (ValueError("first\nsecond"), "first"),
        (ValueError(), "ValueError"),
        (KeyError("name"), "'name'"),
        (requests.ConnectionError(OSError("Connection aborted.", "why")), "why"),
    ],
)
def test_errors_in_a_line(error: Exception, line: str) -> None:
    assert first_line(error).endswith(line)


# ---------------------------------------------------------------- the messages


CONTENT = b"ham\thello\nspam\tfree money\n" * 40
Serve = Callable[..., None]


def make_zip(content: bytes, name: str = DATASET_NAME, kind: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", kind) as archive:
        archive.writestr(name, content)
        archive.writestr("readme", "nothing to see")
    return buffer.getvalue()


GOOD_ZIP = make_zip(CONTENT)


@pytest.fixture
def serve_dataset(fault_server: FaultServer, monkeypatch: pytest.MonkeyPatch) -> Serve:
    """Serve a small dataset, each answer under an address of its own."""
    monkeypatch.setattr(sms, "DATASET_SHA256", hashlib.sha256(CONTENT).hexdigest())
    monkeypatch.setattr(sms, "DATASET_BYTES", len(CONTENT))

    def serve(*answers: Answer) -> None:
        urls = [fault_server.address(answer) for answer in answers]
        monkeypatch.setattr(sms, "DATASET_URLS", urls)

    return serve


def test_the_dataset_is_downloaded_once(
    serve_dataset: Serve, fault_server: FaultServer, tmp_path: Path
) -> None:
    serve_dataset(send(GOOD_ZIP), send(GOOD_ZIP))
    folder = tmp_path / "new" / "data"
    assert find_dataset(folder).read_bytes() == CONTENT
    assert os.listdir(folder) == [DATASET_NAME]
    find_dataset(folder)
    assert fault_server.paths == ["/0"], "a verified file is not downloaded again"


@pytest.mark.parametrize("wrong", [b"<html>please log in</html>", make_zip(CONTENT.upper())])
def test_the_second_address_helps_out(
    serve_dataset: Serve, fault_server: FaultServer, tmp_path: Path, wrong: bytes
) -> None:
    serve_dataset(send(wrong), send(GOOD_ZIP))
    assert find_dataset(tmp_path).read_bytes() == CONTENT
    assert fault_server.paths == ["/0", "/1"]


def test_a_failed_download_says_what_to_do(serve_dataset: Serve, tmp_path: Path) -> None:
    serve_dataset(send(b"<html>please log in</html>"), send(status=404))
    with pytest.raises(DataError) as error:
        find_dataset(tmp_path)
    assert os.listdir(tmp_path) == []
    message = str(error.value)
    assert "/0 (a web page came instead, not a readable zip" in message
    assert "/1 (404 Not Found)" in message
    assert f"put the file {DATASET_NAME} from that zip at {tmp_path / DATASET_NAME}" in message


def test_a_folder_that_cannot_be_written(
    serve_dataset: Serve, fault_server: FaultServer, tmp_path: Path
) -> None:
    serve_dataset(send(GOOD_ZIP))
    (tmp_path / "file").touch()  # a folder cannot be made below a file, not even by root
    for folder in (tmp_path / "file" / "data", tmp_path / "file"):
        with pytest.raises(DataError, match="--data_dir"):
            find_dataset(folder)
    assert fault_server.asked == []


@pytest.mark.parametrize("kind", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_kinds_of_zip_that_expand_without_a_limit(
    serve_dataset: Serve, tmp_path: Path, kind: int
) -> None:
    serve_dataset(send(make_zip(CONTENT, kind=kind)))
    with pytest.raises(DataError, match=f"compression of kind {kind}"):
        find_dataset(tmp_path)


# ---------------------------------------------------------------- the vocabulary


FILES = {"first": b"the first file", "second": b"the second file"}


@pytest.fixture
def cache(
    fault_server: FaultServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> dict[Path, bytes]:
    """tiktoken's cache as it should be, of two small files that are served; it is empty.

    On the hub, there are other files.
    """
    folder = tmp_path / "cache"
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(folder))
    monkeypatch.setattr(tiktoken, "get_encoding", lambda name: name)
    urls = {fault_server.address(send(content)): content for content in FILES.values()}
    checksums = {url: hashlib.sha256(content).hexdigest() for url, content in urls.items()}
    monkeypatch.setattr(vocabulary, "FILES", checksums)
    hub = fault_server.address(send(b"another file"))
    monkeypatch.setattr(huggingface_hub, "hf_hub_url", lambda _, name, **__: f"{hub}/{name}")
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_, **__: None)
    for name in downloads.OFFLINE_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    return {folder / hashlib.sha1(url.encode()).hexdigest(): urls[url] for url in urls}


def read_folder(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.iterdir()}


def test_the_vocabulary_is_put_where_tiktoken_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {}

    def capture(**options: str) -> dict[bytes, int]:
        for kind in ("vocab_bpe", "encoder_json"):
            asked[options[f"{kind}_file"]] = options[f"{kind}_hash"]
        return {}

    monkeypatch.setattr(tiktoken_ext.openai_public, "data_gym_to_mergeable_bpe_ranks", capture)
    tiktoken_ext.openai_public.gpt2()
    assert asked == vocabulary.FILES


def test_tiktoken_finds_the_vocabulary_without_a_network(
    cache: dict[Path, bytes], fault_server: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """tiktoken's own reader takes the names and contents for its cache."""
    assert gpt2_encoding() == "gpt2"
    assert read_folder(next(iter(cache)).parent) == cache
    assert fault_server.paths == ["/2/merges.txt", "/0", "/2/vocab.json", "/1"]
    fault_server.stop()
    from tiktoken.load import read_file_cached

    contents = [read_file_cached(url, sha256) for url, sha256 in vocabulary.FILES.items()]
    assert contents == list(FILES.values())
    gpt2_encoding()
    gpt2_encoding(offline=True)


def test_a_damaged_vocabulary_is_replaced(
    cache: dict[Path, bytes], fault_server: FaultServer
) -> None:
    damaged, whole = cache
    damaged.parent.mkdir()
    damaged.write_bytes(b"half")
    whole.write_bytes(cache[whole])
    with pytest.raises(DataError, match=rf"is damaged \({damaged}\).*offline"):
        gpt2_encoding(offline=True)
    assert damaged.read_bytes() == b"half"
    assert fault_server.asked == []
    gpt2_encoding()
    assert read_folder(damaged.parent) == cache
    assert fault_server.paths == ["/2/merges.txt", "/0"]


def test_a_wrong_vocabulary_is_not_kept(
    cache: dict[Path, bytes], fault_server: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = fault_server.address(send(b"<html>please log in</html>"))
    monkeypatch.setattr(vocabulary, "FILES", {wrong: "0" * 64})
    with pytest.raises(
        DataError,
        match=r"(?s)/2/merges.txt \(another or a damaged.*/3 \(a web page.*TIKTOKEN_CACHE_DIR",
    ):
        gpt2_encoding()
    assert not next(iter(cache)).parent.exists()


def test_the_folders_that_tiktoken_takes(
    cache: dict[Path, bytes], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    monkeypatch.delenv("TIKTOKEN_CACHE_DIR")
    for name in ("DATA_GYM_CACHE_DIR", None):
        folder = tmp_path / (name or "temporary/data-gym-cache")
        monkeypatch.delenv("DATA_GYM_CACHE_DIR", raising=False)
        if name:
            monkeypatch.setenv(name, str(folder))
        gpt2_encoding()
        assert set(os.listdir(folder)) == {path.name for path in cache}


def test_a_cache_that_is_turned_off_is_turned_on(
    cache: dict[Path, bytes], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", "")
    gpt2_encoding()
    folder = tmp_path / "temporary" / "data-gym-cache"
    assert os.environ["TIKTOKEN_CACHE_DIR"] == str(folder)
    assert set(os.listdir(folder)) == {path.name for path in cache}


def test_a_cache_that_cannot_be_written(
    cache: dict[Path, bytes], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path / "file"))
    with pytest.raises(DataError, match="Set TIKTOKEN_CACHE_DIR to another folder"):
        gpt2_encoding()


def test_what_tiktoken_cannot_read(
    cache: dict[Path, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(name: str) -> tiktoken.Encoding:
        raise ValueError("no such plugin")

    monkeypatch.setattr(tiktoken, "get_encoding", fail)
    with pytest.raises(DataError, match="no such plugin"):
        gpt2_encoding()


BESIDE = ("merges.txt", "vocab.json")  # the weights


@pytest.fixture
def weights_dir(cache: dict[Path, bytes], tmp_path: Path) -> Path:
    """A folder of published weights in which the vocabulary lies."""
    (tmp_path / "weights" / "gpt2").mkdir(parents=True)
    for name, content in zip(BESIDE, cache.values(), strict=True):
        (tmp_path / "weights" / "gpt2" / name).write_bytes(content)
    return tmp_path / "weights"


def test_the_vocabulary_beside_the_weights_is_enough(
    cache: dict[Path, bytes], weights_dir: Path, fault_server: FaultServer
) -> None:
    files = vocabulary.vocabulary_files(offline=True, weights_dir=str(weights_dir))
    assert files == dict(zip(BESIDE, cache.values(), strict=True))
    assert read_folder(next(iter(cache)).parent) == cache, "where tiktoken looks"
    assert gpt2_encoding(offline=True) == "gpt2"
    assert fault_server.asked == []


def test_the_vocabulary_in_the_hubs_cache_is_enough(
    cache: dict[Path, bytes],
    weights_dir: Path,
    fault_server: FaultServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []

    def find(repository: str, name: str, revision: str) -> str:
        asked.append((repository, revision))
        return str(weights_dir / "gpt2" / name)

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", find)
    assert gpt2_encoding(offline=True) == "gpt2"
    assert read_folder(next(iter(cache)).parent) == cache
    published = PUBLISHED_WEIGHTS["gpt2-small (124M)"]
    assert asked == [(published.repository, published.revision)] * 2
    assert fault_server.asked == []


def test_a_damaged_vocabulary_beside_the_weights_is_left_as_it_is(
    cache: dict[Path, bytes], weights_dir: Path, fault_server: FaultServer
) -> None:
    damaged = weights_dir / "gpt2" / "vocab.json"
    damaged.write_bytes(b"version https://git-lfs.github.com/spec/v1")
    with pytest.raises(DataError, match=rf"is damaged \({damaged}\).*offline.*--weights_dir"):
        gpt2_encoding(offline=True, weights_dir=str(weights_dir))
    assert fault_server.asked == []
    gpt2_encoding(weights_dir=str(weights_dir))
    assert read_folder(next(iter(cache)).parent) == cache
    assert fault_server.paths == ["/2/vocab.json", "/1"]
    assert damaged.read_bytes().startswith(b"version")


def test_a_vocabulary_from_the_hub_is_kept_beside_the_weights(
    cache: dict[Path, bytes],
    fault_server: FaultServer,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    hub = {
        name: fault_server.address(send(status=503), send(content))
        for name, content in zip(BESIDE, cache.values(), strict=True)
    }
    monkeypatch.setattr(huggingface_hub, "hf_hub_url", lambda _, name, **__: hub[name])
    files = vocabulary.vocabulary_files(weights_dir=str(tmp_path / "weights"))
    assert read_folder(next(iter(cache)).parent) == cache
    beside = read_folder(tmp_path / "weights" / "gpt2")
    assert {path.name: content for path, content in beside.items()} == files
    assert fault_server.paths == ["/3", "/3", "/4", "/4"]


# ---------------------------------------------------------------- the weights


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


def weights_error(**options: str) -> str:
    with pytest.raises(DataError) as error:
        find_weights(ExperimentConfig(**options))
    return str(error.value)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError("cannot reach the hub\nsecond line"), "(cannot reach the hub)"),
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device)"),
        (PermissionError(errno.EACCES, "Permission denied", "x"), "Permission denied: 'x')"),
        (caused(LookupError("not in the cache"), OSError("cannot reach it")), "(cannot reach it)"),
    ],
)
def test_hub_failure_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, line: str
) -> None:
    def fail(*_: object, **__: object) -> str:
        raise error

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    message = weights_error(weights_dir=str(tmp_path))
    assert f"{line}. Without a network" in message
    assert f"put that file at {tmp_path / 'gpt2' / 'model.safetensors'}" in message
    assert "WEIGHTS_DIR/gpt2/model.safetensors and give --weights_dir" in weights_error()


# ---------------------------------------------------------------- offline


@pytest.mark.parametrize("name", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
@pytest.mark.parametrize("value", ["1", "true", "TRUE", "Yes", "on"])
def test_the_environment_may_say_offline(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    for variable in downloads.OFFLINE_VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    assert not is_offline(False)
    monkeypatch.setenv(name, value)
    assert is_offline(False)
    assert name in downloads.OFFLINE


@pytest.mark.parametrize("value", ["", "0", "false", "no", "off", "2"])
def test_the_environment_may_say_online(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", value)
    assert not is_offline(False)
    assert is_offline(True)


@pytest.mark.parametrize("way", ["--offline", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_offline_nothing_is_asked_for(
    cache: dict[Path, bytes],
    serve_dataset: Serve,
    fault_server: FaultServer,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    way: str,
) -> None:
    serve_dataset(send(GOOD_ZIP))
    by_flag = way == "--offline"
    if not by_flag:
        monkeypatch.setenv(way, "1")
    path = tmp_path / "data" / DATASET_NAME
    with pytest.raises(DataError, match=rf"offline(?s:.*)at {path} .*/3"):
        find_dataset(path.parent, offline=by_flag)
    with pytest.raises(DataError, match=r"is missing(?s:.*)offline(?s:.*)TIKTOKEN_CACHE_DIR"):
        gpt2_encoding(offline=by_flag)
    message = weights_error(weights_dir=str(tmp_path), offline=by_flag)
    assert "offline" in message
    assert str(tmp_path / "gpt2" / "model.safetensors") in message
    assert fault_server.asked == []
    assert list(tmp_path.iterdir()) == [], "not even a folder is made"
    path.parent.mkdir()
    path.write_bytes(CONTENT)
    assert find_dataset(path.parent, offline=by_flag) == path
