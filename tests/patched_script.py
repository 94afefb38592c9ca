"""The script with other addresses and limits, in a process of its own.

    python patched_script.py SETTINGS [FLAG ...]

SETTINGS is JSON: attributes of modules by module and name; the switches ``forbid_network`` and
``no_waits``; and ``commands``, lists of flags to perform one after the other instead of FLAGs,
whose exit statuses and standard errors are printed as JSON.
"""

import importlib
import io
import json
import os
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))


def forbid_network() -> None:
    """Have Python itself refuse, and report, whatever reaches for another machine."""
    reaching = {"connect", "getaddrinfo", "gethostbyname", "gethostbyaddr", "sendto", "sendmsg"}

    def refuse(event: str, arguments: tuple) -> None:
        if event in {f"socket.{name}" for name in reaching}:
            os.write(2, f"NETWORK {event} {arguments[1:]}\n".encode())
            raise OSError("the network is forbidden")

    sys.addaudithook(refuse)


def perform(flags: list[str]) -> tuple[int, str]:
    """Exit status and standard error of one command."""
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()) as errors:
        status = main(flags)
    return status, errors.getvalue()


settings = json.loads(sys.argv[1])
if settings.pop("forbid_network", False):
    forbid_network()
if settings.pop("no_waits", False):
    time.sleep = lambda seconds: None
commands = settings.pop("commands", None)
if "ablation.data.vocabulary" in settings:  # whose files are then no vocabulary
    import tiktoken

    from ablation.data.demo import byte_encoding

    tiktoken.get_encoding = lambda name: byte_encoding()
for module, attributes in settings.items():
    for name, value in attributes.items():
        value = tuple(value) if isinstance(value, list) else value  # JSON knows no tuples
        setattr(importlib.import_module(module), name, value)

from additional_experiments import main  # noqa: E402

if commands is None:
    sys.exit(main(sys.argv[2:]))
print(json.dumps([perform(flags) for flags in commands]))
