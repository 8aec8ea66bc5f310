// The protocol through npm's ws, and once more as an app would use it.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createRequire } from 'node:module';
import path from 'node:path';
import readline from 'node:readline';
import { after, before, test } from 'node:test';
import { fileURLToPath } from 'node:url';

const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '../..');
const modules = path.join(root, 'tests/.tools/node/node_modules');
const { WebSocket } = createRequire(path.join(modules, 'here.cjs'))('ws');
const binary = process.env.SERVER_BINARY ?? path.join(root, 'target/release/rollcall');
const patience = { timeout: 30_000 };

async function start(...flags) {
  const common = ['serve', '--listen', '127.0.0.1:0', '--control-listen', '127.0.0.1:0', '--shards', '2'];
  const env = Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith('ROLLCALL_')));
  const child = spawn(binary, [...common, ...flags], { stdio: ['ignore', 'ignore', 'pipe'], env });
  const ended = once(child, 'exit');
  const said = [];
  for await (const line of readline.createInterface({ input: child.stderr })) {
    const text = line.replace(/\x1b\[[0-9;]*m/g, '');
    said.push(text);
    const listen = /\blisten="?([^\s"]+)/.exec(text);
    const control = /\bcontrol="?([^\s"]+)/.exec(text);
    if (listen && control) {
      child.stderr.resume();
      return { child, ended, address: listen[1], control: control[1] };
    }
  }
  throw new Error(`the server did not say where it listens:\n${said.join('\n')}`);
}

/** A client whose messages can be awaited one by one, from the first. */
class Client {
  constructor(server, query = 'userId=ana', options = {}) {
    this.socket = new WebSocket(`ws://${server.address}?${query}`, options.subprotocols ?? [], options);
    this.messages = [];
    this.waiting = [];
    this.socket.on('error', () => {});
    this.socket.on('message', (data, isBinary) => {
      assert.equal(isBinary, false);
      const message = JSON.parse(data.toString());
      const next = this.waiting.shift();
      next ? next(message) : this.messages.push(message);
    });
    this.closed = new Promise((resolve) => {
      this.socket.on('close', (code, reason) => resolve({ code, reason: reason.toString() }));
    });
  }

  next() {
    if (this.messages.length > 0) return Promise.resolve(this.messages.shift());
    return new Promise((resolve) => this.waiting.push(resolve));
  }

  send(message) {
    this.socket.send(typeof message === 'string' ? message : JSON.stringify(message));
  }

  ask(message) {
    this.send(message);
    return this.next();
  }
}

let server;
before(async () => {
  server = await start();
}, patience);
after(async () => {
  server.child.kill('SIGTERM');
  const [code] = await server.ended;
  assert.equal(code, 0);
}, patience);

test('CONNECT is the first message', patience, async () => {
  const client = new Client(server, 'userId=Ana+Mar%C3%ADa&heartbeatTimeout=1&status=away');
  const said = await client.next();
  assert.equal(said.type, 'CONNECT');
  assert.equal(said.userId, 'Ana María');
  assert.equal(said.payload.protocol, 1);
  assert.equal(said.payload.resumed, false);
  assert.equal(said.payload.heartbeatTimeout, 5000);
  assert.deepEqual(said.payload.reconnect, { min: 1000, max: 5000 });
  client.socket.close();
  await client.closed;
});

test('heartbeats and updates are answered, with their ids', patience, async () => {
  const client = new Client(server);
  await client.next();
  assert.equal((await client.ask({ type: 'HEARTBEAT' })).type, 'HEARTBEAT_ACK');
  assert.equal((await client.ask({ type: 'HEARTBEAT', id: 'é😀' })).id, 'é😀');
  const update = { type: 'PRESENCE_UPDATE', id: 9007199254740991, payload: { status: 'busy', metadata: { a: [1] } } };
  const said = await client.ask(update);
  assert.deepEqual([said.type, said.id], ['ACK', 9007199254740991]);
  assert.equal((await client.ask('nonsense')).payload.code, 'NOT_JSON');
  client.send({ type: 'DISCONNECT', id: 'bye' });
  assert.equal((await client.next()).type, 'ACK');
  assert.equal((await client.closed).code, 1000);
});

test('a ping is answered', patience, async () => {
  const client = new Client(server);
  await client.next();
  const pong = once(client.socket, 'pong');
  client.socket.ping('there?');
  assert.equal((await pong)[0].toString(), 'there?');
  client.socket.close(1000, 'done');
  assert.equal((await client.closed).code, 1000);
});

test('fragments are put together', patience, async () => {
  const client = new Client(server);
  await client.next();
  client.socket.send('{"type":', { fin: false });
  client.socket.send('"HEARTBEAT"}', { fin: true });
  assert.equal((await client.next()).type, 'HEARTBEAT_ACK');
  client.socket.close();
  await client.closed;
});

test('compression is offered and not taken', patience, async () => {
  const client = new Client(server, 'userId=ana', { perMessageDeflate: true, subprotocols: ['rollcall.v1', 'b'] });
  await client.next();
  assert.equal(client.socket.extensions, '');
  assert.equal(client.socket.protocol, 'rollcall.v1');
  client.socket.close();
  await client.closed;
});

test('a missing userId closes with 1002 and says so', patience, async () => {
  const { code, reason } = await new Client(server, '').closed;
  assert.equal(code, 1002);
  assert.match(reason, /userId/);
});

test('binary closes with 1003, too much with 1009', patience, async () => {
  const binary = new Client(server);
  await binary.next();
  binary.socket.send(Buffer.from('{"type":"HEARTBEAT"}'));
  assert.equal((await binary.closed).code, 1003);
  const large = new Client(server);
  await large.next();
  large.send(' '.repeat(65537));
  assert.equal((await large.closed).code, 1009);
});

test('another path is refused before the upgrade', patience, async () => {
  const socket = new WebSocket(`ws://${server.address}/nowhere?userId=ana`);
  const [error] = await once(socket, 'error');
  assert.match(error.message, /404/);
});

test('an app that never says DISCONNECT and closes without a code', patience, async () => {
  const client = new Client(server, 'userId=app');
  assert.equal((await client.next()).type, 'CONNECT');
  const timestamp = new Date().toISOString().replace('Z', '');
  for (let beat = 0; beat < 3; beat += 1) {
    assert.equal((await client.ask({ type: 'HEARTBEAT', userId: 'app', timestamp })).type, 'HEARTBEAT_ACK');
  }
  client.send({ type: 'PRESENCE_UPDATE', userId: 'app', timestamp, payload: { status: 'away' } });
  assert.equal((await client.ask({ type: 'HEARTBEAT', userId: 'app', timestamp })).type, 'HEARTBEAT_ACK');
  client.socket.close();
  // 1005 is what ws tells where a close frame had no code.
  assert.equal((await client.closed).code, 1005);
});

test('a stopping server says 1001 to everyone', patience, async () => {
  const stopping = await start();
  const clients = Array.from({ length: 20 }, (_, index) => new Client(stopping, `userId=u${index}`));
  await Promise.all(clients.map((client) => client.next()));
  stopping.child.kill('SIGTERM');
  for (const client of clients) assert.equal((await client.closed).code, 1001);
  assert.equal((await stopping.ended)[0], 0);
});
