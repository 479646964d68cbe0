"""Which system calls of programs a timeline has: those on sockets, whatever traces them (eBPF or strace)."""

from __future__ import annotations

from struct import unpack

# Calls that name a socket in their first argument, and those that make sockets.
SOCKET_CALLS = frozenset({
    "socket", "socketpair", "bind", "listen", "accept", "accept4", "connect", "getsockname", "getpeername", "shutdown",
    "setsockopt", "getsockopt", "sendto", "sendmsg", "sendmmsg", "recvfrom", "recvmsg", "recvmmsg",
})  # fmt: skip
# Calls on any file: in a timeline if the file is a socket.
FILE_CALLS = frozenset({
    "read", "readv", "pread64", "write", "writev", "pwrite64", "sendfile", "splice", "close", "dup", "dup2", "dup3",
    "fcntl", "ioctl",
})  # fmt: skip
# Calls that wait for several files: in a timeline if one of them is a socket.
WAIT_CALLS = frozenset({
    "poll", "ppoll", "select", "pselect6", "epoll_ctl", "epoll_wait", "epoll_pwait", "epoll_pwait2",
})  # fmt: skip
TRACED = SOCKET_CALLS | FILE_CALLS | WAIT_CALLS

SENDS = frozenset({"sendto", "sendmsg", "sendmmsg", "write", "writev", "pwrite64", "sendfile"})
RECEIVES = frozenset({"recvfrom", "recvmsg", "recvmmsg", "read", "readv", "pread64"})
MAY_BLOCK = SENDS | RECEIVES | {"accept", "accept4", "connect", *WAIT_CALLS} - {"epoll_ctl"}  # until a peer acts
WITHOUT_DESCRIPTOR = frozenset({"socket", "socketpair", "poll", "ppoll", "select", "pselect6"})  # in the first argument

SHOWN_BYTES = 64  # of a string in the arguments of a call; as in strace(1), `...` follows if there was more
SHOWN_CHARACTERS = 240  # of one argument: a message of netlink(7) would fill a screen
KEPT_BYTES = 256  # of the data of a call


def option_text(name: str, data: bytes) -> str:
    """Return the value of a socket option that is a structure, as C writes it; "" for others (socket(7), ip(7))."""
    if name.startswith(("SO_RCVTIMEO", "SO_SNDTIMEO")) and len(data) == 16:  # struct timeval
        seconds, microseconds = unpack("=qq", data)
        return f"{{tv_sec={seconds}, tv_usec={microseconds}}}"
    if name == "SO_LINGER" and len(data) == 8:
        on, seconds = unpack("=ii", data)
        return f"{{l_onoff={on}, l_linger={seconds}}}"
    if name in ("IP_ADD_MEMBERSHIP", "IP_DROP_MEMBERSHIP") and len(data) in (8, 12):  # struct ip_mreq, ip_mreqn
        index = f", imr_ifindex={unpack('=i', data[8:])[0]}" if len(data) == 12 else ""
        group, local = (".".join(map(str, data[at : at + 4])) for at in (0, 4))
        return f"{{imr_multiaddr={group}, imr_interface={local}{index}}}"
    return ""
