"""GPT-2's vocabulary, as tiktoken reads it.

It is two files, and they lie beside the published weights: ``merges.txt`` and ``vocab.json`` have
the bytes of the files that tiktoken downloads. tiktoken does that itself, but with no limit of
time and in one attempt, so they are put where it looks for them before it does.
"""

import contextlib
import hashlib
import itertools
import os
import tempfile
from pathlib import Path

import tiktoken

from ablation.config.sizes import PUBLISHED_WEIGHTS
from ablation.system.downloads import OFFLINE, fetch_first, first_line, is_offline, require_sha256
from ablation.system.errors import DataError, DownloadError
from ablation.system.files import write_atomically
from ablation.system.hub import hub_files

# Address and SHA-256 of the files that make tiktoken's encoding "gpt2".
FILES = {
    "https://openaipublic.blob.core.windows.net/gpt-2/encodings/main/vocab.bpe": (
        "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5"
    ),
    "https://openaipublic.blob.core.windows.net/gpt-2/encodings/main/encoder.json": (
        "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783"
    ),
}
NAMES = ("merges.txt", "vocab.json")  # of the same files on the hub
PUBLISHED = PUBLISHED_WEIGHTS["gpt2-small (124M)"]  # what they lie beside
MAX_BYTES = 5_000_000  # the larger one has about 1 MB
WAY_OUT = (
    f"Without a network, put {' and '.join(NAMES)} of {PUBLISHED.repository} into "
    f"WEIGHTS_DIR/{PUBLISHED.name} and give --weights_dir WEIGHTS_DIR, or set TIKTOKEN_CACHE_DIR "
    "to a copy of tiktoken's cache from a machine where the same command has run."
)


def gpt2_encoding(offline: bool = False, weights_dir: str | None = None) -> tiktoken.Encoding:
    """GPT-2's byte-pair encoding.

    Raises:
        DataError: as for :func:`vocabulary_files`.
    """
    vocabulary_files(offline, weights_dir)
    try:
        return tiktoken.get_encoding("gpt2")
    except (OSError, ValueError) as error:
        raise DataError(
            f"tiktoken cannot read GPT-2's vocabulary in {_cache_folder()} ({first_line(error)}). "
            f"{WAY_OUT}"
        ) from error


def vocabulary_files(offline: bool = False, weights_dir: str | None = None) -> dict[str, bytes]:
    """``merges.txt`` and ``vocab.json``, checked, and put into tiktoken's cache.

    They are looked for in that cache, in ``weights_dir/gpt2``, and in the cache of
    ``huggingface_hub``; else they are downloaded from the hub, or from where tiktoken has them.

    Raises:
        DataError: one is nowhere, or damaged, and this is offline or it could not be downloaded;
            or the folder of the cache cannot be read or written.
    """
    folder = Path(weights_dir) / PUBLISHED.name if weights_dir else None
    return {
        name: _provide(name, url, sha256, folder, offline)
        for name, (url, sha256) in zip(NAMES, FILES.items(), strict=False)
    }


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


def _provide(name: str, url: str, sha256: str, folder: Path | None, offline: bool) -> bytes:
    """The content of a file of the vocabulary, which is in tiktoken's cache from then on."""
    cached = _cache_folder() / hashlib.sha1(url.encode()).hexdigest()  # tiktoken's name for it
    damaged = []
    elsewhere = hub_files(PUBLISHED.repository, PUBLISHED.revision, name, folder)
    try:
        for path in itertools.chain([cached], elsewhere):
            if path.exists():
                content = path.read_bytes()
                if hashlib.sha256(content).hexdigest() == sha256:
                    if path != cached:
                        _write(cached, content)
                    return content
                damaged.append(str(path))
        if is_offline(offline):
            state = f"is damaged ({', '.join(damaged)})" if damaged else f"is missing ({cached})"
            raise DataError(
                f"GPT-2's vocabulary {state}, and nothing is downloaded: {OFFLINE}. {WAY_OUT}"
            )
        import huggingface_hub

        on_hub = huggingface_hub.hf_hub_url(PUBLISHED.repository, name, revision=PUBLISHED.revision)
        content = fetch_first(
            [on_hub, url], lambda content: require_sha256(content, sha256), max_bytes=MAX_BYTES
        )
        _write(cached, content)
    except DownloadError as error:
        raise DataError(
            f"GPT-2's vocabulary could not be downloaded: {error}. {WAY_OUT}"
        ) from error
    except OSError as error:
        raise DataError(
            f"{cached}, a file of GPT-2's vocabulary, cannot be read or written ({error}). Set "
            "TIKTOKEN_CACHE_DIR to another folder."
        ) from error
    if folder and not (folder / name).exists():
        with contextlib.suppress(OSError):  # a copy to take along; this run does not need it
            _write(folder / name, content)
    return content


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, content)
