// What Node's `ioredis` expects of the Redis port: `client.mjs PORT TOKEN`.
import assert from "node:assert/strict";
import Redis from "ioredis";

const INBOX = "presswork:inbox";
const [port, token] = process.argv.slice(2);
const job = (key, payload = {}) => JSON.stringify({ kind: "test.job", key, payload });
const redis = new Redis({ host: "127.0.0.1", port: Number(port), password: token, connectionName: "tests" });

assert.equal(await redis.ping(), "PONG");
assert.equal(await redis.rpush(INBOX, job("node-0")), 1);
assert.equal(await redis.rpush(INBOX, job("node-0")), 1, "the same again");
assert.equal(await redis.rpush(INBOX, job("node-a"), job("node-b")), 2);
const ids = await redis.call("PRESSWORK.ENQUEUE", job("node-0"), job("node-c"));
assert.equal(new Set(ids).size, 2);
await assert.rejects(redis.rpush(INBOX, job("node-0", { sleep_ms: 7 })), (error) => {
  assert.match(error.message, /^CONFLICT /);
  assert.ok(error.message.includes(ids[0]));
  return true;
});
await assert.rejects(redis.rpush(INBOX, job("node-none"), "{}"), /^ReplyError: MALFORMED \[1\] of 2/);
await assert.rejects(redis.get("x"), /isn't known/);

const pipeline = redis.pipeline();
for (let n = 0; n < 300; n++) pipeline.rpush(INBOX, job(`node-${n}`));
const answers = await pipeline.exec();
assert.deepEqual(answers.map(([error, answer]) => error ?? answer), Array(300).fill(1));

const done = await redis.multi().rpush(INBOX, job("node-t")).rpush(INBOX, job("node-u"), job("node-v")).exec();
assert.deepEqual(done, [[null, 1], [null, 2]]);
await assert.rejects(redis.multi().rpush(INBOX, job("node-none")).rpush(INBOX, "{}").exec(), /command \[1\]: MALFORMED/);

// commands that are under way at once
assert.deepEqual(await Promise.all([...Array(50).keys()].map((n) => redis.rpush(INBOX, job(`node-p${n}`)))), Array(50).fill(1));
await redis.quit();

const wrong = new Redis({ host: "127.0.0.1", port: Number(port), password: "nonsense", retryStrategy: null, lazyConnect: true });
wrong.on("error", () => {});
await assert.rejects(wrong.connect().then(() => wrong.ping()), /WRONGPASS|NOAUTH|Connection is closed/);
wrong.disconnect();
console.log("all is well");
