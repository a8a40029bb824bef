"""Attacks that look for the checks, the reference, the secret and the results."""

# mypy: ignore-errors

from . import hostile


@hostile("reads files that it must not: checks, secret, results, passwords")
def paths(targets, when, given):
    import os

    for path in [*targets["read"], targets["results"], "/etc/shadow", "/proc/1/environ", "/autograder/results"]:
        try:
            if os.path.isdir(path):
                names = os.listdir(path)
            else:
                with open(path, "rb") as file:
                    names = file.read(100)
            raise RuntimeError(f"GOTCHA {path}: {names!r}")
        except OSError as error:
            print(error)


@hostile("reads the same files by system calls, links and a file handle")
def other_ways(targets, when, given):
    import ctypes
    import os

    libc = ctypes.CDLL(None, use_errno=True)
    path = targets["token_file"]
    here = os.environ.get("TMPDIR", "/tmp")
    for make in (os.symlink, os.link):
        try:
            make(path, f"{here}/{make.__name__}")
            with open(f"{here}/{make.__name__}") as file:
                raise RuntimeError(f"GOTCHA by {make.__name__}: {file.read()}")
        except OSError as error:
            print(error)
    buffer = ctypes.create_string_buffer(100)
    for number in (2, 257, 437, 304, 56):  # open, openat, openat2, open_by_handle_at, and aarch64's openat
        descriptor = libc.syscall(number, *((path.encode(), 0) if number == 2 else (-100, path.encode(), 0, 0)))
        if descriptor >= 3 and number != 56 and libc.read(descriptor, buffer, 99) > 0:
            raise RuntimeError(f"GOTCHA by system call {number}: {buffer.value!r}")
    for walk in ("/proc/self/root", "/proc/1/root", "/proc/self/cwd", "/proc/self/fd/0/../../.."):
        try:
            with open(walk + path) as file:
                raise RuntimeError(f"GOTCHA through {walk}: {file.read()}")
        except OSError as error:
            print(error)


@hostile("searches the file system for what looks like checks, seeds or notebooks of solutions")
def search(targets, when, given):
    import os

    count = 0
    for root in (targets["project"], targets["folder"], "/autograder", "/home", "/root", "/opt", "/tmp", "/"):
        for folder, folders, files in os.walk(root):
            folders[:] = [name for name in folders if name not in ("site-packages", "dist-packages", "sys", "torch")]
            count += len(files)
            for name in files:
                if name in ("mistakes.py", "alternatives.py", "results.json", "secret.txt", "ps1.py"):
                    raise RuntimeError(f"GOTCHA {folder}/{name}")
            if count > 20_000:
                return


@hostile("looks through the caller's frames and every living object")
def memory(targets, when, given):
    import codecs
    import gc
    import sys

    frame, texts = sys._getframe(), []
    while frame is not None:
        texts += [repr(value)[:2000] for value in (*frame.f_locals.values(), *frame.f_globals.values())]
        frame = frame.f_back
    for item in gc.get_objects():
        if type(item) in (dict, list, tuple) and len(item) < 1000:
            texts += [text for text in (item.values() if type(item) is dict else item) if type(text) is str]
    for text in texts:
        for secret in ("ORTVA FBYHGVBA", "@zvfgnxr(", "uvqqra_frrqf"):  # rot13, not to find itself
            word = codecs.decode(secret, "rot13")
            if word in text:
                at = text.index(word)
                raise RuntimeError(f"GOTCHA in memory: {text[max(0, at - 60) : at + 60]!r}")


@hostile("reads the environment and the command lines of all processes")
def environment(targets, when, given):
    import os

    if targets["variable"] in os.environ:
        raise RuntimeError(f"GOTCHA in the environment: {os.environ[targets['variable']]}")
    for pid in ("self", os.getppid(), targets["grader"], 1, *targets["pids"]):
        for name in ("environ", "mem", "maps", "fd", "cwd", "root"):
            path = f"/proc/{pid}/{name}"
            try:
                if name == "environ":
                    with open(path, "rb") as file:
                        if targets["variable"].encode() in file.read():
                            raise RuntimeError(f"GOTCHA in {path}")
                elif name == "mem" and pid != "self":
                    with open(path, "rb"):
                        raise RuntimeError(f"GOTCHA: {path} opens")
                elif name in ("fd", "cwd", "root") and pid != "self" and os.listdir(path):
                    raise RuntimeError(f"GOTCHA: {path} lists")
            except OSError as error:
                print(error)


@hostile("reads from whatever descriptors it has inherited")
def descriptors(targets, when, given):
    import os
    import stat

    for descriptor in range(5, 1024):
        try:
            mode = os.fstat(descriptor).st_mode
        except OSError:
            continue
        if stat.S_ISSOCK(mode) or stat.S_ISFIFO(mode) or stat.S_ISREG(mode):
            raise RuntimeError(f"GOTCHA: descriptor {descriptor} is open")
        if stat.S_ISDIR(mode):
            raise RuntimeError(f"GOTCHA: folder {descriptor} is open: {os.listdir(descriptor)}")


@hostile("imports the project's packages and the checks")
def imports(targets, when, given):
    import importlib
    import sys

    names = ["genmodels", "problem_sets", "autograder", "autograder.grade", "problem_sets.ps1", "checks", "solution"]
    for clear in (False, True):
        if clear:
            sys.meta_path[:] = [finder for finder in sys.meta_path if type(finder).__module__.startswith("_frozen")]
            sys.path[:0] = [targets["project"], targets["folder"], f"{targets['project']}/problem_sets/ps1"]
            importlib.invalidate_caches()
        for name in names:
            try:
                module = importlib.import_module(name)
            except ImportError as error:
                print(error)
                continue
            # an empty folder makes an empty package, without the blocker: only what has a file is a find
            if getattr(module, "__file__", None) and not module.__file__.startswith(sys.base_prefix):
                raise RuntimeError(f"GOTCHA: {module.__file__}")
    for name in sys.modules:
        if name.partition(".")[0] in ("genmodels", "problem_sets") and getattr(sys.modules[name], "__file__", None):
            raise RuntimeError(f"GOTCHA: {name} is loaded")


@hostile("asks the system about the worker's user, rights and neighbours", "call")
def rights(targets, when, given):
    import ctypes
    import os

    libc = ctypes.CDLL(None, use_errno=True)
    header, data = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    libc.capget(header, data)
    if data[0] & ~4:  # reading, bounded by Landlock, is what one level keeps where Python lies in a private folder
        raise RuntimeError(f"GOTCHA: capabilities {data[0]:x}")
    for call in (lambda: os.setuid(0), lambda: os.setgid(0), lambda: os.chroot("/"), lambda: os.nice(-10)):
        try:
            call()
        except OSError as error:
            print(error)
            continue
        if os.getuid() == 0:
            raise RuntimeError("GOTCHA: root")
