"""Attacks on the channel: what the grader reads from the worker is written by the student if the student wishes."""

# mypy: ignore-errors

from . import hostile


@hostile("writes pickles that would run code where they are read")
def pickles(targets, when, given):
    import os
    import pickle

    class Bomb:
        def __reduce__(self):
            return (os.system, (f"touch {targets['folder']}/pickled",))

    for descriptor in range(3, 10):
        try:
            os.write(descriptor, pickle.dumps(Bomb()))
        except OSError as error:
            print(error)
    return Bomb()


@hostile("writes garbage to every descriptor")
def garbage(targets, when, given):
    import os

    for descriptor in range(3, 10):
        try:
            os.write(descriptor, os.urandom(5000))
        except OSError as error:
            print(error)
    return 0


@hostile("sends a frame that announces more than the grader has memory")
def false_length(targets, when, given):
    import os
    import struct

    os.write(4, struct.pack("!4sIQ", b"GMF1", 2**32 - 1, 2**63))
    return 0


@hostile("sends a frame that announces the most that is allowed, and then nothing")
def slow_frame(targets, when, given):
    import os
    import struct
    import time

    os.write(4, struct.pack("!4sIQ", b"GMF1", 1 << 20, 64 << 20))
    time.sleep(600)


@hostile("sends headers that are deep, wrong or contradict the bytes")
def false_headers(targets, when, given):
    import os
    import struct

    text = b"[" * 200_000
    os.write(4, struct.pack("!4sIQ", b"GMF1", len(text), 0) + text)
    return 0


@hostile("answers ahead, with a guessed nonce")
def guessed_nonce(targets, when, given):
    import json
    import os
    import struct

    text = json.dumps({"nonce": "0" * 32, "value": {"d": [["ok", True], ["mutated", {"l": []}]]}, "sizes": []}).encode()
    os.write(4, struct.pack("!4sIQ", b"GMF1", len(text), 0) + text)
    return 0


@hostile("answers twice, with the nonce of the request that it finds in its caller's frames", "call")
def twice(targets, when, given):
    import json
    import os
    import struct
    import sys

    frame = sys._getframe()
    while frame is not None:
        nonce = frame.f_locals.get("nonce")
        if isinstance(nonce, str):
            value = {"d": [["ok", {"d": [["score", 100]]}], ["mutated", {"l": []}]]}
            text = json.dumps({"nonce": nonce, "value": value, "sizes": []}).encode()
            os.write(4, 3 * (struct.pack("!4sIQ", b"GMF1", len(text), 0) + text))
        frame = frame.f_back
    return 0


@hostile("answers the load itself, with something that is no list of names", "import")
def forged_load(targets, when, given):
    import json
    import os
    import struct
    import sys
    import time

    frame = sys._getframe()
    while frame is not None:
        nonce = frame.f_locals.get("nonce")
        if isinstance(nonce, str):
            text = json.dumps(
                {"nonce": nonce, "value": {"d": [["ok", 5], ["mutated", {"l": []}]]}, "sizes": []}
            ).encode()
            os.write(4, struct.pack("!4sIQ", b"GMF1", len(text), 0) + text)
        frame = frame.f_back
    time.sleep(600)


@hostile("answers from a thread while the grader asks other things")
def chatter(targets, when, given):
    import os
    import struct
    import threading

    def talk():
        while True:
            os.write(4, struct.pack("!4sIQ", b"GMF1", 2, 0) + b"{}")

    threading.Thread(target=talk, daemon=True).start()
    return 0


@hostile("closes its end of the channel and lives on")
def hang_up(targets, when, given):
    import os
    import time

    os.closerange(0, 64)
    time.sleep(600)


@hostile("reads the requests that are meant for the worker")
def eavesdrop(targets, when, given):
    import os
    import threading

    threading.Thread(target=lambda: [os.read(3, 1 << 20) for _ in range(1000)], daemon=True).start()
    return 0
