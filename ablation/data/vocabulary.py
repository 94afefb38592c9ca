"""GPT-2's vocabulary, as tiktoken reads it.

tiktoken downloads its files itself, but with no limit of time and in one attempt. So they are put
where it looks for them before it does.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

import tiktoken

from ablation.system.downloads import OFFLINE, fetch_first, first_line, is_offline, require_sha256
from ablation.system.errors import DataError, DownloadError
from ablation.system.files import write_atomically

# Address and SHA-256 of the files that make tiktoken's encoding "gpt2".
FILES = {
    "https://openaipublic.blob.core.windows.net/gpt-2/encodings/main/vocab.bpe": (
        "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5"
    ),
    "https://openaipublic.blob.core.windows.net/gpt-2/encodings/main/encoder.json": (
        "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783"
    ),
}
MAX_BYTES = 5_000_000  # the larger one has about 1 MB
WAY_OUT = (
    "Without a network, set TIKTOKEN_CACHE_DIR to a folder that holds tiktoken's cache of it: run "
    "the same command once where there is a network, and copy that folder."
)


def gpt2_encoding(offline: bool = False) -> tiktoken.Encoding:
    """GPT-2's byte-pair encoding, downloaded to tiktoken's cache if it is not there.

    Raises:
        DataError: it is not there, or is damaged, and this is offline or it could not be
            downloaded; or the folder of the cache cannot be read or written.
    """
    folder = _cache_folder()
    for url, sha256 in FILES.items():
        # The name that tiktoken gives it.
        _provide(folder / hashlib.sha1(url.encode()).hexdigest(), url, sha256, offline)
    try:
        return tiktoken.get_encoding("gpt2")
    except (OSError, ValueError) as error:
        raise DataError(
            f"tiktoken cannot read GPT-2's vocabulary in {folder} ({first_line(error)}). {WAY_OUT}"
        ) from error


def portable(encoding: tiktoken.Encoding) -> tiktoken.Encoding:
    """The same encoding, to be sent whole.

    Of its own encodings, tiktoken sends the names, and downloads them anew elsewhere.
    """
    return tiktoken.Encoding(
        encoding.name,
        pat_str=encoding._pat_str,
        mergeable_ranks=encoding._mergeable_ranks,
        special_tokens=encoding._special_tokens,
    )


def _cache_folder() -> Path:
    """The folder that tiktoken looks into."""
    default = os.path.join(tempfile.gettempdir(), "data-gym-cache")
    folder = os.environ.get("TIKTOKEN_CACHE_DIR", os.environ.get("DATA_GYM_CACHE_DIR", default))
    if not folder:  # which would have tiktoken keep nothing, and download on its own each time
        folder = os.environ["TIKTOKEN_CACHE_DIR"] = default
    return Path(folder)


def _provide(path: Path, url: str, sha256: str, offline: bool) -> None:
    """Download a file, unless it is there and whole."""
    try:
        is_there = path.exists()
        if is_there and hashlib.sha256(path.read_bytes()).hexdigest() == sha256:
            return
        if is_offline(offline):
            raise DataError(
                f"GPT-2's vocabulary {'is damaged' if is_there else 'is missing'} ({path}), and "
                f"nothing is downloaded: {OFFLINE}. {WAY_OUT}"
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        content = fetch_first(
            [url], lambda content: require_sha256(content, sha256), max_bytes=MAX_BYTES
        )
        write_atomically(path, content)
    except DownloadError as error:
        raise DataError(
            f"GPT-2's vocabulary could not be downloaded: {error}. {WAY_OUT}"
        ) from error
    except OSError as error:
        raise DataError(
            f"{path}, a file of GPT-2's vocabulary, cannot be read or written ({error}). Set "
            "TIKTOKEN_CACHE_DIR to another folder."
        ) from error
