"""What an attack could reach, and whether it has."""

from __future__ import annotations

import contextlib
import hashlib
import os
import resource
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

GOTCHA = "GOTCHA"  # what an attack says when it has read what it must not read
SHARED = ("/tmp", "/dev/shm", "/var/tmp", "/run/lock")
GROWTH = 400 << 20  # bytes that the grader may grow by while it grades one attack


class Canary:
    """Files, listeners, processes, memory and environment that no submission may reach. A context manager.

    `read` adds files and folders that attacks try to read, `guard` folders in which nothing may change.
    """

    def __init__(self, read: Sequence[str | Path] = (), guard: Sequence[str | Path] = ()) -> None:
        self._read = [str(Path(path).resolve()) for path in read]
        self._guard = [Path(path) for path in guard]

    def __enter__(self) -> Canary:
        self.token, self.marker = secrets.token_hex(12), f"cnry{secrets.token_hex(4)}"
        os.environ["AUTOGRADER_CANARY"] = self.token
        self.folder = Path(tempfile.mkdtemp(prefix="canary-"))
        self.folder.chmod(0o777)  # what no file mode protects
        self.secret, self.results = self.folder / "secret.txt", self.folder / "results.json"
        self.secret.write_text(self.token)
        self.results.write_text('{"score": 0}')
        for path in (self.secret, self.results):
            path.chmod(0o666)
        self._tcp = socket.create_server(("127.0.0.1", 0))
        self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._udp.bind(("127.0.0.1", 0))
        self._listeners = [self._tcp, self._udp]
        names = [str(self.folder / "socket")]
        if sys.platform == "linux":
            names.append(f"\0{self.marker}")
        for name in names:
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            listener.bind(name)
            listener.listen(8)
            self._listeners.append(listener)
        (self.folder / "socket").chmod(0o777)
        for listener in self._listeners:
            listener.setblocking(False)
        self._victim = subprocess.Popen(
            [sys.executable, "-S", "-c", "import time; time.sleep(3600)"],
            stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        self.targets: dict[str, Any] = {
            "token_file": str(self.secret), "results": str(self.results), "folder": str(self.folder),
            "read": [str(self.secret), *self._read], "shared": list(SHARED), "marker": self.marker,
            "tcp": self._tcp.getsockname()[1], "udp": self._udp.getsockname()[1], "unix": names,
            "pids": [self._victim.pid], "grader": os.getpid(), "variable": "AUTOGRADER_CANARY",
            "project": str(Path(__file__).resolve().parents[2]),
        }  # fmt: skip
        self._before = self._state()
        self._size = _peak()
        return self

    @staticmethod
    def nowhere() -> dict[str, Any]:
        """Targets that do not exist."""
        nothing = "/nonexistent/canary"
        return {
            "token_file": nothing, "results": nothing, "folder": nothing, "read": [nothing], "shared": [],
            "marker": "cnry00000000", "tcp": 9, "udp": 9, "unix": [nothing], "pids": [], "grader": 2**22,
            "variable": "AUTOGRADER_CANARY", "project": nothing,
        }  # fmt: skip

    def _state(self) -> dict[str, str]:
        """Every file that must not change, by a digest, with its owner and mode."""
        state = {}
        for folder in (self.folder, *self._guard):
            for path in sorted(folder.rglob("*")):
                if "__pycache__" not in path.parts:
                    with contextlib.suppress(OSError):
                        info = path.lstat()
                        data = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
                        digest = hashlib.sha256(data).hexdigest()[:16]
                        state[str(path)] = f"{digest} {info.st_mode} {info.st_uid} {info.st_nlink}"
        return state

    def effects(self, said: str = "") -> list[str]:
        """What was reached since the last call, one line each. `said`: all that grading has printed or reported."""
        found = []
        if GOTCHA in said or self.token in said:
            at = said.find(GOTCHA)
            found.append(f"read what it must not: {said[at : at + 80].splitlines()[0] if at >= 0 else 'the secret'}")
        now = self._state()
        found += [
            f"changed {path}"
            for path in sorted(now.keys() | self._before.keys())
            if now.get(path) != self._before.get(path)
        ]
        for folder in SHARED:
            with contextlib.suppress(OSError):
                for name in os.listdir(folder):
                    if name.startswith(self.marker):
                        found.append(f"wrote {folder}/{name}")
                        _remove(Path(folder) / name)
        for listener in self._listeners:
            found += [f"reached {where}" for where in _callers(listener)]
        if self._victim.poll() is not None:
            found.append("killed a process of the grader's user")
        found += [f"left process {pid} behind" for pid in self._survivors()]
        if _peak() > self._size + GROWTH:
            found.append(f"made the grader grow by {_peak() - self._size >> 20} MB")
        self._before, self._size = now, _peak()
        return found

    def _survivors(self) -> list[int]:
        """Processes with the marker as their name."""
        found = []
        for name in os.listdir("/proc") if os.path.isdir("/proc/self") else []:
            with contextlib.suppress(OSError):
                if name.isdigit() and Path(f"/proc/{name}/comm").read_text().strip() == self.marker:
                    found.append(int(name))
        return found

    def __exit__(self, *exception: object) -> None:
        os.environ.pop("AUTOGRADER_CANARY", None)
        for listener in self._listeners:
            listener.close()
        self._victim.kill()
        self._victim.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


def _callers(listener: socket.socket) -> list[str]:
    found = []
    with contextlib.suppress(OSError):
        while True:
            if listener.type == socket.SOCK_DGRAM:
                listener.recv(100)
                found.append("a UDP listener")
            else:
                listener.accept()[0].close()
                found.append("a TCP listener" if listener.family == socket.AF_INET else "a Unix socket")
    return found


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
