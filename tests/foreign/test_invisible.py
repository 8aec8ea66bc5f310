"""Invisible users cannot be told from those who are offline, by anybody but themselves."""

import time

from clients import Client
from server import Server
from watching import QUICK, Watcher, close_all, crowd, cut, join, leave, seconds, set_presence, update

NAMES = [f"user-{number}" for number in range(12)]


def test_who_turns_invisible_goes_offline_for_everybody_else():
    with Server(*QUICK) as server:
        users = crowd(server, NAMES)
        for user in users.values():
            set_presence(user, "busy", metadata={"secret": 1})
            join(user, "hall")
        watchers = [Watcher(server, f"userId=watcher-{number}") for number in range(4)]
        for watcher in watchers:
            watcher.watch(NAMES, ["hall", {"room": "den", "detail": "count"}])
        began = time.time()
        for name in NAMES[:8]:
            set_presence(users[name], "invisible")
        for watcher in watchers:
            watcher.sees(**dict.fromkeys(NAMES[:8], "offline"))
            watcher.until(lambda: watcher.rooms["hall"]["count"] == 4)
            assert watcher.members("hall") == set(NAMES[8:])
            for name in NAMES[:8]:
                told = watcher.users[name]
                assert told["since"] == told["lastSeen"] and -0.1 < seconds(told["since"]) - began < 1, told
        # Whatever they do from then on, nobody hears of it.
        before = dict(watchers[0].users)
        late = Watcher(server, "userId=late")
        cursor = late.watch(NAMES, ["hall"]).cursor
        for name in NAMES[:8]:
            users[name].is_alive()
            set_presence(users[name], "invisible", metadata={"secret": 2})
            join(users[name], "den")
            leave(users[name], "hall")
            join(users[name], "hall")
        more = crowd(server, NAMES[:4], "&status=busy")
        for user in more.values():
            join(user, "den")
        time.sleep(0.2)
        close_all(more)
        for name in NAMES[4:6]:
            users[name].send(type="DISCONNECT")
        for name in NAMES[6:8]:
            cut(users[name])
        for watcher in watchers:
            watcher.hears_nothing(0.2)
        time.sleep(1.5)
        for watcher in watchers:
            watcher.hears_nothing(0.05)
        with Watcher(server, "userId=later") as later:
            state = later.watch(NAMES, ["hall", "den"])
            assert {name: state.users[name] for name in NAMES[:8]} == {name: before[name] for name in NAMES[:8]}
            assert set(state.rooms["hall"]["members"]) == set(NAMES[8:])
            assert state.rooms["den"]["count"] == 0 and not state.rooms["den"]["members"]
        with Watcher(server, "userId=since", keeps=late) as again:
            state = again.watch(NAMES, ["hall"], since=cursor)
            assert all(presence == before[name] for name, presence in state.users.items()), state.users
        # Visible again they are members of the rooms that they joined meanwhile.
        for name in NAMES[:4]:
            update(users[name], "away")
        for watcher in watchers:
            watcher.sees(**dict.fromkeys(NAMES[:4], "away"))
            watcher.until(lambda: watcher.rooms["hall"]["count"] == 8 and watcher.rooms["den"]["count"] == 4)
            assert watcher.users[NAMES[0]]["metadata"] == {"secret": 2}
        close_all(users, watchers, [late])


def test_who_comes_invisible_stays_as_it_was_told_before():
    with Server(*QUICK, "--offline-grace", "0") as server:
        known = crowd(server, NAMES[:6])
        for user in known.values():
            user.send(type="DISCONNECT")
        time.sleep(0.2)
        watchers = [Watcher(server, f"userId=watcher-{number}") for number in range(4)]
        before = [watcher.watch(NAMES, ["hall"]).users for watcher in watchers]
        assert before[0][NAMES[6]] == {"userId": NAMES[6], "status": "offline"}
        assert "lastSeen" in before[0][NAMES[0]]
        hidden = crowd(server, NAMES, "&status=invisible")
        beside = crowd(server, NAMES[:3], "&status=busy")
        for user in [*hidden.values(), *beside.values()]:
            join(user, "hall")
            user.is_alive()
        for watcher, seen in zip(watchers, before, strict=True):
            watcher.hears_nothing(0.2)
            state = watcher.watch(NAMES, ["hall"])
            assert state.users == seen, (state.users, seen)
            # Nor does the order of what is told know them.
            assert list(state.users) == list(seen)
            assert state.rooms["hall"]["count"] == 0
        for user in beside.values():
            user.send(type="DISCONNECT")
            assert user.closed()[0] == 1000
        time.sleep(0.1)
        for user in hidden.values():
            user.send(type="DISCONNECT")
        for watcher, seen in zip(watchers, before, strict=True):
            watcher.hears_nothing(0.3)
            assert watcher.watch(NAMES).users == seen
        close_all(watchers)


def test_who_was_forgotten_and_comes_invisible_is_as_never_seen():
    with Server(*QUICK, "--last-seen-capacity", "0", "--offline-grace", "0") as server:
        watcher = Watcher(server)
        users = crowd(server, NAMES)
        watcher.watch(NAMES)
        for name in NAMES[:6]:
            users[name].send(type="DISCONNECT")
        for name in NAMES[6:]:
            set_presence(users[name], "invisible")
        watcher.sees(**dict.fromkeys(NAMES, "offline"))
        state = watcher.watch(NAMES)
        assert all(presence == {"userId": name, "status": "offline"} for name, presence in state.users.items()), state
        close_all(users, [watcher])


def test_ones_own_connections_see_invisible_and_are_no_members():
    with Server(*QUICK) as server:
        for name in NAMES:
            own = Watcher(server, f"userId={name}")
            other = Watcher(server, "userId=other")
            own.watch([name, "other"], ["hall"])
            other.watch([name], ["hall"])
            second = Client(server, f"userId={name}&status=busy")
            join(second, "hall")
            own.until(lambda: own.rooms["hall"]["count"] == 1)
            other.sees(**{name: "busy"})
            set_presence(second, "invisible", metadata={"mine": 1})
            own.sees(**{name: "invisible"})
            assert own.users[name]["metadata"] == {"mine": 1}
            own.until(lambda: own.rooms["hall"]["count"] == 0)
            other.sees(**{name: "offline"})
            since = own.users[name]["since"]
            update(second, "invisible", metadata={"mine": 2})
            own.until(lambda: own.users[name].get("metadata") == {"mine": 2})
            assert own.users[name]["since"] == since
            other.hears_nothing(0.05)
            third = Watcher(server, f"userId={name}")
            assert third.watch([name]).status(name) == "invisible"
            second.send(type="DISCONNECT")
            for watcher in (own, third, other):
                watcher.sees(**{name: "online"})
            close_all([own, other, third])


def test_an_invisible_session_stays_invisible_through_grace_and_resume():
    with Server(*QUICK) as server:
        users = crowd(server, NAMES[:6])
        watcher = Watcher(server)
        watcher.watch(NAMES, ["hall"])
        for user in users.values():
            join(user, "hall")
            set_presence(user, "invisible")
        watcher.sees(**dict.fromkeys(NAMES[:6], "offline"))
        watcher.until(lambda: watcher.rooms["hall"]["count"] == 0)
        for user in users.values():
            cut(user)
        time.sleep(0.1)
        plain = crowd(server, NAMES[:3])
        resumed = {
            name: Client(server, f"userId={name}&session={users[name].welcome['payload']['sessionId']}")
            for name in NAMES[3:6]
        }
        assert all(client.welcome["payload"]["resumed"] for client in resumed.values())
        watcher.hears_nothing(1.3)
        for user in [*plain.values(), *resumed.values()]:
            update(user, "online")
        watcher.sees(**dict.fromkeys(NAMES[:6], "online"))
        watcher.until(lambda: watcher.rooms["hall"]["count"] == 6)
        close_all(plain, resumed, [watcher])
