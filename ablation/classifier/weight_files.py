"""The weights that training starts from: where they are, and whether they are the right ones."""

from pathlib import Path

from ablation.classifier.weight_kinds import describe_kind, require_gpt2
from ablation.config.identity import checksum_weights
from ablation.config.options import ExperimentConfig
from ablation.config.sizes import PUBLISHED_WEIGHTS, PublishedWeights
from ablation.system.downloads import OFFLINE, first_line, is_offline
from ablation.system.errors import DataError, logger
from ablation.system.hub import hub_files

WEIGHTS_NAME = "model.safetensors"


def find_weights(config: ExperimentConfig) -> Path:
    """Return the safetensors file for ``--weights pretrained`` or ``--weights PATH``.

    Published weights are those in ``weights_dir/<name>/model.safetensors``, else in the cache of
    ``huggingface_hub``; else they are downloaded, into that folder or that cache. Wherever they
    come from, they are checked. Raises ``DataError`` if there is no such file, it is another one,
    or it could not be downloaded.
    """
    if config.weights == "pretrained":
        published = PUBLISHED_WEIGHTS[config.model_size]
        folder = Path(config.weights_dir) / published.name if config.weights_dir else None
        path = locate_published(published, folder)
        path = path or _download(published, folder, is_offline(config.offline))
        _require_published(path, published)
        return path
    path = _choose_file(Path(config.weights))
    require_gpt2(path, config.gpt)
    return path


def _choose_file(path: Path) -> Path:
    """A path, or, if it is a folder, the file of weights in it."""
    try:
        if not path.is_dir():
            return path
        files = sorted(path.glob("*.safetensors"))
    except OSError as error:
        raise DataError(f"--weights {path} cannot be read: {error}") from error
    if path / WEIGHTS_NAME in files:
        return path / WEIGHTS_NAME
    if len(files) == 1:
        return files[0]
    if kind := describe_kind(path):
        raise DataError(f"--weights {path}: this is {kind}")
    raise DataError(
        f"--weights {path}: the folder holds no {WEIGHTS_NAME}, and {len(files)} other "
        "safetensors files. Name one file."
    )


def locate_published(published: PublishedWeights, folder: Path | None) -> Path | None:
    """Where a published file is on this machine, unchecked: in a folder, or in the hub's cache.
    Raises ``DataError`` if it cannot be looked for."""
    try:
        places = hub_files(published.repository, published.revision, WEIGHTS_NAME, folder)
        return next(places, None)
    except OSError as error:
        raise DataError(
            f"{WEIGHTS_NAME} of {published.repository} cannot be looked for ({error}). Name "
            "another folder with --weights_dir."
        ) from error


def _download(published: PublishedWeights, folder: Path | None, offline: bool) -> Path:
    import huggingface_hub

    huggingface_hub.logging.set_verbosity_error()  # what matters of it is in the error below
    try:
        if offline:  # hf_hub_download reaches for the network even with local_files_only
            raise FileNotFoundError(OFFLINE)
        logger.info("Getting %s of %s from the Hugging Face hub", WEIGHTS_NAME, published.name)
        found = huggingface_hub.hf_hub_download(
            published.repository, WEIGHTS_NAME, revision=published.revision, local_dir=folder
        )
        return Path(found)
    except Exception as error:  # the hub's errors share no base class
        place = folder or Path("WEIGHTS_DIR") / published.name
        flag = "" if folder else " and give --weights_dir WEIGHTS_DIR"
        # What the hub misses in its cache, it looked for there because of another error.
        reason = first_line(error.__cause__ or error)
        raise DataError(
            f"{WEIGHTS_NAME} of {published.repository}, revision {published.revision}, was not "
            f"found in Hugging Face's cache, and not downloaded ({reason}). "
            f"Without a network, put that file at {place / WEIGHTS_NAME}{flag}, or take "
            "--weights random."
        ) from error


def _require_published(path: Path, published: PublishedWeights) -> None:
    """Raise :class:`DataError` unless a file is the published one, by its size and its SHA-256."""
    try:
        found, expected = f"{path.stat().st_size:,} bytes", f"{published.n_bytes:,} bytes"
        if found == expected:
            found, expected = f"SHA-256 {checksum_weights(path)}", f"SHA-256 {published.sha256}"
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error}).") from error
    if found == expected:
        return
    kind = describe_kind(path)
    in_cache = path.parent.parent.name == "snapshots"
    raise DataError(
        f"{path} is not the {WEIGHTS_NAME} of {published.repository}, revision "
        f"{published.revision}: found {found}, expected {expected}. "
        + (f"It is {kind} " if kind else "")
        + f"Move {path.parents[2] if in_cache else path} away to have the right file downloaded, "
        "or put that in its place. To start from this file as it is, give it with --weights PATH."
    )
