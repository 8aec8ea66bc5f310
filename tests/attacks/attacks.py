"""The attacks. Each is bounded: so many connections at once, so many pieces a second.

An attack is a coroutine that takes an `Attacker` and goes on until it is cancelled. `ATTACKS` names the samples of
/metrics that must grow when the server does what it should.
"""

import asyncio
import contextlib
import itertools
import json
import os
import socket
import ssl
import struct
import time

import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from OpenSSL import SSL

from clients import BINARY, CONTINUATION, PING, PONG, TEXT, frame, upgrade

HEARTBEAT = b'{"type":"HEARTBEAT"}'
SECRET = "s" * 64
AUDIENCE = "rollcall"
# Beside the secret: what is signed with it costs a hundred times as much to verify.
SIGNING_KEY = ec.generate_private_key(ec.SECP256R1())
# What makes a frame is made once: the attacker is to be no slower than it must.
HEARTBEAT_FRAME = frame(TEXT, HEARTBEAT)
PING_FRAME = frame(PING, b"p" * 125)


class Attacker:
    """Where to attack, and from where."""

    def __init__(self, host, port, address):
        self.host, self.port, self.address = host, port, address
        self.opened = 0

    async def open(self, first=b"", receive_buffer=None):
        """A connection that has sent `first`: its reader and writer."""
        raw = socket.socket()
        raw.setblocking(False)
        raw.bind((self.address, 0))
        if receive_buffer:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        try:
            await asyncio.get_running_loop().sock_connect(raw, (self.host, self.port))
            reader, writer = await asyncio.open_connection(sock=raw)
        except BaseException:
            raw.close()
            raise
        self.opened += 1
        writer.write(first)
        return reader, writer

    async def open_websocket(self, user="mallory", **options):
        """A connection past the upgrade. Whether it was upgraded is not looked at."""
        reader, writer = await self.open(upgrade(f"/?userId={user}"), **options)
        with contextlib.suppress(asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            await reader.readuntil(b"\r\n\r\n")
        return reader, writer

    async def each(self, connections, life):
        """`connections` at once, each living `life(number)` over and over; their ends are part of it.

        They begin within a second, and pause between their lives: what is to suffer is not the core that attacks.
        """

        async def lives(number):
            await asyncio.sleep(number / connections)
            while True:
                with contextlib.suppress(OSError, asyncio.IncompleteReadError, TimeoutError):
                    await life(number)
                await asyncio.sleep(0.5)

        await asyncio.gather(*(lives(number) for number in range(connections)))


async def end(reader, writer, seconds=15):
    """Reads until the server ends the connection, and ends it too; returns what came."""
    received = b""
    try:
        async with asyncio.timeout(seconds):
            while piece := await reader.read(65536):
                received += piece
    finally:
        writer.close()
    return received


async def pieces(writer, data, size, pause):
    """Sends `data` in pieces of `size` bytes with `pause` seconds between them."""
    for begin in range(0, len(data), size):
        writer.write(data[begin : begin + size])
        await writer.drain()
        await asyncio.sleep(pause)


async def drip_to_the_end(reader, writer, data, size, pause):
    """Sends `pieces` until the server ends the connection, or `data` does and the server ends it later."""
    dripping = asyncio.create_task(pieces(writer, data, size, pause))
    try:
        await end(reader, writer)
    finally:
        dripping.cancel()
        await asyncio.gather(dripping, return_exceptions=True)


async def slowloris(attacker):
    """Two hundred connections that send half a request and then nothing."""
    await attacker.each(200, lambda _: half_a_request(attacker))


async def half_a_request(attacker):
    await end(*await attacker.open(upgrade()[:60]))


async def drip(attacker):
    """A hundred requests of which a byte comes each tenth of a second."""

    async def life(_):
        reader, writer = await attacker.open()
        await drip_to_the_end(reader, writer, upgrade(), 1, 0.1)

    await attacker.each(100, life)


async def never_reading(attacker):
    """Fifty that ask and ask, and read no answer."""

    async def life(number):
        reader, writer = await attacker.open(upgrade(f"/?userId=deaf-{number}"), receive_buffer=2048)
        # asyncio would read; the kernel's buffer is to fill.
        writer.transport.pause_reading()
        await asyncio.sleep(0.2)
        for _ in range(9):
            writer.write(PING_FRAME * 50)
            await asyncio.sleep(0.05)
        try:
            async with asyncio.timeout(15):
                # A byte that nobody takes tells when the connection is gone.
                while not writer.transport.is_closing():
                    writer.write(frame(PONG))
                    await asyncio.sleep(1)
        finally:
            writer.transport.abort()

    await attacker.each(50, life)


async def flood(attacker, piece, connections, user):
    async def life(number):
        reader, writer = await attacker.open_websocket(f"{user}-{number}")
        ending = asyncio.create_task(end(reader, writer))
        try:
            while not ending.done():
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0.02)
        finally:
            ending.cancel()
            await asyncio.gather(ending, return_exceptions=True)

    await attacker.each(connections, life)


async def frame_flood(attacker):
    """Ten that send ten heartbeats fifty times a second each."""
    await flood(attacker, HEARTBEAT_FRAME * 10, 10, "flood")


async def ping_flood(attacker):
    """Ten that send ten Pings of 125 bytes fifty times a second each."""
    await flood(attacker, PING_FRAME * 10, 10, "ping")


async def auth_flood(attacker):
    """Ten that send ten tokens to verify fifty times a second each, all of them good."""
    claims = {"exp": int(time.time()) + 3600, "aud": AUDIENCE}

    def message(number):
        token = jwt.encode(claims | {"sub": f"auth-{number}-0"}, SIGNING_KEY, algorithm="ES256")
        return frame(TEXT, json.dumps({"type": "AUTH", "payload": {"token": token}}).encode())

    messages = [message(number) for number in range(10)]
    # Each is a user's own, so that each user is a flood of one connection.
    await asyncio.gather(
        *(flood(attacker, message * 10, 1, f"auth-{number}") for number, message in enumerate(messages))
    )


async def one_byte_fragments(attacker):
    """Twenty messages in fragments of a byte that never end."""
    await flood(attacker, frame(TEXT, b"{", fin=False) + frame(CONTINUATION, b" ", fin=False) * 300, 20, "fragments")


async def slow_message(attacker):
    """A hundred messages of which a fragment comes each half second."""

    async def life(number):
        reader, writer = await attacker.open_websocket(f"slow-{number}")
        data = frame(TEXT, b"{", fin=False) + frame(CONTINUATION, b" ", fin=False) * 60
        await drip_to_the_end(reader, writer, data, 7, 0.5)

    await attacker.each(100, life)


async def compressed(attacker):
    """Twenty that offer permessage-deflate and send a bomb, though it was not taken."""

    async def life(number):
        offer = {"Sec_WebSocket_Extensions": "permessage-deflate; client_max_window_bits"}
        reader, writer = await attacker.open(upgrade(f"/?userId=bomb-{number}", **offer))
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"permessage-deflate" not in head, head
        writer.write(frame(TEXT, b"\xec\xc1\x01\x01\x00\x00\x00\x80\x90\xfe\xaf\xee\x08\x0a" * 8, rsv=4))
        await end(reader, writer)

    await attacker.each(20, life)


async def announced_length(attacker):
    """Twenty that announce a message of two gigabytes, or one whose length has its top bit set."""

    async def life(number):
        reader, writer = await attacker.open_websocket(f"large-{number}")
        length = 1 << 31 if number % 2 else 1 << 63 | 5
        writer.write(bytes([0x80 | BINARY if number % 4 > 1 else 0x81, 0xFF]) + struct.pack(">Q", length) + b"mask")
        await end(reader, writer)

    await attacker.each(20, life)


async def large_heads(attacker):
    """Twenty that send a head of megabytes, or hundreds of headers, or a target without end."""

    async def life(number):
        reader, writer = await attacker.open()
        match number % 3:
            case 0:
                writer.write(upgrade(Cookie="c" * 2_000_000))
            case 1:
                writer.write(upgrade(**{f"X_{index}": "y" for index in range(200)}))
            case _:
                writer.write(b"GET /?userId=" + b"u" * 200_000)
        await end(reader, writer)

    await attacker.each(20, life)


SMUGGLED = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"


async def smuggling(attacker):
    """Requests that a proxy in front may read otherwise: none may be answered as two."""
    plain = b"GET /health HTTP/1.1\r\nHost: x\r\n"
    requests = itertools.cycle(
        [
            upgrade(Content_Length=str(len(SMUGGLED))) + SMUGGLED,
            upgrade(Transfer_Encoding="chunked") + b"0\r\n\r\n" + SMUGGLED,
            upgrade(Content_Length="0", Transfer_Encoding="chunked") + SMUGGLED,
            upgrade(Content_Length=["0", "5"]) + SMUGGLED,
            upgrade(Host=["x", "y"]) + SMUGGLED,
            upgrade().replace(b"\r\n", b"\n", 2) + SMUGGLED,
            upgrade().replace(b"Host:", b"Host :") + SMUGGLED,
            upgrade().replace(b"\r\nUpgrade:", b"\r\n folded\r\nUpgrade:") + SMUGGLED,
            plain + b"Content-Length: 3\r\n\r\nabc" + SMUGGLED,
            plain + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
        ]
    )

    async def life(_):
        answer = await end(*await attacker.open(next(requests)))
        assert answer.startswith(b"HTTP/1.1 400 ") and answer.count(b"HTTP/1.1 ") == 1, answer

    await attacker.each(20, life)


def colliding(count, bits=10):
    """UserIds whose FNV-1a hash has the same lowest bits: in a table that goes by such a hash they meet."""
    found = []
    for number in itertools.count():
        text = f"c{number}"
        value = 0xCBF29CE484222325
        for byte in text.encode():
            value = (value ^ byte) * 0x100000001B3 & (1 << 64) - 1
        if value & (1 << bits) - 1 == 0:
            found.append(text)
            if len(found) == count:
                return found


async def hash_flooding(attacker):
    """UserIds that meet under a hash without a key, and twice a second an object of hundreds of keys that do."""
    users = colliding(200)
    keys = dict.fromkeys(colliding(400, 4), 0)
    message = frame(TEXT, json.dumps({"type": "HEARTBEAT", "x": keys}, separators=(",", ":")).encode())

    async def life(number):
        reader, writer = await attacker.open_websocket(users[number])
        ending = asyncio.create_task(end(reader, writer, 60))
        try:
            await asyncio.sleep(number * 0.5 if number < 10 else 0)
            while True:
                if number < 10:
                    writer.write(message)
                await asyncio.sleep(5)
        finally:
            ending.cancel()
            await asyncio.gather(ending, return_exceptions=True)
            writer.close()

    await attacker.each(len(users), life)


async def forged_proxy_header(attacker):
    """Twenty that claim another's address by a PROXY header, version 1 or 2."""

    async def life(number):
        binary = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c" + bytes([192, 0, 2, 1, 192, 0, 2, 2, 1, 1, 2, 2])
        header = binary if number % 2 else b"PROXY TCP4 192.0.2.1 192.0.2.2 5000 3000\r\n"
        answer = await end(*await attacker.open(header + upgrade()))
        assert answer.startswith(b"HTTP/1.1 400 "), answer

    await attacker.each(20, life)


async def upgrade_flood(attacker):
    """Some hundred upgrades a second from one address."""

    async def life(number):
        reader, writer = await attacker.open(upgrade(f"/?userId=again-{number}"))
        try:
            async with asyncio.timeout(15):
                await reader.readuntil(b"\r\n\r\n")
        finally:
            writer.close()

    await attacker.each(100, life)


async def connection_flood(attacker):
    """Some hundred connections a second that say nothing and are reset."""

    async def life(_):
        _, writer = await attacker.open()
        raw = writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()

    await attacker.each(100, life)


async def nonsense(attacker):
    """Twenty that send nothing but random bytes, as frames and as messages."""

    async def life(number):
        reader, writer = await attacker.open_websocket(f"nonsense-{number}")
        writer.write(os.urandom(4096) if number % 2 else frame(TEXT, b"[]") * 30)
        await end(reader, writer)

    await attacker.each(20, life)


def wrong_tokens():
    """Tokens of which each is wrong in another way."""
    secret, now = "x" * 40, int(time.time())
    claims = {"sub": "mallory", "exp": now + 60, "aud": AUDIENCE}
    make = lambda changed, key=SECRET, **more: jwt.encode(claims | changed, key, **({"algorithm": "HS256"} | more))
    # PyJWT makes no token whose times are no numbers.
    raw = lambda changed: jwt.PyJWS().encode(json.dumps(claims | changed).encode(), SECRET, algorithm="HS256")
    return [
        make({}, None, algorithm="none"),
        make({}, secret),
        make({}, algorithm="HS512"),
        make({"exp": now - 3600}),
        make({"aud": "another"}),
        raw({"exp": str(now + 60)}),
        raw({"exp": None}),
        raw({"sub": ["mallory"]}),
        make({})[:-2],
        "not.a.token",
    ]


async def bad_tokens(attacker):
    """Twenty with a token that is unsigned, expired, another's or not what it seems."""
    tokens = itertools.cycle(wrong_tokens())

    async def life(_):
        reader, writer = await attacker.open(upgrade(Authorization=f"Bearer {next(tokens)}"))
        answer = await end(reader, writer)
        assert answer.startswith(b"HTTP/1.1 401 "), answer

    await attacker.each(20, life)


async def other_origins(attacker):
    """Twenty pages of other origins: null, nearly right, doubled."""
    origins = itertools.cycle(["null", "https://page.example.org", "http://page.example", ["https://page.example"] * 2])

    async def life(_):
        answer = await end(*await attacker.open(upgrade(Origin=next(origins))))
        assert answer.startswith((b"HTTP/1.1 403 ", b"HTTP/1.1 400 ")), answer

    await attacker.each(20, life)


def client_hello():
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname="rollcall.test")
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


async def half_handshakes(attacker):
    """Fifty TLS handshakes of which a half comes, and nothing more once the server has answered."""
    hello = client_hello()

    async def life(number):
        await end(*await attacker.open(hello[: len(hello) // 2] if number % 2 else hello))

    await attacker.each(50, life)


async def no_tls(attacker):
    """Twenty that send requests and random bytes where TLS is spoken."""

    async def life(number):
        answer = await end(*await attacker.open(upgrade() if number % 2 else os.urandom(500)))
        assert b"HTTP" not in answer, answer

    await attacker.each(20, life)


def renegotiate(attacker):
    """A handshake of TLS 1.2, and another one within it."""
    context = SSL.Context(SSL.TLSv1_2_METHOD)
    with socket.create_connection((attacker.host, attacker.port), 15, (attacker.address, 0)) as raw:
        raw.settimeout(None)
        attacker.opened += 1
        connection = SSL.Connection(context, raw)
        connection.set_connect_state()
        try:
            connection.do_handshake()
            connection.renegotiate()
            connection.do_handshake()
        except SSL.Error:
            return
        raise AssertionError("the server began anew")


async def renegotiation(attacker):
    """Two that begin TLS anew within TLS 1.2, over and over."""

    async def life(_):
        await asyncio.to_thread(renegotiate, attacker)

    await attacker.each(2, life)


def refused(*reasons):
    return [f'rollcall_refusals_total{{reason="{reason}"}}' for reason in reasons]


def handshakes(*results):
    return [f'rollcall_tls_handshakes_total{{result="{result}"}}' for result in results]


def closed(*codes):
    return [f'rollcall_closes_total{{code="{code}"}}' for code in codes]


# Each attack with the samples that must grow under it, and how many of its connections there are at once.
ATTACKS = {
    slowloris: (refused("timeout"), 200),
    drip: (refused("timeout"), 100),
    never_reading: (['rollcall_connections_dropped_total{reason="send_timeout"}'], 50),
    frame_flood: (closed(4429), 10),
    ping_flood: (closed(4429), 10),
    auth_flood: (closed(4429), 10),
    one_byte_fragments: (closed(1008), 20),
    slow_message: (closed(1008), 100),
    compressed: (closed(1002), 20),
    announced_length: (closed(1002, 1009), 20),
    large_heads: (refused("headers_too_large", "uri_too_long"), 20),
    smuggling: (refused("bad_request", "body"), 20),
    hash_flooding: (["ws_messages_total"], 200),
    forged_proxy_header: (refused("proxy_header_unasked"), 20),
    upgrade_flood: (refused("upgrade_rate"), 100),
    connection_flood: ([], 100),
    nonsense: (closed(1002, 1008), 20),
    bad_tokens: (refused("unauthorized"), 20),
    other_origins: (refused("origin"), 20),
}
# The same for a server that speaks TLS.
TLS_ATTACKS = {
    half_handshakes: (handshakes("abandoned"), 50),
    no_tls: (handshakes("not_tls"), 20),
    renegotiation: (handshakes("full"), 2),
}
