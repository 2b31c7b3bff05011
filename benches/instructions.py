#!/usr/bin/env python3
"""Counts the instructions of one DEPLOY.REPORT by callgrind: the difference of two runs of different length.

    python3 benches/instructions.py target/release/libredis_deploy.so [AGENTS]

It needs valgrind and redis-server. Each report changes the state of one of AGENTS (20) agents and publishes one event
without subscribers. The count covers the whole server: parsing, the command, replication without replicas.
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


def count_instructions(library, agents, reports):
    """Returns the instructions of a server's whole life with this number of reports."""
    folder, port = tempfile.mkdtemp(), free_port()
    profile = os.path.join(folder, "callgrind.out")
    command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={profile}", "redis-server", "--port", str(port)]
    command += ["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", folder, "--loadmodule", library]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
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
        for first in range(0, reports, PIPELINE):
            batch = range(first, first + PIPELINE)
            states = ("ready", "unready")
            connection.sendall(b"".join(
                encode("DEPLOY.REPORT", "app", f"agent-{n % agents}", states[n // agents % 2], "VERSION", 1, "ATTEMPT", 1)
                for n in batch))
            for n in batch:
                if read_reply(stream) != b":1\r\n":
                    sys.exit(f"report {n} changed nothing")
        connection.sendall(encode("SHUTDOWN", "NOSAVE"))
        server.wait(60)
        with open(profile, encoding="utf-8") as lines:
            return next(int(line.split()[1]) for line in lines if line.startswith(("summary:", "totals:")))
    finally:
        server.kill()
        server.wait()
        shutil.rmtree(folder)


def main():
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    library, agents = os.path.abspath(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) == 3 else 20
    short, long = (count_instructions(library, agents, reports) for reports in RUNS)
    print(f"{(long - short) / (RUNS[1] - RUNS[0]):.0f} instructions per report of {agents} agents")


if __name__ == "__main__":
    main()
