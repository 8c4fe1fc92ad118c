"""Private servers and the processes that use them: on free ports, in a folder of their own, ended with us."""

import ctypes
import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

STARTED_S = 60
# below those that Linux takes for outgoing connections
PORTS = range(20_000, 32_000)
PR_SET_PDEATHSIG = 1
TICKS = os.sysconf("SC_CLK_TCK")

LIBC = ctypes.CDLL(None, use_errno=True)


class Failed(Exception):
    """What can't go on, in words for people."""


def program(name):
    """The program's path; Debian keeps PostgreSQL's out of PATH."""
    found = shutil.which(name)
    if found:
        return found
    kept = Path("/usr/lib/postgresql")
    for folder in sorted(kept.glob("*/bin"), key=lambda it: float(it.parent.name), reverse=True):
        if (folder / name).is_file():
            return str(folder / name)
    return None


def free_port():
    for _ in range(1_000):
        port = random.choice(PORTS)
        with socket.socket() as trial:
            try:
                trial.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise Failed(f"no port from {PORTS.start} to {PORTS.stop} is free")


def family(pid):
    """The process and all that come from it and live."""
    found = [pid]
    for one in found:
        try:
            threads = os.listdir(f"/proc/{one}/task")
        except OSError:
            continue
        for thread in threads:
            try:
                children = Path(f"/proc/{one}/task/{thread}/children").read_text()
            except OSError:
                continue
            found.extend(int(it) for it in children.split())
    return found


def cpu_seconds(pid):
    """Processor seconds of the process, its children, and those that it has waited for."""
    ticks = 0
    for one in family(pid):
        try:
            stat = Path(f"/proc/{one}/stat").read_text()
        except OSError:
            continue
        # the name, in parentheses, may hold anything; behind it utime is the 12th field
        ticks += sum(int(it) for it in stat.rpartition(")")[2].split()[11:15])
    return ticks / TICKS


class Process:
    """A child in a session of its own, with its log in a file; it ends before us, or with us."""

    def __init__(self, command, log, *, env=None, cwd=None, ids=None, farewell=signal.SIGTERM):
        self.name = Path(command[0]).name
        self.log = log
        self.farewell = farewell
        user = {"user": ids[0], "group": ids[1], "extra_groups": []} if ids else {}
        with open(log, "ab") as out:
            self.child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env={**os.environ, **(env or {})},
                cwd=cwd,
                start_new_session=True,
                # should we be killed, nobody else would end it
                preexec_fn=lambda: LIBC.prctl(PR_SET_PDEATHSIG, farewell),
                **user,
            )

    @property
    def pid(self):
        return self.child.pid

    def said(self):
        return Path(self.log).read_text(errors="replace")

    def check(self):
        """Fails when it has ended."""
        if self.child.poll() is not None:
            tail = "\n".join(self.said().splitlines()[-20:])
            raise Failed(f"{self.name} ended early, with {self.child.returncode}:\n{tail}")

    def wait(self, seconds):
        """Waits for its end, which must be a good one."""
        try:
            self.child.wait(seconds)
        except subprocess.TimeoutExpired:
            raise Failed(f"{self.name} took longer than {seconds} s") from None
        if self.child.returncode != 0:
            self.check()

    def stop(self):
        for way in (self.farewell, signal.SIGKILL):
            if self.child.poll() is None:
                # PostgreSQL and Dramatiq end their own children when told
                self.child.send_signal(way)
                try:
                    self.child.wait(10)
                except subprocess.TimeoutExpired:
                    continue
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.child.wait()


class World:
    """A folder, a server and processes for one run of one peer."""

    def __init__(self):
        self.folder = Path(tempfile.mkdtemp(prefix="presswork-peers-"))
        # another user runs PostgreSQL in it
        self.folder.chmod(0o711)
        self.processes = []
        self.server = None
        self.url = None
        self.port = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in reversed(self.processes):
            process.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(self, name, command, **how):
        process = Process(command, self.folder / f"{name}.log", **how)
        self.processes.append(process)
        return process

    def serve(self, name, command, ready, **how):
        self.server = self.start(name, command, **how)
        until = time.monotonic() + STARTED_S
        while ready not in self.server.said():
            self.server.check()
            if time.monotonic() > until:
                raise Failed(f"{name} didn't start:\n{self.server.said()}")
            time.sleep(0.02)

    def redis(self, settings):
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}"
        command = [program("redis-server"), "--port", str(self.port), "--bind", "127.0.0.1"]
        command += ["--dir", str(self.folder)]
        for name, value in settings.items():
            command += [f"--{name}", value]
        self.serve("redis", command, "Ready to accept connections")

    def postgres(self, settings):
        self.port = free_port()
        self.url = f"postgres://peers@127.0.0.1:{self.port}/postgres"
        home = self.folder / "postgres"
        home.mkdir()
        ids = None
        if os.geteuid() == 0:
            ids = unprivileged()
            os.chown(home, *ids)
        data = str(home / "data")
        how = {"ids": ids, "cwd": home, "env": {"LC_ALL": "C"}}
        made = [program("initdb"), "-D", data, "-A", "trust", "-U", "peers", "-E", "UTF8", "--no-sync"]
        self.start("initdb", made, **how).wait(STARTED_S)
        command = [program("postgres"), "-D", data, "-k", str(home), "-p", str(self.port)]
        for name, value in settings.items():
            command += ["-c", f"{name}={value}"]
        # its fast shutdown
        self.serve("postgres", command, "ready to accept connections", farewell=signal.SIGINT, **how)


def unprivileged():
    """PostgreSQL refuses to run as root: then somebody without rights runs it."""
    for name in ("postgres", "nobody"):
        try:
            user = pwd.getpwnam(name)
        except KeyError:
            continue
        return user.pw_uid, user.pw_gid
    raise Failed("PostgreSQL doesn't run as root, and there is no user postgres or nobody to run it as")


def redis_numbers(port, commands):
    """Asks Redis for numbers, one for each command, which is a text or a list of words."""
    commands = [it.split() if isinstance(it, str) else it for it in commands]
    with socket.create_connection(("127.0.0.1", port), timeout=10) as line:
        asked = "".join(
            f"*{len(words)}\r\n" + "".join(f"${len(it)}\r\n{it}\r\n" for it in words)
            for words in commands
        )
        line.sendall(asked.encode())
        answers = line.makefile("r", encoding="ascii", newline="\r\n")
        found = [answers.readline().strip() for _ in commands]
    for words, answer in zip(commands, found):
        if not answer.startswith(":"):
            raise Failed(f"Redis said {answer!r} to {words[0]}, not a number")
    return [int(it[1:]) for it in found]


def postgres_number(port, query):
    """Asks PostgreSQL for one number."""
    command = [program("psql"), "-h", "127.0.0.1", "-p", str(port), "-U", "peers", "-d", "postgres"]
    done = subprocess.run(command + ["-At", "-c", query], capture_output=True, text=True, timeout=60)
    if done.returncode != 0:
        raise Failed(f"psql couldn't ask {query}: {done.stderr.strip()}")
    return int(done.stdout)
