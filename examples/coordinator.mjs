// A small coordinator: it follows the record's log with DEPLOY.EVENTS … BLOCK (docs/coordinators.md).
//
//     node examples/coordinator.mjs redis://127.0.0.1:6379/ agent-api
//
// Its agents are HTTP servers inside this process, which say their name and version; yours are processes, containers or
// virtual machines. They end with this process: started again, it begins them anew, as a new attempt. It is meant to be
// the only coordinator of its key. Needs node-redis (npm ci in this folder).

import { createServer } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import { createClient } from 'redis';

const [URL, KEY] = process.argv.slice(2);
const TTL_MS = 3000;
const BLOCK_MS = 2000;
const REPLY_MS = TTL_MS / 2; // a reply that has not come by then is not waited for: there is a TTL to keep

function connect() {
  const connection = createClient({ url: URL, socket: { reconnectStrategy: (tries) => Math.min(tries * 20, 500) } });
  connection.on('error', (lost) => console.log(`connection: ${lost.message}`));
  connection.connect().catch(() => {}); // it goes on trying until it is destroyed
  return connection;
}
const connections = { asking: connect(), waiting: connect() }; // what blocks needs one of its own

const agents = new Map(); // agent and job -> what runs here
const taken = new Map(); // agent and job whose task is being carried out -> whether it was asked for again meanwhile
const place = ({ agent, job_id }) => JSON.stringify([agent, job_id]);

// The reply, or null for what is not there (any more). Anything else is tried again: the connection is lost, or the
// server loads, has become a replica, is out of memory. That does no harm: reports say which attempt they are about.
async function call(words, by = 'asking') {
  for (;;) {
    const connection = connections[by];
    const late = new AbortController();
    try {
      const patience = by === 'waiting' ? BLOCK_MS + REPLY_MS : REPLY_MS;
      const deadline = sleep(patience, null, { signal: late.signal }).then(() => Promise.reject(new Error('no reply')));
      return await Promise.race([connection.sendCommand(words.map(String)), deadline]);
    } catch (error) {
      if (error.message.startsWith('NOTFOUND')) return null;
      console.log(`${words[0]}: ${error.message}`);
      // One that broke while it was being made can hang for ever (node-redis#3346, before 6.2).
      if (error.message === 'no reply' && connections[by] === connection) {
        connections[by] = connect();
        connection.destroy();
      }
      await sleep(100);
    } finally {
      late.abort();
    }
  }
}

const ask = async (command, ...words) => JSON.parse((await call([command, KEY, ...words, 'JSON'])) ?? 'null');

function report(task, attempt, state) {
  console.log(`${task.agent} v${task.version} ${state}`);
  const of = ['VERSION', task.version, 'JOB', task.job_id, 'ATTEMPT', attempt];
  return call(['DEPLOY.REPORT', KEY, task.agent, state, ...of]);
}

async function start(task, attempt) {
  const server = createServer((_, response) => response.end(`${task.agent} v${task.version}\n`));
  await new Promise((listening) => server.listen(0, '127.0.0.1', listening));
  const manifest = (await ask('DEPLOY.VERSION', task.version))?.manifest ?? {};
  const nodes = [...(manifest.nodes ?? []), ...(manifest.agents?.nodes ?? [])];
  const services = nodes.filter((node) => node.node_id === task.node).flatMap((node) => node.services ?? []);
  const { agent, version, job_id } = task;
  return { agent, version, job_id, attempt, server, services: services.map(({ name }) => name) };
}

function stop(running) {
  agents.delete(place(running));
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

// Does what the record asks for, whatever was missed: its tasks, and the agents that should run here and do not.
async function catchUp() {
  const tasks = (await ask('DEPLOY.TASKS')) ?? [];
  for (const task of tasks) begin(task, task.attempt);
  const due = new Set(tasks.map(place));
  for (const instance of (await ask('DEPLOY.STATUS'))?.instances ?? []) {
    if (!['starting', 'ready', 'unready'].includes(instance.state) || due.has(place(instance))) continue;
    const here = agents.get(place(instance));
    if (here?.version !== instance.version) {
      begin({ ...instance, task: instance.agent === '*' ? 'run' : 'start' }, instance.attempt + 1);
    } else if (instance.state === 'starting') {
      begin({ ...instance, task: 'start' }, here.attempt); // a failover has lost our `ready`
    }
  }
}

async function begin(task, attempt) {
  const where = place(task);
  if (taken.has(where)) {
    taken.set(where, true);
    return;
  }
  taken.set(where, false);
  await carryOut(task, attempt).catch((error) => console.log(`${task.agent}: ${error.message}`));
  const askedAgain = taken.get(where);
  taken.delete(where);
  if (askedAgain) await catchUp();
}

async function carryOut(task, attempt) {
  const running = agents.get(place(task));
  if (task.task === 'stop') {
    if (running?.version === task.version) await stop(running);
    await report(task, attempt, 'stopped');
    return;
  }
  if (running?.version === task.version && running.attempt === attempt) {
    // Once more: the list was older than our report, or a failover has lost that.
    await report(task, attempt, 'ready');
    return;
  }
  // The claim comes first: where it is refused nothing has been stopped yet.
  if (!(await report(task, attempt, 'starting')) && !(await isKnown(task, attempt))) return;
  if (running) await stop(running);
  if (task.task === 'run') {
    await report(task, attempt, 'completed');
    return;
  }
  const started = await start(task, attempt);
  agents.set(place(task), started);
  await register(started);
  await report(task, attempt, 'ready');
}

// Whether our own `starting` had arrived before, and only its reply was lost. Otherwise the task is withdrawn.
async function isKnown(task, attempt) {
  const { instances } = await ask('DEPLOY.STATUS');
  return instances.some((i) => place(i) === place(task) && i.version === task.version && i.attempt === attempt);
}

// An agent that is not refreshed is not resolved: the TTL is how a coordinator that is gone is noticed.
async function refresh() {
  for (const running of agents.values()) {
    for (const service of running.services) {
      const known = await call(['DEPLOY.CHECK', KEY, instanceOf(running, service), 'passing']);
      if (known === null) await register(running); // a failover may have lost it
    }
  }
}
(async () => {
  for (;;) await sleep(TTL_MS / 3).then(refresh);
})();

// A lost connection needs nothing of its own: what is asked for is always what came after the last event seen.
let seen = 0;
for (let first = true; ; first = false) {
  const reply = await call(['DEPLOY.EVENTS', KEY, 'AFTER', seen, 'BLOCK', BLOCK_MS], 'waiting');
  if (reply === null) {
    await sleep(200); // nobody has deployed it yet
    continue;
  }
  const [firstKept, last, events] = reply;
  // The log keeps the last hundred events; and a record that was deleted, or lost its last changes, counts anew.
  const missed = firstKept > seen + 1 || last < seen;
  seen = last;
  if (first || missed || events.some((event) => JSON.parse(event).type === 'task_issued')) await catchUp();
}
