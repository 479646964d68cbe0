"""What the manual pages report about an errno of a call, and about a call that blocks: a sentence and its page.

Written from sections ERRORS and DESCRIPTION of Linux man-pages 6.03, in our words; `""` in place of an errno stands for
a call that has not returned.
"""

from __future__ import annotations

from functools import cache

from labctl.structs import Struct


class CallError(Struct, frozen=True):
    """`page` is `connect(2)`."""

    page: str
    sentence: str

    def __str__(self) -> str:
        return f"{self.page}: {self.sentence}"


# calls | errno | page | sentence; `*` is any call, `-` a call that has not returned,
# `@unix` a call on a socket of AF_UNIX.
_TABLE = """\
socket|EACCES,EPERM|socket(2)|The process may not create a socket of this type and protocol; AF_PACKET and SOCK_RAW
  need CAP_NET_RAW.
socket socketpair|EAFNOSUPPORT|socket(2)|The kernel does not support this address family.
socket|EINVAL|socket(2)|The protocol is unknown, the family is not available, or the flags in the type are invalid.
socket|ESOCKTNOSUPPORT|ip(7)|The family has no sockets of this type.
socket socketpair|EPROTONOSUPPORT|socket(2)|The family does not support this type or protocol.
socketpair|EOPNOTSUPP|socketpair(2)|The protocol cannot make pairs; AF_UNIX can.
bind|EADDRINUSE|bind(2)|The address is in use: another socket is bound to this port, or a connection of it is in
  TIME_WAIT and SO_REUSEADDR is not set.
bind|EADDRNOTAVAIL|bind(2)|The address is not one of this host's, or its interface does not exist.
bind|EACCES|bind(2)|The address is protected: a port below net.ipv4.ip_unprivileged_port_start (1024) needs
  CAP_NET_BIND_SERVICE.
bind|EINVAL|bind(2)|The socket is bound already, or the length of the address does not fit its family.
bind|EAFNOSUPPORT|ip(7)|The address is of another family than the socket.
bind|ENOENT|bind(2)|A directory of the path does not exist.
bind|ENODEV|packet(7)|There is no interface of this name or index.
listen|EADDRINUSE|listen(2)|Another socket listens on the port; of a socket without bind(2), no port was free.
listen|EOPNOTSUPP|listen(2)|Sockets of this type do not listen: only SOCK_STREAM and SOCK_SEQPACKET do.
listen|EINVAL|listen(2)|The socket is in a state in which it cannot listen; it is connected, for instance.
accept accept4|EAGAIN|accept(2)|No connection is in the accept queue, and the socket is nonblocking or its receive
  timeout has passed.
accept accept4|EINVAL|accept(2)|The socket does not listen: listen(2) comes first.
accept accept4|EOPNOTSUPP|accept(2)|Only sockets of type SOCK_STREAM and SOCK_SEQPACKET accept connections.
accept accept4|ECONNABORTED|accept(2)|The connection was aborted while it was in the queue.
accept accept4|EPERM|accept(2)|Firewall rules forbid the connection.
accept accept4|-|accept(2)|The accept queue is empty and the socket is blocking: accept() waits until a handshake is
  complete.
connect|ECONNREFUSED|connect(2)|No socket listens on the remote address; the host answered with RST.
connect|ETIMEDOUT|connect(2)|The handshake was not completed in time: no answer to the SYNs, or the server is too busy
  to accept connections (tcp(7): tcp_syn_retries).
connect|EHOSTUNREACH|ip(7)|No route leads to the address, a router reported it by ICMP, or the neighbour did not
  answer ARP.
connect|ENETUNREACH|connect(2)|The network is unreachable: this host has no route for the address.
connect|EINPROGRESS|connect(2)|The socket is nonblocking and the handshake goes on: poll(2) for POLLOUT, then read
  SO_ERROR with getsockopt(2).
connect|EALREADY|connect(2)|The socket is nonblocking, and an earlier connect() has not finished.
connect|EISCONN|connect(2)|The socket is connected already.
connect|EADDRNOTAVAIL|connect(2)|No temporary port is free (ip(7): ip_local_port_range), or the address cannot be
  connected to.
connect|EADDRINUSE|connect(2)|The local address is in use by the same connection.
connect|EAFNOSUPPORT|connect(2)|The address is of another family than the socket.
connect|EACCES,EPERM|connect(2)|A broadcast address without SO_BROADCAST, or a local firewall rule.
connect|EAGAIN|connect(2)|No temporary port is free, or no route entry.
connect|ENOENT|unix(7)|There is no socket file of this path.
connect|EPROTOTYPE|connect(2)|The socket at the path is of another type.
connect|EINVAL|connect(2)|The address is invalid for the socket: a link-local one without its interface, for instance.
connect|ECONNRESET|tcp(7)|The other end reset the connection during the handshake.
connect|-|connect(2)|The socket is blocking: connect() waits for the answer to its SYN, which the kernel sends again
  after 1, 2, 4, ... seconds.
send sendto sendmsg write|EPIPE|send(2)|This end was shut down for writing, or the other end has closed the
  connection. Without MSG_NOSIGNAL the process gets SIGPIPE, too.
send sendto sendmsg write|ECONNRESET|send(2)|The other end reset the connection.
send sendto sendmsg write|ENOTCONN|send(2)|The socket is not connected, and the call names no destination.
send sendto sendmsg write|EDESTADDRREQ|send(2)|The datagram socket is not connected, and the call names no
  destination.
send sendto sendmsg write|EAGAIN|send(2)|The send buffer is full, and the socket is nonblocking or its send timeout
  has passed.
send sendto sendmsg write|EMSGSIZE|send(2)|The message is sent as a whole or not at all, and it is too large: for UDP
  over IPv4, 65,507 bytes; with IP_PMTUDISC_DO, the MTU of the path.
send sendto sendmsg write|EISCONN|send(2)|The socket is connected, and the call names a destination.
send sendto sendmsg write|ECONNREFUSED|udp(7)|No socket received an earlier datagram: its host answered with an ICMP
  error. The next call after it reports that.
send sendto sendmsg write|EACCES|send(2)|A broadcast address without SO_BROADCAST.
send sendto sendmsg write|EPERM|ip(7)|A firewall rule of this host drops the packet on its way out.
send sendto sendmsg write|EHOSTUNREACH|ip(7)|No route leads to the address, a router reported it by ICMP, or the
  neighbour did not answer ARP.
send sendto sendmsg write|ENETUNREACH|ip(7)|This host has no route for the address.
send sendto sendmsg write|ETIMEDOUT|tcp(7)|The other end has not acknowledged retransmitted data for some time.
send sendto sendmsg write|ENOBUFS|send(2)|The output queue of the interface is full, or memory is short.
send sendto sendmsg write|EOPNOTSUPP|send(2)|The flags do not suit this type of socket.
send sendto sendmsg write|EINVAL|send(2)|An argument is invalid: the address, the flags, or a control message.
send sendto sendmsg write|ENOENT|unix(7)|There is no socket file of this path.
send sendto sendmsg write|-|send(2)|The send buffer is full: the call waits until the other end has received enough.
recv recvfrom recvmsg read|EAGAIN|recv(2)|No data is there, and the socket or the call is nonblocking, or the receive
  timeout (SO_RCVTIMEO) has passed.
recv recvfrom recvmsg read|ECONNRESET|tcp(7)|The other end reset the connection, for example because it closed its
  socket with unread data.
recv recvfrom recvmsg read|ENOTCONN|recv(2)|The socket is of a connection-oriented protocol and is not connected: a
  listener, for instance, whose connections accept(2) returns.
recv recvfrom recvmsg read|ECONNREFUSED|recv(2)|The remote host refused the packet: no socket is bound to that port.
recv recvfrom recvmsg read|ETIMEDOUT|tcp(7)|The other end has not acknowledged data or keepalive probes for some time.
recv recvfrom recvmsg read|EHOSTUNREACH|ip(7)|A router or this host reported by ICMP that the other end cannot be
  reached.
recv recvfrom recvmsg read|EINVAL|recv(2)|An argument is invalid: MSG_OOB without urgent data, for instance.
recv recvfrom recvmsg read|EOPNOTSUPP|recv(2)|The flags do not suit this type of socket.
recv recvfrom recvmsg read|-|recv(2)|No message is there and the socket is blocking: the call waits for data, or for
  the end of the connection.
shutdown|ENOTCONN|shutdown(2)|The socket is not connected.
shutdown|EINVAL|shutdown(2)|`how` is none of SHUT_RD, SHUT_WR and SHUT_RDWR.
getpeername|ENOTCONN|getpeername(2)|The socket is not connected, so it has no peer.
getsockname getpeername|EINVAL|getsockname(2)|The value of addrlen is invalid: negative, for instance.
setsockopt getsockopt|ENOPROTOOPT|setsockopt(2)|The level does not have this option, or not for this kind of socket.
setsockopt getsockopt|EINVAL|setsockopt(2)|The value or its length is invalid for the option, or the state of the
  socket does not permit it.
setsockopt getsockopt|EDOM|socket(7)|The value is out of range.
setsockopt getsockopt|EOPNOTSUPP|ip(7)|This socket does not support the option.
setsockopt|ENODEV|ip(7)|No interface has this name, index or address; or no route selects one for the group.
setsockopt|EADDRINUSE|ip(7)|The socket is a member of the group already.
setsockopt|EADDRNOTAVAIL|ip(7)|The socket is no member of the group, or the address is not one of this host's.
setsockopt|EPERM,EACCES|socket(7)|The option needs a capability, such as CAP_NET_ADMIN or CAP_NET_RAW.
setsockopt|EISCONN|tcp(7)|The option must be set before the socket is connected.
setsockopt|ENOTCONN|tcp(7)|The option needs a connection.
close|-|close(2)|SO_LINGER is set: close() waits until queued data is sent, or the linger timeout.
poll|-|poll(2)|No descriptor has one of the events, and the timeout has not passed.
select|-|select(2)|No descriptor is ready, and the timeout has not passed.
epoll_wait|-|epoll_wait(2)|No descriptor of the interest list is ready, and the timeout has not passed.
epoll_ctl|EEXIST|epoll_ctl(2)|The descriptor is registered already: EPOLL_CTL_MOD changes its events.
epoll_ctl|ENOENT|epoll_ctl(2)|The descriptor is not registered: EPOLL_CTL_ADD comes first.
epoll_ctl|EPERM|epoll_ctl(2)|The file does not support epoll: a regular file or a directory, for instance.
epoll_ctl epoll_wait|EINVAL|epoll_ctl(2)|The descriptor is no epoll instance, or an argument is out of range.
poll|EINVAL|poll(2)|There are more descriptors than RLIMIT_NOFILE, or the timeout is invalid.
fcntl|EINVAL|fcntl(2)|The kernel does not know the command, or its argument is invalid.
ioctl|ENOTTY|ioctl(2)|The request does not apply to this kind of descriptor.
ioctl|ENODEV,ENXIO|netdevice(7)|There is no interface of this name.
ioctl|EADDRNOTAVAIL|netdevice(7)|The interface has no such address.
ioctl|EINVAL|ioctl(2)|The request or its argument is invalid; SIOCINQ on a listener, for instance.
unlink|ENOENT|unlink(2)|There is no file of this path.
unlink|EACCES,EPERM|unlink(2)|The process may not change the directory.
setrlimit|EPERM|getrlimit(2)|Only CAP_SYS_RESOURCE raises a hard limit.
bind@unix|EADDRINUSE|unix(7)|A file of this path, or a socket of this abstract name, exists: unlink(2) removes a file.
bind@unix|EACCES|unix(7)|The directory of the path is not writable or not searchable.
bind@unix|EADDRNOTAVAIL|unix(7)|The path cannot be used.
connect@unix|ECONNREFUSED|unix(7)|No process listens on the socket file: its owner has ended, or has not called
  listen(2).
connect@unix|EAGAIN|unix(7)|The socket is nonblocking, and the listener's queue is full.
connect@unix send@unix sendto@unix sendmsg@unix write@unix|EACCES|unix(7)|The socket file is not writable, or its
  directory not searchable.
connect@unix|-|unix(7)|The listener's queue is full: connect() waits until it accepts a connection.
sendto@unix sendmsg@unix|ECONNREFUSED|unix(7)|No process has the socket file open.
*|EBADF|close(2)|The number is no open descriptor of this process: closed already, or the -1 of a call that failed.
*|ENOTSOCK|bind(2)|The descriptor is not a socket.
*|EINTR|signal(7)|A signal whose handler was installed without SA_RESTART interrupted the call before anything
  happened.
*|EMFILE|getrlimit(2)|The process has as many descriptors as RLIMIT_NOFILE permits.
*|ENFILE|proc(5)|The machine has as many open files as fs.file-max permits.
*|ENOMEM,ENOBUFS|socket(7)|The kernel is short of memory, or a limit for buffers is reached.
*|EFAULT|intro(2)|An address that was passed is outside of the process's memory.
*|ENETDOWN|packet(7)|The interface is down.
*|EPERM,EACCES|capabilities(7)|The process lacks the permission or capability.
*|-|signal(7)|The call waits in the kernel; a signal can interrupt it.
"""


def call_error(call: str, errno: str = "", *, is_unix: bool = False) -> CallError | None:
    """Return what the manual page reports for `connect` and `ECONNREFUSED`; without an errno, for a call that blocks.

    `is_unix`: on a socket of AF_UNIX.
    """
    wanted, rows = errno or "-", _rows()
    names = (f"{call}@unix", call, "*") if is_unix else (call, "*")
    return next((rows[name, wanted] for name in names if (name, wanted) in rows), None)


@cache
def _rows() -> dict[tuple[str, str], CallError]:
    found: dict[tuple[str, str], CallError] = {}
    for line in _TABLE.replace("\n  ", " ").splitlines():
        calls, errnos, page, sentence = line.split("|")
        for call in calls.split():
            for errno in errnos.split(","):
                found.setdefault((call, errno), CallError(page, sentence))
    return found
