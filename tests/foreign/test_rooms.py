"""Rooms: who is in them, and what their watchers are told."""

import time

from clients import Client
from server import Server
from watching import QUICK, Watcher, close_all, crowd, cut, join, leave, set_presence, update

NAMES = [f"user-{number:02}" for number in range(24)]
# Enough for every partition to have one.
ROOMS = [f"room {number} é" for number in range(12)]


def test_members_come_go_and_change_in_rooms_of_all_shards():
    with Server(*QUICK) as server:
        users = crowd(server, NAMES)
        for number, name in enumerate(NAMES):
            join(users[name], ROOMS[number % len(ROOMS)])
        watchers = [Watcher(server, f"userId=watcher-{number}") for number in range(6)]
        for watcher in watchers:
            state = watcher.watch(rooms=ROOMS)
            for number, room in enumerate(ROOMS):
                assert state.rooms[room]["count"] == 2
                assert set(state.rooms[room]["members"]) == {NAMES[number], NAMES[number + len(ROOMS)]}
                assert not state.rooms[room]["truncated"] and state.rooms[room]["left"] == []
        # Watchers need not be members, and members are told nothing that they do not watch.
        for number, name in enumerate(NAMES):
            join(users[name], ROOMS[(number + 1) % len(ROOMS)])
        for watcher in watchers:
            watcher.until(lambda: all(room["count"] == 4 == len(room["members"]) for room in watcher.rooms.values()))
        # A change of status is a change, once, however many rooms show it.
        update(users[NAMES[0]], "busy", metadata={"a": 1})
        for watcher in watchers:
            (change,) = watcher.hear_all(0.2)
            assert [presence["userId"] for presence in change["users"]] == [NAMES[0]] and change["rooms"] == [], change
        for name in NAMES:
            assert users[name].ask(type="HEARTBEAT", id=1)["type"] == "HEARTBEAT_ACK"
        leave(users[NAMES[0]], ROOMS[0])
        users[NAMES[1]].send(type="DISCONNECT")
        for watcher in watchers:
            watcher.until(lambda: watcher.rooms[ROOMS[0]]["count"] == 3)
            watcher.until(lambda: watcher.rooms[ROOMS[1]]["count"] == watcher.rooms[ROOMS[2]]["count"] == 3)
            assert NAMES[0] not in watcher.members(ROOMS[0]) and NAMES[0] in watcher.members(ROOMS[1])
            # Who went offline has left, and nothing else is said of it where rooms alone are watched.
            assert NAMES[1] not in watcher.users
        close_all(users, watchers)


def test_a_user_is_a_member_while_any_of_its_connections_is():
    with Server(*QUICK) as server:
        watcher = Watcher(server)
        watcher.watch(["ana"], ["hall"])
        first, second = Client(server, "userId=ana"), Client(server, "userId=ana&status=away")
        join(first, "hall")
        join(first, "hall")
        watcher.until(lambda: watcher.rooms["hall"]["count"] == 1)
        join(second, "hall")
        leave(first, "hall")
        watcher.hears_nothing()
        join(first, "hall")
        second.send(type="DISCONNECT")
        watcher.hears_nothing()
        leave(first, "hall")
        watcher.until(lambda: watcher.rooms["hall"] == {"count": 0, "members": {}, "truncated": False})
        assert watcher.users["ana"]["status"] == "online"
        close_all([first, watcher])


def test_a_member_in_its_grace_is_a_member():
    with Server(*QUICK) as server:
        watcher = Watcher(server)
        ana, bob = Client(server, "userId=ana"), Client(server, "userId=bob")
        join(ana, "hall")
        join(bob, "hall")
        watcher.watch(rooms=["hall"])
        # An ACK says that a JOIN is on its way: the room may hear of it after it was asked who is there.
        watcher.until(lambda: watcher.rooms["hall"]["count"] == 2)
        cut(ana)
        watcher.hears_nothing(0.5)
        with Watcher(server, "userId=late") as late:
            assert set(late.watch(rooms=["hall"]).rooms["hall"]["members"]) == {"ana", "bob"}
        watcher.until(lambda: watcher.rooms["hall"]["count"] == 1)
        assert watcher.members("hall") == {"bob"}
        close_all([bob, watcher])


def test_a_count_tells_no_names_and_comes_once_a_second():
    with Server(*QUICK) as server:
        users = crowd(server, NAMES)
        watchers = [Watcher(server, f"userId=watcher-{number}") for number in range(4)]
        both = Watcher(server, "userId=both")
        both.watch(rooms=["hall"])
        for watcher in watchers:
            state = watcher.watch(rooms=[{"room": "hall", "detail": "count"}])
            assert state.rooms["hall"] == {"count": 0, "truncated": False, "members": {}, "left": [], "names": False}
        began = time.monotonic()
        for name in NAMES:
            join(users[name], "hall")
            update(users[name], "busy")
            time.sleep(0.1)
        for watcher in watchers:
            heard = []
            while watcher.rooms["hall"]["count"] < len(NAMES):
                change = watcher.hear()
                assert change["users"] == [] and set(change["rooms"][0]) == {"room", "count"}, change
                heard.append(change)
            assert len(heard) <= (time.monotonic() - began) + 1, f"{len(heard)} counts in less than as many seconds"
        both.until(lambda: both.rooms["hall"]["count"] == len(NAMES) == len(both.members("hall")))
        # Asked again in full it is told in full, and the other way round.
        state = watchers[0].watch(rooms=["hall"])
        assert set(state.rooms["hall"]["members"]) == set(NAMES)
        both.watch(rooms=[{"room": "hall", "detail": "count"}])
        leave(users[NAMES[0]], "hall")
        watchers[0].until(lambda: NAMES[0] not in watchers[0].members("hall"))
        change = both.hear()
        assert change["rooms"] == [{"room": "hall", "count": len(NAMES) - 1}], change
        close_all(users, watchers, [both])


def test_a_room_past_the_limit_is_told_as_a_count_until_it_is_small_again():
    with Server(*QUICK, "--room-detail-limit", "10") as server:
        users = crowd(server, NAMES)
        watchers = [Watcher(server, f"userId=watcher-{number}") for number in range(4)]
        for watcher in watchers:
            watcher.watch(rooms=["hall"])
        for name in NAMES[:10]:
            join(users[name], "hall")
        for watcher in watchers:
            watcher.until(lambda: len(watcher.members("hall")) == 10)
        for name in NAMES[10:20]:
            join(users[name], "hall")
        for watcher in watchers:
            # `truncated` comes once; Watcher holds that, and that nobody is named behind it.
            watcher.until(lambda: watcher.rooms["hall"]["count"] == 20)
            assert watcher.rooms["hall"]["truncated"]
        update(users[NAMES[0]], "busy")
        for watcher in watchers:
            watcher.hears_nothing(0.2)
        # A snapshot has the first by name, in order of userId.
        with Watcher(server, "userId=late") as late:
            hall = late.watch(rooms=["hall"]).rooms["hall"]
            assert list(hall["members"]) == NAMES[:10] and hall["truncated"] and hall["count"] == 20, hall
            assert hall["members"][NAMES[0]]["status"] == "busy"
        # Nine tenths are not below nine tenths.
        for name in NAMES[9:20]:
            leave(users[name], "hall")
        for watcher in watchers:
            watcher.until(lambda: watcher.rooms["hall"]["count"] == 9)
            assert watcher.rooms["hall"]["truncated"]
        leave(users[NAMES[8]], "hall")
        for watcher in watchers:
            watcher.until(lambda: not watcher.rooms["hall"]["truncated"])
            assert watcher.members("hall") == set(NAMES[:8]) and watcher.rooms["hall"]["count"] == 8
            assert watcher.rooms["hall"]["members"][NAMES[0]]["status"] == "busy"
        join(users[NAMES[20]], "hall")
        for watcher in watchers:
            watcher.until(lambda: NAMES[20] in watcher.members("hall"))
        close_all(users, watchers)


def test_who_left_and_came_back_before_it_is_told_has_changed_at_most():
    with Server("--shards", "4", "--change-interval", "400ms") as server:
        users = crowd(server, NAMES[:8])
        for user in users.values():
            join(user, "hall")
        watchers = [Watcher(server, f"userId=watcher-{number}") for number in range(4)]
        for watcher in watchers:
            watcher.watch(rooms=["hall"])
        for number, user in enumerate(users.values()):
            leave(user, "hall")
            if number % 2:
                set_presence(user, "away")
            join(user, "hall")
        stranger = Client(server, "userId=stranger")
        join(stranger, "hall")
        leave(stranger, "hall")
        for watcher in watchers:
            change = watcher.hear()
            assert {presence["userId"] for presence in change["users"]} == set(NAMES[1:8:2]), change
            assert change["rooms"] == [], change
            watcher.hears_nothing(0.1)
        close_all(users, watchers, [stranger])


def test_a_room_that_is_watched_no_more_says_nothing():
    with Server(*QUICK) as server:
        users = crowd(server, NAMES[:8])
        watcher = Watcher(server)
        watcher.watch([NAMES[0]], ["hall", "den"])
        watcher.unwatch(rooms=["hall", "never"])
        for user in users.values():
            join(user, "hall")
            update(user, "busy")
        watcher.sees(**{NAMES[0]: "busy"})
        watcher.hears_nothing()
        assert watcher.watch(rooms=["hall"]).rooms["hall"]["count"] == 8
        # Whose room alone was watched is told of no more either.
        watcher.unwatch([NAMES[0]], ["hall"])
        for user in users.values():
            update(user, "away")
        watcher.hears_nothing()
        # Watched, let go of and watched again in one breath, it is told as the last WATCH asks.
        cursor = watcher.cursor
        watcher.rooms["hall"] = {"count": 8, "members": {}, "truncated": False}
        for round in range(16):
            name = NAMES[round % 8]
            leave(users[name], "hall")
            # Its room's partition need not be on its shard.
            time.sleep(0.02)
            watcher.send(type="WATCH", id=0, payload={"rooms": ["hall"]})
            watcher.send(type="UNWATCH", payload={"rooms": ["hall"]})
            state = watcher.watch(rooms=["hall"], since=cursor)
            assert (state.complete, state.rooms["hall"]["left"]) == (False, [name]), state.rooms
            join(users[name], "hall")
            watcher.unwatch(rooms=["hall"])
        close_all(users, [watcher])
