#!/usr/bin/env python3
"""Counts the instructions of one command by callgrind: the difference of two runs of different length.

    python3 benches/instructions.py target/release/libredis_deploy.so [AGENTS [COMMAND]]

It needs valgrind and redis-server. The count covers the whole server: parsing, the command, replication without
replicas. COMMAND is one of

    report    DEPLOY.REPORT changes the state of one of AGENTS (20) agents and publishes one event without subscribers
    session   DEPLOY.RESOLVE ... SESSION id, another one each time, among as many service instances
    json      the same with JSON
    get       GET of a string that is the reply of the latter
"""
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time

RUNS = (2_000, 6_000)
PIPELINE = 500


def encode(*words):
    words = [str(word).encode() for word in words]
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)


def read_reply(stream):
    line = stream.readline()
    if line[:1] == b"$":
        length = int(line[1:])
        return stream.read(length + 2) if length >= 0 else None
    if line[:1] in (b"*", b"%"):
        return [read_reply(stream) for _ in range(int(line[1:]) * (2 if line[:1] == b"%" else 1))]
    if line[:1] in (b"+", b":"):
        return line
    sys.exit(f"unexpected reply: {line}")


def connect(port):
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            return socket.create_connection(("127.0.0.1", port))
        except OSError:
            time.sleep(0.1)
    sys.exit("the server did not start")


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def count_instructions(library, agents, command, calls):
    """Returns the instructions of a server's whole life with this number of calls."""
    folder, port = tempfile.mkdtemp(), free_port()
    profile = os.path.join(folder, "callgrind.out")
    process = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={profile}", "redis-server", "--port", str(port)]
    process += ["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", folder, "--loadmodule", library]
    # As few ticks of the server's own as possible: on a busy machine there are more of them.
    process += ["--hz", "1", "--dynamic-hz", "no"]
    server = subprocess.Popen(process, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        connection = connect(port)
        stream = connection.makefile("rb")

        def call(*words):
            connection.sendall(encode(*words))
            return read_reply(stream)

        nodes = ",".join(f'{{"node_id":"agent-{i}","services":[]}}' for i in range(agents))
        deadlines = ("MIN_HEALTHY_MS", 10**8, "HEALTHY_DEADLINE_MS", 2 * 10**8, "PROGRESS_DEADLINE_MS", 3 * 10**8)
        call("DEPLOY.DEPLOY", "app", "MANIFEST", f'{{"type":"service","nodes":[{nodes}]}}', *deadlines)
        for i in range(agents):
            call("DEPLOY.REPORT", "app", f"agent-{i}", "starting", "VERSION", 1, "ATTEMPT", 1)
        if command != "report":
            for i in range(agents):
                address = ("INSTANCE", f"agent-{i}-http", "ADDRESS", "10.0.0.1", "PORT", 8080)
                call("DEPLOY.REGISTER", "app", f"agent-{i}", "http", *address)
            call("SET", "entry", call("DEPLOY.RESOLVE", "app", "SESSION", "session", "JSON")[:-2].decode())
        words, is_expected = COMMANDS[command]
        for first in range(0, calls, PIPELINE):
            batch = range(first, first + PIPELINE)
            connection.sendall(b"".join(encode(*words(n, agents)) for n in batch))
            for n in batch:
                reply = read_reply(stream)
                if not is_expected(reply):
                    sys.exit(f"call {n}: unexpected reply: {reply}")
        connection.sendall(encode("SHUTDOWN", "NOSAVE"))
        server.wait(60)
        with open(profile, encoding="utf-8") as lines:
            return next(int(line.split()[1]) for line in lines if line.startswith(("summary:", "totals:")))
    finally:
        server.kill()
        server.wait()
        shutil.rmtree(folder)


def report(n, agents):
    state = ("ready", "unready")[n // agents % 2]
    return "DEPLOY.REPORT", "app", f"agent-{n % agents}", state, "VERSION", 1, "ATTEMPT", 1


def session(n, _):
    return "DEPLOY.RESOLVE", "app", "SESSION", f"session-{n:012}"


# The words of the nth call, and whether a reply is the expected one.
COMMANDS = {
    "report": (report, lambda reply: reply == b":1\r\n"),
    "session": (session, lambda reply: len(reply) == 1),
    "json": (lambda n, agents: (*session(n, agents), "JSON"), lambda reply: reply.startswith(b"[{")),
    "get": (lambda n, agents: ("GET", "entry"), lambda reply: reply.startswith(b"[{")),
}


def main():
    if len(sys.argv) not in (2, 3, 4):
        sys.exit(__doc__)
    library, agents = os.path.abspath(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 20
    command = sys.argv[3] if len(sys.argv) > 3 else "report"
    if command not in COMMANDS:
        sys.exit(__doc__)
    short, long = (count_instructions(library, agents, command, calls) for calls in RUNS)
    print(f"{(long - short) / (RUNS[1] - RUNS[0]):.0f} instructions per {command} of {agents} agents")


if __name__ == "__main__":
    main()
