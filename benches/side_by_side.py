"""Servers in turn on one core, the load program on another: what benches/figures and benches/compare/run share.

A machine is never quite still, so no figure stands alone: each run of a server is held against runs of the floor before
and after it, and what is told is the median and the range of these ratios.
"""

import contextlib
import datetime
import json
import os
import pathlib
import platform
import re
import resource
import socket
import statistics
import subprocess
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
ROLLCALL = ROOT / "target/release/rollcall"
FLOOR = ROOT / "target/release/examples/floor"
SERVER_CORE, LOAD_CORE = 0, 1
# Below the ports that connections come from.
PORT_FIRST = 21_300
# What one descriptor table may have, here as on the machines that the bars were set for.
DESCRIPTORS = 20_000
START_SECONDS = 20

ports = iter(range(PORT_FIRST, 32_000))


def raise_descriptor_limit():
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class Server:
    """A process that listens on `port`, on the server's core alone unless `pinned` is false."""

    def __init__(self, command, port, pinned=True, environment=None):
        self.port = port
        command = [str(word) for word in command]
        if pinned:
            command = ["taskset", "-c", str(SERVER_CORE), *command]
        self.process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ | (environment or {})
        )
        self.pid = self.process.pid
        give_up = time.monotonic() + START_SECONDS
        while not self.listens():
            if self.process.poll() is not None or time.monotonic() > give_up:
                self.stop()
                raise RuntimeError(f"{' '.join(command)} does not listen on port {port}")
            time.sleep(0.05)

    def listens(self):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
            return True
        return False

    def stop(self):
        self.process.kill()
        self.process.wait()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()


class Rollcall(Server):
    """Rollcall with `flags`, one shard unless they say otherwise."""

    def __init__(self, *flags, shards=1, pinned=True):
        port, self.control = next(ports), next(ports)
        given = [f"--listen=127.0.0.1:{port}", f"--control-listen=127.0.0.1:{self.control}", "--log-level=error"]
        if shards:
            given.append(f"--shards={shards}")
        super().__init__([ROLLCALL, "serve", *given, *flags], port, pinned)

    def metrics(self):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.control}/metrics", timeout=10) as answer:
            return answer.read().decode()


def floor():
    port = next(ports)
    return Server([FLOOR, "--listen", f"127.0.0.1:{port}"], port)


def load(server, *flags, pinned=True):
    """The report of `rollcall load` against a server; with failures in it, none at all."""
    pin = ["--pin", str(LOAD_CORE)] if pinned else []
    command = [str(ROLLCALL), "load", f"ws://127.0.0.1:{server.port}/", "--json", "--quiet", *pin]
    command += ["--server-pid", str(server.pid), *(str(flag) for flag in flags)]
    told = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False)
    if told.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} ended with {told.returncode}: {told.stdout}{told.stderr}")
    return json.loads(told.stdout)


def samples(text, name):
    """What the metrics text says under a name, by the labels as they stand there."""
    return {labels: float(value) for labels, value in re.findall(rf"^{name}({{[^}}]*}})? (\S+)$", text, flags=re.M)}


def closed_normally(text):
    """How many connections have ended as they were asked to, by the metrics text: a load has begun to go."""
    return samples(text, "rollcall_closes_total")['{code="1000"}']


def system_calls(server, seconds):
    """System calls of a server for each that sends; None where the kernel's tracepoints cannot be had."""
    sends = [f"syscalls:sys_enter_{name}" for name in ("sendto", "sendmsg", "write", "writev")]
    events = ",".join(["raw_syscalls:sys_enter", *sends])
    command = ["perf", "stat", "-x,", "-e", events, "-p", str(server.pid), "sleep", str(seconds)]
    try:
        told = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
    except FileNotFoundError:
        return None
    counted = [int(count) for count in re.findall(r"^(\d+),", told.stderr, flags=re.M)]
    if told.returncode != 0 or len(counted) != 1 + len(sends) or not any(counted[1:]):
        return None
    return counted[0] / sum(counted[1:])


def spread(values, digits=2):
    """Median and range of some values, as text."""
    values = sorted(values)
    return f"{statistics.median(values):.{digits}f} ({values[0]:.{digits}f} to {values[-1]:.{digits}f})"


def alternate(runs, of_floor, of_server):
    """Runs the server between two runs of the floor, `runs` times: what each returned, and the floor's mean beside.

    The floor's run after one of the server's is the one before the next.
    """
    pairs, before = [], of_floor()
    for _ in range(runs):
        measured = of_server()
        after = of_floor()
        pairs.append((measured, before, after))
        before = after
    return pairs


def ratios(pairs, value):
    """The server's value over the mean of the floor's before and after, for each pair."""
    return [value(measured) / ((value(before) + value(after)) / 2) for measured, before, after in pairs]


def machine():
    """The date and the machine, in one line."""
    model = "unknown processor"
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="ascii") as told:
        model = next((line.split(":")[1].strip() for line in told if line.startswith("model name")), model)
    with open("/proc/meminfo", encoding="ascii") as told:
        kilobytes = int(next(line for line in told if line.startswith("MemTotal")).split()[1])
    kernel = platform.release().split("-")[0]
    cores = len(os.sched_getaffinity(0))
    return f"{datetime.date.today()}, {model}, {cores} cores, {kilobytes / 2**20:.0f} GiB, Linux {kernel}"


def table(head, rows):
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)
