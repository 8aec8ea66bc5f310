"""A client as a Flutter app writes it, kept for good: what it does must go on working.

`ws://host:3000?userId=…` with the id pasted in, timestamps of local time without a zone, a heartbeat each 15 s,
answers matched by their type alone; DISCONNECT is never sent, and the close has no code.
"""

import datetime
import json
import time

from clients import CLOSE, PING, PONG, TEXT, Raw
from server import Server

# As dart:io writes it: names in lower case, a length of 0, an extension offered.
REQUEST = (
    "GET /?userId={user} HTTP/1.1\r\n"
    "user-agent: Dart/3.9 (dart:io)\r\n"
    "connection: Upgrade\r\n"
    "cache-control: no-cache\r\n"
    "accept-encoding: gzip\r\n"
    "content-length: 0\r\n"
    "sec-websocket-version: 13\r\n"
    "host: {host}\r\n"
    "sec-websocket-extensions: permessage-deflate; client_max_window_bits\r\n"
    "sec-websocket-key: x3JJHMbDL1EzLkh9GBhXDw==\r\n"
    "upgrade: websocket\r\n"
    "\r\n"
)
KNOWN = {"CONNECT", "HEARTBEAT", "HEARTBEAT_ACK", "PRESENCE_UPDATE", "DISCONNECT"}


class App:
    def __init__(self, server, user):
        self.user = user
        self.raw = Raw(server.address)
        self.raw.send(REQUEST.format(user=user, host=server.address).encode())
        head = self.raw.head()
        assert head.startswith("HTTP/1.1 101 "), head
        assert "extensions" not in head.lower(), head
        self.heard = []
        self.pings = 0

    def send(self, kind, **fields):
        # DateTime.now().toIso8601String() of Dart: local time, microseconds, no zone.
        timestamp = datetime.datetime.now().isoformat(timespec="microseconds")
        message = {"type": kind, "userId": self.user, "timestamp": timestamp, **fields}
        self.raw.send_frame(TEXT, json.dumps(message).encode())

    def listen_for(self, seconds):
        """Hears whatever comes; dart:io answers pings by itself."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self.raw.socket.settimeout(left)
            try:
                opcode, payload = self.raw.frame()
            except TimeoutError:
                break
            if opcode == PING:
                self.pings += 1
                self.raw.send_frame(PONG, payload)
            else:
                assert opcode == TEXT, (opcode, payload)
                self.heard.append(json.loads(payload)["type"])
        self.raw.socket.settimeout(20)


def test_an_app_stays_connected_and_hears_only_what_it_knows():
    # A fiftieth of its own times: a heartbeat each 300 ms, probed after 200 ms, silent after 1.5 s.
    with Server("--heartbeat-timeout", "1500ms", "--probe-after", "200ms", "--probe-timeout", "1s") as server:
        app = App(server, "ana")
        beats = 12
        for beat in range(beats):
            app.send("HEARTBEAT")
            if beat == 3:
                app.send("PRESENCE_UPDATE", payload={"status": "away"})
            if beat == 6:
                app.send("PRESENCE_UPDATE", payload={"status": "busy", "metadata": {"device": "phone"}})
            app.listen_for(0.3)
        app.listen_for(0.3)
        assert app.heard == ["CONNECT"] + ["HEARTBEAT_ACK"] * beats, app.heard
        assert set(app.heard) <= KNOWN and app.pings > 0
        server.metric_becomes("ws_messages_total", beats + 2)

        app.raw.send_frame(CLOSE)
        while (read := app.raw.frame()) is not None and read[0] == PING:
            pass
        assert read == (CLOSE, b""), read
        assert app.raw.at_end()
        server.metric_becomes("ws_clients_current", 0)
        server.metric_becomes("ws_connections_current", 0)
        assert server.metric("ws_errors_total") == 0, "an end without a code counted as an error"


def test_an_app_may_go_without_a_word_and_come_back():
    with Server() as server:
        app = App(server, "ana")
        app.send("HEARTBEAT")
        app.listen_for(0.3)
        app.raw.reset()
        again = App(server, "ana")
        again.listen_for(0.3)
        assert again.heard == ["CONNECT"]
        server.metric_becomes("ws_connections_current", 1)
        server.metric_becomes("ws_clients_current", 1)
        again.raw.close()


def test_an_app_pastes_names_into_the_address():
    with Server() as server:
        for pasted, user in [("Ana%20Mar%C3%ADa", "Ana María"), ("ana+maria", "ana maria"), ("a@b.c:d", "a@b.c:d")]:
            app = App(server, pasted)
            said = app.raw.message()
            assert said["userId"] == user, said
            app.raw.close()
