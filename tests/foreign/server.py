"""Starts and stops the real server, and asks it over HTTP."""

import contextlib
import http.client
import json
import os
import pathlib
import re
import signal
import subprocess
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
BINARY = os.environ.get("SERVER_BINARY", str(ROOT / "target/release/rollcall"))
# Long enough for a busy machine; a test that waits so long has failed.
PATIENCE = 20
ANSI = re.compile(r"\x1b\[[0-9;]*m")


class Server:
    """A server of its own on two ports that nobody else has. `flags` are its command line; `before` starts it."""

    def __init__(self, *flags, expect_start=True, before=(), environment=None):
        settings = {"--listen": "127.0.0.1:0", "--control-listen": "127.0.0.1:0", "--shards": "2"}
        settings |= dict(zip(flags[::2], flags[1::2]))
        flags = [f"{flag}={value}" for flag, value in settings.items()]
        outside = {name: value for name, value in os.environ.items() if not name.startswith("ROLLCALL_")}
        command = [*before, BINARY, "serve", *flags]
        self.process = subprocess.Popen(
            command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, env=outside | (environment or {}), text=True
        )
        self.log = []
        self.started = threading.Event()
        self.address = self.control = None
        self.reader = threading.Thread(target=self.read_log, daemon=True)
        self.reader.start()
        if expect_start:
            self.started.wait(PATIENCE)
            if self.address is None:
                self.process.kill()
                raise AssertionError("the server did not say where it listens:\n" + "".join(self.log))

    def read_log(self):
        for line in self.process.stderr:
            line = ANSI.sub("", line)
            self.log.append(line)
            listen = re.search(r"\blisten=\"?([^\s\"]+)", line)
            control = re.search(r"\bcontrol=\"?([^\s\"]+)", line)
            if listen and control and self.address is None:
                self.address, self.control = listen[1], control[1]
                self.started.set()
        self.started.set()

    @property
    def port(self):
        return int(self.address.rpartition(":")[2])

    def url(self, query="userId=ana", path="/"):
        return f"ws://{self.address}{path}?{query}"

    def request(self, path, method="GET", control=True, headers=None):
        """Status, headers and body of one plain request."""
        connection = http.client.HTTPConnection(self.control if control else self.address, timeout=PATIENCE)
        with contextlib.closing(connection):
            connection.request(method, path, headers=headers or {})
            response = connection.getresponse()
            return response.status, response.headers, response.read().decode()

    def metric(self, name):
        """The value of an unlabelled sample."""
        for line in self.request("/metrics")[2].splitlines():
            if line.startswith(name + " "):
                return float(line.split()[1])
        raise AssertionError(f"/metrics has no {name}")

    def metric_becomes(self, name, value):
        """Waits for what a shard publishes at the end of its turn."""
        eventually(lambda: self.metric(name), value, name)

    def terminate(self):
        self.process.send_signal(signal.SIGTERM)

    def exit_code(self):
        try:
            code = self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError("the server does not end") from None
        self.reader.join(PATIENCE)
        return code

    def stop(self):
        """Ends the server and holds it to a clean end."""
        if self.process.poll() is None:
            self.terminate()
        code = self.exit_code()
        assert code == 0, f"exit code {code}:\n" + "".join(self.log)
        assert not any("panick" in line for line in self.log), "".join(self.log)

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if kind is None:
            self.stop()
        elif self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def eventually(look, value, what):
    until = time.monotonic() + PATIENCE
    while (seen := look()) != value:
        assert time.monotonic() < until, f"{what} is {seen}, not {value}"
        time.sleep(0.02)


def health(server, path="/health", control=True):
    status, _, body = server.request(path, control=control)
    return status, json.loads(body)
