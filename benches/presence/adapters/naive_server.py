"""The server of the adapter `naive`: `naive_server.py PORT`."""

import asyncio
import collections
import json
import sys

import websockets

sockets = collections.defaultdict(set)
watchers = collections.defaultdict(set)
marks = {}


def view(user):
    return user, bool(sockets[user]), marks.get(user)


def tell(user):
    websockets.broadcast(watchers[user], json.dumps([view(user)]))


async def serve(socket):
    user, watched = socket.request.path[1:], []
    sockets[user].add(socket)
    await socket.send("[]")
    tell(user)
    try:
        async for text in socket:
            message = json.loads(text)
            if "watch" in message:
                watched += message["watch"]
                for other in message["watch"]:
                    watchers[other].add(socket)
                await socket.send(json.dumps([view(other) for other in message["watch"]]))
            else:
                marks[user] = message["mark"]
                tell(user)
    except websockets.ConnectionClosed:
        pass
    finally:
        sockets[user].discard(socket)
        for other in watched:
            watchers[other].discard(socket)
        tell(user)


async def main():
    async with websockets.serve(serve, "127.0.0.1", int(sys.argv[1]), compression=None):
        await asyncio.Future()


asyncio.run(main())
