#!/usr/bin/env python3
"""A small coordinator: it hears of changes by pub/sub, and catches up from the record (docs/coordinators.md).

    python3 examples/coordinator.py redis://127.0.0.1:6379/ agent-api

Its agents are HTTP servers inside this process, which say their name and version; yours are processes, containers or
virtual machines. They end with this process: started again, it begins them anew, as a new attempt. It is meant to be
the only coordinator of its key. Needs redis-py (examples/requirements.txt).
"""

import json
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

URL, KEY = sys.argv[1:3]
TTL_MS = 3000

# What is tried again is tried again in `call`, and in the loop at the end.
client = redis.Redis.from_url(URL, decode_responses=True, socket_timeout=5, retry=Retry(NoBackoff(), 0))

agents = {}  # (agent, job) -> the Agent that runs here
taken = {}  # (agent, job) whose task is being carried out -> whether it was asked for again meanwhile
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


def call(*words):
    """The reply, or None for what is not there (any more). Anything else is tried again: the connection is lost, or the
    server loads, has become a replica, is out of memory. That does no harm: reports say which attempt they are about."""
    while True:
        try:
            return client.execute_command(*words)
        except redis.RedisError as error:
            if str(error).startswith("NOTFOUND"):
                return None
            print(f"{words[0]}: {error}", flush=True)
            time.sleep(0.1)


def ask(command, *words):
    return json.loads(call(command, KEY, *words, "JSON") or "{}")


def report(task, attempt, state):
    print(f"{task['agent']} v{task['version']} {state}", flush=True)
    return call("DEPLOY.REPORT", KEY, task["agent"], state,
                "VERSION", task["version"], "JOB", task["job_id"], "ATTEMPT", attempt)


def services_of(task):
    manifest = ask("DEPLOY.VERSION", task["version"]).get("manifest", {})
    nodes = manifest.get("nodes", []) + manifest.get("agents", {}).get("nodes", [])
    return [s["name"] for node in nodes if node["node_id"] == task["node"] for s in node.get("services", [])]


def catch_up():
    """Does what the record asks for, whatever was missed: its tasks, and the agents that should run here and do not."""
    tasks = ask("DEPLOY.TASKS")
    for task in tasks:
        begin(task, task["attempt"])
    due = {(task["agent"], task["job_id"]) for task in tasks}
    for instance in ask("DEPLOY.STATUS").get("instances", []):
        place = instance["agent"], instance["job_id"]
        if instance["state"] not in ("starting", "ready", "unready") or place in due:
            continue
        here = agents.get(place)
        if not here or here.version != instance["version"]:
            begin({**instance, "task": "run" if instance["agent"] == "*" else "start"}, instance["attempt"] + 1)
        elif instance["state"] == "starting":
            begin({**instance, "task": "start"}, here.attempt)  # a failover has lost our `ready`


def begin(task, attempt):
    place = task["agent"], task["job_id"]
    with lock:
        if place in taken:
            taken[place] = True
            return
        taken[place] = False
    threading.Thread(target=carry_out, args=(task, attempt, place), daemon=True).start()


def carry_out(task, attempt, place):
    try:
        running = agents.get(place)
        if task["task"] == "stop":
            if running and running.version == task["version"]:
                agents.pop(place).stop()
            report(task, attempt, "stopped")
        elif running and (running.version, running.attempt) == (task["version"], attempt):
            report(task, attempt, "ready")  # once more: the list was older than our report, or a failover has lost that
        # The claim comes first: where it is refused nothing has been stopped yet.
        elif report(task, attempt, "starting") or is_known(task, attempt):
            if running:
                agents.pop(place).stop()
            if task["task"] == "run":
                report(task, attempt, "completed")
            else:
                agents[place] = Agent(task, attempt)
                agents[place].register()
                report(task, attempt, "ready")
    finally:
        with lock:
            asked_again = taken.pop(place)
    if asked_again:
        catch_up()


def is_known(task, attempt):
    """Whether our own `starting` had arrived before, and only its reply was lost. Otherwise the task is withdrawn."""
    same = ("agent", "version", "job_id")
    return any(all(i[f] == task[f] for f in same) and i["attempt"] == attempt for i in ask("DEPLOY.STATUS")["instances"])


def refresh():
    """An agent that is not refreshed is not resolved: the TTL is how a coordinator that is gone is noticed."""
    while True:
        time.sleep(TTL_MS / 3000)
        for agent in list(agents.values()):
            if any(call("DEPLOY.CHECK", KEY, instance, "passing") is None for _, instance in agent.services):
                agent.register()  # a failover may have lost it


threading.Thread(target=refresh, daemon=True).start()
while True:
    try:
        events = client.pubsub()
        events.subscribe(f"deploy:events:{KEY}")
        while True:
            # The confirmation of the subscription comes first. From here on nothing is missed, so now, after a lost
            # connection too, is the time to catch up with what was. Silence may mean that nobody is there any more.
            message = events.get_message(timeout=5)
            if not message or message["type"] == "subscribe" or json.loads(message["data"])["type"] == "task_issued":
                catch_up()
    except redis.RedisError as lost:
        print(f"connection: {lost}", flush=True)
        time.sleep(0.1)
