"""Which system calls of programs a timeline has: those on sockets, whatever traces them (eBPF or strace)."""

from __future__ import annotations

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
