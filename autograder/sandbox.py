"""Student code in a process of its own: the levels of isolation, the zygote and its workers, as the grader sees them.

    with Zygote() as zygote, zygote.worker() as worker:
        reply = worker.request({"op": "load", "cells": [...]})

Levels, best first; `available_levels` tries each once, and docs/security.md says what each promises:
    bubblewrap  namespaces around the zygote, and again around each worker; seccomp; Landlock where the kernel has it
    uid         for root, where there are no namespaces: a fresh user for each worker; seccomp; Landlock
    public      what a plain process can give up for itself; not good enough for hidden checks
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import importlib.util
import json
import os
import random
import resource
import secrets
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from . import channel, seccomp
from .errors import GraderError, unknown
from .worker import hear, tell

LEVELS = ("bubblewrap", "uid", "public")
BLOCKED = ("autograder", "genmodels", "problem_sets")  # what student code must not import
# Imported once, before any fork. The last is what the first optimizer of a process imports, for a second or more.
PRELOAD = ("numpy", "torch", "scipy.special", "matplotlib.pyplot", "torch._dynamo")
PARTS = ("values", "channel", "seccomp", "landlock", "confine", "worker")  # in the order of their imports
UIDS = range(50_000, 60_000)
TICK = 0.05  # seconds between two looks at a worker's memory and time
FLOOD = 16  # output of so many times its cap within one request ends the worker
SYSTEM: tuple[str, ...] = (
    "/lib",
    "/lib32",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
    "/usr/local/lib",
    "/usr/share/zoneinfo",
)
SYSTEM += ("/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/alternatives", "/etc/localtime")
CUDA = ("/usr/local/cuda", "/usr/lib/wsl", "/etc/nvidia", "/sys/devices", "/sys/bus/pci", "/sys/module/nvidia")

BOOTSTRAP = """
import json, os, struct, sys, types
def read(n):
    data = b""
    while len(data) < n:
        piece = os.read(fd, n - len(data))
        if not piece: os._exit(1)
        data += piece
    return data
fd = int(sys.argv[1])
config = json.loads(read(struct.unpack("!Q", read(8))[0]))
sys.path[:] = config["path"]
sys.argv[:] = [""]
package = types.ModuleType("_sandbox")
package.__path__ = []
sys.modules["_sandbox"] = package
def load(name, source):
    module = types.ModuleType("_sandbox." + name)
    module.__package__ = "_sandbox"
    sys.modules[module.__name__] = module
    setattr(package, name, module)
    exec(compile(source, "<sandbox " + name + ">", "exec"), module.__dict__)
    return module
for name, source in config.pop("sources"):
    worker = load(name, source)
executor = config.pop("executor")
worker.main(fd, config, lambda: load("executor", executor).execute)
"""

PROBE = """
def execute(namespace, request, device="cpu"):
    return {"ok": request["op"], "mutated": []}
"""


@dataclass(frozen=True)
class Limits:
    """What one worker may use."""

    wall: float = 20.0  # seconds for a request; a question may ask for another
    cpu: float = 60.0  # processor seconds for a request, all threads together
    memory: int = 2 << 30  # bytes beyond what the zygote has
    processes: int = 32  # threads, where the kernel lets student code start no processes
    file_size: int = 16 << 20
    output: int = 64 << 10  # bytes of stdout and stderr that are kept


class WorkerFailure(Exception):
    """A worker is lost: one line that says how. `kind`: time, cpu, memory, output, died or channel."""

    def __init__(self, message: str, kind: str = "died") -> None:
        super().__init__(message)
        self.kind = kind


# -- which files student code may see


def _below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def cover(root: str, holes: Sequence[str]) -> list[str]:
    """Paths that together are all of `root` but the holes that lie below it."""
    inside = [hole for hole in holes if _below(hole, os.path.realpath(root)) and hole != os.path.realpath(root)]
    if not inside:
        return [root]
    paths = []
    for name in sorted(os.listdir(root)):
        child = os.path.join(root, name)
        real = os.path.realpath(child)
        if not any(_below(real, hole) for hole in inside):
            within = not os.path.islink(child) and any(_below(hole, real) for hole in inside)
            paths += cover(child, inside) if within else [child]
    return paths


def preload_for(source: str) -> tuple[str, ...]:
    """What to preload for one submission alone: what it mentions, so that a cold start imports nothing in vain."""
    words = {"scipy": ("scipy.special", "scipy.stats"), "matplotlib": ("matplotlib.pyplot",)}
    words |= {
        "optim": ("torch._dynamo",),
        "torchvision": ("torchvision",),
        "einops": ("einops",),
        "tqdm": ("tqdm.auto",),
    }
    return ("numpy", "torch", *(module for word, modules in words.items() if word in source for module in modules))


def python_paths() -> tuple[list[str], list[str]]:
    """`sys.path` for the sandbox, and the folders and files that Python needs there."""
    standard = {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")}
    standard |= {str(Path(path) / "lib-dynload") for path in standard}
    search, installed = [], []
    for path in sys.path:
        if path in standard or Path(path).name in ("site-packages", "dist-packages"):
            search.append(path)
            installed.append(path)
    for name in ("numpy", "torch"):  # wherever they may be
        spec = importlib.util.find_spec(name)
        for place in (spec.submodule_search_locations or []) if spec else []:
            if not any(_below(place, path) for path in installed):
                search.append(os.path.dirname(place))
                installed.append(os.path.dirname(place))
    executable = os.path.realpath(sys.executable)
    library = os.path.join(os.path.dirname(os.path.dirname(executable)), "lib")
    roots = [path for path in (*SYSTEM, library, *installed) if os.path.exists(path)]
    return search, [executable, *(r for r in dict.fromkeys(roots) if not any(_below(r, o) for o in roots if o != r))]


@functools.lru_cache(maxsize=1)
def project_paths() -> list[str]:
    """Where the project lies, also installed: what no submission may read."""
    root = Path(__file__).resolve().parent.parent
    found = [str(root)] if root.name not in ("site-packages", "dist-packages") else []
    for name in BLOCKED:
        with contextlib.suppress(ImportError, ValueError, AttributeError):
            spec = importlib.util.find_spec(name)
            found += [os.path.realpath(place) for place in (spec.submodule_search_locations or [])] if spec else []
    for folder in sys.path:
        if Path(folder).name in ("site-packages", "dist-packages") and os.path.isdir(folder):
            names = [n for n in os.listdir(folder) if n.startswith(("genmodels", "__editable__")) or n in BLOCKED]
            found += [os.path.realpath(os.path.join(folder, n)) for n in names if "genmodels" in n or n in BLOCKED]
    return list(dict.fromkeys(found))


# -- the levels that this machine offers


@functools.lru_cache(maxsize=1)
def available_levels() -> list[str]:
    """The levels that really work here, best first. Tries each once, without torch; takes a fraction of a second."""
    return [level for level in LEVELS if why_not(level) is None]


def best_level() -> str:
    """The first level that really works here; the others are not tried."""
    return next((level for level in LEVELS if why_not(level) is None), "public")


def start_best(device: str = "cpu", limits: Limits | None = None, *, preload: Sequence[str]) -> Zygote:
    """A zygote at the first level that works, found by starting it: quicker than a probe where one run is all."""
    for level in LEVELS:
        if lacking(level) is None:
            try:
                zygote = Zygote(level, device, limits or Limits(), preload=preload)
                with zygote.worker():
                    return zygote
            except (GraderError, WorkerFailure):
                continue
    raise GraderError(f"no level of isolation works here, not even public: {why_not('public')}")


@functools.lru_cache(maxsize=8)
def why_not(level: str) -> str | None:
    """One line that says why a level does not work here; None if it does."""
    line = lacking(level)
    if line is not None:
        return line
    try:
        with Zygote(level, preload=(), executor=PROBE) as zygote, zygote.worker() as worker:
            return None if worker.request({"op": "probe"})["ok"] == "probe" else "the probe gave no answer"
    except (GraderError, WorkerFailure) as error:
        return str(error)


def lacking(level: str) -> str | None:
    """One line that says what a level needs and is not there; None if it may work."""
    if level not in LEVELS:
        raise unknown("level", level, LEVELS)
    if not hasattr(os, "fork"):
        return "this system cannot fork"
    if level != "public" and not (sys.platform == "linux" and seccomp.supported()):
        return "needs Linux with seccomp, on x86_64 or aarch64"
    if level == "bubblewrap" and shutil.which("bwrap") is None:
        return "bwrap is not installed"
    if level == "uid" and os.geteuid() != 0:
        return "only root may change the user"
    return None


class _Uids:
    """Users for workers, each claimed by an abstract socket, so that no two graders on a machine take the same."""

    def __init__(self) -> None:
        self.claims: dict[int, socket.socket] = {}

    def claim(self) -> int:
        for uid in random.Random(secrets.randbits(64)).sample(UIDS, 200):
            lock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            try:
                lock.bind(f"\0autograder-uid-{uid}")
            except OSError:
                lock.close()
                continue
            self.claims[uid] = lock
            return uid
        raise GraderError("no free user id for a worker")

    def release(self, uid: int | None) -> None:
        if uid in self.claims:
            self.claims.pop(uid).close()


class Zygote:
    """Imports torch once inside the sandbox and forks workers.

    It never runs student code and never touches CUDA. `preload` names the modules to import before the first fork;
    `hidden` adds paths that no worker may read. Errors: GraderError if the level does not work here.
    """

    def __init__(
        self,
        level: str | None = None,
        device: str = "cpu",
        limits: Limits = Limits(),
        *,
        preload: Sequence[str] = PRELOAD,
        hidden: Sequence[str | Path] = (),
        executor: str | None = None,
        use_landlock: bool = True,
        use_seccomp: bool = True,
    ) -> None:
        if level is None:
            level = best_level()
        if level not in LEVELS:
            raise unknown("level", level, LEVELS)
        if device not in ("cpu", "cuda"):
            raise unknown("device", device, ("cpu", "cuda"))
        self.level, self.device, self.limits = level, device, limits
        self._uids = _Uids()
        self._uid = self._uids.claim() if os.geteuid() == 0 and level != "public" else None
        self._workers: dict[int, Worker] = {}
        self._count = 0
        self._lock = threading.RLock()
        self._scratch = tempfile.mkdtemp(prefix="autograder-")
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  lives as long as the zygote
        self.landlock, self.seccomp = 0, False
        search, roots = python_paths()
        holes = [*project_paths(), *(os.path.realpath(path) for path in hidden)]
        devices = sorted(map(str, Path("/dev").glob("nvidia*"))) if device == "cuda" else []
        if device == "cuda":
            roots += [path for path in CUDA if os.path.exists(path)] + ["/proc"]
        readable = list(dict.fromkeys(path for root in roots for path in cover(root, holes)))
        # A worker's own small folder; Python itself may live below /tmp.
        scratch = "/scratch" if any(_below(path, "/tmp") for path in readable) else "/tmp"
        here = Path(__file__).parent
        config = {
            "level": level, "device": device, "path": search, "preload": list(preload), "blocked": BLOCKED,
            "readable": readable, "hidden": holes, "devices": devices, "uid": self._uid, "scratch": scratch,
            "landlock": use_landlock, "seccomp": use_seccomp,
            "sources": [(name, (here / f"{name}.py").read_text()) for name in PARTS],
            "executor": executor or (here / "executor.py").read_text(),
        }  # fmt: skip
        ours, theirs = socket.socketpair()
        python = [os.path.realpath(sys.executable), "-S", "-s", "-B", "-c", BOOTSTRAP, str(theirs.fileno())]
        try:
            self._process = subprocess.Popen(
                [*(bubblewrap(readable, devices, scratch) if level == "bubblewrap" else []), *python],
                stdin=subprocess.DEVNULL, stdout=self._errors, stderr=self._errors, pass_fds=[theirs.fileno()],
                cwd="/", env=self._environment(scratch), start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            raise GraderError(f"level {level}: {error}") from None
        finally:
            theirs.close()
        self._socket = ours
        ours.settimeout(600)
        try:
            text = json.dumps(config).encode()
            ours.sendall(struct.pack("!Q", len(text)) + text)
            ready, _ = hear(ours)
        except (OSError, EOFError):
            ready = {"error": self._last_words()}
        if "error" in ready:
            self.close()
            raise GraderError(f"level {level}: the sandbox did not start: {ready['error']}")
        ours.settimeout(60)
        self.landlock, self.seccomp = int(ready["landlock"]), bool(ready["seccomp"])

    def _environment(self, scratch: str) -> dict[str, str]:
        home = scratch if self.level == "bubblewrap" else self._scratch
        variables = {"PATH": "", "HOME": home, "MPLCONFIGDIR": home, "TMPDIR": home, "LANG": "C.UTF-8"}
        variables |= {"MPLBACKEND": "Agg", "PYTHONHASHSEED": "0", "TORCH_DEVICE_BACKEND_AUTOLOAD": "0"}
        variables |= {f"{name}_NUM_THREADS": "1" for name in ("OMP", "MKL", "OPENBLAS")}
        if self.device == "cuda" and "CUDA_VISIBLE_DEVICES" in os.environ:
            variables["CUDA_VISIBLE_DEVICES"] = os.environ["CUDA_VISIBLE_DEVICES"]
        return variables

    def _last_words(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        size = self._errors.seek(0, 2)
        self._errors.seek(max(0, size - 2000))
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"it ended with status {self._process.returncode}"

    def worker(self) -> Worker:
        """A fresh worker. Errors: GraderError if it does not start with the isolation of this level."""
        with self._lock:
            self._count += 1
            number = self._count
            uid = self._uids.claim() if self.level == "uid" else None
            worker = Worker(self, number, uid)
            self._workers[number] = worker
        try:
            worker._begin()
        except BaseException:
            worker.close()
            raise
        return worker

    def _order(self, message: dict[str, Any], descriptors: list[int] | None = None) -> tuple[dict[str, Any], list[int]]:
        """One order to the zygote and its answer. Errors: GraderError."""
        with self._lock:
            try:
                tell(self._socket, message, descriptors)
                answer, passed = hear(self._socket)
            except (OSError, EOFError, ValueError):
                raise GraderError(f"the sandbox is gone: {self._last_words()}") from None
        if "error" in answer:
            raise GraderError(f"level {self.level}: {answer['error']}")
        return answer, passed

    def close(self) -> None:
        """End the workers and the zygote; returns when all are dead."""
        for worker in list(self._workers.values()):
            worker.close()
        self._socket.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(10)
        self._uids.release(self._uid)
        self._errors.close()
        shutil.rmtree(self._scratch, ignore_errors=True)

    def __enter__(self) -> Zygote:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def bubblewrap(readable: Sequence[str], devices: Sequence[str], scratch: str) -> list[str]:
    """The command line of the outer sandbox: read-only, only what Python needs, no network, no rights."""
    command = [shutil.which("bwrap") or "bwrap", "--die-with-parent", "--new-session", "--cap-drop", "ALL"]
    command += ["--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts"]
    if os.geteuid() == 0:
        # Root sets up the mounts, which may lie in folders that only root can enter; then the zygote becomes another.
        command += ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID", "--cap-add", "CAP_SETPCAP"]
    else:
        command += ["--unshare-user"]
    command += ["--proc", "/proc", "--dev", "/dev", "--dir", "/tmp", "--perms", "1777", "--tmpfs", scratch]
    for folder in sorted({str(parent) for path in readable for parent in Path(path).parents} - {"/", "/proc", "/dev"}):
        if not any(_below(folder, path) for path in readable):  # else root's are made for root only
            command += ["--dir", folder]
    for path in readable:
        if path != "/proc":
            link = os.path.islink(path)
            command += ["--symlink", os.readlink(path), path] if link else ["--ro-bind", path, path]
    for path in devices:
        command += ["--dev-bind", path, path]
    return [*command, "--remount-ro", "/dev", "--remount-ro", "/", "--chdir", "/"]


class Worker:
    """One forked process with student code. A context manager: all that it has started is dead when it closes."""

    def __init__(self, zygote: Zygote, number: int, uid: int | None) -> None:
        self.zygote, self._number, self._uid = zygote, number, uid
        self.limits = zygote.limits
        self.force: dict[str, Any] = {}  # what it said is in force, before any student code
        self.failure: WorkerFailure | None = None
        self._output = bytearray()
        self._produced = 0
        self._closed = False
        self._started = False
        self._pidfd = -1
        self._pid = 0
        self._base = 0
        self.memory_peak = 0  # bytes, as seen at the ticks
        request, reply, output = os.pipe(), os.pipe(), os.pipe()
        self._request, self._reply, self._out = request[1], reply[0], output[0]
        self._theirs = [request[0], reply[1], output[1]]
        for descriptor in (self._request, self._reply, self._out):
            os.set_blocking(descriptor, False)
        if hasattr(fcntl, "F_SETPIPE_SZ"):
            for descriptor in (self._request, self._reply):
                with contextlib.suppress(OSError):
                    fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, 1 << 20)

    def _begin(self) -> None:
        order = {"op": "fork", "id": self._number, "uid": self._uid, "limits": asdict(self.limits)}
        try:
            answer, passed = self.zygote._order(order, self._theirs)
        finally:
            for descriptor in self._theirs:
                os.close(descriptor)
        self._started = True
        self._pid = int(answer["pid"])
        if passed:  # the zygote may count processes from another start: the descriptor knows the number here
            self._pidfd = passed[0]
            with contextlib.suppress(OSError), open(f"/proc/self/fdinfo/{self._pidfd}") as file:
                fields = dict(line.split(":", 1) for line in file)
                self._pid = int(fields["Pid"])
        try:
            reply = self._exchange(b"", "begin", 60.0)
        except WorkerFailure as failure:
            raise GraderError(f"level {self.zygote.level}: a worker did not start: {failure}") from None
        if "error" in reply:
            raise GraderError(f"level {self.zygote.level}: a worker did not start: {reply['error']}")
        self.force = reply["ok"]
        self._base = self._usage()[0]

    @property
    def alive(self) -> bool:
        return self._started and not self._closed and self.failure is None

    @property
    def output(self) -> str:
        """What it has printed, up to the cap."""
        text = bytes(self._output).decode(errors="replace")
        return text + ("\n[output cut]" if self._produced > len(self._output) else "")

    def request(self, request: dict[str, Any], wall: float | None = None) -> dict[str, Any]:
        """The reply of `executor.execute`, {"ok", "mutated"} or {"error"}. Errors: WorkerFailure."""
        if self.failure is not None:
            raise self.failure
        if self._closed:
            raise WorkerFailure("the worker has been closed")
        nonce = secrets.token_hex(16)
        data = channel.pack(nonce, request)
        try:
            if self._waits(self._reply):
                raise WorkerFailure(self._death("answered out of turn: bytes that nobody had asked for"), "channel")
            reply = self._exchange(data, nonce, self.limits.wall if wall is None else wall)
            return plain_reply(reply, request.get("op"))
        except channel.ChannelError as error:
            failure = WorkerFailure(f"the answer's process {error}", "channel")
        except WorkerFailure as error:
            failure = error
        self.failure = failure
        self._end()
        raise failure

    def _waits(self, descriptor: int) -> bool:
        return bool(select.select([descriptor], [], [], 0)[0])

    def _death(self, otherwise: str) -> str:
        """`otherwise`, unless the waiting byte is the end of the pipe."""
        try:
            return otherwise if os.read(self._reply, 1) else self._epitaph()
        except OSError:
            return otherwise

    def _epitaph(self) -> str:
        hung_up = not self._dead_soon()
        status = self._end()
        if hung_up:
            return "the answer's process closed the channel"
        if status is not None and status < 0:
            with contextlib.suppress(ValueError):
                name = signal.Signals(-status).name
                more = {"SIGSEGV": " (a crash in native code, or endless recursion)", "SIGXCPU": " (processor time)"}
                return f"the answer's process was ended by {name}{more.get(name, '')}"
        return f"the answer's process ended by itself (status {status})"

    def _exchange(self, data: bytes, nonce: str, wall: float) -> Any:
        """Write a request and read its answer, looking at the clock, the memory and the output meanwhile."""
        now = time.monotonic()
        deadline, look = now + wall, now + TICK
        rest, reader = memoryview(data), channel.FrameReader()
        produced, cpu = self._produced, self._usage()[1]
        poll = select.poll()
        poll.register(self._reply, select.POLLIN)
        poll.register(self._out, select.POLLIN)
        if rest:
            poll.register(self._request, select.POLLOUT)
        while True:
            events = dict(poll.poll(max(0.0, min(deadline, look) - time.monotonic()) * 1000 + 1))
            if self._out in events and not self._drain():
                poll.unregister(self._out)
            if self._produced - produced > FLOOD * self.limits.output:
                raise WorkerFailure(f"printed more than {FLOOD * self.limits.output >> 10} KB", "output")
            if self._request in events:
                try:
                    rest = rest[os.write(self._request, rest[: channel.CHUNK]) :]
                except BlockingIOError:
                    pass
                except BrokenPipeError:
                    rest = rest[len(rest) :]
                if not rest:
                    poll.unregister(self._request)
            if self._reply in events:
                try:
                    if reader.read(self._reply):
                        self._drain()
                        return channel.unpack(reader.data, nonce)
                except EOFError:
                    self._drain()
                    raise WorkerFailure(self._epitaph()) from None
            now = time.monotonic()
            if now >= deadline:
                raise WorkerFailure(f"took more than {wall:g} seconds", "time")
            if now >= look:
                look = now + TICK
                memory, used = self._usage()
                self.memory_peak = max(self.memory_peak, memory)
                if memory > self._base + self.limits.memory:
                    raise WorkerFailure(f"used more than {self.limits.memory >> 20} MB of memory", "memory")
                if used - cpu > self.limits.cpu:
                    raise WorkerFailure(f"used more than {self.limits.cpu:g} seconds of processor time", "cpu")

    def _drain(self) -> bool:
        """Take what has been printed, keep the first of it; False at the end of the pipe."""
        for _ in range(64):  # a pipe's worth: a flood must not hold the grader here
            try:
                piece = os.read(self._out, 65536)
            except BlockingIOError:
                return True
            if not piece:
                return False
            self._produced += len(piece)
            self._output += piece[: max(0, self.limits.output - len(self._output))]
        return True

    def _usage(self) -> tuple[int, float]:
        """Resident memory and processor seconds of the worker's processes together; zeros where /proc is not."""
        memory, seconds = 0, 0.0
        page, ticks = resource.getpagesize(), os.sysconf("SC_CLK_TCK")
        waiting = [self._pid] if sys.platform == "linux" and self._pid else []
        while waiting:
            pid = waiting.pop()
            with contextlib.suppress(OSError, ValueError, IndexError):
                with open(f"/proc/{pid}/stat") as file:
                    fields = file.read().rpartition(")")[2].split()
                seconds += (int(fields[11]) + int(fields[12])) / ticks
                memory += int(fields[21]) * page
                for thread in os.listdir(f"/proc/{pid}/task"):
                    with contextlib.suppress(OSError), open(f"/proc/{pid}/task/{thread}/children") as file:
                        waiting += [int(child) for child in file.read().split()]
        return memory, seconds

    def _end(self) -> int | None:
        """Kill the worker and all that it has started; its exit status. Only the first call does anything."""
        if self._closed:
            return None
        self._closed = True
        status = None
        if self._started:
            try:
                status = int(self.zygote._order({"op": "end", "id": self._number})[0]["status"])
            except GraderError:
                if self._pidfd >= 0:
                    with contextlib.suppress(OSError):
                        signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        for descriptor in (self._request, self._reply, self._out, self._pidfd):
            if descriptor >= 0:
                with contextlib.suppress(OSError):
                    os.close(descriptor)
        self.zygote._uids.release(self._uid)
        self.zygote._workers.pop(self._number, None)
        return status

    def _dead_soon(self) -> bool:
        """Give a process that has closed its end of the channel a moment to be dead, with its own status."""
        return self._pidfd < 0 or bool(select.select([self._pidfd], [], [], 0.5)[0])

    def close(self) -> None:
        self._end()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def plain_reply(reply: Any, op: Any = None) -> dict[str, Any]:
    """A reply with exactly the fields that one to `op` may have: student code can forge it. Errors: ChannelError."""

    def texts(value: Any, longest: int) -> bool:
        return type(value) is list and all(type(text) is str and len(text) <= longest for text in value)

    if type(reply) is dict and set(reply) == {"error"} and type(reply["error"]) is dict:
        error = reply["error"]
        if set(error) == {"type", "message", "where"} and all(type(text) is str for text in error.values()):
            return {"error": {key: text[:1000] for key, text in error.items()}}
    if type(reply) is dict and set(reply) == {"ok", "mutated"} and texts(reply["mutated"], 100):
        ok = reply["ok"]
        loaded = type(ok) is dict and set(ok) == {"names", "problems"} and all(texts(v, 5000) for v in ok.values())
        if op != "load" or loaded:
            return reply
    raise channel.ChannelError("sent a malformed frame: it holds no reply")
