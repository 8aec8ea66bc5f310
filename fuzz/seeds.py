#!/usr/bin/env python3
"""Writes the seeds of the fuzz targets, one file for each case that is named here."""

import json
import pathlib
import struct

SEEDS = pathlib.Path(__file__).parent / "seeds"
MASK = bytes([0x37, 0xFA, 0x21, 0x3D])  # the mask of RFC 6455 section 5.7
TEXT, BINARY, CLOSE, PING, PONG, CONTINUATION = 1, 2, 8, 9, 10, 0


def frame(opcode, payload=b"", fin=True, rsv=0, masked=True, mask=MASK, announced=None, form=None):
    """One frame. `announced` is the length it claims, `form` how many bits tell it: 7, 16 or 64."""
    length = len(payload) if announced is None else announced
    form = form or (7 if length < 126 else 16 if length < 65536 else 64)
    bit = 0x80 if masked else 0
    head = bytes([(0x80 if fin else 0) | rsv << 4 | opcode])
    if form == 7:
        head += bytes([bit | length])
    elif form == 16:
        head += bytes([bit | 126]) + struct.pack(">H", length)
    else:
        head += bytes([bit | 127]) + struct.pack(">Q", length)
    if masked:
        head += mask
        payload = bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))
    return head + payload


def text(message):
    return frame(TEXT, message.encode() if isinstance(message, str) else json.dumps(message).encode())


def close(code=None, reason=b""):
    return frame(CLOSE, b"" if code is None else struct.pack(">H", code) + reason)


HEARTBEAT = text('{"type":"HEARTBEAT"}')
UPDATE = text('{"type":"PRESENCE_UPDATE","id":7,"payload":{"status":"busy","metadata":{"room":"b"}}}')
DISCONNECT = text('{"type":"DISCONNECT","id":"bye"}')


def request(target="/?userId=ana", method="GET", version="HTTP/1.1", extra=(), without=(), ending="\r\n"):
    headers = {
        "Host": "x",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    }
    lines = [f"{method} {target} {version}"]
    lines += [f"{name}: {value}" for name, value in headers.items() if name not in without]
    lines += list(extra)
    return (ending.join(lines) + ending * 2).encode()


def plain(target, method="GET", extra=()):
    lines = [f"{method} {target} HTTP/1.1", "Host: x", *extra]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


handshake = {
    "upgrade": request(),
    "upgrade_on_ws_path": request("/ws?userId=ana&status=away&heartbeatTimeout=60000"),
    "upgrade_from_a_browser": request(
        extra=[
            "Origin: null",
            "User-Agent: Mozilla/5.0",
            "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits",
            "Sec-WebSocket-Protocol: other, rollcall.v1",
            "Cookie: a=b; c=d",
        ]
    ),
    "upgrade_with_token_lists": request(
        without=["Connection", "Upgrade"], extra=["Connection: keep-alive, Upgrade", "Upgrade: h2c, WebSocket"]
    ),
    "user_id_percent_encoded": request("/?userId=%C3%A4%F0%9F%98%80+b%20c"),
    "user_id_missing": request("/"),
    "user_id_twice": request("/?userId=a&userId=b"),
    "user_id_empty": request("/?userId="),
    "user_id_with_control": request("/?userId=a%00b"),
    "user_id_with_c1_control": request("/?userId=a%C2%85b"),
    "user_id_not_utf8": request("/?userId=%ff%fe"),
    "user_id_cut_percent": request("/?userId=a%4"),
    "user_id_128_bytes": request("/?userId=" + "u" * 128),
    "user_id_129_bytes": request("/?userId=" + "u" * 129),
    "status_unknown": request("/?userId=a&status=asleep"),
    "status_twice": request("/?userId=a&status=away&status=busy"),
    "heartbeat_timeout_negative": request("/?userId=a&heartbeatTimeout=-1"),
    "heartbeat_timeout_huge": request("/?userId=a&heartbeatTimeout=" + "9" * 60),
    "heartbeat_timeout_no_integer": request("/?userId=a&heartbeatTimeout=1e3"),
    "session": request("/?userId=a&session=pVZ1bDQ2kX0Oa-_9"),
    "session_empty": request("/?session=&userId=a"),
    "session_not_utf8": request("/?userId=a&session=%ff"),
    "session_twice": request("/?userId=a&session=b&session=b"),
    "status_invisible": request("/?userId=a&status=invisible"),
    "key_missing": request(without=["Sec-WebSocket-Key"]),
    "key_twice": request(extra=["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="]),
    "key_15_bytes": request(without=["Sec-WebSocket-Key"], extra=["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25j"]),
    "version_8": request(without=["Sec-WebSocket-Version"], extra=["Sec-WebSocket-Version: 8"]),
    "version_twice": request(extra=["Sec-WebSocket-Version: 13"]),
    "upgrade_header_missing": request(without=["Upgrade"]),
    "host_missing": request(without=["Host"]),
    "host_twice": request(extra=["Host: y"]),
    "http_1_0": request(version="HTTP/1.0"),
    "http_2_preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "absolute_target": request("http" + "://x/?userId=ana"),
    "asterisk_target": request("*", method="OPTIONS"),
    "body_by_length": request(extra=["Content-Length: 5"]) + b"hello",
    "body_by_chunks": request(extra=["Transfer-Encoding: chunked"]) + b"0\r\n\r\n",
    "length_zero": request(extra=["Content-Length: 0"]),
    "length_twice": request(extra=["Content-Length: 0", "Content-Length: 1"]),
    "post": request(method="POST"),
    "head_root": request(method="HEAD"),
    "bare_line_feeds": request(ending="\n"),
    "bare_line_feeds_then_crlf": request(ending="\n") + b"\r\n\r\n",
    "folded_header": request(extra=["A: b", " c"]),
    "blank_before_colon": request(extra=["A : b"]),
    "nul_in_header": request(extra=["A: b\0c"]),
    "header_not_ascii": request(extra=["A: \u00e4\u00f6"]),
    "headers_99": request(extra=[f"A{index}: b" for index in range(94)]),
    "headers_100": request(extra=[f"A{index}: b" for index in range(95)]),
    "headers_101": request(extra=[f"A{index}: b" for index in range(96)]),
    "head_8191_bytes": request(extra=["A: " + "b" * (8191 - len(request()) - 5)]),
    "head_8192_bytes": request(extra=["A: " + "b" * (8192 - len(request()) - 5)]),
    "head_8193_bytes": request(extra=["A: " + "b" * (8193 - len(request()) - 5)]),
    "target_too_long": b"GET /?userId=" + b"u" * 8300,
    "blanks_in_subprotocol": request(extra=["Sec-WebSocket-Protocol: a" + " " * 4000 + "b"]),
    "subprotocol_twice": request(extra=["Sec-WebSocket-Protocol: a", "Sec-WebSocket-Protocol: rollcall.v1"]),
    "health": plain("/health"),
    "health_live_head": plain("/health/live", method="HEAD"),
    "health_ready_query": plain("/health/ready?verbose=1"),
    "metrics": plain("/metrics", extra=["Accept: text/plain;version=0.0.4"]),
    "metrics_post": plain("/metrics", method="POST"),
    "not_found": plain("/favicon.ico"),
    "no_upgrade": plain("/"),
    "empty_lines_first": b"\r\n\r\n" + request(),
    "tls_client_hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(32)),
    "proxy_header": b"PROXY TCP4 192.0.2.1 192.0.2.2 5000 3000\r\n" + request(),
    "half": request()[:60],
    "nothing": b"",
}

frames = {
    "heartbeat": HEARTBEAT,
    "two_heartbeats": HEARTBEAT * 2,
    "hello_of_the_rfc": frame(TEXT, b"Hello"),
    "hello_in_fragments": frame(TEXT, b"Hel", fin=False) + frame(CONTINUATION, b"lo"),
    "ping_between_fragments": frame(TEXT, b"Hel", fin=False) + frame(PING, b"?") + frame(CONTINUATION, b"lo"),
    "character_cut_between_fragments": frame(TEXT, b"\xe2\x82", fin=False) + frame(CONTINUATION, b"\xac"),
    "empty_fragments": frame(TEXT, fin=False) + frame(CONTINUATION, fin=False) * 3 + frame(CONTINUATION),
    "eight_fragments": frame(TEXT, b"a", fin=False) + frame(CONTINUATION, b"b", fin=False) * 6 + frame(CONTINUATION),
    "nine_fragments": frame(TEXT, b"a", fin=False) + frame(CONTINUATION, b"b", fin=False) * 7 + frame(CONTINUATION),
    "endless_one_byte_fragments": frame(TEXT, b"a", fin=False) + frame(CONTINUATION, b"b", fin=False) * 300,
    "empty_text": frame(TEXT),
    "binary": frame(BINARY, bytes(range(16))),
    "binary_in_fragments": frame(BINARY, b"\xff", fin=False) + frame(CONTINUATION, b"\xfe"),
    "ping": frame(PING, b"are you there"),
    "ping_125_bytes": frame(PING, b"p" * 125),
    "ping_126_bytes": frame(PING, b"p" * 126),
    "ping_fragmented": frame(PING, b"p", fin=False),
    "pong_unasked": frame(PONG, b"here"),
    "close_empty": close(),
    "close_1000": close(1000),
    "close_1000_with_reason": close(1000, "adieu \u00e4".encode()),
    "close_one_byte": frame(CLOSE, b"\x03"),
    "close_1005": close(1005),
    "close_1006": close(1006),
    "close_999": close(999),
    "close_4000": close(4000),
    "close_5000": close(5000),
    "close_reason_not_utf8": close(1000, b"\xff\xfe"),
    "close_126_bytes": frame(CLOSE, struct.pack(">H", 1000) + b"r" * 124),
    "close_then_more": close(1000) + HEARTBEAT,
    "unmasked": frame(TEXT, b"Hello", masked=False),
    "unmasked_ping": frame(PING, masked=False),
    "mask_of_zeros": frame(TEXT, b"Hello", mask=bytes(4)),
    "rsv1": frame(TEXT, b"Hello", rsv=4),
    "rsv2": frame(TEXT, b"Hello", rsv=2),
    "rsv3": frame(TEXT, b"Hello", rsv=1),
    "rsv1_on_a_continuation": frame(TEXT, b"a", fin=False) + frame(CONTINUATION, b"b", rsv=4),
    "opcode_3": frame(3, b"a"),
    "opcode_11": frame(11, b"a"),
    "opcode_15": frame(15),
    "continuation_of_nothing": frame(CONTINUATION, b"a"),
    "text_inside_text": frame(TEXT, b"a", fin=False) + frame(TEXT, b"b"),
    "text_125_bytes": frame(TEXT, b"a" * 125),
    "text_126_bytes": frame(TEXT, b"a" * 126),
    "text_1024_bytes": frame(TEXT, b"a" * 1024),
    "text_1025_bytes": frame(TEXT, b"a" * 1025),
    "text_1025_bytes_in_fragments": frame(TEXT, b"a" * 1024, fin=False) + frame(CONTINUATION, b"b"),
    "length_16_bits_not_minimal": frame(TEXT, b"Hello", form=16),
    "length_64_bits_not_minimal": frame(TEXT, b"Hello", form=64),
    "length_top_bit": frame(TEXT, b"Hello", announced=1 << 63 | 5),
    "length_all_ones": frame(TEXT, b"Hello", announced=(1 << 64) - 1),
    "length_of_2_gib_announced": frame(TEXT, b"Hello", announced=1 << 31),
    "length_of_64_kib_announced": frame(TEXT, b"Hello", announced=65536),
    "not_utf8": frame(TEXT, b"\xff"),
    "not_utf8_early": frame(TEXT, b"ok \xce\xba\xed\xa0\x80 and a long rest", fin=False),
    "utf8_surrogate": frame(TEXT, b"\xed\xa0\x80"),
    "utf8_overlong": frame(TEXT, b"\xc0\xaf"),
    "utf8_beyond_unicode": frame(TEXT, b"\xf4\x90\x80\x80"),
    "utf8_cut_at_the_end": frame(TEXT, b"\xe2\x82"),
    "half_a_header": HEARTBEAT[:1],
    "header_without_payload": HEARTBEAT[:6],
    "half_a_payload": HEARTBEAT[:-5],
    "everything_in_one_piece": HEARTBEAT + frame(PING, b"p") + UPDATE + frame(PONG) + DISCONNECT + close(1000),
}

messages = {
    "heartbeat": '{"type":"HEARTBEAT"}',
    "heartbeat_as_an_app_writes_it": '{"type":"HEARTBEAT","userId":"ana","timestamp":"2026-11-25T03:54:45.123456"}',
    "heartbeat_with_id": '{"type":"HEARTBEAT","id":"a-1"}',
    "heartbeat_with_spaces": ' {\n "type" :\t"HEARTBEAT" , "id" : 1 } ',
    "type_escaped": '{"t\\u0079pe":"HEART\\u0042EAT"}',
    "update": '{"type":"PRESENCE_UPDATE","payload":{"status":"away"}}',
    "update_with_metadata": '{"type":"PRESENCE_UPDATE","payload":{"status":"busy","metadata":{"a":[1,-2.5,null]}}}',
    "update_clears_metadata": '{"type":"PRESENCE_UPDATE","payload":{"status":"online","metadata":null}}',
    "update_payload_first": '{"payload":{"metadata":{},"status":"busy"},"id":9,"type":"PRESENCE_UPDATE"}',
    "update_without_payload": '{"type":"PRESENCE_UPDATE"}',
    "update_payload_array": '{"type":"PRESENCE_UPDATE","payload":["busy",null]}',
    "status_unknown": '{"type":"PRESENCE_UPDATE","payload":{"status":"asleep"}}',
    "status_number": '{"type":"PRESENCE_UPDATE","payload":{"status":1}}',
    "metadata_array": '{"type":"PRESENCE_UPDATE","payload":{"status":"busy","metadata":[]}}',
    "metadata_string": '{"type":"PRESENCE_UPDATE","payload":{"status":"busy","metadata":"a"}}',
    "watch": '{"type":"WATCH","id":1,"payload":{"users":["a","\\u00e9"],"rooms":["a",{"room":"b","detail":"count"}]}}',
    "watch_nothing": '{"type":"WATCH","payload":{}}',
    "watch_twice_the_same": '{"type":"WATCH","payload":{"users":["a","a"],"rooms":["b",{"room":"b","detail":"full"}]}}',
    "watch_since": '{"type":"WATCH","payload":{"users":["ana"],"since":"_---AAECAwQFBgcI"}}',
    "watch_since_unreadable": '{"type":"WATCH","payload":{"since":"_--+AAECAwQFBgcI="}}',
    "watch_since_number": '{"type":"WATCH","payload":{"since":7}}',
    "watch_without_payload": '{"type":"WATCH"}',
    "watch_users_object": '{"type":"WATCH","payload":{"users":{"ana":1}}}',
    "watch_user_number": '{"type":"WATCH","payload":{"users":["ana",[["b"]],7]}}',
    "watch_user_empty": '{"type":"WATCH","payload":{"users":["ana",""]}}',
    "watch_user_with_control": '{"type":"WATCH","payload":{"users":["a\\u0000"]}}',
    "watch_user_128_bytes": '{"type":"WATCH","payload":{"users":["%s"]}}' % ("u" * 128),
    "watch_user_129_bytes": '{"type":"WATCH","payload":{"users":["%s"]}}' % ("u" * 129),
    "watch_room_number": '{"type":"WATCH","payload":{"rooms":["a",7]}}',
    "watch_room_without_name": '{"type":"WATCH","payload":{"rooms":[{"detail":"full"}]}}',
    "watch_room_empty": '{"type":"WATCH","payload":{"rooms":[{"room":""}]}}',
    "watch_detail_unknown": '{"type":"WATCH","payload":{"rooms":[{"room":"a","detail":"half"}]}}',
    "watch_detail_null": '{"type":"WATCH","payload":{"rooms":[{"room":"a","detail":null}]}}',
    "watch_many": '{"type":"WATCH","payload":{"users":[%s]}}' % ",".join(f'"{index}"' for index in range(2000)),
    "unwatch": '{"type":"UNWATCH","id":2,"payload":{"users":["ana"],"rooms":["a",{"room":"b","detail":7}]}}',
    "join": '{"type":"JOIN","id":3,"payload":{"room":"a b"}}',
    "join_without_room": '{"type":"JOIN","payload":{"rooms":["a"]}}',
    "join_room_empty": '{"type":"JOIN","payload":{"room":""}}',
    "leave": '{"type":"LEAVE","payload":{"room":"a b"}}',
    "client_state_inactive": '{"type":"CLIENT_STATE","id":4,"payload":{"active":false}}',
    "client_state_word": '{"type":"CLIENT_STATE","payload":{"active":"true"}}',
    "update_invisible": '{"type":"PRESENCE_UPDATE","payload":{"status":"invisible"}}',
    "auth": '{"type":"AUTH","id":1,"payload":{"token":"a.b.c"}}',
    "auth_without_token": '{"type":"AUTH","payload":{}}',
    "disconnect": '{"type":"DISCONNECT","id":18446744073709551615}',
    "id_negative": '{"type":"HEARTBEAT","id":-9223372036854775808}',
    "id_below_i64": '{"type":"HEARTBEAT","id":-9223372036854775809}',
    "id_above_u64": '{"type":"HEARTBEAT","id":18446744073709551616}',
    "id_null": '{"type":"HEARTBEAT","id":null}',
    "id_float": '{"type":"HEARTBEAT","id":1.0}',
    "id_object": '{"type":"HEARTBEAT","id":{}}',
    "id_64_bytes": '{"type":"HEARTBEAT","id":"%s"}' % ("i" * 64),
    "id_65_bytes": '{"type":"HEARTBEAT","id":"%s"}' % ("i" * 65),
    "id_64_bytes_escaped": '{"type":"HEARTBEAT","id":"%s"}' % ("\\u0069" * 64),
    "id_emoji_as_surrogates": '{"type":"HEARTBEAT","id":"\\ud83d\\ude00"}',
    "id_lone_surrogate": '{"type":"HEARTBEAT","id":"\\ud800"}',
    "id_with_control": '{"type":"HEARTBEAT","id":"a\\u0000\\n\\"\\\\b"}',
    "id_valid_beside_unknown_type": '{"type":"SING","id":5}',
    "type_missing": '{"id":1}',
    "type_null": '{"type":null}',
    "type_lower_case": '{"type":"heartbeat"}',
    "keys_twice": '{"type":"HEARTBEAT","type":"HEARTBEAT"}',
    "keys_twice_by_escape": '{"type":"HEARTBEAT","typ\\u0065":"DISCONNECT"}',
    "keys_twice_in_ignored": '{"type":"HEARTBEAT","other":{"a":1,"a":2}}',
    "keys_twice_in_metadata": '{"type":"PRESENCE_UPDATE","payload":{"status":"busy","metadata":{"a":{"b":1,"b":1}}}}',
    "infinite_float": '{"type":"HEARTBEAT","a":1e999}',
    "number_with_zero_first": '{"type":"HEARTBEAT","a":01}',
    "trailing_comma": '{"type":"HEARTBEAT",}',
    "two_values": '{"type":"HEARTBEAT"}{"type":"HEARTBEAT"}',
    "array": '["HEARTBEAT"]',
    "array_as_struct": '["HEARTBEAT",null,{"status":"busy"}]',
    "string": '"HEARTBEAT"',
    "null": "null",
    "empty": "",
    "blank": " ",
    "open_string": '{"type":"HEARTBEAT',
    "tab_in_string": '{"type":"HEART\tBEAT"}',
    "byte_order_mark": '\ufeff{"type":"HEARTBEAT"}',
    "depth_16": '{"type":"PRESENCE_UPDATE","payload":{"status":"busy","metadata":%s}}'
    % ('{"a":' * 15 + "{}" + "}" * 15),
    "depth_17": '{"type":"PRESENCE_UPDATE","payload":{"status":"busy","metadata":%s}}'
    % ('{"a":' * 16 + "{}" + "}" * 16),
    "depth_in_arrays": '{"type":"PRESENCE_UPDATE","payload":{"status":"busy","metadata":{"a":%s}}}'
    % ("[" * 16 + "]" * 16),
    "depth_20000_ignored": '{"type":"HEARTBEAT","a":%s}' % ("[" * 20000 + "]" * 20000),
    "depth_20000_open": "[" * 20000,
    "metadata_4096_bytes": '{"type":"PRESENCE_UPDATE","payload":{"status":"busy","metadata":{"a":"%s"}}}'
    % ("b" * 4088),
    "metadata_4097_bytes": '{"type":"PRESENCE_UPDATE","payload":{"status":"busy","metadata":{"a":"%s"}}}'
    % ("b" * 4089),
    "metadata_4096_bytes_and_spaces": '{"type":"PRESENCE_UPDATE","payload":{"status":"busy","metadata":{  "a":"%s"  }}}'
    % ("b" * 4088),
}

UPGRADE = request()
connection = {
    "a_quiet_life": UPGRADE + HEARTBEAT * 3 + close(1000),
    "a_whole_life_in_one_piece": UPGRADE + HEARTBEAT + frame(PING, b"p") + UPDATE + DISCONNECT + close(1000),
    "an_app": request("/?userId=ana%20b&status=busy&heartbeatTimeout=1")
    + text(messages["heartbeat_as_an_app_writes_it"]) * 2
    + close(),
    "gone_after_the_upgrade": UPGRADE,
    "half_a_request": UPGRADE[:40],
    "no_user_id": request("/") + HEARTBEAT,
    "no_user_id_then_close": request("/") + HEARTBEAT + close(),
    "health": plain("/health"),
    "health_and_more": plain("/health") + plain("/metrics"),
    "refused": plain("/nowhere"),
    "frames_before_the_request": HEARTBEAT + UPGRADE,
    "proxy_header_unasked": b"PROXY TCP4 192.0.2.1 192.0.2.2 5000 3000\r\n" + UPGRADE,
    "binary_proxy_header_unasked": b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0" + UPGRADE,
    "almost_a_binary_proxy_header": b"\r\n\r\n\0\r\nQUIT\r" + UPGRADE,
    "empty_lines_first": b"\r\n\r\n" + UPGRADE,
    "twenty_bad_messages": UPGRADE + text("[]") * 20,
    "nineteen_bad_one_good": UPGRADE + text("[]") * 19 + HEARTBEAT + text("[]") * 19 + HEARTBEAT,
    "hundred_heartbeats": UPGRADE + HEARTBEAT * 100,
    "all_errors": UPGRADE + b"".join(text(message) for name, message in messages.items() if len(message) < 200),
    "pings_and_pongs": UPGRADE + (frame(PING, b"p" * 125) + frame(PONG)) * 20,
    "disconnect_then_more": UPGRADE + DISCONNECT + HEARTBEAT * 2,
    "close_then_more": UPGRADE + close(4000, b"bye") + HEARTBEAT * 2 + close(1000),
    "large_message": UPGRADE + text(" " * 66000),
    "length_of_2_gib_announced": UPGRADE + frame(TEXT, b"Hello", announced=1 << 31),
} | {
    "after_the_upgrade_" + name: UPGRADE + frames[name]
    for name in (
        "binary",
        "unmasked",
        "rsv1",
        "length_top_bit",
        "not_utf8",
        "utf8_cut_at_the_end",
        "endless_one_byte_fragments",
        "close_one_byte",
        "ping_between_fragments",
        "text_inside_text",
        "everything_in_one_piece",
    )
}


def secured(stream, pace=100, size=200, room=255, changed=0x8000):
    """What follows the upgrade under TLS; the lead is told in src/shard/fuzz/mod.rs."""
    return struct.pack(">BBBH", pace, size, room, changed) + stream


CLIENT_HELLO = bytes.fromhex("160301003f0100003b0303") + bytes(32)
CLIENT_HELLO += bytes.fromhex("000004130113020100000e002b0003020304")
SSL_2_HELLO = bytes.fromhex("802e0100020015000000100100800200800300800400800500800600400700c0")
tls = {
    "heartbeats": secured(HEARTBEAT * 3 + close(1000)),
    "wire_cut_after_each_byte": secured(HEARTBEAT * 3 + close(1000), pace=1),
    "a_record_for_each_byte": secured(HEARTBEAT + close(), size=1),
    "peer_takes_one_byte": secured(HEARTBEAT * 20, room=1),
    "peer_takes_three_bytes_of_large_answers": secured(frame(PING, b"p" * 125) * 40, room=3),
    "one_large_record": secured(HEARTBEAT * 100, size=255, pace=127),
    "all_errors": secured(b"".join(text(message) for message in messages.values() if len(message) < 200)),
    "everything": secured(frames["everything_in_one_piece"], pace=3, size=9, room=7),
    "close_then_more": secured(close(4000, b"bye") + HEARTBEAT * 2, room=2),
    "too_big": secured(text(" " * 3000), room=9),
    "unmasked": secured(frames["unmasked"]),
    "endless_one_byte_fragments": secured(frames["endless_one_byte_fragments"], size=1),
    "hello_changed_in_its_record_type": secured(HEARTBEAT, changed=0),
    "hello_changed_in_its_length": secured(HEARTBEAT, changed=3),
    "hello_changed_in_its_random": secured(HEARTBEAT, changed=20),
    "hello_changed_in_its_key_share": secured(HEARTBEAT, changed=200),
    "finished_changed": secured(HEARTBEAT, changed=1600),
    "data_changed": secured(HEARTBEAT * 20, changed=2200),
    "data_changed_late": secured(HEARTBEAT * 60, changed=4000, room=5),
    "plain_http": bytes([0x87, 0, 0, 0, 0]) + UPGRADE,
    "client_hello_without_key_share": bytes([0x85, 0, 0, 0, 0]) + CLIENT_HELLO,
    "client_hello_cut": bytes([0x85, 0, 0, 0, 0]) + CLIENT_HELLO[:30],
    "alert_first": bytes([0x85, 0, 0, 0, 0]) + bytes.fromhex("15030100020100"),
    "data_first": bytes([0x85, 0, 0, 0, 0]) + bytes.fromhex("1703030005") + b"Hello",
    "handshake_of_16_mib_announced": bytes([0xFF, 0, 0, 0, 0]) + bytes.fromhex("160301400001ffffff") + bytes(16380),
    "endless_handshake_records": bytes([0xFF, 0, 0, 0, 0])
    + b"".join(bytes.fromhex("160301000501") + b"\0\xff\xff\0" for _ in range(2000)),
    "ssl_2_hello": bytes([0x85, 0, 0, 0, 0]) + SSL_2_HELLO,
    "garbage": bytes([0x90, 0, 0, 0, 0]) + bytes(range(256)) * 4,
}


made = json.loads((SEEDS.parent.parent / "tests/foreign/tokens/pyjwt.json").read_text())
CLAIMS = {"sub": "ana", "exp": 1795582485}
rooms = [{"room": "lobby-*", "access": "count"}, "r1"]
tokens = (
    {
        # Kind 0: whole tokens.
        "none": b"\0" + made["refused"]["none"][1].encode(),
        "hs256_of_another_secret": b"\0" + made["accepted"]["HS256"].encode(),
        "crit": b"\0" + made["refused"]["an extension that must be understood"][1].encode(),
        "header_array": b"\0" + made["refused"]["the header is an array"][1].encode(),
        "dots": b"\0..",
        "empty": b"\0",
        # Kind 2: keys.
        "jwks": b"\2" + json.dumps(made["jwks"]).encode(),
        "jwks_oct": b"\2" + json.dumps({"keys": [{"kty": "oct", "k": "c" * 43}]}).encode(),
        "pem": b"\2" + (made["pem"]["ec"] + made["pem"]["ed"]).encode(),
        "pem_private": b"\2" + made["private_pem"]["ed"].encode(),
    }
    | {
        # Kind 1: claims, signed as they are.
        "claims_" + name: b"\1" + (claims if isinstance(claims, str) else json.dumps(claims)).encode()
        for name, claims in {
            "plain": CLAIMS,
            "all": CLAIMS | {"nbf": 0, "watch": ["bob", "t*"], "rooms": rooms, "watching": ["bob"], "in": ["r1"]},
            "exp_string": CLAIMS | {"exp": "1795582485"},
            "exp_null": CLAIMS | {"exp": None},
            "exp_negative": CLAIMS | {"exp": -1},
            "exp_float": CLAIMS | {"exp": 1795582485.5},
            "exp_missing": {"sub": "ana"},
            "exp_huge": '{"sub":"ana","exp":18446744073709551617}',
            "exp_twice": '{"sub":"ana","exp":1,"exp":9999999999}',
            "expired": CLAIMS | {"exp": 1795578885},
            "sub_missing": {"exp": 1795582485},
            "sub_number": CLAIMS | {"sub": 1},
            "aud": CLAIMS | {"aud": ["rollcall"]},
            "array": ["ana", 1795582485],
            "rooms_unknown_access": CLAIMS | {"rooms": [{"room": "a", "access": "x"}]},
            "not_json": "exp",
        }.items()
    }
)

configuration = {
    "empty": "",
    "one_of_each_kind": 'listen = "127.0.0.1:0"\npin = false\nshards = 2\nmax_message = "16KiB"\n'
    'heartbeat_timeout = "45s"\nlog_format = "json"\njwt_public_key = "/etc/key.pem"\njwt_issuer = ["a", "b"]\n'
    'auth_url = "http://127.0.0.1/"\nauth_required = "auto"\n',
    "unknown": "nonsense = 1\n",
    "unknown_with_escapes": '"a\\nb\\u001b" = 1\n',
    "value_with_escapes": 'log_level = "a\\nb\\u001b"\n',
    "text_with_quotes": 'jwt_jwks = "a\\"b"\n',
    "text_with_backslash": "jwt_jwks = 'a\\b'\n",
    "list_of_numbers": "jwt_issuer = [1]\n",
    "list_of_lists": 'jwt_issuer = [["a"]]\n',
    "list_with_blanks": 'jwt_issuer = " a , b "\n',
    "list_with_hole": 'jwt_issuer = "a,,b"\n',
    "array_for_an_address": 'listen = ["[::]:1"]\n',
    "table": "[limits]\nmax_frames = 1\n",
    "twice": "shards = 1\nshards = 2\n",
    "no_value": "shards =\n",
    "float": "shards = 2.5\n",
    "hexadecimal": "shards = 0x10\n",
    "huge": "shards = 99999999999999999999\n",
    "negative": "shards = -1\n",
    "date": "shards = 1979-05-27\n",
    "contradiction": 'reconnect_min = "10s"\nreconnect_max = "5s"\n',
    "byte_order_mark": "\ufeffshards = 1\n",
    "scoped_address": 'listen = "[fe80::1%2]:0"\n',
    "duration_too_long": 'heartbeat_timeout = "18446744073709551615d"\n',
}


def proxy2(command, family, block=b"", announced=None):
    """A PROXY header of version 2."""
    length = len(block) if announced is None else announced
    return b"\r\n\r\n\0\r\nQUIT\n" + struct.pack(">BBH", command, family, length) + block


IPV4 = bytes([192, 0, 2, 1, 192, 0, 2, 2]) + struct.pack(">HH", 5000, 3000)
IPV6 = bytes.fromhex("20010db8" + "00" * 11 + "01") * 2 + struct.pack(">HH", 5000, 3000)
proxy = {
    "tcp4": b"PROXY TCP4 192.0.2.1 192.0.2.2 5000 3000\r\n",
    "tcp4_longest": b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n",
    "tcp6": b"PROXY TCP6 2001:db8::1 ::1 5000 3000\r\n",
    "tcp6_mapped": b"PROXY TCP6 ::ffff:192.0.2.1 ::1 5000 3000\r\n",
    "tcp4_then_a_request": b"PROXY TCP4 192.0.2.1 192.0.2.2 5000 3000\r\n" + request(),
    "unknown": b"PROXY UNKNOWN\r\n",
    "unknown_with_more": b"PROXY UNKNOWN 1 2 3\r\n",
    "unknown_107_bytes": b"PROXY UNKNOWN " + b"x" * 91 + b"\r\n",
    "unknown_108_bytes": b"PROXY UNKNOWN " + b"x" * 92 + b"\r\n",
    "unknowns": b"PROXY UNKNOWNS\r\n",
    "udp4": b"PROXY UDP4 192.0.2.1 192.0.2.2 5000 3000\r\n",
    "port_with_sign": b"PROXY TCP4 192.0.2.1 192.0.2.2 +500 3000\r\n",
    "port_with_zero": b"PROXY TCP4 192.0.2.1 192.0.2.2 05000 3000\r\n",
    "port_65536": b"PROXY TCP4 192.0.2.1 192.0.2.2 65536 3000\r\n",
    "two_blanks": b"PROXY TCP4  192.0.2.1 192.0.2.2 5000 3000\r\n",
    "bare_line_feed": b"PROXY TCP4 192.0.2.1 192.0.2.2 5000 3000\n",
    "half_a_line": b"PROXY TCP4 192.0.2.1 192.",
    "no_header": request(),
    "nothing": b"",
    "ipv4": proxy2(0x21, 0x11, IPV4),
    "ipv4_then_a_request": proxy2(0x21, 0x11, IPV4) + request(),
    "ipv4_with_more": proxy2(0x21, 0x11, IPV4 + b"\x04\x00\x03abc\x20\x00\x00"),
    "ipv4_cut": proxy2(0x21, 0x11, IPV4)[:-1],
    "ipv4_too_short": proxy2(0x21, 0x11, IPV4[:-1]),
    "ipv4_udp": proxy2(0x21, 0x12, IPV4),
    "ipv6": proxy2(0x21, 0x21, IPV6),
    "unix": proxy2(0x21, 0x31, b"/a" + bytes(214)),
    "unspecified": proxy2(0x21, 0x00),
    "local": proxy2(0x20, 0x00),
    "local_of_any_family": proxy2(0x20, 0xFF),
    "local_with_addresses": proxy2(0x20, 0x11, IPV4),
    "version_3": proxy2(0x31, 0x11, IPV4),
    "command_2": proxy2(0x22, 0x11, IPV4),
    "family_4": proxy2(0x21, 0x41, IPV4),
    "longest": proxy2(0x21, 0x00, bytes(4080)),
    "too_long": proxy2(0x21, 0x00, announced=4081),
    "length_65535": proxy2(0x21, 0x11, IPV4, announced=65535),
    "signature_alone": proxy2(0x21, 0x11)[:12],
}


ACTIONS = "connect watch update join pass . . . unwatch active end room way carry else mute".split()
INVISIBLE, BUSY, ONLINE, AWAY, PLAIN = 0, 1, 2, 3, 7
DISCONNECT_IT, CLOSE_1000, CLOSE_1001, CLOSE_BARE, EOF, RESET = range(6)
MS = [1, 10, 49, 50, 500, 1000, 5000, 20000]
OPEN, SLOW, FULL, REFUSING = range(4)


def step(action, client=0, how=0):
    return bytes([ACTIONS.index(action), client, how])


def comes(client, status=PLAIN, shard=0, session=False, view=False):
    """A client connects; its user is the remainder by three."""
    return step("connect", client, status | shard << 3 | session << 5 | view << 6)


def comes_back(client, status=PLAIN, shard=0):
    return comes(client, status, shard, session=True, view=True)


def watches(client, users=7, rooms=0, count=False, since=False):
    """Users and rooms are a bit each."""
    return step("watch", client, users | rooms << 3 | count << 6 | since << 7)


def says(client, status, metadata=0):
    """Metadata: 0 stays as it is, 1 none, 2 a number, 3 much of it."""
    return step("update", client, status | metadata << 2)


def enters(client, room):
    return step("join", client, room)


def leaves(client, room):
    return step("join", client, room | 0x80)


def waits(ms, times=1, at_once=False):
    return step("pass", times - 1, MS.index(ms) | at_once << 7)


def mail(sender, receiver, way, shards=2):
    return step("way", sender + receiver * shards, way)


def scene(*steps, names=3, shards=2, small_rooms=False):
    """A script of the target `presence`; what its bytes mean is told in src/shard/fuzz/presence/mod.rs."""
    return bytes([names, shards - 1 | small_rooms << 2]) + b"".join(steps)


EVERYBODY = comes(0, ONLINE) + comes(1, AWAY, shard=1) + comes(2, BUSY)
EVERYBODY_WATCHES = EVERYBODY + b"".join(watches(client, users=7, rooms=7) for client in range(3))
presence = {
    "everybody_watches_everybody": scene(EVERYBODY_WATCHES, says(0, BUSY, 2), waits(50), says(1, ONLINE, 2)),
    "everybody_on_one_shard": scene(EVERYBODY_WATCHES, says(0, AWAY, 3), waits(50), says(0, AWAY, 1), shards=1),
    "everybody_on_three_shards": scene(
        EVERYBODY_WATCHES, comes(3, BUSY, shard=2), enters(3, 0), waits(50), leaves(3, 0), shards=3
    ),
    "precedence_of_four_connections": scene(
        comes(1, ONLINE), watches(1), comes(0, AWAY), comes(3, ONLINE, shard=1), comes(6, BUSY),
        comes(9, INVISIBLE, shard=1), waits(50), step("end", 9, DISCONNECT_IT), waits(50),
        step("end", 6, DISCONNECT_IT), waits(50),
    ),
    "metadata_of_who_said_it_last": scene(
        comes(1, ONLINE), watches(1), comes(0, BUSY), comes(3, BUSY), says(3, BUSY, 2), says(0, BUSY, 2), waits(50)
    ),
    "invisible_enters_a_room": scene(
        comes(1, ONLINE), watches(1, rooms=1), comes(0, INVISIBLE), watches(0, users=1, rooms=1), enters(0, 0)
    ),
    "invisible_hides_and_shows": scene(
        EVERYBODY_WATCHES, enters(0, 1), waits(50), says(0, INVISIBLE), waits(50), says(0, INVISIBLE, 2), waits(50),
        says(0, ONLINE),
    ),
    "room_by_name_and_by_count": scene(
        comes(1, ONLINE), watches(1, users=0, rooms=1), comes(4, ONLINE, shard=1),
        watches(4, users=0, rooms=1, count=True), comes(0, BUSY), enters(0, 0), comes(2, AWAY, shard=1), enters(2, 0),
        waits(1000), leaves(0, 0), says(2, BUSY),
    ),
    "room_grows_too_large": scene(
        comes(1, ONLINE), watches(1, users=0, rooms=1), comes(0, BUSY), comes(2, AWAY, shard=1), enters(0, 0),
        enters(1, 0), waits(50), enters(2, 0), waits(1000), leaves(0, 0), leaves(1, 0), waits(1000), small_rooms=True,
    ),
    "leaves_and_comes_back_untold": scene(EVERYBODY_WATCHES, enters(0, 0), waits(50), leaves(0, 0), enters(0, 0)),
    "unwatches_and_watches_otherwise": scene(
        EVERYBODY_WATCHES, enters(0, 0), step("unwatch", 1, 0o11), watches(1, users=1, rooms=1, count=True)
    ),
    "inactive_misses_nothing": scene(
        EVERYBODY_WATCHES, step("active", 1, 0), says(0, BUSY, 2), enters(0, 2), waits(500), step("active", 1, 1)
    ),
    "inactive_watches": scene(EVERYBODY, step("active", 1, 0), watches(1, rooms=7), says(0, AWAY), waits(50)),
    "comes_back_within_the_grace": scene(
        EVERYBODY_WATCHES, enters(0, 0), waits(1000), step("end", 0, RESET), waits(5000), comes_back(0)
    ),
    "comes_back_after_the_grace": scene(
        EVERYBODY_WATCHES, enters(0, 0), waits(1000), step("end", 0, EOF), waits(5000, 3), comes_back(0, shard=1)
    ),
    "comes_back_with_a_cursor": scene(
        EVERYBODY_WATCHES, enters(0, 0), enters(2, 0), waits(1000, 2), step("end", 1, CLOSE_1001), leaves(0, 0),
        says(2, AWAY), comes_back(1), watches(1, rooms=7, since=True), waits(50),
    ),
    "comes_back_with_a_status": scene(
        EVERYBODY_WATCHES, says(0, BUSY, 2), enters(0, 1), step("end", 0, CLOSE_BARE), comes_back(0, AWAY, shard=1)
    ),
    "takes_over_who_is_still_there": scene(EVERYBODY_WATCHES, says(0, BUSY, 2), enters(0, 1), comes_back(0, shard=1)),
    "plain_return": scene(EVERYBODY_WATCHES, says(0, AWAY, 2), waits(1000), step("end", 0, RESET), comes(0, shard=1)),
    "done_and_back": scene(
        EVERYBODY_WATCHES, step("end", 0, CLOSE_1000), waits(50), comes_back(0), watches(0, since=True)
    ),
    "reads_slowly": scene(
        EVERYBODY_WATCHES, step("room", 1, 1), *(says(0, status, 3) + waits(50) for status in (BUSY, AWAY, ONLINE)),
        step("room", 1, 8), says(0, BUSY), waits(500), step("unwatch", 1, 1), waits(1000),
    ),
    "answers_wait_for_a_slow_reader": scene(
        EVERYBODY_WATCHES, step("room", 1, 0), *(step("else", 1, what) for what in (0, 1, 2, 3, 4) * 10),
        says(1, BUSY, 2),
    ),
    "falls_silent": scene(EVERYBODY_WATCHES, enters(0, 0), step("mute", 0, 1), waits(20000, 3), waits(20000, 2)),
    "process_stops": scene(EVERYBODY_WATCHES, enters(0, 0), waits(20000, 3, at_once=True), says(1, BUSY)),
    "mail_is_late": scene(
        EVERYBODY_WATCHES, mail(0, 1, SLOW), mail(1, 0, SLOW), says(0, BUSY, 2), enters(0, 0), says(1, BUSY),
        waits(500), step("carry", 2, 0), enters(1, 0), waits(50), step("carry", 1, 1), comes(4, shard=1),
        watches(4, rooms=7),
    ),
    "inbox_is_full": scene(
        EVERYBODY_WATCHES, mail(0, 1, FULL), mail(1, 0, FULL), *(says(0, status, 2) for status in (BUSY, AWAY, ONLINE)),
        enters(0, 0), leaves(0, 0), enters(0, 1), comes(5, AWAY, shard=1), step("end", 5, DISCONNECT_IT), waits(5000),
    ),
    "inbox_refuses": scene(
        mail(0, 1, REFUSING), mail(1, 0, REFUSING), EVERYBODY_WATCHES, enters(1, 0), waits(500), says(1, BUSY, 2)
    ),
    "resume_is_answered_too_late": scene(
        EVERYBODY_WATCHES, says(0, BUSY, 2), enters(0, 0), step("end", 0, RESET), mail(0, 1, SLOW), mail(1, 0, SLOW),
        comes_back(0, shard=1), waits(1000, 2), step("carry", 2, 3), step("carry", 1, 3), says(0, AWAY),
    ),
}
presence |= {
    f"{name}_elsewhere": bytes([presence[name][0] + 1]) + presence[name][1:]
    for name in ("mail_is_late", "inbox_is_full", "inbox_refuses", "resume_is_answered_too_late")
}


def write(target, cases, lead=b""):
    folder = SEEDS / target
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    for name, case in cases.items():
        (folder / name).write_bytes(lead + (case.encode() if isinstance(case, str) else case))
    print(f"{target}: {len(cases)} seeds")


write("handshake", handshake)
write("frames", frames, lead=bytes([5]))
write("messages", messages)
write("proxy", proxy)
write("connection", connection, lead=bytes([0x87]))
write("tls", tls)
write("presence", presence)
write("tokens", tokens)
write("configuration", configuration)
