"""A client that watches: it keeps what it was told, and holds every message to the protocol as it comes."""

import contextlib
import copy
import datetime
import json
import re
import time

from clients import Client
from server import PATIENCE

TIMESTAMP = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$")
MESSAGE_BYTES_MAX = 65_536

# Short enough for tests, long enough that a busy machine does not decide them.
GRACE = 1.0
WINDOW = 2.5
QUICK = ("--shards", "4", "--change-interval", "20ms", "--offline-grace", "1s", "--resume-window", "2500ms")
# What is caused has been told after so long, unless the machine stands still.
A_WHILE = 0.3


def seconds(timestamp):
    """A timestamp as seconds since 1970."""
    assert TIMESTAMP.match(timestamp), timestamp
    return datetime.datetime.fromisoformat(timestamp).timestamp()


def check_presence(presence):
    """Holds a presence to its shape."""
    kind = presence["status"]
    assert isinstance(presence["userId"], str), presence
    if kind == "offline":
        assert set(presence) in ({"userId", "status"}, {"userId", "status", "since", "lastSeen"}), presence
        if "since" in presence:
            assert seconds(presence["lastSeen"]) <= seconds(presence["since"]), presence
    else:
        assert kind in ("online", "away", "busy", "invisible"), presence
        assert set(presence) - {"metadata"} == {"userId", "status", "since"}, presence
        assert isinstance(presence.get("metadata", {}), dict), presence
        seconds(presence["since"])


def check_names(names):
    assert len(set(names)) == len(names), f"named twice in one message: {names}"


class State:
    """What one WATCH was answered with, its messages put together."""

    def __init__(self):
        self.users, self.rooms, self.messages = {}, {}, 0
        self.cursor = self.complete = None

    def status(self, user):
        return self.users[user]["status"]


class Watcher(Client):
    """Keeps users and rooms as the messages say, and reads the messages strictly."""

    def __init__(self, server, query="userId=watcher", keeps=None, **options):
        """`keeps` is an earlier watcher whose view this one goes on with."""
        self.users, self.rooms = copy.deepcopy((keeps.users, keeps.rooms) if keeps else ({}, {}))
        self.watched_users, self.watched_rooms = set(), set()
        self.cursor = None
        self.others = []
        self.begun = None
        super().__init__(server, query, **options)

    def watch(self, users=(), rooms=(), since=None, id="watch"):
        """Watches, and waits for the whole state."""
        self.ask_to_watch(users, rooms, since, id)
        while True:
            state = self.hear()
            if isinstance(state, State) and state.id == id:
                return state

    def ask_to_watch(self, users=(), rooms=(), since=None, id="watch"):
        payload = {"users": list(users), "rooms": list(rooms)} | ({} if since is None else {"since": since})
        self.watched_users |= set(users)
        self.watched_rooms |= {room if isinstance(room, str) else room["room"] for room in rooms}
        self.send(type="WATCH", payload=payload, **({} if id is None else {"id": id}))

    def unwatch(self, users=(), rooms=()):
        self.send(type="UNWATCH", id="unwatch", payload={"users": list(users), "rooms": list(rooms)})
        while self.hear() != {"type": "ACK", "id": "unwatch"}:
            pass
        for user in users:
            self.watched_users.discard(user)
            self.users.pop(user, None)
        for room in rooms:
            self.watched_rooms.discard(room)
            self.rooms.pop(room, None)

    def acknowledged(self, kind, **payload):
        """Sends a message, and waits for its ACK; what comes before it is taken in."""
        self.send(type=kind, id=kind, payload=payload)
        while self.hear() != {"type": "ACK", "id": kind}:
            pass

    def hear(self, within=PATIENCE):
        """Takes in the next message: a payload of changes, a whole State, or type and id of anything else."""
        until = time.monotonic() + within
        while True:
            text = self.socket.recv(timeout=max(until - time.monotonic(), 0))
            message = json.loads(text)
            if message["type"] == "PRESENCE_STATE":
                assert len(text.encode()) < MESSAGE_BYTES_MAX, len(text)
                if state := self.take_state(message):
                    return state
            elif message["type"] == "PRESENCE_CHANGE":
                assert len(text.encode()) < MESSAGE_BYTES_MAX, len(text)
                assert self.begun is None, f"a change inside a state: {message}"
                self.take_change(message)
                return message["payload"]
            else:
                seconds(message["timestamp"])
                said = {key: message[key] for key in ("type", "id") if key in message}
                if message["type"] == "ERROR":
                    said["code"] = message["payload"]["code"]
                return said

    def hear_all(self, quiet=A_WHILE):
        """Everything that comes until nothing has come for a while."""
        heard = []
        with contextlib.suppress(TimeoutError):
            while True:
                heard.append(self.hear(quiet))
        return heard

    def hears_nothing(self, quiet=A_WHILE):
        heard = self.hear_all(quiet)
        assert heard == [], heard

    def until(self, holds, within=PATIENCE):
        """Hears until `holds()` is true."""
        began = time.monotonic()
        while not holds():
            left = within - (time.monotonic() - began)
            try:
                self.hear(left)
            except TimeoutError:
                raise AssertionError(f"not in {within} s: {self.users} {self.rooms}") from None

    def sees(self, **statuses):
        """Hears until the users are so."""
        self.until(lambda: all(self.users.get(user, {}).get("status") == status for user, status in statuses.items()))

    def members(self, room):
        return set(self.rooms[room]["members"])

    def take_state(self, message):
        assert set(message) - {"id"} == {"type", "timestamp", "payload"}, message
        payload = message["payload"]
        assert set(payload) - {"cursor"} == {"users", "rooms", "complete"}, payload
        if self.begun is None:
            self.begun = State()
            self.begun.id, self.begun.complete = message.get("id"), payload["complete"]
        state = self.begun
        assert (message.get("id"), payload["complete"]) == (state.id, state.complete), "states are interleaved"
        state.messages += 1
        for presence in payload["users"]:
            check_presence(presence)
            user = presence["userId"]
            assert user not in state.users and user in self.watched_users, presence
            state.users[user] = presence
            self.users[user] = presence
        for told in payload["rooms"]:
            self.take_room_state(state, told)
        if "cursor" not in payload:
            return None
        self.take_cursor(payload["cursor"])
        state.cursor, self.begun = payload["cursor"], None
        return state

    def take_room_state(self, state, told):
        assert set(told) - {"members", "left", "truncated"} == {"room", "count"}, told
        room, members, left = told["room"], told.get("members", []), told.get("left", [])
        assert room in self.watched_rooms, told
        names = [member["userId"] for member in members]
        check_names(names + left)
        merged = state.rooms.setdefault(room, {"members": {}, "left": []})
        merged["count"], merged["truncated"] = told["count"], told.get("truncated", False)
        assert not set(names + left) & (set(merged["members"]) | set(merged["left"])), told
        merged["names"] = merged.get("names", False) or "members" in told
        for member in members:
            check_presence(member)
            assert member["status"] not in ("offline", "invisible"), member
            merged["members"][member["userId"]] = member
        merged["left"] += left
        known = {} if state.complete else self.rooms.get(room, {}).get("members") or {}
        known = {user: presence for user, presence in known.items() if user not in merged["left"]}
        kept = known | merged["members"]
        truncated = told.get("truncated", False)
        self.rooms[room] = {"count": told["count"], "members": kept, "truncated": truncated}
        for user in merged["members"]:
            if user in self.users:
                self.users[user] = merged["members"][user]

    def take_change(self, message):
        assert set(message) == {"type", "timestamp", "payload"}, message
        payload = message["payload"]
        assert set(payload) == {"users", "rooms", "cursor"}, payload
        assert payload["users"] or payload["rooms"], "a change that tells nothing"
        check_names([presence["userId"] for presence in payload["users"]])
        check_names([told["room"] for told in payload["rooms"]])
        for presence in payload["users"]:
            check_presence(presence)
            user, shown = presence["userId"], 0
            if user in self.watched_users:
                assert presence != self.users.get(user), f"told again: {presence}"
                self.users[user] = presence
                shown = 1
            for room in self.rooms.values():
                if user in (room["members"] or {}):
                    assert presence["status"] not in ("offline", "invisible") or user in self.watched_users, presence
                    room["members"][user] = presence
                    shown = 1
            assert shown, f"not watched: {presence}"
        for told in payload["rooms"]:
            self.take_room_change(told)
        self.take_cursor(payload["cursor"])

    def take_room_change(self, told):
        assert set(told) - {"joined", "left", "truncated"} == {"room", "count"}, told
        assert told["room"] in self.watched_rooms, told
        room = self.rooms[told["room"]]
        joined, left = told.get("joined", []), told.get("left", [])
        names = [presence["userId"] for presence in joined]
        check_names(names + left)
        if told.get("truncated"):
            assert not room["truncated"], f"said to be truncated twice: {told}"
            room["truncated"], room["members"] = True, None
            assert not names + left, told
        for presence in joined:
            check_presence(presence)
            assert presence["userId"] not in room["members"], f"a member joined: {told}"
            room["members"][presence["userId"]] = presence
        for user in left:
            assert user in room["members"], f"who is no member left: {told}"
            del room["members"][user]
        if names or left:
            assert told["count"] == len(room["members"]), (told, room)
        room["count"] = told["count"]

    def take_cursor(self, cursor):
        assert isinstance(cursor, str) and 0 < len(cursor.encode()) <= 64, cursor
        self.cursor = cursor


def crowd(server, names, query=""):
    """A connection for each name, all at once on whatever shards take them."""
    return {name: Client(server, f"userId={name}{query}") for name in names}


def update(client, status, **fields):
    client.send(type="PRESENCE_UPDATE", payload={"status": status} | fields)


def set_presence(client, status, **fields):
    """An update that the server has taken in."""
    said = client.ask(type="PRESENCE_UPDATE", id="set", payload={"status": status} | fields)
    assert said["type"] == "ACK", said


def join(client, room):
    said = client.ask(type="JOIN", id="join", payload={"room": room})
    assert said["type"] == "ACK", said


def leave(client, room):
    said = client.ask(type="LEAVE", id="leave", payload={"room": room})
    assert said["type"] == "ACK", said


def cut(client):
    """The connection ends as when its network goes: no close frame, no goodbye."""
    client.socket.socket.shutdown(2)
    client.socket.socket.close()


def close_all(*groups):
    for group in groups:
        for client in group.values() if isinstance(group, dict) else group:
            with contextlib.suppress(Exception):
                client.socket.close()
