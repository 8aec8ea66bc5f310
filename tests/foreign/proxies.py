"""A proxy that is not ours: Debian's HAProxy, unpacked below tests/.tools by tests/run."""

import pathlib
import socket
import subprocess
import tempfile
import time

from server import PATIENCE, ROOT

UNPACKED = ROOT / "tests/.tools/debian"
BINARY = UNPACKED / "usr/sbin/haproxy"


def is_here():
    return BINARY.exists()


class Haproxy:
    """HAProxy in front of `server`, on a port of its own. `backend` are lines of its configuration."""

    def __init__(self, server, server_options="", *backend):
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        mode = "http" if backend else "tcp"
        lines = "\n".join(f"    {line}" for line in backend)
        text = f"""
defaults
    mode {mode}
    timeout connect 5s
    timeout client 20s
    timeout server 20s
listen front
    bind {self.address}
{lines}
    server rollcall {server.address} {server_options}
"""
        self.folder = tempfile.TemporaryDirectory()
        file = pathlib.Path(self.folder.name) / "haproxy.cfg"
        file.write_text(text)
        libraries = {str(library.parent) for library in UNPACKED.rglob("lib*.so*")}
        self.process = subprocess.Popen(
            [BINARY, "-db", "-f", file], env={"LD_LIBRARY_PATH": ":".join(libraries)}, stderr=subprocess.DEVNULL
        )
        host, _, port = self.address.rpartition(":")
        until = time.monotonic() + PATIENCE
        while True:
            try:
                socket.create_connection((host, int(port)), 1).close()
                return
            except OSError:
                assert self.process.poll() is None and time.monotonic() < until, "HAProxy does not serve"
                time.sleep(0.02)

    def url(self, query="userId=ana", path="/"):
        return f"ws://{self.address}{path}?{query}"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(PATIENCE)
        self.folder.cleanup()
