"""Frames as no library sends them."""

from clients import CLOSE, CONTINUATION, PING, PONG, TEXT, Client, Raw, frame, upgrade

HEARTBEAT = b'{"type":"HEARTBEAT"}'


def test_binary_is_not_spoken(server):
    with Client(server) as client:
        client.send(HEARTBEAT)
        code, reason = client.closed()
        assert code == 1003 and reason, (code, reason)


def test_text_must_be_utf_8(server):
    for payload in (b"\xff", b"\xc0\xaf", b"\xed\xa0\x80", b'{"a":"\xe2\x82"}', b"\xf4\x90\x80\x80"):
        with Raw.open(server) as raw:
            raw.send_frame(TEXT, payload)
            code, reason = raw.closed()
            assert code == 1007 and reason, (payload, code, reason)


def test_a_message_has_its_limit(server):
    with Client(server) as client:
        client.send(" " * 65537)
        code, reason = client.closed()
        assert code == 1009 and "65536" in reason, (code, reason)
    with Raw.open(server) as raw:
        raw.send_frame(TEXT, b" " * 40000, fin=False)
        raw.send_frame(CONTINUATION, b" " * 40000)
        assert raw.closed()[0] == 1009
    with Raw.open(server) as raw:
        raw.send(b"\x81\xff" + (1 << 62).to_bytes(8, "big") + b"mask")
        assert raw.closed()[0] == 1009


def test_endless_fragments_have_their_limit(server):
    with Raw.open(server) as raw:
        raw.send(frame(TEXT, b" ", fin=False) + frame(CONTINUATION, b" ", fin=False) * 300)
        code, reason = raw.closed()
        assert code == 1008 and reason, (code, reason)


def test_broken_frames_are_protocol_errors(server):
    for broken in (
        frame(TEXT, HEARTBEAT, masked=False),
        frame(TEXT, HEARTBEAT, rsv=4),
        frame(TEXT, HEARTBEAT, rsv=2),
        frame(TEXT, HEARTBEAT, rsv=1),
        frame(3, b"a"),
        frame(11),
        frame(PING, b"p" * 126),
        frame(PING, b"p", fin=False),
        frame(CONTINUATION, b"a"),
        frame(TEXT, b"a", fin=False) + frame(TEXT, b"b"),
        frame(CLOSE, b"\x03"),
        frame(CLOSE, (1005).to_bytes(2, "big")),
        frame(CLOSE, (999).to_bytes(2, "big")),
        b"\x81\xfe\x00\x05mask12345",
        b"\x81\xff" + (5).to_bytes(8, "big") + b"mask12345",
        b"\x81\xff" + (1 << 63 | 5).to_bytes(8, "big") + b"mask12345",
    ):
        with Raw.open(server) as raw:
            raw.send(broken)
            code, reason = raw.closed()
            assert code == 1002 and reason, (broken, code, reason)


def test_a_ping_is_answered_also_between_fragments(server):
    with Raw.open(server) as raw:
        raw.send_frame(TEXT, HEARTBEAT[:7], fin=False)
        raw.send_frame(PING, b"still there?")
        assert raw.frame() == (PONG, b"still there?")
        raw.send_frame(CONTINUATION, HEARTBEAT[7:])
        assert raw.message()["type"] == "HEARTBEAT_ACK"


def test_bytes_may_come_one_by_one(server):
    with Raw.open(server) as raw:
        for byte in frame(TEXT, HEARTBEAT):
            raw.send(bytes([byte]))
        assert raw.message()["type"] == "HEARTBEAT_ACK"


def test_a_close_is_echoed_and_the_socket_goes(server):
    for payload, code in [(b"", None), ((1000).to_bytes(2, "big"), 1000), ((4000).to_bytes(2, "big") + b"bye", 4000)]:
        with Raw.open(server) as raw:
            raw.send_frame(TEXT, HEARTBEAT)
            raw.send_frame(CLOSE, payload)
            assert raw.message()["type"] == "HEARTBEAT_ACK"
            assert raw.closed()[0] == code
            assert raw.at_end()


def test_a_close_that_says_bad_things_in_its_reason(server):
    with Raw.open(server) as raw:
        raw.send_frame(CLOSE, (1000).to_bytes(2, "big") + b"\xff")
        assert raw.closed()[0] == 1007


def test_everything_in_one_piece_with_the_request(server):
    with Raw(server.address) as raw:
        raw.send(upgrade() + frame(TEXT, HEARTBEAT) * 3 + frame(PING, b"p") + frame(TEXT, b'{"type":"DISCONNECT"}'))
        assert raw.head().startswith("HTTP/1.1 101 ")
        assert raw.message()["type"] == "CONNECT"
        assert [raw.message()["type"] for _ in range(3)] == ["HEARTBEAT_ACK"] * 3
        assert raw.frame() == (PONG, b"p")
        assert raw.closed()[0] == 1000
