"""Attacks that call out."""

# mypy: ignore-errors

from . import hostile


@hostile("connects by TCP")
def tcp(targets, when, given):
    import socket

    with socket.create_connection(("127.0.0.1", targets["tcp"]), timeout=2) as s:
        s.sendall(b"hello")
    return 0


@hostile("sends by UDP")
def udp(targets, when, given):
    import socket

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.sendto(b"hello", ("127.0.0.1", targets["udp"]))
    return 0


@hostile("asks a name server")
def dns(targets, when, given):
    import socket

    if socket.getaddrinfo("localhost", 80):
        raise RuntimeError("GOTCHA: the resolver answers")


@hostile("connects to Unix sockets, by path and abstract")
def unix(targets, when, given):
    import socket

    for name in targets["unix"]:
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as s:
                s.connect(name)
        except OSError as error:
            print(error)
    a, _b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    a.connect(targets["unix"][-1])
    return 0


@hostile("makes its system calls itself, without the socket module")
def raw_socket(targets, when, given):
    import ctypes
    import struct

    libc = ctypes.CDLL(None, use_errno=True)
    for family, kind in ((2, 1), (2, 2), (10, 1), (1, 1), (16, 3), (17, 3), (40, 1), (38, 5)):
        descriptor = libc.socket(family, kind, 0)
        if descriptor >= 0:
            address = struct.pack("=HHI8x", 2, ((targets["tcp"] & 255) << 8) | targets["tcp"] >> 8, 0x0100007F)
            libc.connect(descriptor, address, 16)
            if family in (16, 17, 40, 38):
                raise RuntimeError(f"GOTCHA: a socket of family {family}")
    return 0
