"""Attacks on processes and resources: ending, starting, tracing, exhausting."""

# mypy: ignore-errors

from . import hostile


@hostile("ends the process by os._exit(0)")
def hard_exit(targets, when, given):
    import os

    os._exit(0)


@hostile("ends the process by sys.exit, with an atexit handler that reports success")
def soft_exit(targets, when, given):
    import atexit
    import os
    import sys

    atexit.register(lambda: os._exit(0))
    sys.exit(0)


@hostile("sends signals to its parent, the grader, its group and everyone")
def signals(targets, when, given):
    import ctypes
    import os
    import signal

    libc = ctypes.CDLL(None, use_errno=True)
    for pid in (os.getppid(), targets["grader"], *targets["pids"], -1, 0, -os.getpgrp(), -os.getppid()):
        for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGKILL):
            if pid != 1:
                try:
                    os.kill(pid, number)
                except OSError as error:
                    print(pid, error)
                libc.sigqueue(pid, number, None)
                libc.syscall(234, pid, pid, number)  # tgkill
                libc.syscall(424, libc.syscall(434, pid, 0), number, None, 0)  # pidfd_send_signal of pidfd_open
    return 0


@hostile("crashes in native code", "call")
def crash(targets, when, given):
    import ctypes

    ctypes.string_at(8)


@hostile("recurses until the stack is gone", "call")
def recursion(targets, when, given):
    import sys

    sys.setrecursionlimit(1 << 30)

    def down(n):
        return [*map(down, [n + 1])]

    return down(0)


@hostile("forks until nothing is left")
def fork_bomb(targets, when, given):
    import os

    while True:
        os.fork()


@hostile("starts programs by every way that Python has")
def programs(targets, when, given):
    import ctypes
    import os
    import subprocess

    path = f"{targets['folder']}/program"
    ctypes.CDLL(None).system(f"touch {path}".encode())
    for start in (
        lambda: subprocess.run(["touch", path]),
        lambda: os.posix_spawn("/usr/bin/touch", ["touch", path], {}),
        lambda: os.execv("/usr/bin/touch", ["touch", path]),
    ):
        try:
            start()
        except OSError as error:
            print(error)
    return 0


@hostile("leaves a process behind that waits for the next submission")
def left_behind(targets, when, given):
    import ctypes
    import os
    import signal
    import time

    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(1, 0, 0, 0, 0)  # no signal when the parent dies
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            for number in range(1, 32):
                if number not in (signal.SIGKILL, signal.SIGSTOP):
                    signal.signal(number, signal.SIG_IGN)
            libc.prctl(15, targets["marker"].encode(), 0, 0, 0)
            os.closerange(0, 1024)
            time.sleep(600)
        os._exit(0)
    return 0


@hostile("starts threads without end")
def threads(targets, when, given):
    import threading
    import time

    while True:
        threading.Thread(target=time.sleep, args=(600,), daemon=True).start()


@hostile("takes all memory")
def memory_bomb(targets, when, given):
    hoard = []
    while True:
        hoard.append(bytearray(b"x") * (64 << 20))


@hostile("takes memory that address space limits do not see")
def hidden_memory(targets, when, given):
    import ctypes
    import os

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.memfd_create(b"hoard", 0) >= 0 or libc.shmget(0, 1 << 20, 0o1600) >= 0:
        raise RuntimeError("GOTCHA: memory outside of the limits")
    pipes = []
    while True:
        pipes.append(os.pipe())


@hostile("never comes back")
def endless_loop(targets, when, given):
    while True:
        pass


@hostile("never comes back, catches every exception and ignores every signal")
def stubborn_loop(targets, when, given):
    import signal

    for number in range(1, 32):
        if number not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(number, signal.SIG_IGN)
    while True:
        try:
            while True:
                pass
        except BaseException:
            continue


@hostile("prints without end")
def print_loop(targets, when, given):
    while True:
        print("x" * 1000)


@hostile("writes a gigabyte to stdout and stderr")
def flood(targets, when, given):
    import os

    for _ in range(1024):
        os.write(1, bytes(1 << 19))
        os.write(2, bytes(1 << 19))
    return 0


@hostile("prints what a terminal or a report would obey", "call")
def escapes(targets, when, given):
    import sys

    sys.stdout.write("\x1b[2J\x1b]0;all tests passed\x07</pre><script>alert(1)</script>\udcff\x00")
    sys.stdout.buffer.write(b"\xff\xfe")
    return 0


@hostile("traces, stops and writes into the zygote")
def zygote(targets, when, given):
    import ctypes
    import os

    libc = ctypes.CDLL(None, use_errno=True)
    for pid in (os.getppid(), targets["grader"], *targets["pids"]):
        for request in (16, 0x4206):  # attach, seize
            if libc.ptrace(request, pid, None, None) == 0:
                raise RuntimeError(f"GOTCHA: traces {pid}")
        local = (ctypes.c_uint64 * 2)(ctypes.addressof(ctypes.create_string_buffer(64)), 64)
        remote = (ctypes.c_uint64 * 2)(0x400000, 64)
        if (
            max(libc.process_vm_readv(pid, local, 1, remote, 1, 0), libc.process_vm_writev(pid, local, 1, remote, 1, 0))
            > 0
        ):
            raise RuntimeError(f"GOTCHA: reads or writes the memory of {pid}")
        try:
            with open(f"/proc/{pid}/mem", "r+b"):
                raise RuntimeError(f"GOTCHA: the memory of {pid} opens")
        except OSError as error:
            print(error)
    return 0


@hostile("leaves the sandbox by new namespaces, mounts and a new root")
def namespaces(targets, when, given):
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    for flag in (0x10000000, 0x20000, 0x20000000, 0x40000000):
        if libc.unshare(flag) == 0:
            raise RuntimeError(f"GOTCHA: a new namespace {flag:x}")
    if libc.mount(b"none", b"/tmp", b"tmpfs", 0, None) == 0 or libc.umount2(b"/proc", 2) == 0:
        raise RuntimeError("GOTCHA: mounts")
    return 0


@hostile("removes its own limits")
def limits(targets, when, given):
    import os
    import resource

    for name in ("RLIMIT_AS", "RLIMIT_CPU", "RLIMIT_FSIZE", "RLIMIT_NPROC", "RLIMIT_NOFILE"):
        kind = getattr(resource, name)
        _, hard = resource.getrlimit(kind)
        try:
            if hard != resource.RLIM_INFINITY:
                resource.setrlimit(kind, (hard + 1, hard + 1))
                raise RuntimeError(f"GOTCHA: {name} can be raised")
        except (OSError, ValueError) as error:
            print(error)
    for pid in (os.getppid(), targets["grader"], *targets["pids"]):
        if pid == 0:  # the parent is outside of what this process can name, and 0 means itself
            continue
        try:
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, 3))
            raise RuntimeError(f"GOTCHA: limits of {pid} can be set")
        except OSError as error:
            print(error)
    return 0
