"""Which versions of this code and of its packages run. PyTorch is not imported for it."""

import platform
import subprocess
import sys
from functools import cache
from importlib import metadata
from pathlib import Path

# Of an installed package. It is asked for often, and metadata takes milliseconds to read.
version = cache(metadata.version)


def describe_version() -> str:
    """The line that ``--version`` prints."""
    try:
        pytorch = version("torch")
    except metadata.PackageNotFoundError:
        pytorch = "not installed"
    commit = read_commit() or "unknown, outside git"
    return f"commit {commit} (Python {platform.python_version()}, PyTorch {pytorch})"


PACKAGES = ("torch", "tiktoken", "pandas", "numpy")
PROJECT = Path(__file__).resolve().parents[2]


def package_versions() -> dict[str, str]:
    """The versions of Python and of the packages that figures depend on."""
    return {
        "python": platform.python_version(),
        "system": sys.platform,
        **{name: version(name) for name in PACKAGES},
    }


def code_files() -> list[Path]:
    """The files of this program's code, sorted."""
    return sorted([*PROJECT.glob("*.py"), *PROJECT.glob("ablation/**/*.py")])


@cache
def read_commit() -> str | None:
    """The commit of this code, with "+" if files have changed since; none outside git.

    It is read once, as early as possible: later, the files may not be those that run.
    """
    if not (PROJECT / ".git").exists():
        return None
    command = ["git", "-C", str(PROJECT), "describe", "--always", "--abbrev=40", "--dirty=+"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip()
