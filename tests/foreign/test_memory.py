"""The one budget of memory, filled by clients until it holds no more."""

import contextlib
import time

from clients import Client, Raw, upgrade
from server import Server, eventually, health

CLIENTS = 30
# Some fifteen of the largest metadata, so that half of the clients find room.
LIMIT = "64KiB"
METADATA = {"text": "x" * 4_000}


def labelled(server, name):
    """The value of a sample with its labels."""
    lines = server.request("/metrics")[2].splitlines()
    return next(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name + " "))


def condition(server):
    """What /health says in a word; with its 200, for whoever is there is served."""
    status, body = health(server)
    assert status == 200, body
    return body["status"]


def keep(client, number):
    """What a client is answered that asks to keep the largest metadata."""
    payload = {"status": "busy", "metadata": METADATA}
    return client.ask(type="PRESENCE_UPDATE", id=number, payload=payload)


def unhurried(ask, *what):
    """Asks, and leaves the shards the time in which they look at what all of them hold: every 10 ms."""
    time.sleep(0.02)
    return ask(*what)


def test_a_full_server_serves_who_is_there_and_takes_nothing_new():
    with Server("--memory-limit", LIMIT) as server, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(Client(server, f"userId=user{number}")) for number in range(CLIENTS)]
        answers = [unhurried(keep, client, number) for number, client in enumerate(clients)]
        kept = [answer["type"] for answer in answers].count("ACK")
        refused = [answer for answer in answers if answer["type"] == "ERROR"]
        assert 10 <= kept < CLIENTS, f"{kept} found room"
        assert {answer["payload"]["code"] for answer in refused} == {"SERVER_FULL"}, refused
        assert labelled(server, 'rollcall_errors_total{code="SERVER_FULL"}') == len(refused)

        eventually(lambda: condition(server), "DEGRADED", "/health")
        with Raw(server.address) as newcomer:
            newcomer.send(upgrade("/?userId=late"))
            assert newcomer.head().startswith("HTTP/1.1 503 ")
        assert labelled(server, 'rollcall_refusals_total{reason="memory"}') == 1

        # Far more in a row than bad messages may be: it is no fault of the client's.
        last = clients[-1]
        for number in range(25):
            assert keep(last, number)["payload"]["code"] == "SERVER_FULL"
        assert last.is_alive()
        assert last.ask(type="PRESENCE_UPDATE", id=0, payload={"status": "away"})["type"] == "ACK"

        for client in clients:
            client.ask(type="PRESENCE_UPDATE", id=0, payload={"status": "online", "metadata": None})
        # /health sums what the shards publish as it is asked; a shard looks at the sum from time to time.
        eventually(lambda: condition(server), "OK", "/health")
        eventually(lambda: keep(last, 1)["type"], "ACK", "what has room again")
        with Client(server, "userId=late") as newcomer:
            assert newcomer.is_alive()
