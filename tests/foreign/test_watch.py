"""Watching users: states, changes, cursors, limits, the inactive and the slow."""

import json
import socket
import threading
import time

from clients import PING, TEXT, Client, Raw, frame
from server import PATIENCE, Server
from watching import (
    A_WHILE,
    QUICK,
    Watcher,
    close_all,
    crowd,
    cut,
    join,
    leave,
    seconds,
    set_presence,
    update,
)

# Enough for every partition and every shard to have some.
NAMES = [f"user-{number}" for number in range(24)]


class Narrow(Raw):
    """A socket that takes little while nobody reads it."""

    def __init__(self, address):
        host, _, port = address.rpartition(":")
        self.socket = socket.socket()
        self.socket.settimeout(PATIENCE)
        # Before it connects: to take back a window that the peer was told of stalls TCP.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32_768)
        self.socket.connect((host, int(port)))
        self.received = b""


def test_a_state_and_then_changes_of_users_on_all_shards():
    with Server(*QUICK) as server:
        began = time.time() - 0.001
        users = crowd(server, NAMES)
        watchers = [Watcher(server, f"userId=watcher-{number}") for number in range(6)]
        for number, watcher in enumerate(watchers):
            state = watcher.watch([*NAMES, "nobody", "nobody"], id=number if number % 2 else f"w{number}")
            assert state.complete is True and set(state.users) == {*NAMES, "nobody"}, state.users
            assert state.users["nobody"] == {"userId": "nobody", "status": "offline"}
            for name in NAMES:
                assert state.status(name) == "online"
                assert began <= seconds(state.users[name]["since"]) <= time.time() + 1
        changed = NAMES[::3]
        for name in changed:
            update(users[name], "busy", metadata={"at": name})
        for watcher in watchers:
            watcher.sees(**dict.fromkeys(changed, "busy"))
            assert all(watcher.users[name]["metadata"] == {"at": name} for name in changed)
            assert all(watcher.users[name]["status"] == "online" for name in NAMES if name not in changed)
        since = {name: watchers[0].users[name]["since"] for name in NAMES}
        # A change of metadata alone moves no `since`; an update that changes nothing is told to nobody.
        update(users[changed[0]], "busy", metadata={"at": "home"})
        update(users[changed[1]], "busy")
        update(users[changed[2]], "busy", metadata={"at": changed[2]})
        update(users[NAMES[1]], "online", metadata=None)
        for watcher in watchers:
            (change,) = watcher.hear_all()
            assert [presence["userId"] for presence in change["users"]] == [changed[0]], change
            assert change["users"][0]["metadata"] == {"at": "home"}
            assert {name: watcher.users[name]["since"] for name in NAMES} == since
        # A status that changes takes the metadata along, null clears it.
        update(users[changed[0]], "away")
        update(users[changed[1]], "away", metadata=None)
        for watcher in watchers:
            watcher.sees(**dict.fromkeys(changed[:2], "away"))
            assert watcher.users[changed[0]]["metadata"] == {"at": "home"}
            assert "metadata" not in watcher.users[changed[1]]
            assert watcher.users[changed[0]]["since"] > since[changed[0]]
        close_all(users, watchers)


def test_offline_says_when_it_was_judged_and_when_the_user_was_last_heard():
    with Server(*QUICK) as server:
        said, lost = Client(server, "userId=said"), Client(server, "userId=lost")
        watcher = Watcher(server)
        watcher.watch(["said", "lost"])
        set_presence(said, "busy", metadata={"at": "desk"})
        time.sleep(0.2)
        heard = time.time()
        lost.socket.ping().wait(PATIENCE)
        time.sleep(0.2)
        parted = time.time()
        said.send(type="DISCONNECT")
        cut(lost)
        watcher.sees(said="offline", lost="offline")
        assert "metadata" not in watcher.users["said"]
        for user, judged, last in [("said", parted, parted), ("lost", parted + 1.0, heard)]:
            told = watcher.users[user]
            assert -0.1 < seconds(told["since"]) - judged < 0.7, (told, judged)
            assert -0.1 < seconds(told["lastSeen"]) - last < 0.15, (told, last)
        close_all([watcher])


def test_a_state_answers_its_watch_and_holds_nothing_up():
    with Server(*QUICK) as server, Watcher(server) as watcher:
        watcher.send(type="HEARTBEAT", id="before")
        watcher.ask_to_watch(NAMES, ["room"], id="é😀")
        watcher.send(type="HEARTBEAT", id="behind")
        heard = [watcher.hear() for _ in range(3)]
        assert [said["id"] for said in heard if isinstance(said, dict)] == ["before", "behind"], heard
        (state,) = [said for said in heard if not isinstance(said, dict)]
        assert state.id == "é😀" and set(state.users) == set(NAMES) and state.rooms["room"]["count"] == 0
        for nothing in ({}, {"users": []}, {"rooms": []}):
            watcher.send(type="WATCH", payload=nothing)
            state = watcher.hear()
            assert (state.id, state.users, state.rooms, state.complete) == (None, {}, {}, True)
            assert state.cursor
        watcher.unwatch(["never watched", *NAMES[:2]], ["never watched"])
        watcher.acknowledged("LEAVE", room="never joined")


def test_watching_again_is_harmless_and_unwatching_ends_it():
    with Server(*QUICK) as server:
        users = crowd(server, NAMES[:8])
        watcher = Watcher(server)
        watcher.watch(NAMES[:4])
        state = watcher.watch(NAMES[2:8])
        assert set(state.users) == set(NAMES[2:8])
        watcher.watch(NAMES[:8])
        for name in NAMES[:8]:
            update(users[name], "busy")
        watcher.sees(**dict.fromkeys(NAMES[:8], "busy"))
        watcher.hears_nothing(0.1)
        watcher.unwatch(NAMES[:5])
        for name in NAMES[:8]:
            update(users[name], "away")
        watcher.sees(**dict.fromkeys(NAMES[5:8], "away"))
        watcher.hears_nothing()
        assert set(watcher.watch(NAMES[:1]).users) == {NAMES[0]}
        assert watcher.users[NAMES[0]]["status"] == "away"
        close_all(users, [watcher])


def test_changes_are_gathered_into_one_message_for_each_watcher():
    with Server("--shards", "4", "--change-interval", "500ms") as server:
        users = crowd(server, NAMES)
        watchers = [Watcher(server, f"userId=watcher-{number}") for number in range(8)]
        for watcher in watchers:
            watcher.watch(NAMES)
        for status in ("busy", "away", "busy", "away"):
            for user in users.values():
                update(user, status)
        for watcher in watchers:
            change = watcher.hear()
            assert {presence["userId"] for presence in change["users"]} == set(NAMES), change
            assert {presence["status"] for presence in change["users"]} == {"away"}
            watcher.hears_nothing(0.1)
        close_all(users, watchers)


def test_limits_count_what_is_watched_and_refuse_a_message_whole():
    with Server(*QUICK, "--watched-users-max", "10", "--rooms-max", "3") as server:
        users = crowd(server, NAMES[:12])
        watcher = Watcher(server)

        def refused(kind, code, **payload):
            watcher.send(type=kind, id=1, payload=payload)
            assert watcher.hear() == {"type": "ERROR", "id": 1, "code": code}

        watcher.watch([*NAMES[:6], *NAMES[:6], *NAMES[:6]])
        watcher.watch(NAMES[:8], ["a", "b", "b", {"room": "a", "detail": "full"}])
        refused("WATCH", "TOO_MANY_USERS", users=NAMES[:11])
        refused("WATCH", "TOO_MANY_USERS", users=NAMES[8:11], rooms=["c"])
        refused("WATCH", "TOO_MANY_ROOMS", users=NAMES[8:10], rooms=["c", "d"])
        refused("WATCH", "TOO_MANY_ROOMS", rooms=["e", "f", "g", "h"])
        # Nothing of what was refused is watched.
        join(users[NAMES[0]], "c")
        for name in NAMES[:12]:
            update(users[name], "busy")
        watcher.sees(**dict.fromkeys(NAMES[:8], "busy"))
        watcher.hears_nothing()
        watcher.watch(NAMES[:10], ["c"])
        watcher.unwatch(NAMES[:1], ["c"])
        watcher.watch(NAMES[10:11], ["d"])
        # Rooms joined are counted apart.
        for room in ("x", "y", "z", "x"):
            watcher.acknowledged("JOIN", room=room)
        refused("JOIN", "TOO_MANY_ROOMS", room="v")
        watcher.acknowledged("LEAVE", room="x")
        watcher.acknowledged("JOIN", room="v")
        close_all(users, [watcher])


def test_a_large_state_comes_in_pieces_that_do_not_interleave():
    with Server(*QUICK) as server:
        users = crowd(server, NAMES)
        for name, user in users.items():
            set_presence(user, "busy", metadata={"large": "ä" * 2000})
            join(user, "hall")
        watcher = Watcher(server)
        watcher.ask_to_watch(NAMES, ["hall"], id="first")
        watcher.ask_to_watch(NAMES, ["hall"], id="second")
        watcher.send(type="HEARTBEAT", id="between")
        heard = [watcher.hear() for _ in range(3)]
        states = [said for said in heard if not isinstance(said, dict)]
        assert [state.id for state in states] == ["first", "second"]
        for state in states:
            assert state.messages > 2 and state.complete and set(state.users) == set(NAMES)
            assert set(state.rooms["hall"]["members"]) == set(NAMES) and state.rooms["hall"]["count"] == len(NAMES)
        # Changes that pass 64 KiB come in several messages too.
        for user in users.values():
            update(user, "away", metadata={"large": "ö" * 2000})
        watcher.sees(**dict.fromkeys(NAMES, "away"))
        assert all(watcher.rooms["hall"]["members"][name]["status"] == "away" for name in NAMES)
        watcher.hears_nothing()
        close_all(users, [watcher])


def test_since_brings_what_changed_and_an_unknown_cursor_brings_everything():
    quick = (*QUICK, "--cursor-slack", "50ms")
    with Server(*quick) as server, Server(*quick) as other:
        users = crowd(server, NAMES)
        for name in NAMES[:6]:
            join(users[name], "hall")
        watcher = Watcher(server)
        watcher.watch([*NAMES, "nobody"], ["hall", {"room": "den", "detail": "count"}])
        names = {"users": [*NAMES, "nobody"], "rooms": ["hall", {"room": "den", "detail": "count"}]}
        # What is told to a watching shard moves its cursor at least twice a second, on a shard that has the time.
        until = time.monotonic() + PATIENCE
        while True:
            time.sleep(0.5)
            cursor = watcher.watch([]).cursor
            assert len(cursor) <= 64
            with Watcher(server, "userId=early", keeps=watcher) as early:
                state = early.watch(**names, since=cursor)
            # A count is told whatever the cursor says, for it may be a second older than the room.
            if (state.users, set(state.rooms)) == ({}, {"den"}):
                break
            assert time.monotonic() < until, f"the cursor does not move past {state.users} {state.rooms}"

        again = [Watcher(server, f"userId=again-{number}", keeps=watcher) for number in range(4)]
        for client in again:
            state = client.watch(**names, since=cursor)
            assert state.complete is False
            assert (state.users, set(state.rooms)) == ({}, {"den"}), (state.users, state.rooms)
            assert state.rooms["den"]["count"] == 0
        time.sleep(0.1)
        set_presence(users[NAMES[0]], "busy")
        set_presence(users[NAMES[1]], "away", metadata={"a": 1})
        join(users[NAMES[7]], "hall")
        leave(users[NAMES[2]], "hall")
        leave(users[NAMES[3]], "hall")
        join(users[NAMES[3]], "hall")
        users[NAMES[4]].send(type="DISCONNECT")
        join(users[NAMES[8]], "den")
        for client in again:
            client.until(lambda: client.rooms.get("den", {}).get("count") == 1)
        late = [Watcher(server, f"userId=late-{number}", keeps=watcher) for number in range(4)]
        for client in late:
            state = client.watch(**names, since=cursor)
            assert state.complete is False
            expected = {NAMES[0]: "busy", NAMES[1]: "away", NAMES[4]: "offline"}
            assert {name: state.status(name) for name in state.users} == expected
            hall = state.rooms["hall"]
            assert (hall["count"], sorted(hall["left"])) == (5, sorted([NAMES[2], NAMES[4]])), hall
            assert set(hall["members"]) == {NAMES[0], NAMES[1], NAMES[3], NAMES[7]}, hall
            assert state.rooms["den"]["count"] == 1
        stranger = Watcher(other)
        foreign = stranger.watch([]).cursor
        # Four bytes of the process, six of milliseconds since 1970.
        future = cursor[:6] + "_" * 8 + cursor[14:]
        unreadable = ["", "x", "not one of ours", "=" * 16, "A" * 16, "_" * 16, "ä" * 32, "y" * 5000]
        for unknown in [*unreadable, foreign, future]:
            state = late[0].watch(**names, since=unknown)
            assert state.complete is True and set(state.users) == {*NAMES, "nobody"}, unknown
            assert set(state.rooms["hall"]["members"]) == {NAMES[n] for n in (0, 1, 3, 5, 7)}
        close_all(users, again, late, [watcher, stranger])


def test_a_cursor_older_than_the_history_gets_everything():
    with Server(*QUICK, "--history", "1s", "--cursor-slack", "0") as server:
        users = crowd(server, NAMES[:4])
        watcher = Watcher(server)
        cursor = watcher.watch(NAMES[:4]).cursor
        assert watcher.watch(NAMES[:4], since=cursor).complete is False
        time.sleep(1.6)
        state = watcher.watch(NAMES[:4], since=cursor)
        assert state.complete is True and len(state.users) == 4
        close_all(users, [watcher])


def test_the_cursor_of_an_inactive_client_claims_nothing_that_it_was_not_told():
    with Server(*QUICK, "--cursor-slack", "0") as server:
        ana, bob = Client(server, "userId=ana"), Client(server, "userId=bob")
        join(bob, "hall")
        watcher = Watcher(server)
        watcher.watch(["ana"], ["hall"])
        time.sleep(0.8)
        watcher.watch([])
        watcher.acknowledged("CLIENT_STATE", active=False)
        set_presence(ana, "busy")
        leave(bob, "hall")
        time.sleep(1.2)
        cursor = watcher.watch(["bob"]).cursor
        cut(watcher)
        with Watcher(server) as again:
            state = again.watch(["ana", "bob"], ["hall"], since=cursor)
            assert state.users.get("ana", {}).get("status") == "busy", "a change was lost behind the cursor"
            assert "bob" not in again.members("hall") and again.rooms["hall"]["count"] == 0
        close_all([ana, bob])


def test_an_inactive_client_is_told_nothing_until_it_is_active_again():
    with Server(*QUICK) as server:
        users = crowd(server, NAMES)
        watchers = [Watcher(server, f"userId=watcher-{number}") for number in range(4)]
        for watcher in watchers:
            watcher.watch(NAMES, ["hall", {"room": "den", "detail": "count"}])
            watcher.acknowledged("CLIENT_STATE", active=False)
        for status in ("away", "busy"):
            for name in NAMES[:10]:
                set_presence(users[name], status, metadata={"to": status})
        join(users[NAMES[0]], "hall")
        join(users[NAMES[1]], "den")
        join(users[NAMES[2]], "hall")
        leave(users[NAMES[2]], "hall")
        for watcher in watchers:
            watcher.hears_nothing(0.2)
            # It is answered all the same.
            assert set(watcher.watch(["nobody", NAMES[11]]).users) == {"nobody", NAMES[11]}
            watcher.acknowledged("CLIENT_STATE", active=False)
            watcher.hears_nothing(0.1)
            watcher.send(type="CLIENT_STATE", payload={"active": True})
            change = watcher.hear()
            told = {presence["userId"]: presence["status"] for presence in change["users"]}
            assert told == dict.fromkeys(NAMES[:10], "busy"), told
            rooms = {told["room"]: told for told in change["rooms"]}
            assert rooms["den"] == {"room": "den", "count": 1} and rooms["hall"]["count"] == 1, rooms
            assert [member["userId"] for member in rooms["hall"]["joined"]] == [NAMES[0]], rooms
            watcher.hears_nothing(0.1)
            # Nothing changed: nothing is sent.
            watcher.acknowledged("CLIENT_STATE", active=False)
            watcher.acknowledged("CLIENT_STATE", active=True)
            watcher.hears_nothing(0.1)
        set_presence(users[NAMES[0]], "away")
        for watcher in watchers:
            watcher.sees(**{NAMES[0]: "away"})
        close_all(users, watchers)


def test_a_slow_watcher_skips_to_the_newest_and_is_answered_all_the_while():
    flags = (*QUICK, "--heartbeat-timeout", "2s", "--probe-after", "1s", "--probe-timeout", "1s")
    with Server(*flags) as server:
        users = crowd(server, NAMES, "&heartbeatTimeout=600000")
        slow = Narrow.open(server, "/?userId=slow")
        payload = json.dumps({"type": "WATCH", "payload": {"users": NAMES}}).encode()
        slow.send(frame(TEXT, payload))
        assert slow.message()["type"] == "PRESENCE_STATE"
        stop, sent = threading.Event(), []

        def beat():
            while not stop.wait(0.2):
                slow.send_frame(TEXT, b'{"type":"HEARTBEAT"}')
                sent.append(1)

        beats = threading.Thread(target=beat)
        beats.start()
        changes, until = 0, time.monotonic() + 4.5
        while time.monotonic() < until:
            changes += 1
            for user in users.values():
                update(user, ("busy", "away")[changes % 2], metadata={"n": changes, "large": "x" * 4000})
            time.sleep(0.02)
        for user in users.values():
            set_presence(user, "busy", metadata={"n": changes + 1, "last": True})
        queued = sum(server.metric(f'rollcall_queued_bytes{{shard="{shard}"}}') for shard in range(4))
        assert queued < 200_000, f"{queued} bytes wait for one slow watcher"
        seen, acknowledged, bytes_heard = {}, 0, 0
        while acknowledged < len(sent) or not all(seen.get(name, {}).get("last") for name in NAMES):
            if all(seen.get(name, {}).get("last") for name in NAMES):
                stop.set()
            opcode, payload = slow.frame()
            if opcode == PING:
                continue
            message = json.loads(payload)
            bytes_heard += len(payload)
            if message["type"] == "HEARTBEAT_ACK":
                acknowledged += 1
                continue
            assert message["type"] == "PRESENCE_CHANGE" and len(payload) < 65536
            for presence in message["payload"]["users"]:
                user, metadata = presence["userId"], presence["metadata"]
                assert metadata["n"] >= seen.get(user, {"n": 0})["n"], "an older state came later"
                seen[user] = metadata
        all_bytes = changes * len(NAMES) * 4000
        assert bytes_heard < all_bytes / 2, f"{bytes_heard} of {all_bytes} bytes: nothing was skipped"
        stop.set()
        beats.join()
        close_all(users)
        slow.close()


def test_who_knows_only_the_first_four_messages_is_never_told_of_others():
    with Server(*QUICK, "--heartbeat-timeout", "10m") as server:
        old = [Raw.open(server, f"/?userId={name}") for name in NAMES[:6]]
        # Everything else goes on around them: they are watched, and of the same users and rooms.
        watcher = Watcher(server)
        watcher.watch(NAMES, ["hall"])
        same = crowd(server, NAMES[:6])
        for user in same.values():
            join(user, "hall")
        for number, raw in enumerate(old):
            raw.send_frame(TEXT, b'{"type":"PRESENCE_UPDATE","payload":{"status":"busy"}}')
            raw.send_frame(TEXT, b'{"type":"HEARTBEAT"}')
        watcher.sees(**dict.fromkeys(NAMES[:6], "busy"))
        close_all(same)
        watcher.until(lambda: watcher.rooms["hall"]["count"] == 0)
        time.sleep(A_WHILE)
        for raw in old:
            raw.send_frame(TEXT, b'{"type":"DISCONNECT"}')
            assert raw.message()["type"] == "HEARTBEAT_ACK"
            assert raw.closed()[0] == 1000
        watcher.sees(**dict.fromkeys(NAMES[:6], "offline"))
        close_all([watcher])


def test_users_with_an_open_connection_are_counted():
    with Server(*QUICK) as server:
        users = crowd(server, NAMES[:8])
        twice = Client(server, f"userId={NAMES[0]}")
        watcher = Watcher(server)
        watcher.watch(NAMES[:9])
        server.metric_becomes("ws_clients_current", 9)
        for name in NAMES[:4]:
            cut(users[name])
        # In their grace they have no open connection, and are online to those who watch.
        server.metric_becomes("ws_clients_current", 6)
        watcher.hears_nothing(0.1)
        watcher.sees(**dict.fromkeys(NAMES[1:4], "offline"))
        assert watcher.users[NAMES[0]]["status"] == "online"
        server.metric_becomes("ws_clients_current", 6)
        close_all(users, [twice, watcher])
        server.metric_becomes("ws_clients_current", 0)


def test_after_silence_every_view_equals_the_truth():
    with Server(*QUICK, "--room-detail-limit", "10", "--offline-grace", "0") as server:
        rooms = [f"room-{number}" for number in range(4)]
        watchers = [Watcher(server, f"userId=watcher-{number}") for number in range(6)]
        stop = threading.Event()

        def listen(watcher):
            try:
                while not stop.is_set():
                    watcher.hear_all(0.1)
            except Exception as fault:
                watcher.others.append(fault)

        for number, watcher in enumerate(watchers):
            watcher.watch(NAMES if number % 2 else NAMES[::2], rooms if number < 3 else rooms[:2])
        threads = [threading.Thread(target=listen, args=[watcher]) for watcher in watchers]
        for thread in threads:
            thread.start()
        users, inside = {}, {room: set() for room in rooms}
        statuses = ("online", "away", "busy", "invisible")
        shown = dict.fromkeys(NAMES, "offline")
        for step in range(900):
            name, room = NAMES[step * 7 % len(NAMES)], rooms[step * 5 // 3 % len(rooms)]
            if name not in users:
                users[name] = Client(server, f"userId={name}")
                shown[name] = "online"
            elif step % 11 == 0:
                users.pop(name).socket.close()
                shown[name] = "offline"
                for members in inside.values():
                    members.discard(name)
            elif step % 3 == 0:
                update(users[name], statuses[step // 3 % 4], metadata={"step": step})
                shown[name] = statuses[step // 3 % 4].replace("invisible", "offline")
            elif step % 5 == 0:
                users[name].send(type="LEAVE", payload={"room": room})
                inside[room].discard(name)
            else:
                users[name].send(type="JOIN", payload={"room": room})
                inside[room].add(name)
        for user in users.values():
            user.is_alive()
        # A count is told once a second at most, by its room and by the watcher's shard.
        time.sleep(2.5)
        stop.set()
        for thread in threads:
            thread.join(PATIENCE)
        for watcher in watchers:
            assert watcher.others == [], watcher.others
            seen = {name: watcher.users[name]["status"] for name in watcher.watched_users}
            assert seen == {name: shown[name] for name in watcher.watched_users}
            for room in watcher.watched_rooms:
                truth = {name for name in inside[room] if shown[name] != "offline"}
                told = watcher.rooms[room]
                assert told["count"] == len(truth), (room, told, truth)
                if not told["truncated"]:
                    assert set(told["members"]) == truth, (room, told, truth)
                    assert all(told["members"][name]["status"] == shown[name] for name in truth)
        close_all(users, watchers)
