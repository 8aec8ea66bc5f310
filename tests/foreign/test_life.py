"""Silence, probes, users with many connections, and the server's own end."""

import os
import pathlib
import re
import resource
import signal
import socket
import subprocess
import threading
import time
import types

from clients import CLOSE, PING, PONG, TEXT, Client, Raw, frame, upgrade
from server import ANSI, BINARY, PATIENCE, Server, health


def test_a_client_that_says_nothing_is_ended_although_it_answers_pings():
    with Server("--heartbeat-timeout", "1s", "--probe-after", "300ms") as server:
        with Client(server) as client:
            assert client.welcome["payload"]["heartbeatTimeout"] == 1000
            began = time.monotonic()
            code, reason = client.closed()
            assert code == 4408 and reason, (code, reason)
            assert time.monotonic() - began > 0.9


def test_the_silent_socket_goes_although_its_peer_does_not_answer():
    with Server("--heartbeat-timeout", "1s", "--close-timeout", "200ms") as server:
        with Raw.open(server) as raw:
            assert raw.closed()[0] == 4408
            assert raw.at_end()
        server.metric_becomes("ws_connections_current", 0)


def test_messages_keep_a_client_alive_bad_ones_too():
    with Server("--heartbeat-timeout", "1500ms", "--probe-after", "0") as server:
        with Client(server, "userId=good") as good, Client(server, "userId=bad") as bad:
            for _ in range(8):
                time.sleep(0.4)
                assert good.is_alive()
                assert bad.ask("[]")["type"] == "ERROR"


def test_no_heartbeat_timeout_is_the_operators_to_choose():
    with Server("--heartbeat-timeout", "0", "--probe-after", "0") as server:
        with Client(server) as client:
            time.sleep(2)
            assert client.is_alive()


def test_a_peer_that_answers_no_ping_is_ended():
    with Server("--heartbeat-timeout", "0", "--probe-after", "500ms", "--probe-timeout", "500ms") as server:
        with Raw.open(server) as raw:
            opcode, _ = raw.frame()
            assert opcode == PING
            assert raw.closed()[0] == 4408
            assert raw.at_end()
        server.metric_becomes("ws_connections_current", 0)


def test_a_peer_that_answers_pings_lives():
    with Server("--heartbeat-timeout", "0", "--probe-after", "300ms", "--probe-timeout", "2s") as server:
        with Raw.open(server) as raw:
            for _ in range(4):
                opcode, payload = raw.frame()
                assert opcode == PING, opcode
                raw.send_frame(PONG, payload)
            raw.send_frame(TEXT, b'{"type":"HEARTBEAT"}')
            assert raw.message()["type"] == "HEARTBEAT_ACK"


def test_a_message_must_end_in_time():
    with Server("--message-timeout", "300ms") as server:
        with Raw.open(server) as raw:
            raw.send_frame(TEXT, b'{"type":', fin=False)
            assert raw.closed()[0] == 1008


def test_one_user_may_have_many_connections():
    with Server() as server:
        with Client(server) as first, Client(server), Client(server, "userId=bob"):
            server.metric_becomes("ws_connections_current", 3)
            server.metric_becomes("ws_clients_current", 2)
            first.close()
            server.metric_becomes("ws_connections_current", 2)
            server.metric_becomes("ws_clients_current", 2)
        server.metric_becomes("ws_connections_current", 0)
        server.metric_becomes("ws_clients_current", 0)
        assert server.metric("ws_connections_total") == 3


def test_a_reset_leaves_nobody_behind():
    with Server() as server:
        clients = [Raw.open(server, f"/?userId=u{index}") for index in range(20)]
        server.metric_becomes("ws_clients_current", 20)
        for client in clients:
            client.reset()
        server.metric_becomes("ws_connections_current", 0)
        server.metric_becomes("ws_clients_current", 0)


def test_a_stopping_server_tells_everyone_and_ends_well():
    for stop in (signal.SIGTERM, signal.SIGINT):
        with Server() as server:
            clients = [Client(server, f"userId=u{index}") for index in range(20)]
            server.process.send_signal(stop)
            for client in clients:
                code, reason = client.closed()
                assert code == 1001 and reason, (code, reason)
            assert server.exit_code() == 0


def test_a_stopping_server_answers_control_and_takes_nobody_new():
    with Server("--close-timeout", "3s", "--drain-timeout", "5s") as server:
        with Raw.open(server) as stays:
            server.terminate()
            assert stays.closed()[0] == 1001
            status, body = health(server)
            assert status == 503 and body["status"] != "OK", body
            assert server.request("/health/live")[0] == 200
            assert server.request("/health/ready")[0] == 503
            assert server.request("/metrics")[0] == 200
            try:
                with Raw(server.address) as late:
                    late.send(upgrade())
                    head = late.head() if late.more() else ""
                    assert not head.startswith("HTTP/1.1 101 "), head
            except ConnectionError:
                pass
            stays.send_frame(CLOSE, (1001).to_bytes(2, "big"))
        assert server.exit_code() == 0


def test_who_does_not_answer_holds_no_stop_beyond_the_drain_timeout():
    with Server("--close-timeout", "1m", "--drain-timeout", "1s") as server:
        with Raw.open(server):
            began = time.monotonic()
            server.terminate()
            assert server.exit_code() == 0
            assert 0.5 < time.monotonic() - began < 8


def test_a_second_signal_ends_at_once():
    server = Server("--close-timeout", "1m", "--drain-timeout", "1m")
    with Raw.open(server) as raw:
        server.terminate()
        assert raw.closed()[0] == 1001
        began = time.monotonic()
        server.terminate()
        server.exit_code()
        assert time.monotonic() - began < 5


def test_a_port_that_somebody_serves_is_an_error_at_start():
    with Server() as first:
        second = Server("--listen", first.address, expect_start=False)
        assert second.exit_code() != 0
        assert str(first.port) in "".join(second.log), second.log
        with Client(first) as client:
            assert client.is_alive()
        second = Server("--control-listen", first.control, expect_start=False)
        assert second.exit_code() != 0
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        second = Server("--listen", f"127.0.0.1:{port}", expect_start=False)
        assert second.exit_code() != 0
        assert str(port) in "".join(second.log), second.log


def test_a_setting_out_of_range_is_an_error_that_names_it():
    wrong = {"--shards": "5000", "--heartbeat-timeout": "3", "--max-message": "1", "--nonsense": "1"}
    for flag, value in wrong.items():
        server = Server(flag, value, expect_start=False)
        assert server.exit_code() != 0, flag
        said = "".join(server.log)
        assert flag.lstrip("-") in said or flag.lstrip("-").replace("-", "_") in said, said


def test_both_settings_of_descriptor_tables_serve_and_drain():
    for own in ("true", "false"):
        with Server("--own-descriptor-tables", own, "--shards", "4") as server:
            clients = [Client(server, f"userId=u{index}") for index in range(40)]
            assert all(client.is_alive() for client in clients)
            for control in (True, False):
                assert health(server, control=control)[0] == 200
            server.metric_becomes("ws_connections_current", 40)
            server.terminate()
            assert {client.closed()[0] for client in clients} == {1001}
            assert server.exit_code() == 0


def test_without_proc_one_descriptor_table_serves_all():
    without_proc = ["unshare", "--mount", "--propagation", "private", "sh", "-c", 'umount -l /proc && exec "$@"', "sh"]
    if subprocess.run([*without_proc, "true"], stderr=subprocess.DEVNULL, check=False).returncode:
        print("/proc cannot be taken away here: what happens without it is left out")
        return
    with Server("--shards", "2", before=without_proc) as server:
        assert any("share the process's descriptor table" in line for line in server.log), server.log
        # Shards wake control and each other, and control wakes shards.
        clients = [Client(server, f"userId=u{index}") for index in range(40)]
        server.metric_becomes("ws_clients_current", 40)
        for _ in range(4):
            assert health(server, control=False)[0] == 200
        server.terminate()
        assert {client.closed()[0] for client in clients} == {1001}
        assert server.exit_code() == 0


def test_a_stopped_process_cuts_nobody_whose_bytes_wait():
    with Server("--heartbeat-timeout", "2s", "--probe-after", "500ms", "--probe-timeout", "500ms") as server:
        clients = [Client(server, f"userId=u{index}") for index in range(20)]
        server.process.send_signal(signal.SIGSTOP)
        time.sleep(1)
        for client in clients:
            client.send(type="HEARTBEAT")
        time.sleep(2.5)
        server.process.send_signal(signal.SIGCONT)
        for client in clients:
            assert client.receive()["type"] == "HEARTBEAT_ACK"


def test_who_takes_nothing_is_read_no_more_and_then_ended():
    with Server("--send-timeout", "1s", "--probe-after", "0", "--heartbeat-timeout", "0") as server:
        with Raw.open(server) as raw, Client(server, "userId=other") as other:
            asks = frame(TEXT, b'{"type":"HEARTBEAT","id":"' + b"i" * 64 + b'"}') * 500
            raw.socket.settimeout(0.3)
            waiting, until = asks, time.monotonic() + PATIENCE
            while True:
                assert time.monotonic() < until, "a peer that takes nothing is not ended"
                try:
                    waiting = waiting[raw.socket.send(waiting) :] or asks
                except TimeoutError:
                    assert other.is_alive()
                except ConnectionError:
                    break
            assert other.is_alive()
        server.metric_becomes("ws_connections_current", 0)
        assert server.metric('rollcall_connections_dropped_total{reason="send_timeout"}') == 1


def test_a_flood_has_its_share_of_each_turn_and_no_more():
    share, messages = 64, 60_000
    with Server("--shards", "1", "--turn-messages", str(share)) as server:
        turns = 'rollcall_shard_turn_seconds_count{shard="0"}'
        with Raw.open(server) as raw:
            taker = threading.Thread(target=lambda: all(iter(raw.more, False)), daemon=True)
            taker.start()
            began = server.metric(turns)
            raw.send(frame(TEXT, b'{"type":"HEARTBEAT"}') * messages)
            server.metric_becomes("ws_messages_total", messages)
            assert server.metric(turns) - began > messages / share / 2, "one connection had more than its share"
            raw.socket.shutdown(socket.SHUT_WR)
            taker.join(PATIENCE)


def test_what_came_with_the_end_of_the_stream_is_answered():
    with Server() as server:
        with Raw(server.address) as raw:
            raw.send(upgrade() + frame(TEXT, b'{"type":"HEARTBEAT"}') * 5)
            raw.socket.shutdown(socket.SHUT_WR)
            assert raw.head().startswith("HTTP/1.1 101 ")
            assert [raw.message()["type"] for _ in range(6)] == ["CONNECT"] + ["HEARTBEAT_ACK"] * 5
            while raw.more():
                pass
        server.metric_becomes("ws_connections_current", 0)


def test_the_reason_arrives_although_the_peer_goes_on_sending():
    with Server() as server:
        for first, code in [(frame(TEXT, b" " * 3_000_000), 1009), (frame(3) + frame(TEXT, b" " * 60_000) * 50, 1002)]:
            with Raw.open(server) as raw:
                raw.send(first)
                assert raw.closed()[0] == code
        with Raw(server.address) as raw:
            raw.send(b"GET /" + b"u" * 300_000)
            assert raw.response()[0] == 414


def test_no_descriptor_left_is_a_503_and_service_goes_on():
    with Server("--shards", "1", "--own-descriptor-tables", "false") as server:
        limit = 64
        resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (limit, limit))
        clients, refused = [], 0
        for index in range(limit + 20):
            raw = Raw(server.address)
            raw.send(upgrade(f"/?userId=u{index}"))
            head = raw.head()
            if head.startswith("HTTP/1.1 101 "):
                clients.append(raw)
            else:
                refused += 1
                assert head.startswith("HTTP/1.1 503 ") and "retry-after" in head.lower(), head
        assert refused and len(clients) > limit // 3, (refused, len(clients))
        for raw in clients[:5]:
            assert raw.message()["type"] == "CONNECT"
            raw.send_frame(TEXT, b'{"type":"HEARTBEAT"}')
            assert raw.message()["type"] == "HEARTBEAT_ACK"
        used, exhausted = cpu_seconds(server), server.metric("rollcall_accept_descriptors_exhausted_total")
        time.sleep(1)
        assert cpu_seconds(server) - used < 0.3, "accept spins where no descriptor is left"
        told = server.metric("rollcall_accept_descriptors_exhausted_total")
        assert told == exhausted, f"nobody knocked, and {told - exhausted} were counted"
        for raw in clients:
            raw.close()
        server.metric_becomes("ws_connections_current", 0)
        with Client(server) as client:
            assert client.is_alive()


def test_a_drain_does_not_spin_where_no_descriptor_is_left():
    with Server("--shards", "1", "--own-descriptor-tables", "false", "--close-timeout", "1m") as server:
        limit = 40
        resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (limit, limit))
        # Who says nothing keeps the reserve too, so that accepting rests.
        silent = [Raw.open(server, f"/?userId=u{index}") for index in range(5)]
        silent += [Raw(server.address) for _ in range(limit)]
        turns = 'rollcall_shard_turn_seconds_count{shard="0"}'
        time.sleep(0.5)
        server.terminate()
        time.sleep(0.5)
        began = server.metric(turns)
        time.sleep(1)
        assert server.metric(turns) - began < 200, "a drain spins"
        for raw in silent:
            raw.close()
        assert server.exit_code() == 0


def test_shards_are_pinned_to_the_cores_that_the_process_may_use():
    cores = sorted(os.sched_getaffinity(0))

    def pinned(server):
        """The cores of each shard, as the kernel has them."""
        threads = pathlib.Path(f"/proc/{server.process.pid}/task").iterdir()
        names = {int(thread.name): (thread / "comm").read_text().strip() for thread in threads}
        shards = sorted((name, thread) for thread, name in names.items() if name.startswith("shard-"))
        return [os.sched_getaffinity(thread) for _, thread in shards]

    with Server("--shards", "0") as server:
        assert pinned(server) == [{core} for core in cores][: len(pinned(server))] and pinned(server)
    with Server("--shards", "3") as server:
        assert pinned(server) == [{cores[shard % len(cores)]} for shard in range(3)]
    with Server("--shards", "1", "--pin", "false") as server:
        assert pinned(server) == [set(cores)]
    try:
        os.sched_setaffinity(0, cores[-1:])
        with Server("--shards", "0") as server:
            assert pinned(server) == [{cores[-1]}]
    finally:
        os.sched_setaffinity(0, cores)


def test_both_address_families_are_served():
    with Server("--listen", "[::]:0") as server:
        for host in ("127.0.0.1", "[::1]"):
            with Raw(f"{host.strip('[]')}:{server.port}") as raw:
                raw.send(upgrade())
                assert raw.head().startswith("HTTP/1.1 101 ")


def test_a_stop_does_not_wait_for_half_a_request():
    with Server() as server:
        with Raw(server.address) as raw:
            raw.send(upgrade()[:40])
            time.sleep(0.2)
            began = time.monotonic()
            server.terminate()
            assert server.exit_code() == 0
            assert time.monotonic() - began < 8


def test_idle_connections_cost_next_to_nothing():
    with Server() as server:
        clients = [Raw.open(server, f"/?userId=u{index}") for index in range(500)]
        used = cpu_seconds(server)
        time.sleep(5)
        assert cpu_seconds(server) - used < 0.05, "500 idle connections cost more than 1 % of a core"
        for client in clients:
            client.close()


def test_a_log_that_nobody_reads_any_more_ends_nothing():
    log, writes = os.pipe()
    flags = ["--listen=127.0.0.1:0", "--control-listen=127.0.0.1:0", "--shards=2"]
    process = subprocess.Popen([BINARY, "serve", *flags], stderr=writes)
    os.close(writes)
    said = os.read(log, 65536).decode()
    os.close(log)
    with Raw.open(types.SimpleNamespace(address=re.search(r"listen=([^ ]+)", ANSI.sub("", said))[1])) as raw:
        process.terminate()
        assert raw.closed()[0] == 1001
        raw.send_frame(CLOSE, (1001).to_bytes(2, "big"))
        assert process.wait(PATIENCE) == 0


def cpu_seconds(server):
    """What the process has used of the cores so far."""
    with open(f"/proc/{server.process.pid}/stat", encoding="ascii") as stat:
        fields = stat.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
