#!/usr/bin/env python3
"""Minimal coordinator in Python: it is notified of changes by pub/sub and catches up from the record (docs/coordinators.md).

    python3 examples/coordinator.py redis://127.0.0.1:6379/ agent-api

Its agents are HTTP servers inside this process, which return their name and version; a real coordinator runs processes,
containers or virtual machines. They end with this process; after a restart they are started as new attempts. It must be
the only coordinator of its key. Requires redis-py (examples/requirements.txt).

Exit codes: 1 if at the start the server cannot be reached within ten tries, or refuses it; 2 if the arguments are wrong.
A connection that is lost later is retried for ever, with a message.
"""

import json
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

TASKS = "start", "replace", "run", "stop", "drain"  # others are left to whoever knows them
TTL_MS = 3000
CONNECT_TRIES = 10
RETRY_S, RETRY_MAX_S = 0.1, 1  # delay between two tries, doubled up to the maximum


def end(code, text):
    print(text, file=sys.stderr)
    sys.exit(code)


if len(sys.argv) != 3:
    end(2, "usage: coordinator.py URL KEY, for example: coordinator.py redis://127.0.0.1:6379/ agent-api")
URL, KEY = sys.argv[1:]

try:
    # Retries are up to `call` and the loop at the end, not to the client.
    client = redis.Redis.from_url(URL, decode_responses=True, socket_timeout=5, retry=Retry(NoBackoff(), 0))
except ValueError as error:
    end(2, f"coordinator.py: {error}")

agents = {}  # (agent, job) -> the Agent that runs here
in_progress = {}  # (agent, job) whose task is being executed -> whether it was requested again meanwhile
lock = threading.Lock()


class Agent:
    def __init__(self, task, attempt):
        self.name, self.version, self.job, self.attempt = task["agent"], task["version"], task["job_id"], attempt
        text = f"{self.name} v{self.version}\n".encode()

        class Answer(BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(200)
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        self.services = [(name, f"{self.name}-{name}-v{self.version}") for name in services_of(task)]

    def stop(self):
        self.server.shutdown()
        self.server.server_close()

    def register(self):
        for service, instance in self.services:
            call("DEPLOY.REGISTER", KEY, self.name, service, "INSTANCE", instance, "ADDRESS", "127.0.0.1",
                 "PORT", self.server.server_port, "VERSION", self.version, "JOB", self.job, "TTL", TTL_MS)


def call(*args):
    """Runs a command; None if its subject does not exist (any more). Other errors are retried: the connection may be
    lost, or the server may be loading, a replica or out of memory. Retries are harmless: reports name their attempt."""
    delay = RETRY_S
    while True:
        try:
            return client.execute_command(*args)
        except redis.RedisError as error:
            if str(error).startswith("NOTFOUND"):
                return None
            print(f"{args[0]}: {error}", flush=True)
            time.sleep(delay)
            delay = min(2 * delay, RETRY_MAX_S)


def wait_for_server():
    """Waits for a server that takes our commands, and ends this process if there is none: at the start, the address, the
    password or the module may be wrong."""
    for tries_left in reversed(range(CONNECT_TRIES)):
        try:
            client.execute_command("DEPLOY.TASKS", KEY)
            return
        except redis.RedisError as error:
            if str(error).startswith("NOTFOUND"):
                return  # not deployed yet
            refused = isinstance(error, (redis.AuthenticationError, redis.ResponseError))
            if not tries_left or refused and not str(error).startswith(("MASTERDOWN", "CLUSTERDOWN", "BUSY")):
                end(1, f"coordinator.py: {URL.rpartition('@')[2]}: {error}")
            print(f"connection: {error}", flush=True)
            time.sleep(0.5)


def query_json(command, *args):
    return json.loads(call(command, KEY, *args, "JSON") or "{}")


def report(task, attempt, state):
    print(f"{task['agent']} v{task['version']} {state}", flush=True)
    return call("DEPLOY.REPORT", KEY, task["agent"], state,
                "VERSION", task["version"], "JOB", task["job_id"], "ATTEMPT", attempt)


def services_of(task):
    manifest = query_json("DEPLOY.VERSION", task["version"]).get("manifest", {})
    nodes = manifest.get("nodes", []) + manifest.get("agents", {}).get("nodes", [])
    return [s["name"] for node in nodes if node["node_id"] == task["node"] for s in node.get("services", [])]


def catch_up():
    """Executes the tasks of the record, and starts agents that should be running and are not."""
    tasks = query_json("DEPLOY.TASKS")
    for task in tasks:
        if task["task"] in TASKS:
            dispatch(task, task["attempt"])
    due = {(task.get("agent"), task.get("job_id")) for task in tasks}
    for instance in query_json("DEPLOY.STATUS").get("instances", []):
        slot = instance["agent"], instance["job_id"]
        if instance["state"] not in ("starting", "ready", "unready") or slot in due:
            continue
        here = agents.get(slot)
        is_here = here and here.version == instance["version"]
        if instance["role"] == "draining":
            # What drains is not started again. A failover has lost the report of `drained`, or the agent is gone.
            if instance["drain_at"] or not is_here:
                dispatch({**instance, "task": "drain"}, instance["attempt"])
        elif not is_here:
            dispatch({**instance, "task": "run" if instance["agent"] == "*" else "start"}, instance["attempt"] + 1)
        elif instance["state"] == "starting":
            dispatch({**instance, "task": "start"}, here.attempt)  # a failover has lost the report of `ready`


def dispatch(task, attempt):
    slot = task["agent"], task["job_id"]
    with lock:
        if slot in in_progress:
            in_progress[slot] = True
            return
        in_progress[slot] = False
    threading.Thread(target=execute, args=(task, attempt, slot), daemon=True).start()


def execute(task, attempt, slot):
    try:
        running = agents.get(slot)
        if task["task"] == "stop":
            if running and running.version == task["version"]:
                agents.pop(slot).stop()
            report(task, attempt, "stopped")
        elif task["task"] == "drain":
            drain(task, attempt, running)
        elif running and (running.version, running.attempt) == (task["version"], attempt):
            report(task, attempt, "ready")  # the list was older than the last report, or that was lost by a failover
        # The task is claimed before anything is stopped: it may have been withdrawn.
        elif report(task, attempt, "starting") or is_on_record(task, attempt):
            if running:
                agents.pop(slot).stop()
            if task["task"] == "run":
                report(task, attempt, "completed")
            else:
                agents[slot] = Agent(task, attempt)
                agents[slot].register()
                report(task, attempt, "ready")
    finally:
        with lock:
            requested_again = in_progress.pop(slot)
    if requested_again:
        catch_up()


def drain(task, attempt, running):
    """These agents hold no sessions, since they answer each call at once. So nobody waits for them to finish any: they
    report `draining`, then `drained`. They go on serving until a `stop` or `replace` follows; new callers do not resolve
    them. A real coordinator tells the agent to take no new work, and reports `drained` once it holds no session."""
    if not running or running.version != task["version"]:
        report(task, attempt, "stopped")  # it has ended with an earlier coordinator
    elif report(task, attempt, "draining") or is_on_record(task, attempt, role="draining"):
        report(task, attempt, "drained")


def is_on_record(task, attempt, **more):
    """Returns whether an earlier report was recorded and only its reply was lost. Otherwise the task was withdrawn."""
    wanted = {field: task[field] for field in ("agent", "version", "job_id")} | {"attempt": attempt} | more
    return any(wanted.items() <= instance.items() for instance in query_json("DEPLOY.STATUS").get("instances", []))


def refresh():
    """Refreshes the TTLs of all services. Without it they become critical, as after the death of a coordinator."""
    while True:
        time.sleep(TTL_MS / 3000)
        for agent in list(agents.values()):
            if any(call("DEPLOY.CHECK", KEY, instance, "passing") is None for _, instance in agent.services):
                agent.register()  # a failover may have lost the registration


wait_for_server()
threading.Thread(target=refresh, daemon=True).start()
delay = RETRY_S
while True:
    try:
        events = client.pubsub()
        events.subscribe(f"deploy:events:{KEY}")
        while True:
            # The first message confirms the subscription. From then on no event is missed, so this is the time to catch
            # up, also after a reconnection. Without events the connection may be dead: catching up checks it.
            message = events.get_message(timeout=5)
            if not message or message["type"] == "subscribe" or json.loads(message["data"])["type"] == "task_issued":
                catch_up()
                delay = RETRY_S
    except redis.RedisError as lost:
        print(f"connection: {lost}", flush=True)
        time.sleep(delay)
        delay = min(2 * delay, RETRY_MAX_S)
