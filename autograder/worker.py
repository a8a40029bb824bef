"""What runs inside the sandbox: the zygote, which imports torch once and forks, and the worker with student code.

The zygote never runs student code and never touches CUDA. The grader tells it over a Unix socket to fork a worker or to
end one. A worker gives up everything that it does not need (`confine`), says what is in force, and then answers the
requests that come through a pipe. These sources are handed over as text: in here the project does not exist.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import importlib
import json
import os
import signal
import socket
import struct
import sys
import types
from typing import Any, NoReturn

from . import channel, confine, landlock, seccomp

MANY = 8  # from so many workers on, faster forks are worth half a second
REQUEST, REPLY = 3, 4  # a worker's only descriptors beside stdin, stdout and stderr


class _Blocked:
    """Says that modules of the project do not exist, in case that their folders can be seen."""

    def __init__(self, names: list[str]) -> None:
        self.names = frozenset(names)

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name.partition(".")[0] in self.names:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def main(control: int, config: dict[str, Any], load_executor: Any) -> NoReturn:
    """The zygote: prepare once, then fork and end workers as told, until the grader closes the socket."""
    socket_ = socket.socket(fileno=control)
    try:
        if config["level"] == "bubblewrap":
            own_process_namespace(config["uid"], socket_)
        zygote = _Zygote(config, load_executor)
    except BaseException as error:
        tell(socket_, {"error": f"{type(error).__name__}: {error}"})
        os._exit(1)
    tell(socket_, {"ok": True, "landlock": zygote.abi, "seccomp": zygote.seccomp})
    try:
        while True:
            order, descriptors = hear(socket_)
            try:
                answer, passed = zygote.obey(order, descriptors)
            except BaseException as error:
                answer, passed = {"error": f"{type(error).__name__}: {error}"}, []
            finally:
                for descriptor in descriptors:
                    os.close(descriptor)
            tell(socket_, answer, passed)
            for descriptor in passed:
                os.close(descriptor)
    except (EOFError, OSError):
        zygote.end_all()
        os._exit(0)


def own_process_namespace(uid: int | None, socket_: socket.socket) -> None:
    """Go on as process 1 of a process namespace, in a user namespace that may make others: one for each worker.

    This happens before torch is there, so that it costs little, and saves every worker two forks.
    """
    if os.getuid() == 0:
        confine.become(0 if uid is None else uid)
    confine.new_namespaces(confine.NEWPID)
    child = os.fork()
    if child:
        socket_.close()
        confine.wait_for(child)
    confine.prctl(confine.PDEATHSIG, signal.SIGKILL)
    confine.drop_rights(keep=confine.SYS_ADMIN)


class _Zygote:
    def __init__(self, config: dict[str, Any], load_executor: Any) -> None:
        self.config = config
        self.level = config["level"]
        self.workers: dict[int, tuple[int, int | None]] = {}  # id -> process, its own user
        self.forks = 0
        sys.meta_path.insert(0, _Blocked(config["blocked"]))
        for name in config["preload"]:
            with contextlib.suppress(ImportError):
                importlib.import_module(name)
        self.execute = load_executor()
        self.abi = landlock.abi() if config["landlock"] else 0
        self.seccomp = config["seccomp"] and seccomp.supported()
        self.keep: int | None = None
        self.ruleset: int | None = None
        if self.level == "uid":
            self._check_uid()
        if self.level != "bubblewrap" and self.abi:
            devices = ["/dev/urandom", "/dev/random", "/dev/zero", *config["devices"]]
            self.ruleset = landlock.ruleset([*config["readable"], *devices], ["/dev/null", *config["devices"]])
        if confine.LINUX:
            confine.prctl(confine.SUBREAPER, 1)
            confine.prctl(confine.DUMPABLE, 0)  # no one of the same user reads or writes its memory
            confine.prctl(confine.NO_NEW_PRIVS, 1)
        self.processes = os.open("/proc/self/ns/pid", os.O_RDONLY) if self.level == "bubblewrap" else -1
        self.mapped = confine.mapped()
        gc.collect()
        gc.freeze()  # workers share these pages

    def _check_uid(self) -> None:
        """Another user must be able to read Python, and nothing of the project."""
        uid, readable, hidden = self.config["uid"], self.config["readable"], self.config["hidden"]

        def reads_python() -> bool:
            confine.become(uid)
            return all(os.access(path, os.R_OK) for path in readable if os.path.isabs(path))

        def reads_hidden() -> bool:
            confine.become(uid)
            return any(os.access(path, os.R_OK) for path in hidden)

        if confine.in_child(reads_python) != 0:
            if not self.abi:
                raise PermissionError("Python's own folders cannot be read by other users, and there is no Landlock")
            self.keep = confine.DAC_READ_SEARCH  # with Landlock's list as its bound
        if not self.abi and confine.in_child(reads_hidden) != 1:
            raise PermissionError("no Landlock, and other users can read the project: chmod -R o-rwx it first")

    def obey(self, order: dict[str, Any], descriptors: list[int]) -> tuple[dict[str, Any], list[int]]:
        if order["op"] == "fork":
            pid = self._fork(order, descriptors)
            self.workers[order["id"]] = (pid, order["uid"])
            return {"pid": pid}, [os.pidfd_open(pid)] if hasattr(os, "pidfd_open") else []
        return {"status": self.end(order["id"])}, []

    def end(self, number: int) -> int:
        """Kill a worker and all that it has started; returns only when they are dead."""
        pid, uid = self.workers.pop(number)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)  # what it has started dies with its namespace or its user; else, its group:
        if self.level != "bubblewrap":
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        # Under seccomp no process can have been started: looking is enough, and cheaper than a fork.
        if uid is not None and (not self.seccomp or confine.processes_of(uid)) and not confine.end_user(uid):
            raise RuntimeError(f"processes of user {uid} are left")
        self._reap()
        return status

    def _reap(self) -> None:
        """Orphans come to this process; those of living workers stay as they are."""
        living = {pid for pid, _ in self.workers.values()}
        with contextlib.suppress(ChildProcessError, OSError):
            while True:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
                if ended is None or ended.si_pid in living:
                    return
                os.waitpid(ended.si_pid, 0)

    def end_all(self) -> None:
        for number in list(self.workers):
            with contextlib.suppress(BaseException):
                self.end(number)

    def _fork(self, order: dict[str, Any], descriptors: list[int]) -> int:
        parent = os.getpid()
        self.forks += 1
        if self.forks == MANY and confine.LINUX:
            confine.huge_pages()
        pid = confine.fork_apart(self.processes) if self.level == "bubblewrap" else os.fork()
        if pid == 0:
            self._run(order, descriptors, parent)
        return pid

    def _run(self, order: dict[str, Any], descriptors: list[int], parent: int) -> NoReturn:
        """In the worker: give up, say so, serve."""
        try:
            force = self._confine(order, descriptors, parent)
        except BaseException as error:
            _refuse(descriptors[1], error)
        serve(self.execute, self.config["device"], force)

    def _confine(self, order: dict[str, Any], descriptors: list[int], parent: int) -> dict[str, Any]:
        limits = order["limits"]
        request, reply, output = descriptors
        given = [request, reply, output, output, *([] if self.ruleset is None else [self.ruleset])]
        aside = [fcntl.fcntl(d, fcntl.F_DUPFD, 16) for d in given]  # out of the way of what they shall be
        for target, source in zip((REQUEST, REPLY, 1, 2, 5), aside, strict=False):
            os.dup2(source, target)
        keep = 5
        os.closerange(3 + len(given) - 2, 1024)
        if confine.LINUX:
            confine.prctl(confine.DUMPABLE, 1)  # its own files in /proc are root's otherwise
        confine.hardly_missed()
        if self.level == "bubblewrap":
            apart = confine.NEWNS | confine.NEWIPC | confine.NEWNET | confine.NEWUTS
            confine.new_namespaces(apart)
            confine.own_files(self.config["scratch"], self.config["device"] == "cuda")
        else:
            os.setsid()
        threads = limits["processes"]
        if self.level == "public":
            threads += confine.threads_of_user()
        cuda = self.config["device"] == "cuda"
        confine.limit_resources(limits, None if cuda or not confine.LINUX else self.mapped, threads)
        if order["uid"] is not None:
            confine.become(order["uid"], self.keep)
        elif confine.LINUX:
            confine.drop_rights()
        if confine.LINUX:
            confine.prctl(confine.DUMPABLE, 0)
            confine.prctl(confine.NO_NEW_PRIVS, 1)
            confine.prctl(confine.PDEATHSIG, signal.SIGKILL)
            if self.level != "bubblewrap" and os.getppid() != parent:  # it has died already
                os._exit(1)
        if self.abi:
            if self.level == "bubblewrap":  # the mount namespace is the list already
                devices = ["/dev/null", *self.config["devices"]]
                keep = landlock.ruleset(["/"], [self.config["scratch"], *devices])
            landlock.restrict(keep)
        if self.seccomp:
            seccomp.install(write=self.level == "bubblewrap")
        with contextlib.suppress(OSError):
            os.chdir(self.config["scratch"] if self.level == "bubblewrap" else "/")
        return {"landlock": self.abi, "seccomp": self.seccomp, "uid": os.getuid(), "pid": os.getpid()}


def _refuse(reply: int, error: BaseException) -> NoReturn:
    with contextlib.suppress(BaseException):
        channel.send(reply, channel.pack("begin", {"error": f"{type(error).__name__}: {error}"}))
    os._exit(1)


def serve(execute: Any, device: str, force: dict[str, Any]) -> NoReturn:
    """Answer requests until there are none. Whatever student code does to this process hurts only its own answers."""
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    module = types.ModuleType("__main__")  # dataclasses and pickles of student code look themselves up there
    sys.modules["__main__"] = module
    channel.send(REPLY, channel.pack("begin", {"ok": force}))
    while True:
        try:
            frame = channel.receive(REQUEST)
        except EOFError:
            os._exit(0)
        nonce = channel.nonce_of(frame)
        reply = execute(module.__dict__, channel.unpack(frame, nonce), device)
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(BaseException):
                stream.flush()
        try:
            data = channel.pack(nonce, reply)
        except BaseException as error:
            data = channel.pack(nonce, {"error": {"type": "BadValue", "message": str(error)[:400], "where": ""}})
        channel.send(REPLY, data)


# Orders between grader and zygote: a length, JSON, and descriptors alongside


def tell(socket_: socket.socket, message: dict[str, Any], descriptors: list[int] | None = None) -> None:
    """Send a message. Errors: OSError."""
    text = json.dumps(message).encode()
    sent = socket.send_fds(socket_, [struct.pack("!Q", len(text))], descriptors or [])
    assert sent == 8
    socket_.sendall(text)


def hear(socket_: socket.socket, most: int = 1 << 24) -> tuple[dict[str, Any], list[int]]:
    """Receive a message. Errors: EOFError, OSError."""
    prefix, descriptors, _, _ = socket.recv_fds(socket_, 8, 8)
    if len(prefix) < 8:
        raise EOFError
    (length,) = struct.unpack("!Q", prefix)
    if length > most:
        raise EOFError
    data = b""
    while len(data) < length:
        piece = socket_.recv(min(1 << 20, length - len(data)))
        if not piece:
            raise EOFError
        data += piece
    return json.loads(data), descriptors
