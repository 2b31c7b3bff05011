// Minimal coordinator in JavaScript: it follows the record's log with DEPLOY.EVENTS … BLOCK (docs/coordinators.md).
//
//     node examples/coordinator.mjs redis://127.0.0.1:6379/ agent-api
//
// Its agents are HTTP servers inside this process, which return their name and version; a real coordinator runs
// processes, containers or virtual machines. They end with this process; after a restart they are started as new
// attempts. It must be the only coordinator of its key. Requires node-redis (npm ci --omit=dev here).
//
// Exit codes: 1 if at the start the server cannot be reached within ten tries, or refuses it; 2 if the arguments are
// wrong. A connection that is lost later is retried for ever, with a message.

import { createServer } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import { createClient, ErrorReply } from 'redis';

function end(code, text) {
  console.error(text);
  process.exit(code);
}

if (process.argv.length !== 4) {
  end(2, 'usage: coordinator.mjs URL KEY, for example: coordinator.mjs redis://127.0.0.1:6379/ agent-api');
}
const [URL, KEY] = process.argv.slice(2);
const TASKS = ['start', 'replace', 'run', 'stop', 'drain']; // others are left to whoever knows them
const TTL_MS = 3000;
const BLOCK_MS = 2000;
const REPLY_MS = TTL_MS / 2; // timeout of a reply, short enough to refresh the TTLs in time
const CONNECT_TRIES = 10;

function connect() {
  const connection = createClient({ url: URL, socket: { reconnectStrategy: (tries) => Math.min(tries * 20, 500) } });
  connection.on('error', (lost) => console.log(`connection: ${lost.message}`));
  connection.connect().catch(() => {}); // it retries until it is destroyed
  return connection;
}

// Waits for a server that takes our commands, and ends this process if there is none: at the start, the address, the
// password or the module may be wrong.
async function waitForServer() {
  const fail = (error) => end(1, `coordinator.mjs: ${URL.slice(URL.lastIndexOf('@') + 1)}: ${error.message}`);
  const isTemporary = ({ message }) => /^(LOADING|MASTERDOWN|CLUSTERDOWN|BUSY) /.test(message);
  const isRefusal = (error) => error instanceof ErrorReply && !isTemporary(error);
  for (let tries = 1; ; tries++) {
    try {
      const connection = createClient({ url: URL, socket: { reconnectStrategy: false, connectTimeout: 2000 } });
      connection.on('error', () => {});
      await connection.connect();
      await connection.sendCommand(['DEPLOY.TASKS', KEY]).finally(() => connection.destroy());
      return;
    } catch (error) {
      if (error.message.startsWith('NOTFOUND')) return; // not deployed yet
      if (tries === CONNECT_TRIES || isRefusal(error) || error.code === 'ERR_INVALID_URL') fail(error);
      console.log(`connection: ${error.message}`);
      await sleep(500);
    }
  }
}
await waitForServer();

const connections = { commands: connect(), blocking: connect() }; // blocking commands need a connection of their own

const agents = new Map(); // agent and job -> the running agent
const inProgress = new Map(); // agent and job whose task is being executed -> whether it was requested again meanwhile
const slot = ({ agent, job_id }) => JSON.stringify([agent, job_id]);

// Runs a command; null if its subject does not exist (any more). Other errors are retried: the connection may be lost,
// or the server may be loading, a replica or out of memory. Retries are harmless, since reports name their attempt.
async function call(args, by = 'commands') {
  for (let delay = 100; ; delay = Math.min(2 * delay, 1000)) {
    const connection = connections[by];
    const late = new AbortController();
    try {
      const timeout = by === 'blocking' ? BLOCK_MS + REPLY_MS : REPLY_MS;
      const deadline = sleep(timeout, null, { signal: late.signal }).then(() => Promise.reject(new Error('no reply')));
      return await Promise.race([connection.sendCommand(args.map(String)), deadline]);
    } catch (error) {
      if (error.message.startsWith('NOTFOUND')) return null;
      console.log(`${args[0]}: ${error.message}`);
      // A connection that breaks while it is being established can hang forever (node-redis#3346, fixed in 6.2).
      if (error.message === 'no reply' && connections[by] === connection) {
        connections[by] = connect();
        connection.destroy();
      }
      await sleep(delay);
    } finally {
      late.abort();
    }
  }
}

const queryJson = async (command, ...args) => JSON.parse((await call([command, KEY, ...args, 'JSON'])) ?? 'null');

function report(task, attempt, state) {
  console.log(`${task.agent} v${task.version} ${state}`);
  const of = ['VERSION', task.version, 'JOB', task.job_id, 'ATTEMPT', attempt];
  return call(['DEPLOY.REPORT', KEY, task.agent, state, ...of]);
}

async function start(task, attempt) {
  const server = createServer((_, response) => response.end(`${task.agent} v${task.version}\n`));
  await new Promise((listening) => server.listen(0, '127.0.0.1', listening));
  const manifest = (await queryJson('DEPLOY.VERSION', task.version))?.manifest ?? {};
  const nodes = [...(manifest.nodes ?? []), ...(manifest.agents?.nodes ?? [])];
  const services = nodes.filter((node) => node.node_id === task.node).flatMap((node) => node.services ?? []);
  const { agent, version, job_id } = task;
  return { agent, version, job_id, attempt, server, services: services.map(({ name }) => name) };
}

function stop(running) {
  agents.delete(slot(running));
  running.server.closeAllConnections?.();
  return new Promise((closed) => running.server.close(closed));
}

const instanceOf = ({ agent, version }, service) => `${agent}-${service}-v${version}`;

async function register(running) {
  const of = ['VERSION', running.version, 'JOB', running.job_id, 'TTL', TTL_MS];
  const at = ['ADDRESS', '127.0.0.1', 'PORT', running.server.address().port];
  for (const service of running.services) {
    const instance = ['INSTANCE', instanceOf(running, service)];
    await call(['DEPLOY.REGISTER', KEY, running.agent, service, ...instance, ...at, ...of]);
  }
}

// Executes the tasks of the record, and starts agents that should be running and are not.
async function catchUp() {
  const tasks = (await queryJson('DEPLOY.TASKS')) ?? [];
  for (const task of tasks) if (TASKS.includes(task.task)) dispatch(task, task.attempt);
  const due = new Set(tasks.map(slot));
  for (const instance of (await queryJson('DEPLOY.STATUS'))?.instances ?? []) {
    if (!['starting', 'ready', 'unready'].includes(instance.state) || due.has(slot(instance))) continue;
    const here = agents.get(slot(instance));
    const isHere = here?.version === instance.version;
    if (instance.role === 'draining') {
      // What drains is not started again. A failover has lost the report of `drained`, or the agent is gone.
      if (instance.drain_at || !isHere) dispatch({ ...instance, task: 'drain' }, instance.attempt);
    } else if (!isHere) {
      dispatch({ ...instance, task: instance.agent === '*' ? 'run' : 'start' }, instance.attempt + 1);
    } else if (instance.state === 'starting') {
      dispatch({ ...instance, task: 'start' }, here.attempt); // a failover has lost the report of `ready`
    }
  }
}

async function dispatch(task, attempt) {
  const where = slot(task);
  if (inProgress.has(where)) {
    inProgress.set(where, true);
    return;
  }
  inProgress.set(where, false);
  await execute(task, attempt).catch((error) => console.log(`${task.agent}: ${error.message}`));
  const requestedAgain = inProgress.get(where);
  inProgress.delete(where);
  if (requestedAgain) await catchUp();
}

async function execute(task, attempt) {
  const running = agents.get(slot(task));
  if (task.task === 'stop') {
    if (running?.version === task.version) await stop(running);
    await report(task, attempt, 'stopped');
    return;
  }
  if (task.task === 'drain') {
    await drain(task, attempt, running);
    return;
  }
  if (running?.version === task.version && running.attempt === attempt) {
    // It already runs: the task list was older than the last report, or a failover has lost that report.
    await report(task, attempt, 'ready');
    return;
  }
  // The task is claimed before anything is stopped: it may have been withdrawn.
  if (!(await report(task, attempt, 'starting')) && !(await isOnRecord(task, attempt))) return;
  if (running) await stop(running);
  if (task.task === 'run') {
    await report(task, attempt, 'completed');
    return;
  }
  const started = await start(task, attempt);
  agents.set(slot(task), started);
  await register(started);
  await report(task, attempt, 'ready');
}

// These agents hold no sessions, since they answer each call at once. So nobody waits for them to finish any: they report
// `draining`, then `drained`. They go on serving until a `stop` or `replace` follows; new callers do not resolve them. A
// real coordinator tells the agent to take no new work, and reports `drained` once it holds no session.
async function drain(task, attempt, running) {
  if (running?.version !== task.version) {
    await report(task, attempt, 'stopped'); // it has ended with an earlier coordinator
  } else if ((await report(task, attempt, 'draining')) || (await isOnRecord(task, attempt, 'draining'))) {
    await report(task, attempt, 'drained');
  }
}

// Returns whether an earlier report was recorded and only its reply was lost. Otherwise the task was withdrawn.
async function isOnRecord(task, attempt, role) {
  const isIt = (i) => slot(i) === slot(task) && i.version === task.version && i.attempt === attempt;
  const { instances = [] } = (await queryJson('DEPLOY.STATUS')) ?? {};
  return instances.some((i) => isIt(i) && (!role || i.role === role));
}

// Refreshes the TTLs of all services. Without it they become critical, as after the death of a coordinator.
async function refresh() {
  for (const running of agents.values()) {
    for (const service of running.services) {
      const known = await call(['DEPLOY.CHECK', KEY, instanceOf(running, service), 'passing']);
      if (known === null) await register(running); // a failover may have lost the registration
    }
  }
}
(async () => {
  for (;;) await sleep(TTL_MS / 3).then(refresh);
})();

// A reconnection needs no special handling: DEPLOY.EVENTS returns the events after the last one seen.
let seen = 0;
for (let first = true; ; first = false) {
  const reply = await call(['DEPLOY.EVENTS', KEY, 'AFTER', seen, 'BLOCK', BLOCK_MS], 'blocking');
  if (reply === null) {
    await sleep(200); // not deployed yet
    continue;
  }
  const [firstKept, last, events] = reply;
  // The log keeps the last 100 events; the revisions of a record that was deleted, or has lost its last changes,
  // restart.
  const missed = firstKept > seen + 1 || last < seen;
  seen = last;
  if (first || missed || events.some((event) => JSON.parse(event).type === 'task_issued')) await catchUp();
}
