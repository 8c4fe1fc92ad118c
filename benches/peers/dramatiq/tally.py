"""Dramatiq on Redis: its job, and the tally for `run` that a worker keeps.

`tally.py COUNT warm|work` produces; `dramatiq tally` works until killed.
"""

import json
import os
import sys
import threading
import time

import dramatiq
from dramatiq.brokers.redis import RedisBroker

dramatiq.set_broker(RedisBroker(url=os.environ["REDIS_URL"]))


class Tally:
    def __init__(self, path):
        self.pipe = os.open(path, os.O_WRONLY)
        self.lock = threading.Lock()
        self.warm = self.jobs = self.began = self.ended = 0
        threading.Thread(target=self.tell, daemon=True).start()

    def ran(self, warm):
        with self.lock:
            if warm:
                self.warm += 1
                return
            now = time.time_ns() // 1000
            if self.jobs == 0:
                self.began = now
                os.write(self.pipe, f"begun {os.getpid()}\n".encode())
            self.jobs += 1
            self.ended = now

    def tell(self):
        last = None
        while True:
            time.sleep(0.02)
            with self.lock:
                line = f"tally {os.getpid()} {self.warm} {self.jobs} {self.began} {self.ended}\n"
            if line != last:
                os.write(self.pipe, line.encode())
                last = line


@dramatiq.actor
def noop(sort):
    TALLY.ran(sort == "warm")


def produce(count, sort):
    # connected before the clock starts
    dramatiq.get_broker().client.ping()
    began = time.monotonic()
    # it has no way to send many at once
    for _ in range(count):
        noop.send(sort)
    print(json.dumps({"seconds": time.monotonic() - began}))


if __name__ == "__main__":
    produce(int(sys.argv[1]), sys.argv[2])
elif "PEERS_PIPE" in os.environ:
    TALLY = Tally(os.environ["PEERS_PIPE"])
