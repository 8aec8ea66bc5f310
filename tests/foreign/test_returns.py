"""Who goes and comes back: the grace, a plain return, and sessions that are resumed."""

import contextlib
import time
from urllib.parse import quote

from clients import CLOSE, TEXT, Client, Raw, frame
from server import Server
from watching import GRACE, QUICK, WINDOW, Watcher, close_all, crowd, cut, join, seconds, set_presence, update

# As many as let every pair of shards be hit by one that goes and comes back.
NAMES = [f"user-{number}" for number in range(16)]


def session(client):
    return client.welcome["payload"]["sessionId"]


def resume(server, user, earlier, query="", **options):
    return Client(server, f"userId={user}&session={quote(earlier)}{query}", **options)


def is_resumed(client):
    return client.welcome["payload"]["resumed"]


def watched_hall(server):
    """Busy users in a room, and four who watch both; the shards are for the kernel to choose."""
    users = crowd(server, NAMES)
    for name, user in users.items():
        set_presence(user, "busy", metadata={"of": name})
        join(user, "hall")
    watchers = [Watcher(server, f"userId=watcher-{number}") for number in range(4)]
    for watcher in watchers:
        watcher.watch(NAMES, ["hall"])
    return users, watchers


def test_a_return_within_the_grace_disturbs_nobody():
    with Server(*QUICK) as server:
        users, watchers = watched_hall(server)
        # However often, and by whatever shard: a plain client resumes without knowing it.
        for _ in range(4):
            for user in users.values():
                cut(user)
            time.sleep(0.1)
            users = crowd(server, NAMES)
            assert not any(is_resumed(user) for user in users.values())
        # One that returns before its end is noticed, as when a phone changes its network.
        again = crowd(server, NAMES)
        for user in users.values():
            cut(user)
        for watcher in watchers:
            watcher.hears_nothing(GRACE + 0.3)
            assert all(watcher.users[name]["metadata"] == {"of": name} for name in NAMES)
        # What it says then is what counts.
        for user in again.values():
            update(user, "away")
        for watcher in watchers:
            watcher.sees(**dict.fromkeys(NAMES, "away"))
            assert watcher.rooms["hall"]["count"] == len(NAMES)
            assert all(watcher.users[name]["metadata"] == {"of": name} for name in NAMES)
        close_all(again, watchers)


def test_how_a_connection_ends_decides_whether_there_is_a_grace():
    with Server(*QUICK, "--heartbeat-timeout", "1m", "--max-message", "4096") as server:
        ends = {
            "disconnect": lambda raw: raw.send_frame(TEXT, b'{"type":"DISCONNECT"}'),
            "close-1000": lambda raw: raw.send_frame(CLOSE, (1000).to_bytes(2, "big")),
            "close-1001": lambda raw: raw.send_frame(CLOSE, (1001).to_bytes(2, "big")),
            "close-none": lambda raw: raw.send_frame(CLOSE),
            "close-4000": lambda raw: raw.send_frame(CLOSE, (4000).to_bytes(2, "big") + b"app"),
            "fin": lambda raw: raw.socket.shutdown(1),
            "reset": lambda raw: raw.reset(),
            "fault-1002": lambda raw: raw.send(frame(3)),
            "fault-1003": lambda raw: raw.send_frame(2, b"a"),
            "fault-1007": lambda raw: raw.send_frame(TEXT, b"\xff"),
            "fault-1008": lambda raw: raw.send(frame(TEXT, b"[]") * 20),
            "fault-1009": lambda raw: raw.send_frame(TEXT, b" " * 5000),
        }
        raws = {name: Raw.open(server, f"/?userId={name}") for name in ends}
        watcher = Watcher(server)
        watcher.watch(ends)
        began = time.time()
        for name, end in ends.items():
            end(raws[name])
        asked = {"disconnect", "close-1000"}
        watcher.sees(**dict.fromkeys(asked, "offline"))
        time.sleep(GRACE / 2)
        watcher.hears_nothing(0.05)
        assert {name for name in ends if watcher.users[name]["status"] == "offline"} == asked
        watcher.sees(**dict.fromkeys(ends, "offline"))
        for name in ends:
            grace = 0 if name in asked else GRACE
            assert -0.1 < seconds(watcher.users[name]["since"]) - began - grace < 0.8, (name, watcher.users[name])
        for raw in raws.values():
            with contextlib.suppress(OSError):
                raw.close()
        close_all([watcher])


def test_who_was_silent_has_waited_already():
    flags = ("--heartbeat-timeout", "1s", "--probe-after", "400ms", "--probe-timeout", "400ms", "--offline-grace", "1m")
    with Server("--shards", "4", "--change-interval", "20ms", *flags) as server:
        watcher = Watcher(server, "userId=watcher&heartbeatTimeout=600000")
        silent, dead = Client(server, "userId=silent"), Raw.open(server, "/?userId=dead&heartbeatTimeout=600000")
        watcher.watch(["silent", "dead"])
        last = time.time()
        watcher.sees(silent="offline", dead="offline")
        assert seconds(watcher.users["dead"]["lastSeen"]) < seconds(watcher.users["dead"]["since"]) - 0.2
        assert -0.3 < seconds(watcher.users["dead"]["lastSeen"]) - last < 0.3, watcher.users
        # It waited, but it may be resumed.
        with resume(server, "silent", session(silent)) as back:
            assert is_resumed(back)
            watcher.sees(silent="online")
        dead.close()
        close_all([silent, watcher])


def test_goodbye_ends_one_connection_and_the_others_have_their_grace():
    with Server(*QUICK) as server:
        watcher = Watcher(server)
        watcher.watch(["ana"])
        first, second = Client(server, "userId=ana&status=busy"), Client(server, "userId=ana&status=away")
        watcher.sees(ana="busy")
        cut(first)
        second.send(type="DISCONNECT")
        # The one in its grace counts, with the status that it had.
        watcher.hears_nothing(GRACE / 2)
        assert watcher.users["ana"]["status"] == "busy"
        watcher.sees(ana="offline")
        close_all([watcher])


def test_the_next_connection_takes_the_place_of_the_one_that_ended_last():
    with Server(*QUICK, "--offline-grace", "3s") as server:
        watcher = Watcher(server)
        watcher.watch(["ana"])
        # The latest end is of the away one: the plain return is away, and the busy one stays in its grace.
        busy, away = Client(server, "userId=ana&status=busy"), Client(server, "userId=ana&status=away")
        watcher.sees(ana="busy")
        cut(busy)
        time.sleep(0.2)
        cut(away)
        time.sleep(0.2)
        with Client(server) as plain:
            watcher.sees(ana="away")
            assert is_resumed(plain) is False
            # Who says a status takes no place.
            with Client(server, "userId=ana&status=busy"):
                watcher.sees(ana="busy")
            watcher.sees(ana="away")
        watcher.sees(ana="offline")
        close_all([watcher])


def test_a_session_is_taken_over_whole_from_whatever_shard():
    with Server(*QUICK) as server:
        users, watchers = watched_hall(server)
        # Half of them are still there, half-open or not; half were cut.
        for name in NAMES[::2]:
            cut(users[name])
        time.sleep(0.1)
        again = {name: resume(server, name, session(users[name])) for name in NAMES}
        assert all(is_resumed(client) for client in again.values())
        for name in NAMES[1::2]:
            code, reason = users[name].closed()
            assert code == 4409 and reason, (code, reason)
        assert not {session(client) for client in again.values()} & {session(user) for user in users.values()}
        for watcher in watchers:
            watcher.hears_nothing()
        # It is in the rooms that it was in, and leaves them.
        for name in NAMES[:4]:
            assert again[name].ask(type="JOIN", id=1, payload={"room": "hall"})["type"] == "ACK"
            assert again[name].ask(type="LEAVE", id=2, payload={"room": "hall"})["type"] == "ACK"
        for watcher in watchers:
            watcher.until(lambda: watcher.rooms["hall"]["count"] == len(NAMES) - 4)
            assert watcher.members("hall") == set(NAMES[4:])
        # One that was taken over is stale at once, and takes no place.
        for name in NAMES[:4]:
            with resume(server, name, session(users[name])) as stale:
                assert is_resumed(stale) is False
                assert again[name].is_alive()
        close_all(again, watchers)


def test_a_session_has_its_window_and_comes_back_as_one_change():
    with Server(*QUICK) as server:
        users = crowd(server, NAMES[:8])
        for name, user in users.items():
            set_presence(user, "away", metadata={"of": name})
            join(user, "hall")
        watcher = Watcher(server)
        watcher.watch(NAMES, ["hall"])
        for user in users.values():
            cut(user)
        ended = time.monotonic()
        watcher.sees(**dict.fromkeys(NAMES[:8], "offline"))
        watcher.until(lambda: watcher.rooms["hall"]["count"] == 0)
        back = {name: resume(server, name, session(users[name])) for name in NAMES[:4]}
        assert all(is_resumed(client) for client in back.values())
        watcher.sees(**dict.fromkeys(NAMES[:4], "away"))
        watcher.until(lambda: watcher.rooms["hall"]["count"] == 4)
        assert all(watcher.users[name]["metadata"] == {"of": name} for name in NAMES[:4])
        time.sleep(max(ended + WINDOW + 0.2 - time.monotonic(), 0))
        late = {name: resume(server, name, session(users[name])) for name in NAMES[4:8]}
        assert not any(is_resumed(client) for client in late.values())
        watcher.sees(**dict.fromkeys(NAMES[4:8], "online"))
        watcher.hears_nothing(0.1)
        assert watcher.rooms["hall"]["count"] == 4
        close_all(back, late, [watcher])


def test_a_stale_or_foreign_session_is_a_fresh_start():
    with Server(*QUICK) as server, Server(*QUICK) as other:
        ana, bob, eve = (Client(server, f"userId={user}") for user in ("ana", "bob", "eve"))
        for user in (ana, bob, eve):
            set_presence(user, "busy")
        elsewhere = Client(other, "userId=ana")
        watcher = Watcher(server)
        watcher.watch(["ana", "bob", "eve"])
        bob.send(type="DISCONNECT")
        cut(eve)
        watcher.sees(bob="offline")
        genuine = session(ana)
        forged = genuine[:-1] + ("A" if genuine[-1] != "A" else "B")
        for text in ("", "x", "ä", "x" * 3000, genuine + "A", genuine[1:], forged, session(bob), session(elsewhere)):
            with resume(server, "ana", text) as client:
                assert is_resumed(client) is False, text
                assert client.is_alive() and ana.is_alive()
        # A session that ended by DISCONNECT is not kept; one that is not the user's takes no place of the user's.
        with resume(server, "bob", session(bob)) as client:
            assert is_resumed(client) is False
            watcher.sees(bob="online")
        watcher.sees(bob="offline")
        with resume(server, "eve", genuine) as client:
            assert is_resumed(client) is False
            watcher.hears_nothing(0.2)
            # Eve's own connection is in its grace and busy; the fresh one is online.
            watcher.sees(eve="online")
        close_all([ana, elsewhere, watcher])


def test_a_session_with_a_status_has_that_status():
    with Server(*QUICK) as server:
        users = crowd(server, NAMES[:6])
        for name, user in users.items():
            set_presence(user, "busy", metadata={"of": name})
            join(user, "hall")
        watcher = Watcher(server)
        watcher.watch(NAMES[:6], ["hall"])
        back = {name: resume(server, name, session(users[name]), "&status=away") for name in NAMES[:6]}
        assert all(is_resumed(client) for client in back.values())
        watcher.sees(**dict.fromkeys(NAMES[:6], "away"))
        for name in NAMES[:6]:
            assert watcher.users[name]["metadata"] == {"of": name}
        assert watcher.rooms["hall"]["count"] == 6
        close_all(users, back, [watcher])


def test_a_resumed_connection_keeps_its_place_among_equals():
    with Server(*QUICK) as server:
        watcher = Watcher(server)
        first, second = Client(server, "userId=ana"), Client(server, "userId=ana")
        watcher.watch(["ana"])
        for client, n in [(first, 1), (second, 2)]:
            set_presence(client, "busy", metadata={"n": n})
            watcher.until(lambda n=n: watcher.users["ana"].get("metadata") == {"n": n})
        with resume(server, "ana", session(first)) as again:
            assert is_resumed(again)
            watcher.hears_nothing()
            update(again, "busy", metadata={"n": 3})
            watcher.until(lambda: watcher.users["ana"].get("metadata") == {"n": 3})
        close_all([second, watcher])


def test_two_tabs_that_both_name_one_session_do_not_kick_each_other_for_ever():
    with Server(*QUICK) as server:
        first = Client(server)
        second = resume(server, "ana", session(first))
        assert first.closed()[0] == 4409
        # The first tab's client that comes back all the same finds its session stale, and disturbs nobody.
        third = resume(server, "ana", session(first))
        assert is_resumed(third) is False and second.is_alive() and third.is_alive()
        close_all([second, third])


def test_kept_sessions_are_bounded():
    flags = ("--shards", "4", "--offline-grace", "0", "--resume-window", "1m", "--resume-sessions-max", "4")
    with Server(*flags) as server:
        users = crowd(server, NAMES)
        for user in users.values():
            cut(user)
            time.sleep(0.02)
        time.sleep(0.2)
        back = {name: resume(server, name, session(users[name])) for name in NAMES}
        assert sum(is_resumed(client) for client in back.values()) <= 4
        close_all(back)
