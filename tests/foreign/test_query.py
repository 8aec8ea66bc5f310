"""The query: userId, status, heartbeatTimeout."""

from urllib.parse import quote

from clients import Client, Raw, upgrade


def test_user_ids_are_decoded(server):
    for query, user in [
        ("userId=ana", "ana"),
        ("userId=Ana+Mar%C3%ADa", "Ana María"),
        ("userId=a%20b", "a b"),
        ("userId=a%2Bb", "a+b"),
        ("userId=%F0%9F%98%80", "😀"),
        ("userId=" + quote('quote " backslash \\ & = ?'), 'quote " backslash \\ & = ?'),
        ("userId=a=b", "a=b"),
        ("userId=" + "u" * 128, "u" * 128),
        ("userId=" + "%C3%A4" * 64, "ä" * 64),
        ("a=1&userId=ana&b&=&unknown=x", "ana"),
    ]:
        with Client(server, query) as client:
            assert client.welcome["userId"] == user, (query, client.welcome)


def test_both_paths_are_served(server):
    for path in ("/", "/ws", ""):
        with Client(server, path=path) as client:
            assert client.is_alive()


def test_an_invalid_parameter_upgrades_and_closes_with_a_reason_that_names_it(server):
    before = server.metric("ws_connections_total")
    for query, name in [
        ("", "userId"),
        ("user=ana", "userId"),
        ("userid=ana", "userId"),
        ("userId", "userId"),
        ("userId=", "userId"),
        ("userId=a&userId=b", "userId"),
        ("userId=a&userId=a", "userId"),
        ("userId=" + "u" * 129, "userId"),
        ("userId=" + "%C3%A4" * 65, "userId"),
        ("userId=%FF", "userId"),
        ("userId=a%00", "userId"),
        ("userId=a%0Ab", "userId"),
        ("userId=a%7F", "userId"),
        ("userId=a%C2%85", "userId"),
        ("userId=a&status=asleep", "status"),
        ("userId=a&status=", "status"),
        ("userId=a&status=away&status=away", "status"),
        ("userId=a&session=b&session=b", "session"),
        ("userId=a&heartbeatTimeout=", "heartbeatTimeout"),
        ("userId=a&heartbeatTimeout=soon", "heartbeatTimeout"),
        ("userId=a&heartbeatTimeout=1.5", "heartbeatTimeout"),
        ("userId=a&heartbeatTimeout=6000&heartbeatTimeout=6000", "heartbeatTimeout"),
    ]:
        with Client(server, query, welcome=False) as client:
            code, reason = client.closed()
            assert code == 1002 and name in reason, (query, code, reason)
    assert server.metric("ws_connections_total") == before, "an invalid query counted as a connection"


def test_a_target_without_a_query_is_told_of_the_user_id(server):
    with Raw(server.address) as raw:
        raw.send(upgrade("/"))
        assert raw.head().startswith("HTTP/1.1 101 ")
        code, reason = raw.closed()
        assert code == 1002 and "userId" in reason, (code, reason)


def test_a_first_status_is_taken(server):
    for status in ("online", "away", "busy"):
        with Client(server, f"userId=ana&status={status}") as client:
            assert client.is_alive()


def test_the_heartbeat_timeout_is_moved_to_the_nearer_bound_and_said(server):
    for asked, said in [
        ("30000", 30_000),
        ("5000", 5000),
        ("4999", 5000),
        ("1", 5000),
        ("0", 5000),
        ("-1", 5000),
        ("600000", 600_000),
        ("600001", 600_000),
        ("9" * 40, 600_000),
        ("-" + "9" * 40, 5000),
    ]:
        with Client(server, f"userId=ana&heartbeatTimeout={asked}") as client:
            assert client.welcome["payload"]["heartbeatTimeout"] == said, (asked, client.welcome)
