// BullMQ on Redis: `peer.mjs URL produce COUNT warm|work`, or `peer.mjs URL work` until killed.

import { openSync, writeSync } from 'node:fs';
import { Queue, Worker } from 'bullmq';

// Jobs at once, all in one process: a job that does nothing waits for Redis only.
const CONCURRENCY = 100;
// Jobs of one request of the producer.
const BATCH = 500;
const QUEUE = 'peers';

const [url, role, count, sort] = process.argv.slice(2);
const connection = { url, maxRetriesPerRequest: null };

async function produce() {
  const queue = new Queue(QUEUE, { connection });
  await queue.waitUntilReady();
  const job = {
    name: 'noop',
    data: { warm: sort === 'warm' },
    // a finished job is removed at once, which is the least work
    opts: { removeOnComplete: true },
  };
  const began = process.hrtime.bigint();
  for (let left = Number(count); left > 0; left -= BATCH) {
    await queue.addBulk(Array(Math.min(left, BATCH)).fill(job));
  }
  const seconds = Number(process.hrtime.bigint() - began) / 1e9;
  console.log(JSON.stringify({ seconds }));
  await queue.close();
}

function work() {
  const pipe = openSync(process.env.PEERS_PIPE, 'w');
  const now = () => Math.round((performance.timeOrigin + performance.now()) * 1000);
  let warm = 0;
  let jobs = 0;
  let began = 0;
  let ended = 0;
  const noop = async ({ data }) => {
    if (data.warm) {
      warm += 1;
      return;
    }
    if (jobs === 0) {
      began = now();
      writeSync(pipe, `begun ${process.pid}\n`);
    }
    jobs += 1;
    ended = now();
  };
  let last = '';
  setInterval(() => {
    const line = `tally ${process.pid} ${warm} ${jobs} ${began} ${ended}\n`;
    if (line !== last) {
      writeSync(pipe, line);
      last = line;
    }
  }, 20);
  const worker = new Worker(QUEUE, noop, { connection, concurrency: CONCURRENCY });
  worker.on('error', (error) => console.error(error));
}

await (role === 'produce' ? produce() : work());
