"""What each message is answered with."""

import json
import re

from clients import Client

TIMESTAMP = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$")


def update(**payload):
    return {"type": "PRESENCE_UPDATE", "payload": payload}


def test_connect_comes_first_and_says_what_holds(server):
    with Client(server) as client:
        said = client.welcome
        assert set(said) == {"type", "userId", "timestamp", "payload"}, said
        assert said["type"] == "CONNECT" and said["userId"] == "ana"
        assert TIMESTAMP.match(said["timestamp"]), said["timestamp"]
        payload = said["payload"]
        assert payload["protocol"] == 1 and payload["resumed"] is False, payload
        assert payload["heartbeatTimeout"] == 75_000 and payload["reconnect"] == {"min": 1000, "max": 5000}, payload
        with Client(server) as other:
            assert other.welcome["payload"]["sessionId"] != payload["sessionId"]
        assert len(payload["sessionId"]) >= 20, payload


def test_a_heartbeat_is_acknowledged(server):
    with Client(server) as client:
        said = client.ask(type="HEARTBEAT")
        assert set(said) == {"type", "timestamp"} and said["type"] == "HEARTBEAT_ACK", said
        assert TIMESTAMP.match(said["timestamp"]), said["timestamp"]


def test_an_id_comes_back_as_it_was(server):
    ids = ["a", "", "i" * 64, "ä" * 32, 'quote " backslash \\ tab \t nul \0', "😀"]
    ids += [0, 7, -1, 2**63, 2**64 - 1, -(2**63)]
    with Client(server) as client:
        for given in ids:
            said = client.ask(type="HEARTBEAT", id=given)
            assert said["type"] == "HEARTBEAT_ACK" and said["id"] == given, (given, said)
            assert type(said["id"]) is type(given), (given, said)
            said = client.ask(**update(status="busy"), id=given)
            assert set(said) == {"type", "id", "timestamp"} and said["type"] == "ACK", said
            assert said["id"] == given, (given, said)


def test_a_bad_id_is_an_error_without_an_id(server):
    ids = ['"' + "i" * 65 + '"', '"' + "ä" * 32 + 'i"', "null", "1.5", "1.0", "1e2", "true", "[]", "{}"]
    with Client(server) as client:
        for given in ids:
            said = client.ask('{"type":"HEARTBEAT","id":' + given + "}")
            assert said["type"] == "ERROR" and said["payload"]["code"] == "BAD_ID", (given, said)
            assert "id" not in said, said
            assert client.is_alive()


def test_an_update_without_an_id_is_answered_with_nothing(server):
    with Client(server) as client:
        client.send(**update(status="away"))
        client.send(**update(status="busy", metadata={"room": "b"}))
        client.send(**update(status="busy", metadata=None))
        assert client.ask(type="HEARTBEAT", id=1)["id"] == 1


def test_an_update_with_an_id_is_acknowledged(server):
    with Client(server) as client:
        for payload in ({"status": "online"}, {"status": "away", "metadata": {}}, {"status": "busy", "metadata": None}):
            said = client.ask(**update(**payload), id="u")
            assert (said["type"], said["id"]) == ("ACK", "u"), said


def test_unknown_fields_are_ignored(server):
    with Client(server) as client:
        fields = {"userId": "somebody else", "timestamp": "yesterday", "payload": [1], "new": {"a": [None]}}
        assert client.ask(type="HEARTBEAT", **fields)["type"] == "HEARTBEAT_ACK"
        said = client.ask(type="PRESENCE_UPDATE", id=1, payload={"status": "away", "mood": 5}, extra=True)
        assert said["type"] == "ACK", said


def test_each_way_to_be_wrong_has_its_code(server):
    deep = {}
    for _ in range(16):
        deep = {"a": deep}
    with Client(server) as client:
        for wrong, code in [
            ("", "NOT_JSON"),
            ("{", "NOT_JSON"),
            ("hello", "NOT_JSON"),
            ('{"type":"HEARTBEAT",}', "NOT_JSON"),
            ('{"type":"HEARTBEAT"}{}', "NOT_JSON"),
            ('{"type":"HEARTBEAT","type":"HEARTBEAT"}', "NOT_JSON"),
            ('{"type":"HEARTBEAT","a":{"b":1,"b":2}}', "NOT_JSON"),
            ('{"type":"HEARTBEAT","a":"\\ud800"}', "NOT_JSON"),
            ('{"type":"HEARTBEAT","a":18446744073709551616}', "NOT_JSON"),
            ('{"type":"HEARTBEAT","a":-9223372036854775809}', "NOT_JSON"),
            ('{"type":"HEARTBEAT","a":1e999}', "NOT_JSON"),
            ('{"type":"HEARTBEAT","a":NaN}', "NOT_JSON"),
            ('["HEARTBEAT"]', "NOT_AN_OBJECT"),
            ('"HEARTBEAT"', "NOT_AN_OBJECT"),
            ("null", "NOT_AN_OBJECT"),
            ("5", "NOT_AN_OBJECT"),
            ("{}", "TYPE_MISSING"),
            ('{"typ":"HEARTBEAT"}', "TYPE_MISSING"),
            ('{"type":"SING"}', "TYPE_UNKNOWN"),
            ('{"type":"heartbeat"}', "TYPE_UNKNOWN"),
            ('{"type":"CONNECT"}', "TYPE_UNKNOWN"),
            ('{"type":5}', "FIELD_TYPE"),
            ('{"type":null}', "FIELD_TYPE"),
            ('{"type":"PRESENCE_UPDATE"}', "FIELD_TYPE"),
            ('{"type":"PRESENCE_UPDATE","payload":["busy"]}', "FIELD_TYPE"),
            ('{"type":"PRESENCE_UPDATE","payload":{}}', "FIELD_TYPE"),
            ('{"type":"PRESENCE_UPDATE","payload":{"status":1}}', "FIELD_TYPE"),
            ('{"type":"PRESENCE_UPDATE","payload":{"status":"asleep"}}', "STATUS_UNKNOWN"),
            ('{"type":"PRESENCE_UPDATE","payload":{"status":"Away"}}', "STATUS_UNKNOWN"),
            (json.dumps(update(status="busy", metadata=[])), "METADATA_NOT_AN_OBJECT"),
            (json.dumps(update(status="busy", metadata="a")), "METADATA_NOT_AN_OBJECT"),
            (json.dumps(update(status="busy", metadata=False)), "METADATA_NOT_AN_OBJECT"),
            (json.dumps(update(status="busy", metadata={"a": "b" * 4089})), "METADATA_TOO_LARGE"),
            (json.dumps(update(status="busy", metadata=deep)), "METADATA_TOO_DEEP"),
            ('{"type":"HEARTBEAT","id":null}', "BAD_ID"),
            ('{"type":"WATCH"}', "FIELD_TYPE"),
            ('{"type":"WATCH","payload":{"users":"ana"}}', "FIELD_TYPE"),
            ('{"type":"WATCH","payload":{"since":null}}', "FIELD_TYPE"),
            ('{"type":"WATCH","payload":{"users":["ana",""]}}', "BAD_USER_ID"),
            ('{"type":"UNWATCH","payload":{"rooms":["%s"]}}' % ("r" * 129), "BAD_ROOM"),
            ('{"type":"JOIN","payload":{"room":"a\\u0000"}}', "BAD_ROOM"),
            ('{"type":"LEAVE","payload":{}}', "FIELD_TYPE"),
            ('{"type":"WATCH","payload":{"rooms":[{"room":"a","detail":"half"}]}}', "DETAIL_UNKNOWN"),
            ('{"type":"CLIENT_STATE","payload":{"active":"yes"}}', "FIELD_TYPE"),
        ]:
            said = client.ask(wrong)
            assert set(said) == {"type", "timestamp", "payload"} and said["type"] == "ERROR", (wrong, said)
            assert said["payload"]["code"] == code, (wrong[:90], said)
            assert len(said["payload"]["message"]) > 10 and TIMESTAMP.match(said["timestamp"]), said
            assert client.is_alive()


def test_limits_are_reached_before_they_are_passed(server):
    deep = {}
    for _ in range(15):
        deep = {"a": deep}
    with Client(server) as client:
        for metadata in ({"a": "b" * 4088}, deep):
            assert client.ask(**update(status="busy", metadata=metadata), id=1)["type"] == "ACK"
        spaced = '{"type":"PRESENCE_UPDATE","id":1,"payload":{"status":"busy","metadata":{ %s "a":"%s" }}}'
        assert client.ask(spaced % (" " * 500, "b" * 4088))["type"] == "ACK"
        whole = '{"type":"HEARTBEAT"}'
        assert client.ask(whole + " " * (65536 - len(whole)))["type"] == "HEARTBEAT_ACK"


def test_an_error_carries_the_id_and_names_field_and_limit(server):
    with Client(server) as client:
        said = client.ask(**update(status="busy", metadata={"a": "b" * 5000}), id="m")
        assert said["id"] == "m", said
        assert "metadata" in said["payload"]["message"] and "4096" in said["payload"]["message"], said
        said = client.ask(type="SING", id=9)
        assert said["id"] == 9, said
        said = client.ask(**update(status="asleep"), id=10)
        assert said["id"] == 10 and "status" in said["payload"]["message"], said


def test_answers_leave_in_the_order_of_what_asked(server):
    with Client(server) as client:
        expected = []
        for index in range(200):
            kind = index % 3
            if kind == 0:
                client.send(type="HEARTBEAT", id=index)
                expected.append(("HEARTBEAT_ACK", index))
            elif kind == 1:
                client.send(**update(status="away"), id=index)
                expected.append(("ACK", index))
            else:
                client.send(type="SING", id=index)
                expected.append(("ERROR", index))
        seen = [client.receive() for _ in expected]
        assert [(said["type"], said["id"]) for said in seen] == expected


def test_twenty_bad_messages_in_a_row_end_it_and_the_twentieth_gets_no_error(server):
    with Client(server) as client:
        for _ in range(19):
            assert client.ask("[]")["type"] == "ERROR"
        assert client.is_alive()
        for _ in range(19):
            assert client.ask("[]")["type"] == "ERROR"
        client.send("[]")
        code, reason = client.closed()
        assert code == 1008 and reason, (code, reason)


def test_disconnect_is_a_normal_close_after_all_answers(server):
    with Client(server) as client:
        client.send(type="HEARTBEAT", id=1)
        client.send(type="DISCONNECT")
        assert client.receive()["id"] == 1
        code, reason = client.closed()
        assert code == 1000 and reason, (code, reason)


def test_disconnect_with_an_id_is_acknowledged_first(server):
    with Client(server) as client:
        said = client.ask(type="DISCONNECT", id="bye")
        assert (said["type"], said["id"]) == ("ACK", "bye"), said
        assert client.closed()[0] == 1000
