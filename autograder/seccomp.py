"""A seccomp filter that takes from student code the system calls that an answer never needs.

It is a list of what is refused, since torch, BLAS and the C library need a different hundred calls on every system. No
new process and no program, no sockets, no memory shared between processes, no tracing, no namespaces or mounts, no
kernel interfaces with a history of holes; signals only to itself. `write=False` also refuses whatever changes a file
system, so that no file can be written even where the kernel has no Landlock. Calls newer than this table do not exist
for student code. A refused call fails with EPERM, so that Python says PermissionError.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import sys
from collections.abc import Mapping

# name: (x86_64, aarch64); None where that architecture has no such call
CALLS: dict[str, tuple[int | None, int | None]] = {
    # processes and programs
    "fork": (57, None), "vfork": (58, None), "execve": (59, 221), "execveat": (322, 281), "setsid": (112, 157),
    "setpgid": (109, 154), "uselib": (134, None), "personality": (135, 92), "modify_ldt": (154, None),
    # other processes: look into, signal, steer
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kcmp": (312, 272),
    "tkill": (200, 130), "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240),
    "pidfd_open": (434, 434), "pidfd_send_signal": (424, 424), "pidfd_getfd": (438, 438),
    "process_madvise": (440, 440), "process_mrelease": (448, 448), "migrate_pages": (256, 238),
    "move_pages": (279, 239), "setpriority": (141, 140), "ioprio_set": (251, 30), "sched_setparam": (142, 118),
    "sched_setscheduler": (144, 119), "sched_setattr": (314, 274),
    # network, and whatever else two processes could meet in
    "socket": (41, 198), "socketpair": (53, 199), "connect": (42, 203), "accept": (43, 202), "accept4": (288, 242),
    "bind": (49, 200), "listen": (50, 201), "sendto": (44, 206), "recvfrom": (45, 207), "sendmsg": (46, 211),
    "recvmsg": (47, 212), "sendmmsg": (307, 269), "recvmmsg": (299, 243),
    "shmget": (29, 194), "shmat": (30, 196), "shmctl": (31, 195), "shmdt": (67, 197), "semget": (64, 190),
    "semop": (65, 193), "semctl": (66, 191), "semtimedop": (220, 192), "msgget": (68, 186), "msgsnd": (69, 189),
    "msgrcv": (70, 188), "msgctl": (71, 187), "mq_open": (240, 180), "mq_unlink": (241, 181),
    "memfd_create": (319, 279), "memfd_secret": (447, 447), "inotify_init": (253, None), "inotify_init1": (294, 26),
    "fanotify_init": (300, 262), "fanotify_mark": (301, 263),
    # namespaces, mounts, identity
    "unshare": (272, 97), "setns": (308, 268), "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41),
    "chroot": (161, 51), "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430),
    "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433), "mount_setattr": (442, 442),
    "setuid": (105, 146), "setgid": (106, 144), "setreuid": (113, 145), "setregid": (114, 143),
    "setresuid": (117, 147), "setresgid": (119, 149), "setgroups": (116, 159), "capset": (126, 91),
    "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265),
    # the kernel's less trodden paths
    "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282), "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426), "io_uring_register": (427, 427), "io_setup": (206, 0), "io_submit": (209, 2),
    "keyctl": (250, 219), "add_key": (248, 217), "request_key": (249, 218), "splice": (275, 76), "tee": (276, 77),
    "vmsplice": (278, 75), "seccomp": (317, 277), "kexec_load": (246, 104), "kexec_file_load": (320, 294),
    "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106), "syslog": (103, 116),
    "acct": (163, 89), "swapon": (167, 224), "swapoff": (168, 225), "reboot": (169, 142), "iopl": (172, None),
    "ioperm": (173, None), "quotactl": (179, 60), "quotactl_fd": (443, 443), "nfsservctl": (180, 42),
    "lookup_dcookie": (212, 18), "vhangup": (153, 58), "settimeofday": (164, 170), "clock_settime": (227, 112),
    "adjtimex": (159, 171), "clock_adjtime": (305, 266), "sethostname": (170, 161), "setdomainname": (171, 162),
}  # fmt: skip

WRITES: dict[str, tuple[int | None, int | None]] = {
    "creat": (85, None), "truncate": (76, 45), "mkdir": (83, None), "mkdirat": (258, 34), "rmdir": (84, None),
    "rename": (82, None), "renameat": (264, 38), "renameat2": (316, 276), "link": (86, None), "linkat": (265, 37),
    "unlink": (87, None), "unlinkat": (263, 35), "symlink": (88, None), "symlinkat": (266, 36),
    "mknod": (133, None), "mknodat": (259, 33), "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53),
    "chown": (92, None), "lchown": (94, None), "fchown": (93, 55), "fchownat": (260, 54), "utime": (132, None),
    "utimes": (235, None), "futimesat": (261, None), "utimensat": (280, 88), "setxattr": (188, 5),
    "lsetxattr": (189, 6), "fsetxattr": (190, 7), "removexattr": (197, 14), "lremovexattr": (198, 15),
    "fremovexattr": (199, 16),
}  # fmt: skip

CHECKED = {"clone": (56, 220), "kill": (62, 129), "tgkill": (234, 131), "prctl": (157, 167), "prlimit64": (302, 261)}
CHECKED |= {"sched_setaffinity": (203, 122), "ioctl": (16, 29), "open": (2, None), "openat": (257, 56)}  # type: ignore[dict-item]
ABSENT = {
    "clone3": (435, 435),
    "openat2": (437, 437),
}  # flags behind a pointer: the C library falls back to the old call

NEWEST = 450  # calls above it are unknown to this table
CLONE_THREAD = 0x10000
WRITE_FLAGS = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | 0o20000000  # the last: O_TMPFILE's own bit
# death signal, dumpable, memory map, subreaper, tracer: what keeps a worker from outliving or being read
DENIED_PRCTL = (1, 4, 35, 36, 0x59616D61)
DENIED_IOCTL = (0x5412, 0x541C)  # typing into a terminal

ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}

LOAD, EQUAL, ABOVE, ANY_BIT, RETURN = 0x20, 0x15, 0x25, 0x45, 0x06
ALLOW, KILL, FAIL = 0x7FFF0000, 0x80000000, 0x00050000
EPERM, ENOSYS = FAIL | errno.EPERM, FAIL | errno.ENOSYS


class _Instruction(ctypes.Structure):
    _fields_ = [("code", ctypes.c_uint16), ("jt", ctypes.c_uint8), ("jf", ctypes.c_uint8), ("k", ctypes.c_uint32)]


class _Program(ctypes.Structure):
    _fields_ = [("len", ctypes.c_uint16), ("filter", ctypes.POINTER(_Instruction))]


def supported() -> bool:
    """Whether this kernel and architecture take the filter."""
    return (
        sys.platform == "linux"
        and platform.machine() in ARCHITECTURES
        and os.path.exists("/proc/self/status")
        and b"\nSeccomp:" in open("/proc/self/status", "rb").read()
    )


def program(pid: int, write: bool) -> list[tuple[int, int, int, int]]:
    """The filter's instructions for the process `pid`."""
    column, architecture = ARCHITECTURES[platform.machine()]

    def number(table: Mapping[str, tuple[int | None, int | None]], name: str) -> int | None:
        return table[name][column]

    def argument(i: int) -> list[tuple[int, int, int, int]]:
        return [(LOAD, 0, 0, 16 + 8 * i)]  # its low half: flags, pids and options are no longer

    def only(values: tuple[int, ...], i: int) -> list[tuple[int, int, int, int]]:
        """Allow where the argument is one of the values."""
        tests = [(EQUAL, len(values) - at, 0, value) for at, value in enumerate(values)]
        return [*argument(i), *tests, (RETURN, 0, 0, EPERM), (RETURN, 0, 0, ALLOW)]

    def unless(values: tuple[int, ...], i: int) -> list[tuple[int, int, int, int]]:
        tests = [(EQUAL, len(values) - at, 0, value) for at, value in enumerate(values)]
        return [*argument(i), *tests, (RETURN, 0, 0, ALLOW), (RETURN, 0, 0, EPERM)]

    code = [(LOAD, 0, 0, 4), (EQUAL, 1, 0, architecture), (RETURN, 0, 0, KILL), (LOAD, 0, 0, 0)]
    code += [(ABOVE, 0, 1, NEWEST), (RETURN, 0, 0, ENOSYS)]  # the x32 calls too: their numbers have bit 30
    for name in ABSENT:
        code += [(EQUAL, 0, 1, number(ABSENT, name) or 0), (RETURN, 0, 0, ENOSYS)]
    for table in (CALLS, {} if write else WRITES):
        for name in table:
            call = number(table, name)
            if call is not None:
                code += [(EQUAL, 0, 1, call), (RETURN, 0, 0, EPERM)]
    deny_flags = [(RETURN, 0, 0, ALLOW), (RETURN, 0, 0, EPERM)]
    checks = {
        "clone": [*argument(0), (ANY_BIT, 0, 1, CLONE_THREAD), (RETURN, 0, 0, ALLOW), (RETURN, 0, 0, EPERM)],
        "kill": only((pid,), 0),
        "tgkill": only((pid,), 0),
        "prlimit64": only((0, pid), 0),
        "sched_setaffinity": only((0, pid), 0),
        "prctl": unless(DENIED_PRCTL, 0),
        "ioctl": unless(DENIED_IOCTL, 1),
    }
    if not write:
        checks["open"] = [*argument(1), (ANY_BIT, 1, 0, WRITE_FLAGS), *deny_flags]
        checks["openat"] = [*argument(2), (ANY_BIT, 1, 0, WRITE_FLAGS), *deny_flags]
    for name, check in checks.items():
        call = number(CHECKED, name)
        if call is not None:
            code += [(EQUAL, 0, len(check), call), *check]
    return [*code, (RETURN, 0, 0, ALLOW)]


def install(write: bool) -> None:
    """Put the filter on this thread and all that it starts. Needs no_new_privs. Errors: OSError."""
    instructions = program(os.getpid(), write)
    array = (_Instruction * len(instructions))(*(_Instruction(*i) for i in instructions))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(22, 2, ctypes.byref(_Program(len(instructions), array)), 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "seccomp filter refused")
