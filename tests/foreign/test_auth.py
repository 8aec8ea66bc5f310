"""Who is let in: tokens by PyJWT, keys by cryptography, an operator's service of the tests' own."""

import contextlib
import http.client
import http.server
import json
import pathlib
import signal
import socket
import subprocess
import tempfile
import threading
import time

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from websockets.exceptions import ConnectionClosed, InvalidStatus

from clients import Client, Raw, upgrade
from server import BINARY, PATIENCE, Server, eventually

SECRET = "a secret of forty bytes, for tests only!"
KEY = "reader-0123456789abcdefghij"


@contextlib.contextmanager
def files(**contents):
    """Files of these names and contents, in a folder of their own; yields their paths."""
    with tempfile.TemporaryDirectory() as folder:
        paths = {name: pathlib.Path(folder) / name for name in contents}
        for name, content in contents.items():
            paths[name].write_text(content)
        yield paths


def token(key=SECRET, algorithm="HS256", lasts=60, headers=None, **claims):
    claims = {"sub": "ana", "exp": int(time.time()) + lasts} | claims
    return jwt.encode(claims, key, algorithm=algorithm, headers=headers)


def bearer(text):
    return {"additional_headers": {"Authorization": f"Bearer {text}"}}


def refused(server, status, query="userId=ana", **options):
    """The body with which a client of PyPI's websockets is refused."""
    try:
        Client(server, query, **options).close()
    except InvalidStatus as refusal:
        assert refusal.response.status_code == status, refusal.response
        return refusal.response.body.decode()
    raise AssertionError("let in")


def lets_in(server, until_then, query="userId=ana", **options):
    """Whether a client is let in; one that is not is refused with the status `until_then`."""
    try:
        with Client(server, query, **options) as ana:
            return ana.is_alive()
    except InvalidStatus as refusal:
        assert refusal.response.status_code == until_then, refusal.response
        return False


def public(key):
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_key().public_bytes(serialization.Encoding.PEM, form).decode()


def jwks(**keys):
    """A JWK Set of keys by their kid."""
    make = {rsa.RSAPublicKey: jwt.algorithms.RSAAlgorithm, ec.EllipticCurvePublicKey: jwt.algorithms.ECAlgorithm}

    def jwk(key):
        kinds = [maker for kind, maker in make.items() if isinstance(key.public_key(), kind)]
        maker = kinds[0] if kinds else jwt.algorithms.OKPAlgorithm
        return json.loads(maker.to_jwk(key.public_key()))

    return json.dumps({"keys": [jwk(key) | {"kid": name} for name, key in keys.items()]})


def test_tokens_by_secret_in_each_place():
    with files(secret=SECRET + "\n") as paths, Server("--jwt-hmac-secret-file", str(paths["secret"])) as server:
        good = token()
        for query, options in [
            ("userId=ana", bearer(good)),
            ("", bearer(good)),
            ("", {"subprotocols": ["rollcall.v1", good]}),
            (f"token={good}", {}),
        ]:
            with Client(server, query, **options) as ana:
                assert ana.welcome["userId"] == "ana", ana.welcome
                if "subprotocols" in options:
                    assert ana.socket.subprotocol == "rollcall.v1"
                assert ana.is_alive()
        with Client(server, "", welcome=False) as ana:
            ana.send(type="AUTH", payload={"token": good})
            assert ana.receive()["userId"] == "ana"
        assert "another userId" in refused(server, 401, "userId=bob", **bearer(good))
        assert "expired" in refused(server, 401, **bearer(token(lasts=-60)))
        assert "signature" in refused(server, 401, **bearer(token(key=SECRET[::-1])))
        assert "algorithm" in refused(server, 401, **bearer(jwt.encode({"sub": "ana"}, None, algorithm="none")))
        assert server.metric("ws_connections_total") == 5
        # Whatever was wrong with them, no token is in the log.
        part = good.split(".")[2]
    assert not any(part in line or good in line for line in server.log), "a token is in the log"


def test_tokens_by_public_keys_of_each_kind():
    keys = {
        "RS256": rsa.generate_private_key(65537, 2048),
        "ES256": ec.generate_private_key(ec.SECP256R1()),
        "EdDSA": ed25519.Ed25519PrivateKey.generate(),
    }
    with files(pem="".join(public(key) for key in keys.values()), set=jwks(**keys)) as paths:
        for flag, name in [("--jwt-public-key", "pem"), ("--jwt-jwks", "set")]:
            with Server(flag, str(paths[name])) as server:
                for algorithm, key in keys.items():
                    with Client(server, "", **bearer(token(key, algorithm, headers={"kid": algorithm}))) as ana:
                        assert ana.welcome["userId"] == "ana"
                forged = token(public(keys["RS256"])[:60], "HS256")
                assert "algorithm" in refused(server, 401, **bearer(forged))


def test_a_token_ends_its_connection_and_auth_renews_it():
    with files(secret=SECRET) as paths:
        flags = ["--jwt-hmac-secret-file", str(paths["secret"]), "--jwt-leeway", "0"]
        with Server(*flags) as server:
            short = bearer(token(lasts=2))
            with Client(server, "", **short) as ana, Client(server, "", **short) as bob:
                assert ana.ask(type="AUTH", id=1, payload={"token": token(lasts=60)})["type"] == "ACK"
                assert ana.ask(type="AUTH", payload={"token": "nonsense"})["payload"]["code"] == "BAD_TOKEN"
                assert bob.closed() == (4401, "The token has expired.")
                assert ana.is_alive()


def test_a_page_is_told_by_a_close():
    with files(secret=SECRET) as paths:
        flags = ["--jwt-hmac-secret-file", str(paths["secret"]), "--auth-refusal", "close"]
        flags += ["--auth-message-timeout", "0"]
        with Server(*flags) as server, Client(server, welcome=False) as ana:
            assert ana.closed() == (4401, "A token is needed.")


def test_who_says_nothing_is_closed_and_nobody_until_then():
    with files(secret=SECRET) as paths:
        flags = ["--jwt-hmac-secret-file", str(paths["secret"]), "--auth-message-timeout", "500ms"]
        with Server(*flags) as server, Client(server, welcome=False) as ana:
            assert server.metric("ws_connections_current") == 0
            assert ana.closed()[0] == 4401


def test_keys_rotate_by_a_signal_and_a_file_of_no_use_changes_nothing():
    with files(secret=SECRET) as paths, Server("--jwt-hmac-secret-file", str(paths["secret"])) as server:
        new = SECRET.upper()

        def lets_in(key):
            try:
                Client(server, "", **bearer(token(key))).close()
                return True
            except InvalidStatus:
                return False

        with Client(server, "", **bearer(token())) as ana:
            assert not lets_in(new)
            paths["secret"].write_text("short")
            server.process.send_signal(signal.SIGHUP)
            eventually(lambda: any("stay as they are" in line for line in server.log), True, "a line in the log")
            assert lets_in(SECRET)
            paths["secret"].write_text(new)
            server.process.send_signal(signal.SIGHUP)
            eventually(lambda: lets_in(new), True, "the new secret")
            assert not lets_in(SECRET)
            assert ana.is_alive(), "who is in stays in"


class Operator(http.server.ThreadingHTTPServer):
    """A service that answers by the cookie, and gives away a JWK Set."""

    def __init__(self, jwk_set="{}"):
        operator = self
        self.asked, self.set = [], jwk_set

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                operator.asked.append((self.path, self.headers))
                cookie = self.headers.get("Cookie", "")
                status, body, keep = 401, b"", None
                if self.path == "/jwks":
                    status, body = 200, operator.set.encode()
                elif cookie == "session=ana":
                    status, body, keep = 200, json.dumps({"sub": "ana", "watch": ["bob"]}).encode(), "max-age=60"
                elif cookie == "slow":
                    time.sleep(1.5)
                    status = 204
                elif cookie == "broken":
                    status = 500
                self.send_response(status)
                if keep:
                    self.send_header("Cache-Control", keep)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def handle_error(self, *_):
        """A client that has gone away is what some tests are about."""

    def url(self, path):
        return f"http://127.0.0.1:{self.server_port}{path}"

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()


def cookie(text):
    return {"additional_headers": {"Cookie": text, "X-Forwarded-User": "root"}}


def test_a_service_decides_by_cookie():
    with Operator() as operator, Server("--auth-url", operator.url("/check"), "--auth-timeout", "1s") as server:
        with Client(server, "status=away", **cookie("session=ana")) as ana:
            assert ana.welcome["userId"] == "ana"
            assert ana.ask(type="WATCH", payload={"users": ["eve"]})["payload"]["code"] == "FORBIDDEN"
        path, headers = operator.asked[-1]
        assert path == "/check" and headers["X-Forwarded-Uri"] == "/?status=away", (path, headers)
        assert "X-Forwarded-User" not in headers
        asked = len(operator.asked)
        with Client(server, "status=away", **cookie("session=ana")):
            assert len(operator.asked) == asked, "the answer was remembered"
        refused(server, 401, "userId=bob&status=away", **cookie("session=ana"))
        refused(server, 401, **cookie("session=eve"))
        refused(server, 503, **cookie("broken"))
        # Others are served while one question hangs.
        thread = threading.Thread(target=lambda: refused(server, 503, **cookie("slow")))
        thread.start()
        with Client(server, "status=away", **cookie("session=ana")) as ana:
            assert ana.is_alive()
        thread.join(PATIENCE)
        assert not thread.is_alive()
        body = server.request("/metrics")[2]
        assert 'rollcall_auth_requests_total{outcome="failed"} 2' in body, body
        assert 'rollcall_auth_requests_total{outcome="cached"} 2' in body, body


def test_a_service_that_is_away_keeps_clients_out_or_lets_them_in():
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}/"
        with Server("--auth-url", url) as server:
            refused(server, 503)
        with Server("--auth-url", url, "--auth-failure", "open") as server:
            eventually(lambda: lets_in(server, 503), True, "a client without anybody to ask")
            assert any("answers nobody" in line for line in server.log)


def test_a_failure_that_a_client_brings_about_opens_nothing():
    with Operator() as operator, Server("--auth-url", operator.url("/check"), "--auth-failure", "open") as server:
        # http.server takes a hundred headers and answers 431 for more.
        many = {"additional_headers": {f"X-{number}": "y" for number in range(93)}}
        for words in [cookie("broken"), many]:
            refused(server, 503, "userId=bob", **words)
        with Client(server, "userId=ana", **cookie("session=ana")) as ana:
            assert ana.is_alive()
        assert {"/"} < {headers.get("X-Forwarded-Uri") for _, headers in operator.asked}, "no question of its own"


def test_a_service_may_decide_by_the_user_whom_the_client_would_speak_for():
    with Operator() as operator, Server("--auth-url", operator.url("/check")) as server:
        refused(server, 401, "userId=ana%2F%C3%A9&a=b;userId=bob", additional_headers={"X-Rollcall-User-Id": "bob"})
        assert operator.asked[-1][1].get_all("X-Rollcall-User-Id") == ["ana%2F%C3%A9"]


def test_keys_from_one_url_are_fetched_and_waited_for():
    key, other = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    with Operator(jwks(one=key)) as operator, Server("--jwt-jwks", operator.url("/jwks")) as server:
        good = bearer(token(key, "ES256", headers={"kid": "one"}))
        eventually(lambda: lets_in(server, 503, "", **good), True, "the first key set")
        second = bearer(token(other, "ES256", headers={"kid": "two"}))
        assert "not known" in refused(server, 401, "", **second)
        operator.set = jwks(one=key, two=other)
        server.process.send_signal(signal.SIGHUP)
        # The keys are asked for, and some moments later they hold.
        eventually(lambda: lets_in(server, 401, "", **second), True, "a second fetch")
        assert len(operator.asked) > 1


def test_origins_hosts_and_public_metrics():
    flags = ["--allowed-origins", "https://app.example", "--allowed-hosts", "127.0.0.1", "--public-metrics", "false"]
    with Server(*flags) as server:
        with Client(server, origin="https://app.example") as ana:
            assert ana.is_alive()
        with Client(server) as ana:
            assert ana.is_alive(), "no browser"
        for origin in ["https://evil.example", "null"]:
            refused(server, 403, origin=origin)
        with Raw(server.address) as raw:
            raw.send(upgrade(Host="evil.example"))
            assert raw.response()[0] == 421
        assert server.request("/metrics", headers={"Host": "evil.example"})[0] == 421
        assert server.request("/health", headers={"Host": "evil.example"})[0] == 200
        assert server.request("/metrics", control=False)[0] == 404
        assert server.request("/health", control=False)[0] == 200


def test_the_control_port_beyond_this_host_needs_a_key():
    with files(keys=f"# of the tests\nread {KEY}\n") as paths:
        flags = ["--control-listen", "0.0.0.0:0", "--control-open-pages", "health"]
        flags += ["--control-keys-file", str(paths["keys"])]
        with Server(*flags) as server:
            server.control = f"127.0.0.1:{server.control.rpartition(':')[2]}"
            assert server.request("/health")[0] == 200
            status, headers, _ = server.request("/metrics")
            assert status == 401 and headers["WWW-Authenticate"].startswith("Bearer"), headers
            assert server.request("/metrics", headers={"Authorization": f"Bearer {KEY}x"})[0] == 401
            assert server.request("/metrics", headers={"Authorization": f"Bearer {KEY}"})[0] == 200


def test_names_and_metadata_are_not_in_the_log_and_tokens_in_none():
    secret_names = ("name-of-somebody", "friend-of-somebody", "room-of-somebody", "device-of-somebody")
    name, friend, room, device = secret_names
    for level in ("info", "trace"):
        with files(secret=SECRET) as paths:
            flags = ["--jwt-hmac-secret-file", str(paths["secret"]), "--log-level", level]
            with Server(*flags, environment={"ROLLCALL_CONTROL_KEYS": f"read {KEY}"}) as server:
                good, late = token(sub=name), token(sub=name, lasts=-60)
                refused(server, 401, f"userId={name}", **bearer(late))
                refused(server, 401, f"userId={friend}&token={good}")
                with Client(server, f"userId={name}", **bearer(good)) as ana:
                    for message in (
                        {"type": "PRESENCE_UPDATE", "payload": {"status": "busy", "metadata": {"device": device}}},
                        {"type": "WATCH", "payload": {"users": [friend], "rooms": [room]}},
                        {"type": "JOIN", "payload": {"room": room}},
                        {"type": "JOIN", "payload": {"room": room + "\x1b[31m"}},
                        {"type": "AUTH", "payload": {"token": late}},
                    ):
                        ana.send(**message)
                    ana.socket.send(b"\0")
                    while True:
                        try:
                            ana.receive()
                        except ConnectionClosed:
                            break
                for target in (f"/?userId={name}%00", f"/elsewhere?token={good}"):
                    with Raw(server.address) as raw:
                        raw.send(upgrade(target))
                        raw.head()
                server.request(f"/metrics?token={good}", headers={"Authorization": f"Bearer {KEY}"})
            log = "".join(server.log)
            parts = [part for whole in (good, late) for part in whole.split(".")[1:]]
            for secret in [*parts, KEY, SECRET] + (list(secret_names) if level == "info" else []):
                assert secret not in log, (level, secret, log)
            assert "\x1b[31m" not in log, "escape codes of a client's"


def test_control_keys_change_with_their_file_and_those_of_the_environment_stay():
    lasting, old, new = (f"{name}-0123456789abcdefghij" for name in ("lasting", "reader", "newer"))
    with files(keys=f"read {old}\n") as paths:
        flags = ["--control-open-pages", "none", "--control-keys-file", str(paths["keys"])]
        with Server(*flags, environment={"ROLLCALL_CONTROL_KEYS": f"read {lasting}"}) as server:
            kept = http.client.HTTPConnection(server.control, timeout=PATIENCE)

            def asked(key, connection):
                connection.request("GET", "/metrics", headers={"Authorization": f"Bearer {key}"})
                response = connection.getresponse()
                response.read()
                return response.status

            def status(key):
                return server.request("/metrics", headers={"Authorization": f"Bearer {key}"})[0]

            assert (status(lasting), status(old), status(new), asked(old, kept)) == (200, 200, 401, 200)
            paths["keys"].write_text("nonsense")
            eventually(lambda: any("the old ones stay" in line for line in server.log), True, "a line in the log")
            assert status(old) == 200
            paths["keys"].write_text(f"write {new}\n")
            server.process.send_signal(signal.SIGHUP)
            eventually(lambda: status(new), 200, "the new key")
            assert (status(lasting), status(old), asked(old, kept)) == (200, 401, 401), "for open connections too"
            kept.close()
            assert not any(key in line for line in server.log for key in (lasting, old, new))
    for value, words in [("nonsense", "line 1"), ("read short", "at least 22")]:
        server = Server(expect_start=False, environment={"ROLLCALL_CONTROL_KEYS": value})
        assert server.exit_code() == 1
        text = "".join(server.log)
        assert "ROLLCALL_CONTROL_KEYS" in text and words in text and value not in text, text


def test_a_newer_token_that_grants_less_ends_what_it_does_not_grant():
    with files(secret=SECRET) as paths, Server("--jwt-hmac-secret-file", str(paths["secret"])) as server:
        bob, eve = (Client(server, "", **bearer(token(sub=name))) for name in ("bob", "eve"))
        with bob, eve, Client(server, "", **bearer(token())) as ana:
            for room in ("r1", "attic"):
                assert ana.ask(type="JOIN", id=room, payload={"room": room})["type"] == "ACK"
            ana.send(type="WATCH", payload={"users": ["bob", "eve"]})
            states = [ana.receive()]
            while "cursor" not in states[-1]["payload"]:
                states.append(ana.receive())
            bob.send(type="WATCH", payload={"rooms": ["r1", "attic"]})
            assert [room["count"] for room in bob.receive()["payload"]["rooms"]] == [1, 1]
            less = token(watch=["bob"], rooms=["r1"])
            assert ana.ask(type="AUTH", id=1, payload={"token": less})["type"] == "ACK"
            error = ana.receive()
            assert error["payload"]["code"] == "NARROWED" and "id" not in error, error
            left = bob.receive()["payload"]["rooms"]
            assert [(room["room"], room["count"], room["left"]) for room in left] == [("attic", 0, ["ana"])], left
            # Eve first: had she still been watched, she would be told of before bob, or with him.
            for other in (eve, bob):
                assert other.ask(type="PRESENCE_UPDATE", id=1, payload={"status": "busy"})["type"] == "ACK"
            assert [user["userId"] for user in ana.receive()["payload"]["users"]] == ["bob"]
            assert ana.is_alive()


def test_what_is_open_is_said_in_one_line_that_names_the_knob_that_quiets_it():
    with Server("--listen", "0.0.0.0:0", "--control-listen", "127.0.0.1:0") as server:
        eventually(lambda: sum("open_warning=false" in line for line in server.log), 1, "lines about what is open")
    with Server("--listen", "0.0.0.0:0", "--open-warning", "false") as server:
        assert server.request("/health")[0] == 200
        assert not any("open_warning" in line for line in server.log)
    with Server() as server:
        assert server.request("/health")[0] == 200
        assert not any("open_warning" in line for line in server.log), "only this host"


def test_what_keeps_a_server_from_starting_is_said():
    with files(short="short", keys="nonsense") as paths:
        for flags, words in [
            (["--jwt-hmac-secret-file", str(paths["short"])], "needs at least 32"),
            (["--jwt-public-key", str(paths["short"])], "no PEM block"),
            (["--jwt-jwks", str(paths["short"])], "not a JWK Set"),
            (["--jwt-jwks", "ftp://a/b"], "http://"),
            (["--auth-url", "nonsense"], "auth_url"),
            (["--auth-required", "true"], "keeps everybody out"),
            (["--allowed-origins", "app.example"], "no origin"),
            (["--control-keys-file", str(paths["keys"])], "line 1"),
        ]:
            server = Server(*flags, expect_start=False)
            assert server.exit_code() == 1
            text = "".join(server.log)
            assert words in text and "nonsense" not in text.replace('"nonsense"', ""), text


def test_the_command_makes_tokens_that_the_server_and_others_accept():
    with files(secret=SECRET) as paths, Server("--jwt-hmac-secret-file", str(paths["secret"])) as server:

        def command(*arguments):
            made = subprocess.run([BINARY, "token", *arguments], capture_output=True, text=True, timeout=PATIENCE)
            return made.returncode, made.stdout

        flags = ["--jwt-hmac-secret-file", str(paths["secret"])]
        code, made = command("make", "--user", "ana", "--watch", "bob,team-*", *flags)
        assert code == 0 and jwt.decode(made.strip(), SECRET, ["HS256"])["watch"] == ["bob", "team-*"]
        with Client(server, "", **bearer(made.strip())) as ana:
            assert ana.welcome["userId"] == "ana"
        code, text = command("explain", made.strip(), *flags)
        assert code == 0 and "accepted for ana" in text, text
        code, text = command("explain", token(lasts=-60), *flags)
        assert code == 1 and "refused (expired)" in text, text
