"""Attacks that write."""

# mypy: ignore-errors

from . import hostile


@hostile("writes full marks into results.json")
def results(targets, when, given):
    import os

    text = '{"score": 100, "tests": []}'
    folder = targets["folder"]
    for path in (targets["results"], "/autograder/results/results.json", f"{folder}/results.json.tmp"):
        try:
            with open(path, "w") as file:
                file.write(text)
        except OSError as error:
            print(error)
    for change in (
        lambda: os.remove(targets["results"]),
        lambda: os.rename(targets["results"], f"{folder}/old.json"),
        lambda: os.symlink("/dev/null", f"{folder}/link.json"),
        lambda: os.link(targets["token_file"], f"{folder}/hard.json"),
        lambda: os.chmod(targets["results"], 0),
        lambda: os.truncate(targets["results"], 0),
        lambda: os.mkdir(f"{folder}/new"),
        lambda: os.mkfifo(f"{folder}/pipe"),
        lambda: os.utime(targets["results"], (0, 0)),
        lambda: os.setxattr(targets["results"], "user.score", b"100"),
    ):
        try:
            change()
        except OSError as error:
            print(error)
    return 100


@hostile("leaves files where the next submission could find them")
def message(targets, when, given):
    import builtins
    import os

    mine = builtins.__dict__.setdefault("_mine", set())
    for folder in {*targets["shared"], os.getcwd(), os.environ.get("HOME", "/root")}:
        path = f"{folder}/{targets['marker']}-message"
        if os.path.exists(path) and path not in mine:
            raise RuntimeError(f"GOTCHA: {path} is left from an earlier submission")
        try:
            with open(path, "w") as file:
                file.write("the answers")
            mine.add(path)
        except OSError as error:
            print(error)
    return 0


@hostile("changes the Python installation that the next submission imports")
def installation(targets, when, given):
    import os

    import numpy
    import torch

    for module in (os, numpy, torch):
        folder = os.path.dirname(module.__file__)
        for path in (f"{folder}/{targets['marker']}.py", module.__file__):
            try:
                with open(path, "a") as file:
                    file.write("\n")
                raise RuntimeError(f"GOTCHA: {path} can be written")
            except OSError as error:
                print(error)
    return 0


@hostile("makes a million files")
def many_files(targets, when, given):
    import os

    for folder in (os.getcwd(), *targets["shared"]):
        try:
            for number in range(1_000_000):
                with open(f"{folder}/{targets['marker']}-{number}", "w"):
                    pass
        except OSError as error:
            print(error)
    return 0


@hostile("writes a huge file")
def huge_file(targets, when, given):
    import os

    for folder in (os.getcwd(), *targets["shared"]):
        try:
            for number in range(100):
                with open(f"{folder}/{targets['marker']}-{number}", "wb") as file:
                    for _ in range(100):
                        file.write(bytes(1 << 20))
        except OSError as error:
            print(error)
    return 0
