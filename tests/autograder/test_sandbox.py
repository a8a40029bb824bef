"""What a worker can and cannot do at each level that this machine offers, with one layer of defence removed as well."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autograder import sandbox, seccomp
from autograder.errors import GraderError
from autograder.sandbox import LEVELS, Limits, Worker, WorkerFailure, Zygote, available_levels, cover, why_not

# A stand-in for the executor that runs any statements: it needs no torch, so that a zygote starts at once.
RUN = """
import os, sys, time
def execute(namespace, request, device="cpu"):
    try:
        exec(request["source"], namespace)
        return {"ok": namespace.get("answer"), "mutated": []}
    except BaseException as error:
        return {"error": {"type": type(error).__name__, "message": str(error)[:300], "where": ""}}
"""
LIMITS = Limits(wall=5, cpu=4, memory=300 << 20, processes=8, file_size=1 << 20, output=4 << 10)
PROJECT = Path(sandbox.__file__).resolve().parents[1]


def start(level: str, **options: Any) -> Zygote:
    reason = why_not(level)
    if reason is not None:
        pytest.skip(f"level {level}: {reason}")
    return Zygote(level, limits=options.pop("limits", LIMITS), executor=RUN, preload=("numpy",), **options)


@pytest.fixture(scope="module", params=LEVELS)
def zygote(request: pytest.FixtureRequest) -> Iterator[Zygote]:
    os.environ["AUTOGRADER_TEST_SECRET"] = "x"
    try:
        with start(request.param) as zygote:
            yield zygote
    finally:
        del os.environ["AUTOGRADER_TEST_SECRET"]


@pytest.fixture
def worker(zygote: Zygote) -> Iterator[Worker]:
    with zygote.worker() as worker:
        yield worker


def run(worker: Worker, source: str, wall: float | None = None) -> Any:
    """What `answer` is after the statements, or the name of the exception."""
    reply = worker.request({"op": "run", "source": source}, wall)
    return reply["ok"] if "ok" in reply else reply["error"]["type"]


def test_levels_are_here() -> None:
    """A level that this machine can offer is offered: else the tests below would be skipped for our own mistakes."""
    assert why_not("public") is None
    if sys.platform != "linux" or not seccomp.supported():
        pytest.skip("not Linux with seccomp")
    if os.geteuid() == 0:
        assert why_not("uid") is None
    if shutil.which("bwrap"):
        outer = ["bwrap", "--unshare-user", "--unshare-pid", "--ro-bind", "/", "/", "--proc", "/proc"]
        if subprocess.run([*outer, "unshare", "--user", "--mount", "true"], capture_output=True).returncode == 0:
            assert why_not("bubblewrap") is None
    assert set(available_levels()) == {level for level in LEVELS if why_not(level) is None}


def isolated(zygote: Zygote) -> bool:
    """Whether the level promises anything; on a system without seccomp and Landlock, `public` does not."""
    return zygote.level != "public" or (zygote.seccomp and zygote.landlock > 0)


DENIED = "PermissionError", "FileNotFoundError", "OSError"


@pytest.mark.parametrize(
    "source",
    [
        f"answer = open({str(PROJECT / 'autograder' / 'worker.py')!r}).read()",
        f"import os; answer = os.listdir({str(PROJECT)!r})",
        "import os; answer = os.listdir('/root')[0] and os.listdir('/home') + os.listdir('/var')",
        "answer = open('/etc/passwd').read()",
        "answer = open('/proc/1/environ').read()",
        "import os; answer = open(f'/proc/{os.getppid()}/environ').read()",
        "import os; answer = os.listdir(f'/proc/{os.getppid() or 1}/fd')",
        "answer = open('/dev/shm/x', 'w')",
        "answer = open('/x', 'w')",
        "import os; os.mkdir('/var/tmp/x'); answer = 1",
        "import numpy; answer = open(numpy.__file__, 'a')",
        "import os; answer = os.fork()",
        "import subprocess; answer = subprocess.run(['true'])",
        "import os; os.execv('/bin/true', ['true'])",
        "import socket; answer = socket.socket()",
        "import socket; answer = socket.socketpair()",
        "import os; os.kill(os.getppid(), 0); answer = 1",
        "import os; os.kill(-1, 0); answer = 1",
        "import os; os.killpg(0, 9); answer = 1",
        "import os; os.setsid(); answer = 1",
        "import os; os.setuid(0); answer = 1",
        "import os; os.memfd_create('x'); answer = 1",
        "import os; os.pidfd_open(os.getpid()); answer = 1",
    ],
)
def test_denied(zygote: Zygote, worker: Worker, source: str) -> None:
    if not isolated(zygote):
        pytest.skip("this system offers neither seccomp nor Landlock")
    assert run(worker, source) in DENIED


def test_denied_system_calls(zygote: Zygote, worker: Worker) -> None:
    """ptrace, process_vm_readv, keyctl, bpf, perf_event_open, userfaultfd, io_uring, mount, unshare, setns, shmget."""
    if not zygote.seccomp:
        pytest.skip("no seccomp here")
    names = ["ptrace", "process_vm_readv", "keyctl", "bpf", "perf_event_open", "userfaultfd", "io_uring_setup", "mount"]
    names += ["unshare", "setns", "shmget", "personality", "open_by_handle_at", "seccomp", "kexec_load", "clone3"]
    column = 0 if os.uname().machine == "x86_64" else 1
    numbers = {name: {**seccomp.CALLS, **seccomp.ABSENT}[name][column] for name in names}
    source = f"""
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
answer = []
for name, number in {numbers!r}.items():
    ctypes.set_errno(0)
    answer.append([name, libc.syscall(number, 0, 0, 0, 0, 0), ctypes.get_errno()])
"""
    for name, result, error in run(worker, source):
        assert (result, error) == (-1, 38 if name == "clone3" else 1), name


def test_project_is_not_importable(worker: Worker) -> None:
    for name in ("autograder", "genmodels", "problem_sets", "autograder.checks"):
        assert run(worker, f"import {name}; answer = 1") == "ModuleNotFoundError"


def test_nothing_is_inherited(zygote: Zygote, worker: Worker) -> None:
    assert "AUTOGRADER_TEST_SECRET" in os.environ
    assert "AUTOGRADER_TEST_SECRET" not in run(worker, "import os; answer = dict(os.environ)")
    source = """
import os
answer = []
for number in range(256):
    try:
        os.fstat(number)
        answer.append(number)
    except OSError:
        pass
"""
    assert run(worker, source) == [0, 1, 2, 3, 4]


def test_is_nobody(zygote: Zygote, worker: Worker) -> None:
    if zygote.level == "public":
        pytest.skip("public keeps the user")
    assert run(worker, "import os; answer = [*os.getresuid(), *os.getgroups()]").count(0) == 0
    source = """
import ctypes
data = (ctypes.c_uint32 * 6)()
ctypes.CDLL(None).capget((ctypes.c_uint32 * 2)(0x20080522, 0), data)
answer = list(data)
"""
    readable = 4 if zygote.level == "uid" else 0  # only to read a Python that lies in a private folder
    assert sum(run(worker, source)) & ~(readable | 8) == 0


def test_honest_code_runs(zygote: Zygote, worker: Worker) -> None:
    assert run(worker, "import threading; t = threading.Thread(target=print); t.start(); t.join(); answer = 1") == 1
    assert run(worker, "import json, dataclasses, random, statistics; answer = 1") == 1
    big = run(worker, "import numpy; answer = numpy.arange(4_000_000.0)")
    assert isinstance(big, np.ndarray)
    assert big[-1] == 3_999_999
    source = "import dataclasses\n@dataclasses.dataclass\nclass A:\n    x: int = 1\nanswer = A().x"
    assert run(worker, source) == 1
    if zygote.level == "bubblewrap":
        assert run(worker, "import tempfile; f = tempfile.TemporaryFile(); f.write(b'x'); answer = 2") == 2


def test_output_is_kept_and_cut(worker: Worker) -> None:
    run(worker, "import sys; print('out'); print('err', file=sys.stderr); answer = 1")
    assert worker.output == "out\nerr\n"
    run(worker, "print('x' * 6000); answer = 1")
    assert len(worker.output) < 4200
    assert "cut" in worker.output


@pytest.mark.parametrize(
    ("kind", "source"),
    [
        ("time", "import time; time.sleep(60)"),
        ("time", "while True: pass"),
        ("output", "while True: print('x' * 100)"),
        ("output", "import os\nfor _ in range(2000): os.write(1, bytes(1 << 19))"),
        ("died", "import os; os._exit(0)"),
        ("died", "import ctypes; ctypes.string_at(8)"),
        ("died", "import os, time; os.close(4); time.sleep(60)"),
        ("channel", "import os; os.write(4, b'x' * 100); import time; time.sleep(60)"),
        ("channel", "import struct, os; os.write(4, struct.pack('!4sIQ', b'GMF1', 1 << 31, 1)); answer = 1"),
    ],
)
def test_failures(zygote: Zygote, kind: str, source: str) -> None:
    """Each ends the worker, says how in one line, and leaves the zygote as it was."""
    before = time.monotonic()
    with zygote.worker() as worker:
        with pytest.raises(WorkerFailure) as failure:
            run(worker, source, 0.5 if kind == "time" else 4)
        assert failure.value.kind == kind
        assert "\n" not in str(failure.value)
        assert not worker.alive
        with pytest.raises(WorkerFailure):
            run(worker, "answer = 1")
    assert time.monotonic() - before < 4
    with zygote.worker() as worker:
        assert run(worker, "answer = 1") == 1


def test_answers_out_of_turn(zygote: Zygote) -> None:
    with zygote.worker() as worker:
        talk = "import os, threading, time\nthreading.Timer(0.1, lambda: os.write(4, b'ahead')).start(); answer = 1"
        assert run(worker, talk) == 1
        time.sleep(0.4)
        with pytest.raises(WorkerFailure, match="out of turn"):
            run(worker, "answer = 2")


def test_forged_replies(zygote: Zygote) -> None:
    """A frame with the right nonce is only the worker's own answer, and only if it has the form of one."""
    forge = """
import sys, json, struct, os
frame = sys._getframe()
while "nonce" not in frame.f_locals:
    frame = frame.f_back
text = json.dumps({"nonce": frame.f_locals["nonce"], "value": VALUE, "sizes": []}).encode()
os.write(4, struct.pack("!4sIQ", b"GMF1", len(text), 0) + text)
import time; time.sleep(60)
"""
    good = '{"d": [["ok", 5], ["mutated", {"l": []}]]}'
    with zygote.worker() as worker:
        assert run(worker, forge.replace("VALUE", good)) == 5  # the forging itself works
    for bad in ("5", '{"d": []}', '{"d": [["error", 5]]}', '{"d": [["ok", 5], ["mutated", 5]]}'):
        with zygote.worker() as worker, pytest.raises(WorkerFailure, match="no reply"):
            run(worker, forge.replace("VALUE", bad))
    with zygote.worker() as worker, pytest.raises(WorkerFailure, match="no reply"):
        worker.request({"op": "load", "source": forge.replace("VALUE", good)})


def test_processor_time(zygote: Zygote) -> None:
    if sys.platform != "linux":
        pytest.skip("read from /proc")
    limits = zygote.limits
    with zygote.worker() as worker:
        worker.limits = Limits(**{**limits.__dict__, "cpu": 0.3})
        with pytest.raises(WorkerFailure, match="processor") as failure:
            run(worker, "while True: pass", 60)
        assert failure.value.kind == "cpu"


def test_memory(zygote: Zygote) -> None:
    if sys.platform != "linux":
        pytest.skip("needs RLIMIT_AS as Linux has it")
    with zygote.worker() as worker:
        assert run(worker, "answer = len(bytearray(100 << 20))") == 100 << 20
        assert run(worker, "answer = len(bytearray(400 << 20))") == "MemoryError"
    with zygote.worker() as worker:  # the grader's own look at it, as on CUDA, where address space has no limit
        worker.limits = Limits(**{**zygote.limits.__dict__, "memory": 50 << 20})
        with pytest.raises(WorkerFailure, match="memory") as failure:
            run(worker, "import time; hoard = bytearray(b'x') * (150 << 20); time.sleep(60)", 5)
        assert failure.value.kind == "memory"


def test_threads_and_files_are_few(zygote: Zygote, worker: Worker) -> None:
    source = """
import threading, time
answer = 0
try:
    while answer < 400:
        threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
        answer += 1
except RuntimeError:
    pass
"""
    if zygote.level != "public":  # there, those of the grader's user count too
        roomy = Limits(**{**LIMITS.__dict__, "memory": 8 << 30})  # a thread's stack and heap are address space too
        with start(zygote.level, limits=roomy) as other, other.worker() as busy:
            assert run(busy, source) == LIMITS.processes - 1
    assert run(worker, "import os\nhoard = [os.pipe() for _ in range(300)]") == "OSError"
    if zygote.level == "bubblewrap":
        here = "import os; os.chdir(os.environ['TMPDIR'])\n"
        assert run(worker, here + "open('big', 'wb').write(bytes(2 << 20))") == "OSError"
        assert run(worker, here + "for i in range(10_000): open(str(i), 'w').close()") == "OSError"


def test_workers_do_not_meet(zygote: Zygote) -> None:
    """Two at once: other users or other process numbers, and nothing of one in the other's folder."""
    if zygote.level == "public":
        pytest.skip("public parts nothing")
    with zygote.worker() as one, zygote.worker() as two:
        if zygote.level == "uid":
            assert one.force["uid"] != two.force["uid"]
        else:
            assert one.force["pid"] == two.force["pid"] == 1
            run(one, "import os; open(os.environ['TMPDIR'] + '/x', 'w').write('hello')")
            assert run(two, "import os; answer = os.listdir(os.environ['TMPDIR'])") == []
        run(one, "import numpy; numpy.pi = 3; x = 5")
        assert run(two, "import numpy; answer = [numpy.pi > 3, 'x' in globals()]") == [True, False]
    with zygote.worker() as three:
        assert run(three, "import numpy; answer = numpy.pi > 3") is True


def test_speed(zygote: Zygote) -> None:
    """A fresh worker, without torch: far below a tenth of a second; the bound is loose for busy machines."""
    times = []
    for _ in range(5):
        before = time.monotonic()
        with zygote.worker() as worker:
            run(worker, "answer = 1")
        times.append(time.monotonic() - before)
    assert min(times) < 0.5


# -- with one layer removed, the others hold, and the removed one is missed


def leave_behind(marker: str) -> str:
    return f"""
import ctypes, os, time
libc = ctypes.CDLL(None)
libc.prctl(1, 0, 0, 0, 0)
answer = os.fork()
if answer == 0:
    os.setsid()
    libc.prctl(15, {marker!r}.encode(), 0, 0, 0)
    os.closerange(0, 256)
    time.sleep(100)
    os._exit(0)
time.sleep(0.2)
"""


def named(marker: str) -> list[int]:
    found = []
    for name in os.listdir("/proc"):
        with contextlib.suppress(OSError):
            if name.isdigit() and Path(f"/proc/{name}/comm").read_text().strip() == marker:
                found.append(int(name))
    return found


@pytest.mark.parametrize("level", ["bubblewrap", "uid"])
def test_without_seccomp_a_process_left_behind_still_dies(level: str) -> None:
    marker = f"left{os.getpid()}"
    with start(level, use_seccomp=False) as zygote:
        with zygote.worker() as worker:
            assert run(worker, leave_behind(marker)) > 0  # so it is seccomp that denies it elsewhere
            assert len(named(marker)) == 1
        assert named(marker) == []


@pytest.mark.parametrize("level", ["bubblewrap", "uid"])
def test_without_seccomp_others_are_out_of_reach(level: str) -> None:
    victim = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(100)"])
    try:
        with start(level, use_seccomp=False) as zygote, zygote.worker() as worker:
            assert run(worker, f"import os; os.kill({victim.pid}, 9)") in ("PermissionError", "ProcessLookupError")
            assert run(worker, "import os; os.kill(os.getppid() or 7, 9)") in ("PermissionError", "ProcessLookupError")
            with zygote.worker() as other:
                run(worker, f"import os; os.kill(-1, 9) if os.getpid() != 1 else None; answer = {other._pid}")
                assert run(other, "answer = 1") == 1
        assert victim.poll() is None
    finally:
        victim.kill()
        victim.wait()


def test_network_namespace_holds_without_seccomp() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        call = f"import socket; socket.create_connection(('127.0.0.1', {server.getsockname()[1]}), 1); answer = 1"
        with start("bubblewrap", use_seccomp=False, use_landlock=False) as zygote, zygote.worker() as worker:
            assert run(worker, call) in ("ConnectionRefusedError", "OSError", "TimeoutError")
        with start("public", use_seccomp=False, use_landlock=False) as zygote, zygote.worker() as worker:
            assert run(worker, call) == 1  # so the test can fail


def test_landlock_is_what_hides_files_where_there_are_no_namespaces() -> None:
    readme = f"answer = open({str(PROJECT / 'README.md')!r}).read()"
    if not (PROJECT / "README.md").exists():
        pytest.skip("installed without its sources")
    with start("public") as zygote, zygote.worker() as worker:
        if not zygote.landlock:
            pytest.skip("no Landlock here")
        assert run(worker, readme) == "PermissionError"
    with start("public", use_landlock=False) as zygote, zygote.worker() as worker:
        assert "genmodels" in run(worker, readme)
    with start("bubblewrap", use_landlock=False) as zygote, zygote.worker() as worker:
        assert run(worker, readme) == "FileNotFoundError"


def test_uid_without_landlock_wants_a_private_project(tmp_path: Path) -> None:
    """Either the project is private, or the level says that it must be made so; it never starts with it readable."""
    with pytest.raises(GraderError, match=r"chmod|Landlock"):
        start("uid", use_landlock=False, hidden=["/etc/passwd"])


# -- the grader's own side


def test_everything_ends_with_the_grader(zygote: Zygote) -> None:
    """A grader that is killed takes zygote and workers with it."""
    code = f"""
import sys, time
sys.path.insert(0, {str(PROJECT)!r})
from autograder.sandbox import Zygote
zygote = Zygote({zygote.level!r}, executor={RUN!r}, preload=())
worker = zygote.worker()
print(zygote._process.pid, worker._pid, zygote._scratch, flush=True)
try:
    worker.request({{"op": "run", "source": "while True: pass"}}, 60)
finally:
    time.sleep(60)
"""
    grader = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert grader.stdout is not None
    first, second, scratch = grader.stdout.readline().split()
    assert all(os.path.exists(f"/proc/{pid}") for pid in (first, second))
    grader.send_signal(signal.SIGKILL)
    grader.wait()
    grader.stdout.close()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and any(os.path.exists(f"/proc/{pid}") for pid in (first, second)):
        time.sleep(0.05)
    assert not any(os.path.exists(f"/proc/{pid}") for pid in (first, second))
    shutil.rmtree(scratch, ignore_errors=True)


def test_close_leaves_nothing() -> None:
    zygote = start(available_levels()[0])
    worker = zygote.worker()
    pids = [zygote._process.pid, worker._pid]
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    zygote.close()
    zygote.close()
    assert not any(os.path.exists(f"/proc/{pid}") for pid in pids)
    assert not os.path.exists(zygote._scratch)
    if before:
        assert len(os.listdir("/proc/self/fd")) < before
    with pytest.raises(WorkerFailure):
        worker.request({"op": "run", "source": "answer = 1"})


def test_a_bubblewrap_that_fails_is_no_level(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container without user namespaces: bwrap is there, but the kernel refuses."""
    if why_not("bubblewrap") is not None:
        pytest.skip("no bubblewrap here")
    fake = tmp_path / "bwrap"
    fake.write_text("#!/bin/sh\necho 'bwrap: No permissions to create a new namespace' >&2\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    reason = why_not.__wrapped__("bubblewrap")
    assert reason is not None
    assert "No permissions" in reason


def test_unknown_names_are_one_clear_line() -> None:
    with pytest.raises(GraderError, match="did you mean 'bubblewrap'"):
        Zygote("bublewrap")
    with pytest.raises(GraderError, match="unknown device"):
        Zygote("public", device="gpu")


def test_cover(tmp_path: Path) -> None:
    """All of a folder but the holes: also none through a link, and no more parts than it takes."""
    root = tmp_path / "lib"
    for path in ("a/x", "a/genmodels/y", "b/z", "genmodels/w"):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text("")
    (root / "link").symlink_to(root / "genmodels")
    holes = [str(root / "genmodels"), str(root / "a" / "genmodels")]
    assert cover(str(root), holes) == [str(root / "a" / "x"), str(root / "b")]
    assert cover(str(root / "b"), holes) == [str(root / "b")]
    assert cover(str(root), [str(tmp_path)]) == [str(root)]  # Python inside the project: asked for by name


@pytest.mark.parametrize("level", LEVELS)
def test_a_normal_install_is_hidden(level: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The project's packages in site-packages, next to what students need."""
    site = tmp_path / "site-packages"
    for name in ("genmodels", "problem_sets", "autograder", "useful"):
        (site / name).mkdir(parents=True)
        (site / name / "__init__.py").write_text("value = 1\n")
    monkeypatch.syspath_prepend(str(site))
    sandbox.project_paths.cache_clear()
    try:
        with start(level) as zygote, zygote.worker() as worker:
            assert run(worker, "import useful; answer = useful.value") == 1
            for name in ("genmodels", "problem_sets", "autograder"):
                assert run(worker, f"import {name}; answer = 1") == "ModuleNotFoundError"
                if isolated(zygote):
                    assert run(worker, f"answer = open({str(site / name / '__init__.py')!r}).read()") in DENIED
    finally:
        sandbox.project_paths.cache_clear()


def test_preload_for() -> None:
    assert sandbox.preload_for("import torch") == ("numpy", "torch")
    assert "torch._dynamo" in sandbox.preload_for("torch.optim.Adam(p)")
    assert "matplotlib.pyplot" in sandbox.preload_for("import matplotlib.pyplot as plt")


HEADERS = {0: "/usr/include/x86_64-linux-gnu/asm/unistd_64.h", 1: "/usr/include/asm-generic/unistd.h"}


@pytest.mark.parametrize("column", HEADERS)
def test_system_call_numbers(column: int) -> None:
    """The table against the kernel's own headers."""
    if not os.path.exists(HEADERS[column]):
        pytest.skip("no kernel headers here")
    text = Path(HEADERS[column]).read_text()
    known = {name: int(number) for name, number in re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)\n", text)}
    for table in (seccomp.CALLS, seccomp.WRITES, seccomp.CHECKED, seccomp.ABSENT):
        for name, numbers in table.items():
            if numbers[column] is not None or column == 0:
                assert known.get(name) == numbers[column], name


# -- with torch


def test_torch_in_a_worker() -> None:
    """The real executor: one thread before the fork and in the worker, autograd and optimizers work."""
    level = available_levels()[0]
    cell = """
import torch
def fit(x):
    w = torch.zeros(3, dtype=x.dtype, requires_grad=True)
    optimizer = torch.optim.SGD([w], lr=0.1)
    for _ in range(200):
        optimizer.zero_grad()
        ((w - x.mean(0)) ** 2).sum().backward()
        optimizer.step()
    return w.detach(), torch.get_num_threads()
"""
    with Zygote(level, preload=("numpy", "torch")) as zygote, zygote.worker() as worker:
        cells = [{"source": cell, "whole": True, "label": None}]
        assert worker.request({"op": "load", "cells": cells})["ok"]["problems"] == []
        x = np.random.default_rng(0).normal(size=(50, 3))
        call = {"op": "call", "name": "fit", "args": [x], "kwargs": {}, "seed": 1}
        mean, threads = worker.request(call)["ok"]
        assert np.allclose(mean, x.mean(0))
        assert threads == 1
        if sys.platform == "linux":
            parent = Path(f"/proc/{worker._pid}/status").read_text()
            assert re.search(r"\nThreads:\s+1\n", parent)


@pytest.mark.cuda
def test_cuda_in_a_worker() -> None:
    """A worker uses the GPU though the zygote has never touched it. Not run where it was written: no GPU there."""
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    cell = "import torch\ndef f(x):\n    return (x @ x).sum(), str(x.device)"
    with Zygote(available_levels()[0], "cuda", preload=("numpy", "torch")) as zygote, zygote.worker() as worker:
        worker.request({"op": "load", "cells": [{"source": cell, "whole": True, "label": None}]})
        call = {"op": "call", "name": "f", "args": [np.eye(4)], "kwargs": {}, "seed": 1}
        total, device = worker.request(call)["ok"]
        assert (float(total), device) == (4.0, "cuda:0")
