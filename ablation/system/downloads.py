"""Small files from the network: retried, limited in time and size, and whole or not there.

A server may be slow, away, wrong or hostile. Whatever it does, :func:`fetch` ends with the whole
body of an answer, or with an error that says why not.
"""

import email.utils
import hashlib
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as LateError  # Python 3.10 has two of that name

import requests

from ablation.system.errors import DownloadError, logger
from ablation.system.progress import BYTES, Progress

ATTEMPTS = 5  # at one address
BACKOFF_SECONDS = 0.5  # before the second attempt, twice as long before each further one
TIMEOUT_SECONDS = (10, 30)  # to connect, between two pieces of an answer
DEADLINE_SECONDS = 300  # for all attempts at one address
PIECE_BYTES = 4096
OFFLINE_VARIABLES = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
OFFLINE = f"this is offline, by --offline, {' or '.join(OFFLINE_VARIABLES)}"
# Parts of a file (206, 416) are never asked for: a server that sends them is confused for now.
PASSING_STATUSES = (206, 408, 416, 429, *range(500, 600))
PASSING_ERRORS = (
    requests.ConnectionError,
    requests.Timeout,
    requests.exceptions.ChunkedEncodingError,
    requests.exceptions.ContentDecodingError,
)


class _PassingError(DownloadError):
    """Another attempt may help, after ``wait`` seconds at least."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


def is_offline(asked: bool) -> bool:
    """Whether the network must not be touched: by --offline, or by the environment."""
    # The values are those that huggingface_hub takes for true.
    values = (os.environ.get(name, "").upper() for name in OFFLINE_VARIABLES)
    return asked or any(value in ("1", "ON", "YES", "TRUE") for value in values)


def fetch_first(urls: Sequence[str], verify: Callable[[bytes], bytes], *, max_bytes: int) -> bytes:
    """What ``verify`` makes of the content at the first address whose content passes it. Raises
    ``DownloadError`` if no address gave it; each is named, with what was wrong there.

    Args:
        verify: returns what is wanted of a content, or raises :class:`DownloadError`.
    """
    failures = []
    for url in urls:
        logger.info("Downloading %s", url)
        try:
            return verify(fetch(url, max_bytes=max_bytes))
        except DownloadError as error:
            failures.append(f"{url} ({error})")
    raise DownloadError(f"tried {' and '.join(failures)}")


def fetch(url: str, *, max_bytes: int) -> bytes:
    """The content at an address.

    What may pass (no connection, a reset, a timeout, a truncated body, status 408, 429 or 5xx) is
    tried again from the start after a growing wait, or the one that the server asks for. Raises
    ``DownloadError`` if it is not there, is larger than ``max_bytes``, or did not come in
    ``ATTEMPTS`` attempts or ``DEADLINE_SECONDS``.
    """
    deadline = time.monotonic() + DEADLINE_SECONDS
    outcome: Future[bytes] = Future()

    def work() -> None:
        try:
            outcome.set_result(_fetch(url, max_bytes, deadline))
        except Exception as error:  # whatever it is, the waiting thread raises it
            outcome.set_exception(error)

    # No timeout of a socket ends the search for a name, or an answer that comes byte by byte. A
    # thread that is late is left behind; it sees the deadline itself, or ends with the process.
    threading.Thread(target=work, name=f"download of {url}", daemon=True).start()
    try:
        return outcome.result(timeout=DEADLINE_SECONDS)
    except LateError as error:
        raise DownloadError(f"not complete after {DEADLINE_SECONDS} s") from error


def _fetch(url: str, max_bytes: int, deadline: float) -> bytes:
    for n in range(ATTEMPTS - 1):
        try:
            return _attempt(url, max_bytes, deadline)
        except _PassingError as error:
            wait = max(error.wait, BACKOFF_SECONDS * 2**n)
            if time.monotonic() + wait >= deadline:
                raise DownloadError(f"{error}; it is too late to wait {wait:.1f} s") from error
            logger.info("%s; trying again in %.1f s", error, wait)
            time.sleep(wait)
    return _attempt(url, max_bytes, deadline)


def _attempt(url: str, max_bytes: int, deadline: float) -> bytes:
    # Of a redirect, requests would read the whole body, which may be endless.
    hooks = {"response": lambda answer, **_: answer.close() if answer.is_redirect else None}
    try:
        with requests.get(
            url,
            headers={"Accept-Encoding": "identity"},  # the bytes of the file, as announced
            stream=True,
            timeout=TIMEOUT_SECONDS,
            hooks=hooks,
        ) as response:
            status = f"{response.status_code} {response.reason}"
            if response.status_code in PASSING_STATUSES:
                raise _PassingError(status, _retry_after(response.headers))
            if response.status_code != 200:
                raise DownloadError(status)
            return _receive(response, max_bytes, deadline)
    except requests.TooManyRedirects as error:
        raise DownloadError("it redirects in a circle") from error
    except (OSError, ValueError) as error:  # of requests, and what a strange redirect makes
        passes = isinstance(error, PASSING_ERRORS) and "CERTIFICATE_VERIFY" not in str(error)
        raise (_PassingError if passes else DownloadError)(first_line(error)) from error


def _retry_after(headers: Mapping[str, str]) -> float:
    """Seconds that the server asks to wait, which it may give as a date."""
    text = headers.get("Retry-After", "")
    try:
        date = email.utils.parsedate_tz(text)
        return max(0.0, email.utils.mktime_tz(date) - time.time() if date else float(text))
    except (ValueError, OverflowError):
        return 0.0


def _receive(response: requests.Response, max_bytes: int, deadline: float) -> bytes:
    """The body of an answer; urllib3 raises an error if less of it comes than was announced."""
    length = response.headers.get("Content-Length", "")
    announced = int(length) if length.isdecimal() and len(length) < 20 else None
    too_large = DownloadError(f"it is larger than {max_bytes:,} bytes")
    if announced and announced > max_bytes:
        raise too_large
    content = bytearray()
    with Progress("download", BYTES, announced, leave=False) as progress:
        for piece in response.iter_content(PIECE_BYTES):
            content += piece
            progress.update(len(piece))
            if len(content) > max_bytes:
                raise too_large
            if time.monotonic() > deadline:
                raise DownloadError(f"not complete after {DEADLINE_SECONDS} s")
    return bytes(content)


def require_sha256(content: bytes, expected: str) -> bytes:
    """Return the content, or raise :class:`DownloadError` if it has another SHA-256."""
    if hashlib.sha256(content).hexdigest() == expected:
        return content
    raise DownloadError(f"{describe_wrong(content)}, with the wrong SHA-256")


def describe_wrong(content: bytes) -> str:
    """What came instead of what was wanted."""
    is_page = content.lstrip()[:1] == b"<"
    return "a web page came instead" if is_page else "another or a damaged file came"


def first_line(error: Exception) -> str:
    """What went wrong, in a line: of a failed request its reason, not the way to it."""
    for reason in (getattr(error, "reason", None), *reversed(error.args)):
        if isinstance(reason, Exception):
            return first_line(reason)
    return (str(error).strip() or type(error).__name__).splitlines()[0]
