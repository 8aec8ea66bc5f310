"""A WebSocket client (RFC 6455) of a few lines for asyncio, so that the benchmark needs no library and costs little."""

import asyncio
import os
import struct

TEXT, CLOSE, PING, PONG = 1, 8, 9, 10


class Ended(Exception):
    """The server closed, or is gone."""


class WebSocket:
    """One connection; `bytes_received` counts frames as they came, headers included."""

    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer
        self.bytes_received = 0

    @classmethod
    async def connect(cls, host, port, target, source=None):
        """Connects to ws://HOST:PORT/TARGET, from the address `source` where one is given."""
        local = (source, 0) if source else None
        reader, writer = await asyncio.open_connection(host, port, local_addr=local, limit=1 << 20)
        key = "AAAAAAAAAAAAAAAAAAAAAA=="
        head = f"GET {target} HTTP/1.1\r\nHost: {host}:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        writer.write(f"{head}Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode())
        answer = await reader.readuntil(b"\r\n\r\n")
        if not answer.startswith(b"HTTP/1.1 101 "):
            raise Ended(answer.split(b"\r\n")[0].decode(errors="replace"))
        return cls(reader, writer)

    def send(self, payload, opcode=TEXT):
        """Hands a whole message to the kernel; a zero mask leaves the payload as it is."""
        payload = payload.encode() if isinstance(payload, str) else payload
        length = len(payload)
        if length < 126:
            head = struct.pack("!BB", 0x80 | opcode, 0x80 | length)
        elif length < 1 << 16:
            head = struct.pack("!BBH", 0x80 | opcode, 0x80 | 126, length)
        else:
            head = struct.pack("!BBQ", 0x80 | opcode, 0x80 | 127, length)
        self.writer.write(head + bytes(4) + payload)

    async def receive(self):
        """The next message's payload; pings are answered. Raises `Ended`."""
        try:
            while True:
                first, second = await self.reader.readexactly(2)
                length, head = second & 0x7F, 2
                if length == 126:
                    (length,), head = struct.unpack("!H", await self.reader.readexactly(2)), 4
                elif length == 127:
                    (length,), head = struct.unpack("!Q", await self.reader.readexactly(8)), 10
                payload = await self.reader.readexactly(length)
                self.bytes_received += head + length
                opcode = first & 0x0F
                if opcode == PING:
                    self.send(payload, PONG)
                elif opcode == CLOSE:
                    raise Ended(payload[2:].decode(errors="replace"))
                elif opcode != PONG:
                    return payload
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            raise Ended(str(error)) from error

    def close(self, code=1000):
        """Says goodbye and closes."""
        self.send(struct.pack("!H", code), CLOSE)
        self.writer.close()

    def abort(self):
        """Closes without a word."""
        self.writer.transport.abort()


def sources(count, each=10_000):
    """Loopback addresses to come from, one for each 10,000 connections, so that the kernel finds free ports."""
    return [f"127.0.0.{2 + index // each}" for index in range(count)]


def unique():
    """Eight characters that no other run has."""
    return os.urandom(4).hex()
