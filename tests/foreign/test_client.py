"""The client of README.md, as it stands there, in node and in a real browser."""

import contextlib
import json
import os
import pathlib
import re
import shutil
import socket
import subprocess
import tempfile
import threading

from clients import Client
from server import ROOT, Server
from watching import A_WHILE, Watcher, cut, join, leave, set_presence

SECTION = "### How a client should behave"
# Says by its own metadata what it sees, so that anybody may look.
PROBE = """
class Probe extends Presence {
  begin(payload) {
    this.resumed = payload.resumed;
    super.begin(payload);
  }
}
const presence = new Probe("ws://ADDRESS/", "page", () => {
  const hall = presence.rooms.get("hall");
  const sees = Object.fromEntries([...presence.users].map(([id, { status }]) => [id, status]));
  presence.set("busy", { sees, hall: [...(hall?.members.keys() ?? [])].sort(), resumed: presence.resumed });
});
presence.watch(["ana", "bob"], ["hall"]);
presence.join("hall");
"""


class Cutter:
    """Hands bytes on to the server, and cuts all connections when it is told to."""

    def __init__(self, address):
        host, _, port = address.rpartition(":")
        self.target = (host, int(port))
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = "127.0.0.1:{}".format(self.listener.getsockname()[1])
        self.sockets = []
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                near, _ = self.listener.accept()
                far = socket.create_connection(self.target)
            except OSError:
                return
            self.sockets += [near, far]
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self.hand_on, args=[source, sink], daemon=True).start()

    def hand_on(self, source, sink):
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        self.end([source, sink])

    @staticmethod
    def end(sockets):
        for ended in sockets:
            with contextlib.suppress(OSError):
                ended.shutdown(socket.SHUT_RDWR)

    def cut(self):
        self.end(self.sockets)
        self.sockets.clear()


def client_of_the_readme():
    section = (ROOT / "README.md").read_text().split(SECTION)[1]
    return re.search(r"^```js\n(.*?)^```$", section, flags=re.M | re.S)[1]


def check(start):
    """Drives the client that `start` runs at an address through all that may happen to it."""
    back_soon = ("--reconnect-min", "50ms", "--reconnect-max", "100ms", "--offline-grace", "2s")
    with Server("--shards", "4", "--change-interval", "20ms", *back_soon) as server:
        cutter = Cutter(server.address)
        ana, bob = Client(server, "userId=ana"), Client(server, "userId=bob&status=away")
        watcher = Watcher(server)
        watcher.watch(["page"], ["hall"])
        script = client_of_the_readme() + PROBE.replace("ADDRESS", cutter.address)
        process = start(script)
        try:

            def says(**expected):
                def holds():
                    metadata = watcher.users["page"].get("metadata", {})
                    return all(metadata.get(key) == value for key, value in expected.items())

                watcher.until(holds)

            says(sees={"ana": "online", "bob": "away"}, hall=["page"], resumed=False)
            join(ana, "hall")
            set_presence(bob, "busy")
            says(sees={"ana": "online", "bob": "busy"}, hall=["ana", "page"])
            # Cut, it comes back with its session, and is told what happened meanwhile, and nobody hears of it.
            cutter.cut()
            set_presence(ana, "away")
            join(bob, "hall")
            leave(ana, "hall")
            says(sees={"ana": "away", "bob": "busy"}, hall=["bob", "page"], resumed=True)
            assert watcher.users["page"]["status"] == "busy" and "page" in watcher.members("hall")
            for _ in range(3):
                cutter.cut()
                watcher.hears_nothing(A_WHILE)
            cut(bob)
            says(sees={"ana": "away", "bob": "offline"}, hall=["page"], resumed=True)
        finally:
            process.kill()
            process.wait()
        watcher.sees(page="offline")
        for client in (ana, watcher):
            client.close()


def test_the_client_of_the_readme_in_node():
    modules = ROOT / "tests/.tools/node/node_modules"
    prelude = f"globalThis.WebSocket = require({json.dumps(str(modules / 'ws'))}).WebSocket;\n"
    check(lambda script: subprocess.Popen(["node", "--eval", prelude + script]))


def test_the_client_of_the_readme_in_chromium():
    chromium = shutil.which("chromium")
    if chromium is None:
        print("there is no chromium here: the client is tried in node alone")
        return
    flags = "--headless --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    flags += " --disable-component-update --disable-sync --remote-debugging-port=0"
    flags += " --no-sandbox" if os.geteuid() == 0 else ""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        page = pathlib.Path(folder, "page.html")

        def start(script):
            page.write_text(f"<!doctype html><meta charset=utf-8><script type=module>{script}</script>")
            command = [chromium, *flags.split(), f"--user-data-dir={folder}/profile", page.as_uri()]
            return subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)

        check(start)
