"""Plain HTTP on both ports, and requests that are refused."""

import json
import time

from clients import KEY, Client, Raw, upgrade
from server import Server, eventually, health


def get(path, *headers, method="GET", version="HTTP/1.1"):
    return ("\r\n".join([f"{method} {path} {version}", "Host: localhost", *headers]) + "\r\n\r\n").encode()


def answer(server, request):
    """Status, headers and body on the WebSocket port, which then ends the connection."""
    with Raw(server.address) as raw:
        raw.send(request)
        response = raw.response()
        assert raw.at_end(), "the connection stays open after a refusal"
        assert "close" in response[1].get("connection", "").lower(), response
        return response


def test_health_is_told_on_both_ports(server):
    for control in (True, False):
        status, body = health(server, control=control)
        assert status == 200 and body["status"] == "OK", body
        assert body["timestamp"].endswith("Z") and body["uptime"] >= 0, body
        for path in ("/health/live", "/health/ready"):
            assert server.request(path, control=control)[0] == 200, path


def test_metrics_are_told_on_both_ports(server):
    for control in (True, False):
        status, headers, body = server.request("/metrics", control=control)
        assert status == 200 and headers["Content-Type"].startswith("text/plain; version=0.0.4"), headers
        assert "ws_connections_total" in body


def test_the_websocket_port_answers_one_request_and_ends(server):
    status, headers, body = answer(server, get("/health"))
    assert status == 200 and json.loads(body)["status"] == "OK"
    assert answer(server, get("/health") + get("/metrics"))[0] == 200


def test_what_is_not_there_is_404(server):
    assert answer(server, get("/nowhere"))[0] == 404
    assert answer(server, upgrade("/nowhere?userId=ana"))[0] == 404
    assert server.request("/nowhere")[0] == 404


def test_other_methods_are_405_and_told_what_is_allowed(server):
    for request in (get("/health", method="POST"), get("/metrics", method="DELETE"), upgrade(method="POST")):
        status, headers, _ = answer(server, request)
        assert status == 405 and "GET" in headers["allow"], (request, status, headers)
    status, headers, _ = server.request("/health", method="POST")
    assert status == 405 and "GET" in headers["Allow"], headers


def test_no_upgrade_and_other_versions_are_426(server):
    for request in (
        get("/"),
        get("/ws?userId=ana"),
        upgrade(Sec_WebSocket_Version="8"),
        upgrade(Sec_WebSocket_Version=None),
        upgrade(Upgrade="h2c"),
        upgrade(Connection="keep-alive"),
    ):
        status, headers, _ = answer(server, request)
        assert status == 426 and headers["sec-websocket-version"] == "13", (request, status, headers)
        assert headers["upgrade"].lower() == "websocket", headers


def test_a_bad_key_is_400(server):
    for key in (None, "", "short", "dGhlIHNhbXBsZSBub25j", "dGhlIHNhbXBsZSBub25jZQ=", "!" * 24, [KEY, KEY]):
        assert answer(server, upgrade(Sec_WebSocket_Key=key))[0] == 400, key


def test_a_body_is_refused(server):
    for changed in ({"Content_Length": "5"}, {"Transfer_Encoding": "chunked"}):
        assert answer(server, upgrade(**changed))[0] == 400, changed


def test_no_http_is_400(server):
    for request in (b"hello\r\n\r\n", b"GET\r\n\r\n", b"\x16\x03\x01\r\n\r\n"):
        assert answer(server, request)[0] == 400, request
    for request in (upgrade(Host=None), upgrade(Host=["a", "b"])):
        assert answer(server, request)[0] == 400, request


def test_a_head_has_its_limits(server):
    assert answer(server, b"GET /?userId=" + b"u" * 9000)[0] == 414
    assert answer(server, upgrade(X="y" * 9000))[0] == 431
    assert answer(server, upgrade(X=["y"] * 96))[0] == 431
    with Raw(server.address) as raw:
        raw.send(upgrade(X=["y"] * 95))
        assert raw.head().startswith("HTTP/1.1 101 ")
    with Raw(server.address) as raw:
        raw.send(upgrade(X="y" * (8192 - len(upgrade(X="")))))
        assert raw.head().startswith("HTTP/1.1 101 ")


def test_a_head_may_come_in_pieces(server):
    with Raw(server.address) as raw:
        for byte in upgrade():
            raw.send(bytes([byte]))
        assert raw.head().startswith("HTTP/1.1 101 ")


def test_the_accept_key_is_that_of_the_rfc(server):
    with Raw(server.address) as raw:
        raw.send(upgrade())
        head = raw.head().lower()
        assert "sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=" in head, head
        assert "sec-websocket-extensions" not in head and "sec-websocket-protocol" not in head, head


def test_the_subprotocol_is_taken_and_others_are_ignored(server):
    with Client(server, subprotocols=["other", "rollcall.v1"]) as client:
        assert client.socket.subprotocol == "rollcall.v1"
    with Client(server, subprotocols=["other"]) as client:
        assert client.socket.subprotocol is None
    with Client(server, compression="deflate") as client:
        assert client.socket.protocol.extensions == [] and client.is_alive()


def test_the_control_port_keeps_alive_and_takes_pipelines(server):
    with Raw(server.control) as raw:
        raw.send(get("/health") + get("/health/live", method="HEAD") + get("/metrics") + get("/nowhere"))
        assert raw.response()[0] == 200
        assert raw.head().startswith("HTTP/1.1 200 ")
        status, _, body = raw.response()
        assert status == 200 and body.startswith(b"# HELP"), body[:80]
        assert raw.response()[0] == 404
        raw.send(get("/health", "Connection: close"))
        assert raw.response()[0] == 200
        assert raw.at_end()


def test_the_control_port_speaks_http_1_0(server):
    with Raw(server.control) as raw:
        raw.send(b"GET /health HTTP/1.0\r\n\r\n")
        assert raw.response()[0] == 200
        assert raw.at_end()


def test_a_slow_handshake_is_ended():
    with Server("--handshake-timeout", "300ms") as server:
        with Raw(server.address) as raw:
            raw.send(upgrade()[:30])
            began = time.monotonic()
            while raw.more():
                pass
            assert time.monotonic() - began < 10
            assert raw.received == b"" or raw.received.startswith(b"HTTP/1.1 408 "), raw.received


def test_a_full_server_says_so_and_when_to_come_back():
    with Server("--max-connections", "2") as server:
        with Client(server), Client(server) as second:
            status, headers, _ = answer(server, upgrade())
            assert status == 503 and int(headers["retry-after"]) > 0, headers
            assert second.is_alive()
            second.close()
            for _ in range(200):
                with Raw(server.address) as raw:
                    raw.send(upgrade())
                    if raw.head().startswith("HTTP/1.1 101 "):
                        break
                time.sleep(0.05)
            else:
                raise AssertionError("the place that became free is not given away")


def test_who_is_refused_takes_no_place():
    with Server("--max-connections", "2", "--shards", "1") as server:
        clients = [Client(server) for _ in range(2)]
        silent = [Raw(server.address) for _ in range(5)]
        eventually(lambda: server.metric('rollcall_shard_sockets{shard="0"}'), 7, "sockets")
        for client in clients:
            client.close()
        eventually(lambda: server.metric('rollcall_shard_sockets{shard="0"}'), 5, "sockets")
        with Client(server) as client:
            assert client.is_alive()
        for raw in silent:
            raw.close()
