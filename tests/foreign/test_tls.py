"""TLS: versions, resumption, clients' certificates, new keys, and peers that do not keep to it."""

import contextlib
import http.client
import os
import pathlib
import re
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import time

from clients import CLOSE, PONG, PING, TEXT, Client, Raw, frame, upgrade
from server import PATIENCE, Server, eventually

NAME = "rollcall.test"


def openssl(*arguments, **options):
    return subprocess.run(["openssl", *arguments], check=True, capture_output=True, text=True, **options).stdout


class Keys:
    """An authority, and what it has signed, as files in a folder that goes with this."""

    def __init__(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="rollcall-tls-"))
        self.ca, ca_key = self.folder / "ca.pem", self.folder / "ca.key"
        curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
        openssl("req", "-x509", *curve, "-days", "2", "-subj", "/CN=authority", "-keyout", ca_key, "-out", self.ca)
        self.sign = lambda name, *more: self.signed(curve, ca_key, name, *more)
        self.certificate, self.key = self.sign(NAME)

    def signed(self, curve, ca_key, name, stem=None):
        stem = stem or name
        certificate, key, request = (self.folder / f"{stem}.{end}" for end in ("pem", "key", "csr"))
        openssl("req", "-new", *curve, "-subj", f"/CN={name}", "-keyout", key, "-out", request)
        extensions = self.folder / "extensions"
        extensions.write_text(f"subjectAltName=DNS:{name}\nbasicConstraints=CA:FALSE\n")
        days = ("-days", "2", "-CAcreateserial", "-extfile", extensions)
        openssl("x509", "-req", "-in", request, "-CA", self.ca, "-CAkey", ca_key, *days, "-out", certificate)
        return certificate, key

    def flags(self):
        return "--tls-certificate", str(self.certificate), "--tls-key", str(self.key)

    def context(self, version=None, certificate=None, key=None):
        context = ssl.create_default_context(cafile=self.ca)
        if version:
            context.minimum_version = context.maximum_version = version
        if certificate:
            context.load_cert_chain(certificate, key)
        return context

    def __enter__(self):
        return self

    def __exit__(self, *_):
        shutil.rmtree(self.folder)


class TlsServer(Server):
    """A server that speaks TLS with what `keys` hold."""

    def __init__(self, keys, *flags, **options):
        super().__init__(*keys.flags(), *flags, **options)

    def url(self, query="userId=ana", path="/"):
        return f"wss://{self.address}{path}?{query}"

    def handshakes(self, result):
        text = self.request("/metrics")[2]
        return int(re.search(rf'^rollcall_tls_handshakes_total{{result="{result}"}} (\d+)$', text, re.M)[1])

    def logged(self, words):
        eventually(lambda: any(words in line for line in self.log), True, f"a line of the log with “{words}”")


def client(server, keys, **options):
    context = options.pop("context", None) or keys.context()
    return Client(server, ssl=context, server_hostname=NAME, **options)


class Secured(Raw):
    """A raw socket under TLS."""

    def __init__(self, server, context, session=None):
        plain = socket.create_connection(("127.0.0.1", server.port), PATIENCE)
        self.socket = context.wrap_socket(plain, server_hostname=NAME, session=session)
        self.received = b""


def test_both_versions_carry_a_whole_life():
    with Keys() as keys, TlsServer(keys) as server:
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            with client(server, keys, context=keys.context(version)) as connection:
                spoken = connection.socket.socket.version()
                assert spoken == {ssl.TLSVersion.TLSv1_2: "TLSv1.2", ssl.TLSVersion.TLSv1_3: "TLSv1.3"}[version]
                assert connection.is_alive()
                metadata = {"a": "b" * 4000}
                answer = connection.ask(type="PRESENCE_UPDATE", id=1, payload={"status": "busy", "metadata": metadata})
                assert answer["type"] == "ACK", answer
                connection.send(type="DISCONNECT")
                assert connection.closed()[0] == 1000
        assert server.handshakes("full") == 2


def test_alpn_is_http_1_1_or_nothing():
    with Keys() as keys, TlsServer(keys) as server:
        context = keys.context()
        context.set_alpn_protocols(["h2", "http/1.1"])
        with Secured(server, context) as raw:
            assert raw.socket.selected_alpn_protocol() == "http/1.1"
        context.set_alpn_protocols(["h2"])
        try:
            Secured(server, context)
            raise AssertionError("h2 alone was taken")
        except ssl.SSLError as error:
            assert "no application protocol" in str(error), error


def test_pages_are_served_over_https_on_both_ports():
    with Keys() as keys, TlsServer(keys) as server:
        for port in (server.port, int(server.control.rpartition(":")[2])):
            curl = ["curl", "--silent", "--fail", "--noproxy", "*", "--cacert", keys.ca]
            where = ["--connect-to", f"{NAME}:443:127.0.0.1:{port}", f"https://{NAME}/metrics"]
            text = subprocess.run([*curl, *where], check=True, capture_output=True, text=True).stdout
            assert "rollcall_tls_handshakes_total" in text and "process_threads" in text
        # Who is on the same host may ask the control port in plain as well, over one connection again and again.
        assert server.request("/health/live")[0] == 200
        connection = http.client.HTTPSConnection(server.control, context=ssl._create_unverified_context())
        with contextlib.closing(connection):
            for _ in range(3):
                connection.request("GET", "/health/live")
                assert connection.getresponse().read().startswith(b"{")


def test_sessions_are_resumed_by_whichever_shard_gets_them():
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        with Keys() as keys, TlsServer(keys, "--shards", "4") as server:
            context = keys.context(version)
            with Secured(server, context) as first:
                first.send(upgrade())
                assert first.head().startswith("HTTP/1.1 101 ") and first.message()["type"] == "CONNECT"
                session = first.socket.session
            for _ in range(12):
                with Secured(server, context, session) as again:
                    again.send(upgrade())
                    assert again.head().startswith("HTTP/1.1 101 ")
                    assert again.socket.session_reused
            assert (server.handshakes("full"), server.handshakes("resumed")) == (1, 12)


def test_a_client_must_show_a_certificate_where_authorities_are_named():
    with Keys() as keys, Keys() as strangers, TlsServer(keys, "--tls-client-ca", str(keys.ca)) as server:
        mine, theirs = keys.sign("ana"), strangers.sign("eve")
        with client(server, keys, context=keys.context(certificate=mine[0], key=mine[1])) as connection:
            assert connection.is_alive()
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            for certificate, words in (((), "CERTIFICATE_REQUIRED|HANDSHAKE_FAILURE"), (theirs, "UNKNOWN_CA|DECRYPT")):
                context = keys.context(version, *certificate)
                try:
                    with Secured(server, context) as raw:
                        raw.send(upgrade())
                        raw.socket.recv(1)
                    raise AssertionError("a stranger was let in")
                except ssl.SSLError as error:
                    assert re.search(words, str(error)), error
        eventually(lambda: server.handshakes("failed"), 4, "failed handshakes")
        assert server.handshakes("full") == 1
        # Operators show none.
        assert ssl.get_server_certificate(("127.0.0.1", int(server.control.rpartition(":")[2])))


def test_new_keys_reach_new_connections_and_drop_nobody():
    with Keys() as keys, TlsServer(keys) as server:
        served = lambda: ssl.get_server_certificate(("127.0.0.1", server.port))
        before = served()
        with client(server, keys) as connection:
            for way in ("change", "signal"):
                certificate, key = keys.sign(NAME, way)
                if way == "signal":
                    # Of the same size and time, as nobody would look: only the signal tells.
                    server.process.send_signal(signal.SIGSTOP)
                os.replace(key, keys.key)
                os.replace(certificate, keys.certificate)
                if way == "signal":
                    server.process.send_signal(signal.SIGHUP)
                    server.process.send_signal(signal.SIGCONT)
                eventually(lambda: served() != before, True, "another certificate")
                assert served() == keys.certificate.read_text()
                before = served()
                assert connection.is_alive()
            with client(server, keys) as later:
                assert later.is_alive()


def test_keys_of_no_use_change_nothing_and_the_log_says_so():
    with Keys() as keys, Keys() as others, TlsServer(keys) as server:
        served = lambda: ssl.get_server_certificate(("127.0.0.1", server.port))
        before, whole = served(), keys.certificate.read_text()
        with client(server, keys) as connection:
            for text, words in (
                (whole[:100], "is not PEM"),
                ("", "holds no certificate"),
                (others.certificate.read_text(), "does not belong to the first certificate"),
            ):
                keys.certificate.write_text(text)
                server.logged(words)
                assert served() == before and connection.is_alive()
            keys.certificate.unlink()
            server.logged("cannot be read")
            assert served() == before
            keys.certificate.write_text(whole)
            server.logged("were read anew")
        secrets = keys.key.read_text().split("\n")[1:-2]
        assert secrets and not any(secret in line for line in server.log for secret in secrets)


def test_keys_of_no_use_at_start_are_said_in_one_sentence():
    with Keys() as keys, Keys() as others:
        keys.key.write_text(others.key.read_text())
        server = TlsServer(keys, expect_start=False)
        assert server.exit_code() != 0
        assert "does not belong to the first certificate" in "".join(server.log)
        server = Server("--tls-key", str(keys.key), expect_start=False)
        assert server.exit_code() == 2
        assert "tls_key (flag --tls-key) needs tls_certificate beside it" in "".join(server.log)


def test_tickets_of_clients_are_void_when_others_are_trusted():
    with Keys() as keys, Keys() as others:
        trusted = keys.folder / "clients.pem"
        trusted.write_text(keys.ca.read_text())
        with TlsServer(keys, "--tls-client-ca", str(trusted)) as server:
            context = keys.context(ssl.TLSVersion.TLSv1_3, *keys.sign("ana"))
            with Secured(server, context) as first:
                first.send(upgrade())
                assert first.head() and first.message()
                session = first.socket.session
            with Secured(server, context, session) as again:
                again.send(upgrade())
                assert again.head() and again.socket.session_reused
            trusted.write_text(others.ca.read_text())
            server.logged("were read anew")
            try:
                with Secured(server, context, session) as late:
                    late.send(upgrade())
                    late.head()
                raise AssertionError("a session outlived the trust in its client")
            except ssl.SSLError as error:
                assert "UNKNOWN_CA" in str(error) or "DECRYPT" in str(error), error


def test_plain_http_on_the_tls_port_is_closed_and_counted():
    with Keys() as keys, TlsServer(keys) as server:
        with Raw(server.address) as raw:
            raw.send(upgrade())
            while raw.more():
                pass
            assert b"HTTP" not in raw.received, raw.received
        eventually(lambda: server.handshakes("not_tls"), 1, "not_tls")
        assert 'rollcall_refusals_total{reason="tls"} 1\n' in server.request("/metrics")[2]


def test_half_a_handshake_times_out_and_nothing_is_said_in_clear():
    with Keys() as keys, TlsServer(keys, "--handshake-timeout", "500ms") as server:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = keys.context().wrap_bio(incoming, outgoing, server_hostname=NAME)
        with contextlib.suppress(ssl.SSLWantReadError):
            tls.do_handshake()
        hello = outgoing.read()
        for part in (b"", hello[:1], hello[: len(hello) // 2], hello):
            with Raw(server.address) as raw:
                raw.send(part)
                while raw.more():
                    pass
                assert b"HTTP" not in raw.received
        eventually(lambda: server.handshakes("abandoned"), 4, "abandoned handshakes")
        # A byte at a time does not buy more of it.
        began = time.monotonic()
        with Raw(server.address) as raw, contextlib.suppress(ConnectionError):
            for byte in hello:
                raw.send(bytes([byte]))
                time.sleep(0.02)
            while raw.more():
                pass
        assert time.monotonic() - began < len(hello) * 0.02


def test_a_handshake_that_arrives_byte_by_byte_is_as_good_as_any():
    with Keys() as keys, TlsServer(keys) as server:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = keys.context().wrap_bio(incoming, outgoing, server_hostname=NAME)
        with Raw(server.address) as raw:
            raw.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

            def until(step):
                while True:
                    try:
                        return step()
                    except ssl.SSLWantReadError:
                        for byte in outgoing.read():
                            raw.send(bytes([byte]))
                        assert raw.more(), "the server left"
                        incoming.write(raw.received)
                        raw.received = b""

            until(tls.do_handshake)
            tls.write(upgrade() + frame(TEXT, b'{"type":"HEARTBEAT"}') + frame(CLOSE, b"\x03\xe8"))
            heard = b""
            while b"HEARTBEAT_ACK" not in heard:
                heard += until(lambda: tls.read(65536))
        assert heard.startswith(b"HTTP/1.1 101 ")


def test_renegotiation_is_refused():
    with Keys() as keys, TlsServer(keys) as server:
        command = ["openssl", "s_client", "-connect", f"127.0.0.1:{server.port}", "-tls1_2", "-CAfile", keys.ca]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        process.stdin.write(b"R\n")
        process.stdin.flush()
        time.sleep(0.5)
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(b"R\nR\nR\n")
            process.stdin.flush()
        said = process.communicate(timeout=PATIENCE)[0].decode()
        assert "RENEGOTIATING" in said and "no renegotiation" in said, said[-500:]
        with client(server, keys) as connection:
            assert connection.is_alive()


def test_garbage_after_the_handshake_ends_that_connection_alone():
    with Keys() as keys, TlsServer(keys) as server:
        with client(server, keys) as neighbour, Secured(server, keys.context()) as raw:
            raw.send(upgrade())
            assert raw.head().startswith("HTTP/1.1 101 ")
            raw.message()
            with socket.socket(fileno=os.dup(raw.socket.fileno())) as below:
                below.sendall(b"\x17\x03\x03\x00\x20" + bytes(32))
                try:
                    raw.socket.recv(1)
                    raise AssertionError("garbage was taken")
                except ssl.SSLError as error:
                    assert "BAD_RECORD_MAC" in str(error).upper().replace(" ", "_"), error
            assert neighbour.is_alive()
        assert 'rollcall_connections_dropped_total{reason="tls"} 1\n' in server.request("/metrics")[2]
        server.metric_becomes("ws_connections_current", 0)


def test_an_end_without_a_close_notify_is_an_end():
    with Keys() as keys, TlsServer(keys) as server:
        raw = Secured(server, keys.context())
        raw.send(upgrade())
        assert raw.head() and raw.message()
        server.metric_becomes("ws_connections_current", 1)
        os.close(raw.socket.detach())
        server.metric_becomes("ws_connections_current", 0)


def test_the_last_word_and_the_close_notify_come_before_the_end():
    with Keys() as keys, TlsServer(keys) as server:
        with Secured(server, keys.context()) as raw:
            # Request, message and close in one record.
            raw.send(upgrade() + frame(TEXT, b'{"type":"HEARTBEAT"}') + frame(CLOSE, b"\x03\xe8"))
            assert raw.head().startswith("HTTP/1.1 101 ")
            assert (raw.message()["type"], raw.message()["type"]) == ("CONNECT", "HEARTBEAT_ACK")
            assert raw.closed() == (1000, "")
            # Without the close_notify this were an error of TLS, not an end.
            assert raw.socket.recv(1) == b""


def test_who_reads_slowly_gets_every_answer_in_order():
    with Keys() as keys, TlsServer(keys, "--socket-send-buffer", "4KiB") as server:
        with Secured(server, keys.context()) as raw:
            raw.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            raw.send(upgrade())
            assert raw.head() and raw.message()
            pings = 1500
            payload = lambda index: index.to_bytes(4, "big") * 30
            raw.socket.setblocking(False)
            waiting = b"".join(frame(PING, payload(index)) for index in range(pings))
            answers = 0
            until = time.monotonic() + PATIENCE
            while answers < pings:
                assert time.monotonic() < until, f"{answers} answers"
                if waiting:
                    with contextlib.suppress(ssl.SSLWantWriteError, ssl.SSLWantReadError):
                        waiting = waiting[raw.socket.send(waiting[:16384]) :]
                with contextlib.suppress(ssl.SSLWantReadError):
                    raw.received += raw.socket.recv(1000)
                while len(raw.received) >= 122:
                    assert raw.take(122) == bytes([0x80 | PONG, 120]) + payload(answers)
                    answers += 1


def test_a_wave_of_handshakes_does_not_keep_heartbeats_waiting():
    with Keys() as keys, TlsServer(keys, "--shards", "1") as server:
        context = keys.context()
        with client(server, keys) as connection:
            hellos = []
            for _ in range(300):
                incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
                with contextlib.suppress(ssl.SSLWantReadError):
                    context.wrap_bio(incoming, outgoing, server_hostname=NAME).do_handshake()
                raw = Raw(server.address)
                raw.send(outgoing.read())
                hellos.append(raw)
            for _ in range(20):
                assert connection.is_alive()
            for raw in hellos:
                assert raw.more()
                raw.close()
        eventually(lambda: server.handshakes("abandoned"), 300, "abandoned handshakes")


def test_the_load_generator_speaks_it():
    from server import BINARY

    with Keys() as keys, TlsServer(keys) as server:
        for more in ("closed", "closed --tls-version 1.2", "idle", "churn --rate-connect 50 --tls-resume"):
            flags = "--connections 20 --duration 1s --warm-up 0 --json --quiet --tls-insecure --mode " + more
            load = [BINARY, "load", f"wss://127.0.0.1:{server.port}/", *flags.split()]
            subprocess.run(load, check=True, capture_output=True)
        assert server.handshakes("full") > 40 and server.handshakes("resumed") > 0
