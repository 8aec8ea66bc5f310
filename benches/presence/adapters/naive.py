"""A presence server as one writes it in an afternoon: a set of sockets a user, one send a watcher and change."""

import json
import pathlib
import subprocess
import sys

from websocket import WebSocket

NAME = "naive (Python, websockets)"
SERVER = pathlib.Path(__file__).resolve().parent / "naive_server.py"


def start(port):
    return subprocess.Popen([sys.executable, SERVER, str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


async def connect(port, user, source):
    socket = await WebSocket.connect("127.0.0.1", port, f"/{user}", source)
    await socket.receive()
    return Client(socket)


class Client:
    def __init__(self, socket):
        self.socket = socket

    @property
    def bytes_received(self):
        return self.socket.bytes_received

    async def watch(self, users):
        self.socket.send(json.dumps({"watch": users}))
        await self.socket.receive()

    async def change(self, mark):
        self.socket.send(json.dumps({"mark": mark}))

    async def events(self):
        while True:
            for user, is_online, mark in json.loads(await self.socket.receive()):
                yield user, is_online, mark
