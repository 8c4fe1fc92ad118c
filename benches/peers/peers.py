"""The peers: how each is installed, started and asked whether all is settled."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

from servers import Failed, postgres_number, program, redis_numbers

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
TARGET = ROOT / os.environ.get("CARGO_TARGET_DIR", "target")
KEPT = TARGET / "peers"

INSTALL_S = 900
BUILD_S = 3_600

# the loss of a second at most when the machine crashes, as the Redis and BullMQ documentation advise
REDIS = {
    "appendonly": "yes",
    "appendfsync": "everysec",
    # a snapshot beside the log would only cost the peers
    "save": "",
    "maxmemory-policy": "noeviction",
}
# as `presswork bench` starts its own
POSTGRES = {
    "listen_addresses": "127.0.0.1",
    "fsync": "on",
    "full_page_writes": "on",
    "synchronous_commit": "on",
    "max_connections": "400",
    "shared_buffers": "256MB",
    "max_wal_size": "2GB",
}
REDIS_KEPT = "Redis appendonly yes, appendfsync everysec: a crash of the machine loses up to a second"


class Skipped(Exception):
    """Why a peer can't run here."""


def note(text):
    print(f"benches/peers: {text}", file=sys.stderr, flush=True)


def run(command, seconds, **how):
    """Runs an installation; what it says is told only when it fails."""
    how = {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True, **how}
    try:
        done = subprocess.run(command, timeout=seconds, **how)
    except FileNotFoundError:
        raise Skipped(f"there is no {command[0]} here") from None
    except subprocess.TimeoutExpired:
        raise Skipped(f"`{' '.join(command)}` took longer than {seconds} s") from None
    if done.returncode != 0:
        said = (done.stderr or done.stdout or "").strip().splitlines()
        # npm tells why at the beginning, most others at the end
        said = said if len(said) <= 12 else [*said[:6], "...", *said[-6:]]
        raise Skipped("\n    ".join([f"`{' '.join(command)}` failed:", *said]))
    return (done.stdout or "").strip()


def apt_install(*packages):
    """Installs Debian packages."""
    if not shutil.which("apt-get"):
        raise Skipped(f"{', '.join(packages)} isn't installed, and there is no apt-get")
    note(f"installing {', '.join(packages)} with apt-get")
    as_root = [] if os.geteuid() == 0 else ["sudo", "-n"]
    # in a container a package's script must not try to start a service (exit 101 is "forbidden")
    policy = Path("/usr/sbin/policy-rc.d")
    forbid = not as_root and not Path("/run/systemd/system").is_dir() and not policy.exists()
    if forbid:
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)
    try:
        run([*as_root, "apt-get", "update", "-qq"], INSTALL_S)
        quiet = ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "install", "-y", "-qq"]
        run([*as_root, *quiet, "--no-install-recommends", *packages], INSTALL_S)
    finally:
        if forbid:
            policy.unlink(missing_ok=True)


def install_servers():
    wanted = {"redis-server": "redis-server", "postgres": "postgresql", "initdb": "postgresql"}
    missing = sorted({package for name, package in wanted.items() if not program(name)})
    if missing:
        try:
            apt_install(*missing)
        except Skipped as why:
            raise Failed(f"the private servers can't be started: {why}") from None


def folder_of(name, sources, install):
    """A folder with copies of the sources, in which `install` is run once for each content."""
    folder = KEPT / name
    content = b"".join(it.read_bytes() for it in sources)
    mark = folder / hashlib.sha256(content).hexdigest()[:16]
    if not mark.exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for source in sources:
            shutil.copy(source, folder)
        note(f"installing {name} into {os.path.relpath(folder)}")
        install(folder)
        mark.touch()
    return folder


def locked(package):
    """A crate's version in the peers' Cargo.lock."""
    lock = tomllib.loads((HERE / "rust/Cargo.lock").read_text())
    return next(it["version"] for it in lock["package"] if it["name"] == package)


def build_rust():
    note("building the Rust peers (the first time takes some minutes)")
    command = ["cargo", "build", "--release", "--locked", "--target-dir", str(KEPT / "rust")]
    run(command, BUILD_S, cwd=HERE / "rust")
    return KEPT / "rust/release"


class Peer:
    """One of them. `settings` and `durability` are printed, and are what the README tells in full."""

    name = ""
    store = "redis"
    settings = []
    durability = ""
    afterwards = ""

    def install(self):
        """Installs what is missing; gives the versions."""
        raise NotImplementedError

    def produce(self, world, count, sort):
        """The producer's command, and how it is started."""
        raise NotImplementedError

    def work(self, world):
        """The workers' commands, and how they are started."""
        raise NotImplementedError

    def unsettled(self, world, jobs):
        """Jobs that the store doesn't hold for done; also those that failed."""
        raise NotImplementedError

    def prepare(self, world):
        """What must be done between producing and working."""


class BullMQ(Peer):
    name = "bullmq"
    settings = [
        ("concurrency 100, one process", "its documentation raises it for jobs that wait for I/O"),
        ("addBulk of 500", "its documentation: many jobs in one round trip"),
        ("removeOnComplete true", "the least work: a finished job leaves nothing"),
    ]
    durability = f"{REDIS_KEPT}; a worker's crash loses nothing (stalled jobs run again)"
    afterwards = "nothing is kept of a finished job"

    def install(self):
        sources = [HERE / "bullmq" / it for it in ("package.json", "package-lock.json", "peer.mjs")]
        # not `npm ci`, which refuses a lock that lacks an optional package of some other system
        command = ["npm", "install", "--omit=dev", "--no-audit", "--no-fund", "--ignore-scripts"]
        self.folder = folder_of("bullmq", sources, lambda it: run(command, INSTALL_S, cwd=it))
        version = {"node": run(["node", "--version"], 60).lstrip("v")}
        for package in ("bullmq", "ioredis"):
            about = self.folder / "node_modules" / package / "package.json"
            version[package] = json.loads(about.read_text())["version"]
        return version

    def command(self, world, *words):
        return ["node", str(self.folder / "peer.mjs"), world.url, *words], {
            "env": {"NODE_ENV": "production"}
        }

    def produce(self, world, count, sort):
        return self.command(world, "produce", str(count), sort)

    def work(self, world):
        return [self.command(world, "work")]

    def unsettled(self, world, jobs):
        lists = ["LLEN bull:peers:wait", "LLEN bull:peers:active", "LLEN bull:peers:paused"]
        sets = [f"ZCARD bull:peers:{it}" for it in ("delayed", "prioritized", "failed")]
        return sum(redis_numbers(world.port, lists + sets))


class Sidekiq(Peer):
    name = "sidekiq"
    settings = [
        ("concurrency 10, a process for each core", "its documentation: more cores need more processes"),
        ("push_bulk of 500", "its documentation: at most 1,000 in one round trip"),
        ("log level warn", "two lines for each job would be a part of the figures"),
    ]
    durability = f"{REDIS_KEPT}; a worker's crash loses the jobs that it runs (BRPOP)"
    afterwards = "nothing is kept of a finished job but a counter"

    def install(self):
        if not shutil.which("sidekiq"):
            apt_install("ruby-sidekiq")
        about = 'require "sidekiq"; puts RUBY_VERSION, Sidekiq::VERSION, Redis::VERSION'
        found = run(["ruby", "-e", about], 60).splitlines()
        return dict(zip(("ruby", "sidekiq", "redis-rb"), found))

    def produce(self, world, count, sort):
        command = ["ruby", str(HERE / "sidekiq/produce.rb"), str(count), sort]
        return command, {"env": {"REDIS_URL": world.url}}

    def work(self, world):
        command = ["sidekiq", "-r", str(HERE / "sidekiq/tally.rb"), "-c", "10", "-q", "default"]
        how = {"env": {"REDIS_URL": world.url, "RAILS_ENV": "production"}, "cwd": world.folder}
        return [(command, dict(how)) for _ in range(os.cpu_count())]

    def unsettled(self, world, jobs):
        asked = ["LLEN queue:default", "ZCARD retry", "ZCARD dead", "ZCARD schedule"]
        return sum(redis_numbers(world.port, asked))


class Graphile(Peer):
    name = "graphile_worker"
    store = "postgres"
    settings = [
        ("concurrency 16, poll 500 ms", "its documentation's worker for throughput"),
        ("local queue of 100", "the same: jobs are fetched many at a time"),
        ("completions gathered for 5 ms", "the same: written many at a time"),
        ("worker recovery on", "off unless asked for: a crashed worker's jobs would stay locked for hours"),
        ("20 connections", "one for each job at once, and some for the fetches"),
        ("add_raw_jobs of 500", "its documentation: many jobs in one statement"),
    ]
    durability = (
        "PostgreSQL fsync on, synchronous_commit on: a crash of the machine loses nothing; "
        "a worker's crash loses nothing (worker recovery unlocks its jobs, and they run again)"
    )
    afterwards = "nothing is kept of a finished job: its row is deleted"

    def install(self):
        self.program = build_rust() / "peer-graphile"
        return {"graphile_worker": locked("graphile_worker"), "sqlx": locked("sqlx")}

    def produce(self, world, count, sort):
        return [str(self.program), world.url, "produce", str(count), sort], {}

    def work(self, world):
        return [([str(self.program), world.url, "work"], {})]

    def unsettled(self, world, jobs):
        return postgres_number(world.port, "select count(*) from graphile_worker._private_jobs")


# moves up to 1,000 jobs from apalis-redis's schedule to its ready list; gives how many
PROMOTE = """
    local due = redis.call('ZRANGE', 'peers:scheduled', 0, 999)
    if #due > 0 then
        redis.call('RPUSH', 'peers:active', unpack(due))
        redis.call('ZREM', 'peers:scheduled', unpack(due))
    end
    return #due
"""


class Apalis(Peer):
    name = "apalis-redis"
    settings = [
        ("concurrency 100, parallelize", "its documentation: jobs at once, on all cores"),
        ("batch_size 100", "its documentation: larger fetches for throughput"),
        ("lock_tasks off", "its documentation: no leases for jobs shorter than a heartbeat"),
        ("push_bulk of 500", "many jobs in one round trip"),
        ("jobs are put on its ready list by us", "its own way there fails above some 8,000 jobs"),
    ]
    durability = f"{REDIS_KEPT}; a worker's crash loses nothing (orphaned jobs run again)"
    afterwards = "each job's data and result stay in Redis"

    def install(self):
        self.program = build_rust() / "peer-apalis"
        return {"apalis": locked("apalis"), "apalis-redis": locked("apalis-redis")}

    def produce(self, world, count, sort):
        return [str(self.program), world.url, "produce", str(count), sort], {}

    def work(self, world):
        return [([str(self.program), world.url, "work"], {})]

    def prepare(self, world):
        # It puts every job on its schedule, and its worker moves all that are due in one call, which
        # fails when they are more than some 8,000 ("too many results to unpack"): so they are moved
        # beforehand, which its worker is spared.
        while redis_numbers(world.port, [["EVAL", PROMOTE, "0"]]) != [0]:
            pass

    def unsettled(self, world, jobs):
        [done] = redis_numbers(world.port, ["SCARD peers:done"])
        return jobs - done


class Dramatiq(Peer):
    # Of Python's: kept up (a release this autumn), and it acknowledges a job after it has run, as
    # Presswork does; Celery acknowledges before unless told otherwise, arq says that it is only maintained,
    # and RQ forks for each job, which would be all that is measured.
    name = "dramatiq"
    settings = [
        ("a process for each core, 8 threads", "its defaults, and what its documentation advises"),
        ("send one by one", "it has no way to send many at once"),
        ("hiredis", "the documentation of redis-py: answers are parsed in C"),
    ]
    durability = f"{REDIS_KEPT}; a worker's crash loses nothing (unacknowledged jobs run again)"
    afterwards = "nothing is kept of a finished job"

    def install(self):
        def install(folder):
            run([sys.executable, "-m", "venv", str(folder / "venv")], INSTALL_S)
            pip = [str(folder / "venv/bin/pip"), "install", "--quiet", "--disable-pip-version-check"]
            # the file names all of them
            run([*pip, "--no-deps", "-r", str(folder / "requirements.txt")], INSTALL_S)

        self.bin = folder_of("dramatiq", [HERE / "dramatiq/requirements.txt"], install) / "venv/bin"
        about = "import importlib.metadata as m, platform; print(platform.python_version(), "
        about += "*(m.version(it) for it in ('dramatiq', 'redis', 'hiredis')))"
        found = run([str(self.bin / "python"), "-c", about], 60).split()
        return dict(zip(("python", "dramatiq", "redis-py", "hiredis"), found))

    def how(self, world):
        return {"env": {"REDIS_URL": world.url, "PYTHONDONTWRITEBYTECODE": "1"}, "cwd": HERE / "dramatiq"}

    def produce(self, world, count, sort):
        return [str(self.bin / "python"), "tally.py", str(count), sort], self.how(world)

    def work(self, world):
        processes = str(os.cpu_count())
        command = [str(self.bin / "dramatiq"), "tally", "--processes", processes, "--threads", "8"]
        # it waits up to ten minutes for a Redis that has gone
        command += ["--worker-shutdown-timeout", "3000"]
        return [(command, self.how(world))]

    def unsettled(self, world, jobs):
        # the messages that wait, run or are to be tried again; and those that were given up
        asked = ["HLEN dramatiq:default.msgs", "HLEN dramatiq:default.DQ.msgs", "ZCARD dramatiq:default.XQ"]
        return sum(redis_numbers(world.port, asked))


ALL = [BullMQ(), Sidekiq(), Graphile(), Apalis(), Dramatiq()]
