#!/usr/bin/env python3
"""Well-behaved clients, a process of their own: PyPI's websockets, each with a heartbeat every so often.

    crowd.py URL CLIENTS INTERVAL_SECONDS

Each line on standard input is answered by one of JSON: how many are there, how many were lost, what was answered.
A client is lost when its connection ends, or when a heartbeat has no answer, or a wrong one, within PATIENCE.
"""

import asyncio
import json
import os
import random
import ssl
import sys
import time

import websockets
from websockets.asyncio.client import connect

PATIENCE = 15
# Below what one address may open in a second; the addresses are spread so that this is not what is tested.
OPENED_PER_SECOND = 200
ADDRESSES = [f"127.0.1.{last}" for last in range(1, 11)]


class Crowd:
    def __init__(self, url, clients, interval):
        self.url, self.clients, self.interval = url, clients, interval
        self.alive = self.lost = self.answered = 0
        self.slowest = 0.0
        self.reasons = []
        # On a busy machine whoever opens with all the others at once is too slow for `handshake_timeout`.
        self.opening = asyncio.Semaphore(10)

    def report(self):
        slowest, self.slowest = self.slowest, 0.0
        return {
            "alive": self.alive,
            "lost": self.lost,
            "answered": self.answered,
            "slowest_ms": round(slowest * 1000, 1),
            "reasons": self.reasons[:5],
        }

    async def client(self, number):
        await asyncio.sleep(number / OPENED_PER_SECOND)
        try:
            # Whose certificate it is does not matter here.
            secure = {"ssl": ssl._create_unverified_context()} if self.url.startswith("wss:") else {}
            options = secure | {"compression": None, "ping_interval": None, "open_timeout": PATIENCE, "proxy": None}
            address = (ADDRESSES[number % len(ADDRESSES)], 0)
            async with self.opening:
                socket = await connect(f"{self.url}?userId=crowd-{number}", local_addr=address, **options)
            async with socket:
                assert json.loads(await socket.recv())["type"] == "CONNECT"
                self.alive += 1
                try:
                    await self.heartbeats(socket)
                finally:
                    self.alive -= 1
        except (OSError, AssertionError, TimeoutError, websockets.WebSocketException) as error:
            self.lost += 1
            self.reasons.append(f"{number}: {error!r}")

    async def heartbeats(self, socket):
        await asyncio.sleep(random.random() * self.interval)
        while True:
            began = time.monotonic()
            await socket.send('{"type":"HEARTBEAT"}')
            answer = json.loads(await asyncio.wait_for(socket.recv(), PATIENCE))
            assert answer["type"] == "HEARTBEAT_ACK", answer
            self.answered += 1
            took = time.monotonic() - began
            self.slowest = max(self.slowest, took)
            await asyncio.sleep(max(0, self.interval - took))

    async def run(self):
        tasks = [asyncio.create_task(self.client(number)) for number in range(self.clients)]
        loop, orders = asyncio.get_running_loop(), asyncio.StreamReader()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
        while await orders.readline():
            print(json.dumps(self.report()), flush=True)
        # A thousand closing handshakes would only take their time.
        os._exit(0)


if __name__ == "__main__":
    asyncio.run(Crowd(sys.argv[1], int(sys.argv[2]), float(sys.argv[3])).run())
