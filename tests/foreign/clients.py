"""Two clients: `connect`, which is PyPI's websockets, and `Raw`, a socket for what no library lets one do."""

import contextlib
import json
import os
import socket
import struct

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect as websockets_connect

from server import PATIENCE

TEXT, BINARY, CLOSE, PING, PONG, CONTINUATION = 1, 2, 8, 9, 10, 0
KEY = "dGhlIHNhbXBsZSBub25jZQ=="


class Client:
    """A connection of PyPI's websockets. It answers pings, and sends none."""

    def __init__(self, server, query="userId=ana", path="/", welcome=True, **options):
        options = {"compression": None, "ping_interval": None, "open_timeout": PATIENCE, "proxy": None} | options
        self.socket = websockets_connect(server.url(query, path), **options)
        self.welcome = self.receive() if welcome else None

    def send(self, message=None, /, **fields):
        """Sends `fields` as one JSON object, or `message` as it is: text, or bytes as a binary message."""
        self.socket.send(json.dumps(fields) if message is None else message)

    def receive(self):
        return json.loads(self.socket.recv(timeout=PATIENCE))

    def ask(self, message=None, /, **fields):
        self.send(message, **fields)
        return self.receive()

    def closed(self):
        """The code and reason with which the server ended this; anything before that is an error."""
        try:
            message = self.socket.recv(timeout=PATIENCE)
        except ConnectionClosed as end:
            assert end.rcvd is not None, "the connection ended without a close frame"
            return end.rcvd.code, end.rcvd.reason
        raise AssertionError(f"instead of a close came {message}")

    def is_alive(self):
        return self.ask(type="HEARTBEAT")["type"] == "HEARTBEAT_ACK"

    def close(self):
        self.socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with contextlib.suppress(Exception):
            self.socket.close()


class Raw:
    """A socket that writes any bytes, and reads frames and heads."""

    def __init__(self, address):
        host, _, port = address.rpartition(":")
        self.socket = socket.create_connection((host, int(port)), PATIENCE)
        self.received = b""

    @classmethod
    def open(cls, server, target="/?userId=ana"):
        """A connection past the handshake, and past CONNECT."""
        raw = cls(server.address)
        raw.send(upgrade(target))
        assert raw.head().startswith("HTTP/1.1 101 "), "not upgraded"
        assert raw.message()["type"] == "CONNECT"
        return raw

    def send(self, data):
        self.socket.sendall(data)

    def send_frame(self, opcode, payload=b"", **options):
        self.send(frame(opcode, payload, **options))

    def more(self):
        """Reads once; false at the end."""
        try:
            data = self.socket.recv(65536)
        except ConnectionResetError:
            data = b""
        self.received += data
        return bool(data)

    def take(self, count):
        while len(self.received) < count:
            if not self.more():
                return None
        taken, self.received = self.received[:count], self.received[count:]
        return taken

    def head(self):
        """The head of a response."""
        while b"\r\n\r\n" not in self.received:
            assert self.more(), f"the end came in the head: {self.received!r}"
        head, self.received = self.received.split(b"\r\n\r\n", 1)
        return head.decode("latin-1")

    def response(self):
        """Status, headers and body of a response that says its length."""
        lines = self.head().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        body = self.take(int(headers.get("content-length", 0)))
        return int(lines[0].split()[1]), headers, body

    def frame(self):
        """The opcode and payload of the next frame; None at the end of the stream."""
        start = self.take(2)
        if start is None:
            return None
        assert start[0] & 0x70 == 0 and start[1] & 0x80 == 0, f"a server's frame must not begin {start!r}"
        length = start[1] & 0x7F
        if length == 126:
            (length,) = struct.unpack(">H", self.take(2))
        elif length == 127:
            (length,) = struct.unpack(">Q", self.take(8))
        return start[0] & 0x0F, self.take(length)

    def message(self):
        opcode, payload = self.frame()
        assert opcode == TEXT, (opcode, payload)
        return json.loads(payload)

    def closed(self):
        """The code and reason of the close frame, which must be next."""
        read = self.frame()
        assert read is not None, "the connection ended without a close frame"
        opcode, payload = read
        assert opcode == CLOSE, (opcode, payload)
        return (struct.unpack(">H", payload[:2])[0] if payload else None), payload[2:].decode()

    def at_end(self):
        """Whether nothing more comes: waits for the end of the stream."""
        return not self.received and not self.more()

    def close(self):
        self.socket.close()

    def reset(self):
        """Ends without a FIN, as a phone does whose network is gone for good."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()


def frame(opcode, payload=b"", fin=True, rsv=0, masked=True):
    length = len(payload)
    bit = 0x80 if masked else 0
    head = bytes([(0x80 if fin else 0) | rsv << 4 | opcode])
    if length < 126:
        head += bytes([bit | length])
    elif length < 65536:
        head += bytes([bit | 126]) + struct.pack(">H", length)
    else:
        head += bytes([bit | 127]) + struct.pack(">Q", length)
    if masked:
        mask = os.urandom(4)
        head += mask
        payload = bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))
    return head + payload


def upgrade(target="/?userId=ana", method="GET", version="HTTP/1.1", **changed):
    """A request to upgrade; `changed` replaces headers (`_` for `-`), None leaves one out, a list repeats it."""
    headers = {
        "Host": "localhost",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": KEY,
    }
    for name, value in changed.items():
        headers[name.replace("_", "-")] = value
    lines = [f"{method} {target} {version}"]
    for name, values in headers.items():
        for value in values if isinstance(values, list) else [values]:
            if value is not None:
                lines.append(f"{name}: {value}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode()
