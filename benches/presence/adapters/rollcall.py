"""Rollcall, as built by `cargo build --release`, with its defaults."""

import json
import pathlib
import subprocess

from websocket import WebSocket

NAME = "Rollcall"
BINARY = pathlib.Path(__file__).resolve().parents[3] / "target/release/rollcall"
# Beside busy, so that each change is one of status, too.
STATUSES = ("away", "busy")


def start(port):
    flags = [f"--listen=127.0.0.1:{port}", f"--control-listen=127.0.0.1:{port + 1}", "--log-level=error"]
    return subprocess.Popen([BINARY, "serve", *flags], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


async def connect(port, user, source):
    socket = await WebSocket.connect("127.0.0.1", port, f"/?userId={user}&heartbeatTimeout=600000", source)
    await socket.receive()
    return Client(socket)


class Client:
    def __init__(self, socket):
        self.socket = socket
        self.turn = 0

    @property
    def bytes_received(self):
        return self.socket.bytes_received

    async def watch(self, users):
        self.socket.send(json.dumps({"type": "WATCH", "payload": {"users": users}}))
        while "cursor" not in json.loads(await self.socket.receive())["payload"]:
            pass

    async def change(self, mark):
        self.turn += 1
        payload = {"status": STATUSES[self.turn % 2], "metadata": {"mark": mark}}
        self.socket.send(json.dumps({"type": "PRESENCE_UPDATE", "payload": payload}))

    async def events(self):
        while True:
            message = json.loads(await self.socket.receive())
            for presence in message.get("payload", {}).get("users", ()):
                mark = presence.get("metadata", {}).get("mark")
                yield presence["userId"], presence["status"] != "offline", mark
