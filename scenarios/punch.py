"""Two peers punch a hole through their NATs: each learns the other's outside endpoint at `meet`, and sends to it.

punch.py meet                            answer each peer with the other's endpoint, as long as both want that
punch.py peer NAME SERVER ROOM PORT      prints `NAME reached the other` or `NAME got nothing`
"""

import socket
import sys
import time

ROUNDS, PAUSE_S = 10, 0.1


def meet() -> None:
    """Tell every two peers that ask about each other."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("", 3478))
    print("waiting", flush=True)
    known: dict[bytes, dict[bytes, tuple[str, int]]] = {}
    while True:
        request, peer = sock.recvfrom(100)
        room, name = request.split()
        peers = known.setdefault(room, {})
        peers[name] = peer
        for one, endpoint in peers.items():
            for other, address in peers.items():
                if one != other:
                    sock.sendto(f"{endpoint[0]} {endpoint[1]}".encode(), address)


def peer(name: str, server: str, room: str, port: int) -> None:
    """Ask for the other peer, then send to it and listen at the same time."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("", port))
    sock.settimeout(PAUSE_S)
    other = None
    deadline = time.monotonic() + 10
    rounds = 0
    while rounds < ROUNDS and time.monotonic() < deadline:
        if other is None:
            sock.sendto(f"{room} {name}".encode(), (server, 3478))
        else:
            sock.sendto(b"hello", other)
            rounds += 1
        try:
            data, sender = sock.recvfrom(100)
        except TimeoutError:
            continue
        if data == b"hello":
            sock.sendto(b"hello", sender)
            print(f"{name} reached the other at port {sender[1]}")
            return
        address, number = data.split()
        other = (address.decode(), int(number))
    print(f"{name} got nothing")


if sys.argv[1] == "meet":
    meet()
else:
    peer(sys.argv[2], sys.argv[3], sys.argv[4], int(sys.argv[5]))
