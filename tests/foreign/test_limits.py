"""Rates and caps, proxies in front, and what is never logged."""

import contextlib
import json
import socket
import ssl
import time

from websockets.exceptions import ConnectionClosed

from clients import CLOSE, PING, TEXT, Client, Raw, frame, upgrade
from proxies import Haproxy, is_here
from server import PATIENCE, Server, eventually
from test_tls import NAME, Keys, TlsServer

HEARTBEAT = '{"type":"HEARTBEAT"}'
RATE = ("--upgrade-rate-per-address", "1", "--shards", "1")


class From(Raw):
    """A socket that connects from an address of ours."""

    def __init__(self, server, address):
        host, _, port = server.address.rpartition(":")
        self.socket = socket.create_connection((host, int(port)), PATIENCE, (address, 0))
        self.received = b""


def status(server, address, first=b""):
    """How a request to upgrade is answered that comes from `address`, behind `first`."""
    with From(server, address) as raw:
        raw.send(first + upgrade())
        return int(raw.head().split()[1])


def test_too_many_messages_are_told_and_then_closed():
    with Server("--message-rate", "5", "--message-burst", "10") as server:
        with Client(server) as client:
            for _ in range(10):
                assert client.is_alive()
            # A slow client is owed one each fifth of a second meanwhile.
            answers = [client.ask(HEARTBEAT) for _ in range(8)]
            errors = [answer for answer in answers if answer["type"] == "ERROR"]
            assert errors and {error["payload"]["code"] for error in errors} == {"RATE_LIMITED"}, answers
            time.sleep(2)
            assert client.is_alive()
            # It may be closed while it still sends.
            with contextlib.suppress(ConnectionClosed):
                for _ in range(40):
                    client.send(HEARTBEAT)
            while (answer := read(client)) is not None:
                assert answer["type"] in ("HEARTBEAT_ACK", "ERROR")
            assert client.socket.close_code == 4429


def read(client):
    try:
        return client.receive()
    except Exception:
        return None


def test_too_many_pings_are_closed():
    with Server("--message-rate", "5", "--message-burst", "10") as server:
        with Raw.open(server) as raw:
            raw.send(frame(PING, b"p") * 50)
            pongs = 0
            while (answer := raw.frame())[0] != CLOSE:
                pongs += 1
            assert answer[1][:2] == (4429).to_bytes(2, "big") and pongs == 10, (answer, pongs)


def test_too_many_upgrades_from_one_address_get_429_and_others_do_not():
    with Server(*RATE) as server:
        assert status(server, "127.0.0.3") == 101
        assert status(server, "127.0.0.3") == 429
        assert status(server, "127.0.0.4") == 101
        time.sleep(1.1)
        assert status(server, "127.0.0.3") == 101


def test_a_proxy_header_is_required_from_the_networks_named_and_refused_from_others():
    claim = b"PROXY TCP4 192.0.2.1 192.0.2.9 5000 3000\r\n"
    with Server("--proxy-protocol-from", "127.0.0.2/31", *RATE) as server:
        assert status(server, "127.0.0.2", claim) == 101
        assert status(server, "127.0.0.3", claim) == 429
        assert status(server, "127.0.0.2") == 400
        assert status(server, "127.0.0.4", claim) == 400
        assert status(server, "127.0.0.4") == 101
        with From(server, "127.0.0.2") as raw:
            raw.send(b"PROXY TC")
            time.sleep(0.1)
            raw.send(b"P4 192.0.2.2 192.0.2.9 5000 3000\r\n" + upgrade()[:30])
            time.sleep(0.1)
            raw.send(upgrade()[30:] + frame(TEXT, HEARTBEAT.encode()))
            assert raw.head().startswith("HTTP/1.1 101 ")
            assert [raw.message()["type"] for _ in range(2)] == ["CONNECT", "HEARTBEAT_ACK"]
        with From(server, "127.0.0.2") as raw:
            raw.send(b"PROXY TC")
            raw.socket.shutdown(socket.SHUT_WR)
            assert raw.at_end()
        assert server.metric('rollcall_refusals_total{reason="proxy_header_required"}') == 1
        assert server.metric('rollcall_refusals_total{reason="proxy_header_unasked"}') == 1
        server.metric_becomes('rollcall_shard_sockets{shard="0"}', 0)


def test_a_proxy_header_comes_before_tls():
    claim = b"PROXY TCP6 2001:db8::1 2001:db8::2 5000 3000\r\n"
    with Keys() as keys, TlsServer(keys, "--proxy-protocol-from", "127.0.0.2", *RATE) as server:

        def secured_status(address, first, rest=b""):
            raw = From(server, address)
            raw.send(first)
            time.sleep(0.05)
            raw.send(rest)
            raw.socket = keys.context().wrap_socket(raw.socket, server_hostname=NAME)
            with raw:
                raw.send(upgrade())
                return int(raw.head().split()[1])

        assert secured_status("127.0.0.2", claim) == 101
        assert secured_status("127.0.0.2", claim[:20], claim[20:]) == 429
        assert secured_status("127.0.0.3", b"") == 101
        for address, first in [("127.0.0.2", b""), ("127.0.0.3", claim)]:
            try:
                raise AssertionError(f"{address} was let in: {secured_status(address, first)}")
            except (ssl.SSLError, ConnectionError):
                pass
        eventually(lambda: server.metric('rollcall_refusals_total{reason="proxy_header_required"}'), 1, "required")


def test_a_large_token_fits_where_the_operator_says_so():
    large = upgrade(Cookie="c" * 20_000)
    for flags, expected in [((), 431), (("--max-request", "32KiB"), 101)]:
        with Server(*flags) as server, Raw(server.address) as raw:
            raw.send(large)
            assert int(raw.head().split()[1]) == expected, flags


def test_forwarding_headers_count_from_trusted_proxies_alone():
    with Server("--trusted-proxies", "127.0.0.2", *RATE) as server:
        for address, client, expected in [
            ("127.0.0.2", "192.0.2.1", 101),
            ("127.0.0.2", "192.0.2.1", 429),
            ("127.0.0.2", "192.0.2.2", 101),
            ("127.0.0.3", "192.0.2.3", 101),
            ("127.0.0.3", "192.0.2.4", 429),
        ]:
            with From(server, address) as raw:
                raw.send(upgrade(X_Forwarded_For=client))
                assert int(raw.head().split()[1]) == expected, (address, client)


def test_haproxy_tells_the_client_by_every_way_that_it_has():
    if not is_here():
        print("left out: HAProxy cannot be had here")
        return
    for setting, ways in [
        ("--proxy-protocol-from", [("send-proxy",), ("send-proxy-v2",), ("send-proxy-v2 proxy-v2-options crc32c",)]),
        ("--trusted-proxies", [("", "option forwardfor"), ("", "http-request set-header Forwarded for=%[src]")]),
    ]:
        for way in ways:
            with Server(setting, "127.0.0.1", *RATE) as server, Haproxy(server, *way) as proxy:
                assert [status(proxy, "127.0.0.5"), status(proxy, "127.0.0.5")] == [101, 429], way
                assert status(proxy, "127.0.0.6") == 101, way
                with Client(proxy) as client:
                    assert client.is_alive()


def test_neither_users_nor_metadata_nor_queries_are_logged():
    secrets = ["secret-user", "secret-metadata", "secret-token", "secret-header"]
    update = '{"type":"PRESENCE_UPDATE","payload":{"status":"busy","metadata":{"secret-metadata":"secret-metadata"}}}'
    with Server("--log-level", "info", "--message-rate", "5", "--message-burst", "5") as server:
        with Client(server, "userId=secret-user&token=secret-token") as client:
            client.send(update)
            client.ask("secret-metadata")
            with contextlib.suppress(ConnectionClosed):
                for _ in range(20):
                    client.send(update)
            while read(client) is not None:
                pass
        for target in ["/secret-token", "/?userId=secret-user&userId=secret-user", "/?userId=" + "secret-user" * 20]:
            with Raw(server.address) as raw:
                raw.send(upgrade(target, X="secret-header"))
                raw.head()
        with Raw(server.address) as raw:
            raw.send(b"secret-header\r\n\r\n")
            raw.head()
    log = "".join(server.log)
    assert "rollcall is listening" in log and not any(secret in log for secret in secrets), log


def test_a_user_has_so_many_connections_over_all_shards():
    with Server("--connections-per-user", "2", "--shards", "4") as server:
        clients = []
        for _ in range(8):
            clients.append(Client(server))
            time.sleep(0.1)
        assert {client.closed()[0] for client in clients[:-2]} == {4409}
        assert all(client.is_alive() for client in clients[-2:])
    with Server("--connections-per-user", "2", "--connection-that-yields", "newest") as server:
        clients = [Client(server) for _ in range(2)]
        assert Client(server).closed()[0] == 4429
        assert all(client.is_alive() for client in clients)


def test_an_address_has_so_many_connections_over_all_shards():
    with Server("--connections-per-address", "3", "--shards", "4") as server:
        kept = [Client(server, f"userId={number}") for number in range(3)]
        time.sleep(0.2)
        for number in range(8):
            assert Client(server, f"userId=more-{number}").closed()[0] == 4429
        with From(server, "127.0.0.9") as raw:
            raw.send(upgrade() + frame(TEXT, HEARTBEAT.encode()))
            assert raw.head() and [raw.message()["type"] for _ in range(2)] == ["CONNECT", "HEARTBEAT_ACK"]
        assert all(client.is_alive() for client in kept)
        kept.pop().close()
        time.sleep(0.3)
        with Client(server) as client:
            time.sleep(0.2)
            assert client.is_alive()
        assert server.metric('rollcall_limited_total{limit="connections_per_address"}') == 8


def test_a_status_that_flickers_is_told_as_it_is_in_the_end():
    update = lambda status: json.dumps({"type": "PRESENCE_UPDATE", "payload": {"status": status}})
    with Server("--status-rate-per-user", "2", "--change-interval", "0") as server:
        with Client(server, "userId=bob") as bob, Client(server, "userId=ana") as ana:
            bob.ask(type="WATCH", payload={"users": ["ana"]})
            for number in range(60):
                ana.send(update(["busy", "away", "online"][number % 3]))
            ana.send(update("busy"))
            assert ana.is_alive()
            changes = []
            while not changes or changes[-1] != "busy" or len(changes) < 2:
                changes += [told["status"] for told in bob.receive()["payload"]["users"]]
            time.sleep(1)
            assert bob.is_alive() and len(changes) <= 5, changes
        assert server.metric('rollcall_limited_total{limit="status_rate_per_user"}') > 50


def test_metadata_is_sent_so_that_a_page_can_show_it():
    wild = {"a\u0007": "</script>\u2028\u0000\x1b[31m\x7f", "b": "line\nline", "n": [1e2, -0.5]}
    tame = {"a": "</script>\u2028[31m", "b": "line\nline", "n": [100, -0.5]}
    with Server() as server, Raw.open(server, "/?userId=bob") as bob, Client(server, "userId=ana") as ana:
        ana.send(type="PRESENCE_UPDATE", payload={"status": "busy", "metadata": wild})
        assert ana.is_alive()
        bob.send(frame(TEXT, b'{"type":"WATCH","payload":{"users":["ana"]}}'))
        opcode, payload = bob.frame()
        assert opcode == TEXT and b"<" not in payload and "\u2028" not in payload.decode(), payload
        assert json.loads(payload)["payload"]["users"][0]["metadata"] == tame, payload


def test_what_is_sent_can_stand_in_a_page():
    with Server() as server, Raw.open(server) as raw:
        raw.send(frame(TEXT, '{"type":"HEARTBEAT","id":"</script>\u2028"}'.encode()))
        opcode, payload = raw.frame()
        assert opcode == TEXT and b"\\u003c/script>\\u2028" in payload, payload
