"""What a presence server has to be taught for the benchmark: an adapter is a module with what stands here.

Its own work is to be small: the benchmark's clients are told apart from the server's by CPU time, but not from their
adapter.
"""

import importlib.util
import pathlib
import subprocess
from typing import AsyncIterator, Optional, Protocol

FOLDER = pathlib.Path(__file__).resolve().parent / "adapters"


class Client(Protocol):
    """One connection of one user."""

    bytes_received: int

    async def watch(self, users: list[str]) -> None:
        """Asks to be told of users, and returns once it is known how they are."""

    async def change(self, mark: str) -> None:
        """Changes how this client's user is. Whoever watches the user must be told, and must be told `mark` with it.

        No two in a row may be the same to the server: a change of nothing but the mark is fine where the server tells
        of that, else the status has to change as well.
        """

    def events(self) -> AsyncIterator[tuple[str, bool, Optional[str]]]:
        """What is told of users from now on: userId, whether the user is shown online, the newest mark if any.

        What the server keeps a connection alive with is the adapter's to do, while this is waited for.
        """


class Adapter(Protocol):
    """The module itself."""

    NAME: str

    def start(self, port: int) -> subprocess.Popen:
        """Starts the server on a port of 127.0.0.1; the benchmark waits until it listens, and kills it at the end."""

    async def connect(self, port: int, user: str, source: str) -> Client:
        """Connects `user` from the loopback address `source`. The user is online once this returns."""


def load(name: str) -> Adapter:
    """The adapter of a name in `adapters/`, or of a path."""
    path = pathlib.Path(name) if name.endswith(".py") else FOLDER / f"{name}.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise SystemExit(f"{path} is no Python module")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
