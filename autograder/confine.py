"""What a forked worker gives up before it runs student code: namespaces, files, user, rights, resources.

Standard library only: the zygote runs this inside the sandbox, where the project is not there.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import resource
import signal
import sys
import time
from typing import Any, NoReturn

NEWNS, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET = 0x20000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
PDEATHSIG, DUMPABLE, KEEPCAPS, CAPBSET_DROP, SUBREAPER, NO_NEW_PRIVS, AMBIENT = 1, 4, 8, 24, 36, 38, 47
NOSUID, NODEV, NOEXEC, REMOUNT, BIND, RECURSIVE, PRIVATE, READ_ONLY = 2, 4, 8, 32, 4096, 16384, 1 << 18, 1
DAC_READ_SEARCH = 2  # the right to read what file modes deny
SYS_ADMIN = 21  # in a user namespace of one's own: to make others
LINUX = sys.platform == "linux"


def _libc() -> Any:
    return ctypes.CDLL(None, use_errno=True)


def _must(result: int, what: str) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")


def prctl(option: int, value: int = 0, third: int = 0) -> None:
    """Errors: OSError."""
    word = ctypes.c_ulong
    _must(_libc().prctl(option, word(value), word(third), word(0), word(0)), f"prctl {option}")


def mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    """Errors: OSError."""
    word = ctypes.c_ulong(flags)
    _must(
        _libc().mount(source.encode(), target.encode(), kind.encode(), word, options.encode() or None),
        f"mount {target}",
    )


class _CapHeader(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


def drop_rights(keep: int | None = None) -> None:
    """No capability is left, and none can come back; `keep` names the one that stays."""
    for capability in range(64):
        with contextlib.suppress(OSError):  # beyond the last one, or no right to: then it has none
            prctl(CAPBSET_DROP, capability)
    with contextlib.suppress(OSError):
        prctl(AMBIENT, 4)
    bits = 0 if keep is None else 1 << keep
    data = (ctypes.c_uint32 * 6)(bits, bits, 0, 0, 0, 0)  # effective, permitted, inheritable; twice 32 bits
    _must(_libc().capset(ctypes.byref(_CapHeader(0x20080522, 0)), data), "capset")


def become(uid: int, keep: int | None = None) -> None:
    """Another user, with no groups and no way back. Needs root. Errors: OSError."""
    os.setgroups([])
    if keep is not None:
        prctl(KEEPCAPS, 1)
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    drop_rights(keep)


def new_namespaces(flags: int) -> None:
    """A user namespace of this process's own, in which it may do everything, and others. Errors: OSError."""
    uid, gid = os.getuid(), os.getgid()
    prctl(DUMPABLE, 1)  # a process that has changed its user may not write its own maps otherwise
    _must(_libc().unshare(NEWUSER | flags), "unshare")
    for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)


def fork_apart(own: int) -> int:
    """Fork; the child is process 1 of a new process namespace. `own` is a descriptor of this process's own one.

    Needs SYS_ADMIN in the own user namespace. Errors: OSError.
    """
    _must(_libc().unshare(NEWPID), "unshare")
    pid = os.fork()
    if pid:
        _must(_libc().setns(own, NEWPID), "setns")  # so that the next one is no grandchild's neighbour
    return pid


def own_files(scratch: str, cuda: bool, size: int = 64 << 20, inodes: int = 1000) -> None:
    """A fresh small scratch folder and no /proc, in a new mount namespace. All else is read-only already."""
    mount("none", "/", "", RECURSIVE | PRIVATE)
    mount("tmpfs", scratch, "tmpfs", NOSUID | NODEV, f"size={size},nr_inodes={inodes},mode=700")
    try:
        mount("proc", "/proc", "proc", NOSUID | NODEV | NOEXEC)
    except OSError:
        if cuda:  # its driver reads /proc: the zygote's, in which nothing of this user can be opened
            return
    if not cuda:  # torch on a CPU reads nothing there once it is loaded
        mount("tmpfs", "/proc", "tmpfs", NOSUID | NODEV | NOEXEC | READ_ONLY, "size=4k")


def hardly_missed() -> None:
    """Out of memory: this process goes first, long before the grader."""
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("900")


def limit_resources(limits: dict[str, Any], address_space: int | None, threads: int) -> None:
    """Hard limits; `address_space` is what the process has mapped already, None for no limit on it."""

    def set_limit(name: str, value: int) -> None:
        kind = getattr(resource, name, None)
        if kind is not None:
            hard = resource.getrlimit(kind)[1]
            value = value if hard == resource.RLIM_INFINITY else min(value, hard)
            with contextlib.suppress(ValueError, OSError):
                resource.setrlimit(kind, (value, value))

    if address_space is not None:
        set_limit("RLIMIT_AS", address_space + limits["memory"])
    set_limit("RLIMIT_NPROC", threads)
    set_limit("RLIMIT_FSIZE", limits["file_size"])
    set_limit("RLIMIT_NOFILE", 256)
    for name in ("RLIMIT_CORE", "RLIMIT_MEMLOCK", "RLIMIT_MSGQUEUE", "RLIMIT_RTPRIO", "RLIMIT_NICE"):
        set_limit(name, 0)


def mapped() -> int | None:
    """Bytes of address space of this process, where the system says."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[0]) * resource.getpagesize()
    except OSError:
        return None


def huge_pages() -> None:
    """Put this process's heap into huge pages: a fork then copies a hundredth of the page table. Linux 6.1 and later.

    Takes half a second for torch's 300 MB, and makes each fork and its end four times as fast.
    """
    huge = 2 << 20
    with contextlib.suppress(OSError, ValueError), open("/proc/self/maps") as file:
        for line in file:
            places, mode, *_, inode = line.split()[:5]
            first, last = (int(place, 16) for place in places.split("-"))
            first, last = -(-first // huge) * huge, last // huge * huge
            if mode == "rw-p" and inode == "0" and last > first:
                _libc().madvise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), 25)  # refused: no harm


def threads_of_user() -> int:
    """Processes and threads of this user: RLIMIT_NPROC counts them all where no namespace parts them."""
    count = 0
    with contextlib.suppress(OSError):
        for name in os.listdir("/proc"):
            with contextlib.suppress(OSError):
                if name.isdigit() and os.stat(f"/proc/{name}").st_uid == os.getuid():
                    count += len(os.listdir(f"/proc/{name}/task"))
    return count


def in_child(work: Any) -> int:
    """Exit status of a fork that does `work()`: 0 if it returns true, 1 if not, 2 if it raises."""
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(BaseException):
            os._exit(0 if work() else 1)
        os._exit(2)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def end_user(uid: int) -> bool:
    """Kill every process of a user, also those that fork meanwhile; whether none is left. Needs root."""

    def kill() -> bool:
        become(uid)
        with contextlib.suppress(ProcessLookupError):
            os.kill(-1, signal.SIGKILL)
        return True

    for attempt in range(50):
        in_child(kill)
        if not processes_of(uid):
            return True
        time.sleep(0.002 * (attempt + 1))
    return False


def processes_of(uid: int) -> list[int]:
    """Living processes of a user."""
    found = []
    for name in os.listdir("/proc"):
        with contextlib.suppress(OSError, IndexError):
            if name.isdigit():
                with open(f"/proc/{name}/status") as file:
                    fields = dict(line.split(":", 1) for line in file if ":" in line)
                if uid in map(int, fields["Uid"].split()) and fields["State"].split()[0] not in "ZX":
                    found.append(int(name))
    return found


def wait_for(child: int) -> NoReturn:
    """Do nothing but wait for a child and end as it has ended."""
    while True:
        try:
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        except OSError as error:
            if error.errno == errno.EINTR:
                continue
            os._exit(1)
        os._exit(128 - code if code < 0 else code)
