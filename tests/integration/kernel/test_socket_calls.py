"""Socket calls return what the kernel returned, with errno and times, and never raise."""

from __future__ import annotations

import errno
import os
import signal
import socket
import threading

import pytest

from labctl.kernel import sockaddr, socket_calls


def test_a_refused_call_has_its_errno_and_times() -> None:
    made = socket_calls.listen(-1, 1)
    assert (made.returned, made.errno) == (-1, errno.EBADF)
    assert made.started_ns <= made.ended_ns


def test_data_goes_through_a_pair_of_sockets_with_addresses_and_flags() -> None:
    pair = socket_calls.int_pair()
    assert socket_calls.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM, 0, pair).returned == 0
    one, other = pair
    try:
        assert socket_calls.sendmsg(one, [b"ab", b"cd"], None, 0, 0).returned == 4
        message = socket_calls.Message(3, 110)
        assert socket_calls.recvmsg(other, message, 0).returned == 3
        assert socket_calls.take(message.data, 3) == b"abc"
        assert message.flags & socket.MSG_TRUNC
    finally:
        assert [socket_calls.close(fd).returned for fd in (one, other)] == [0, 0]


@pytest.mark.parametrize("given", [16, 8])
def test_an_address_is_truncated_to_the_given_length(given: int) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        buffer = socket_calls.AddressBuffer(given)
        assert socket_calls.getsockname(sock.fileno(), buffer).returned == 0
        address = sockaddr.decode(buffer.bytes, buffer.returned)
        assert (address.port, address.truncated) == (sock.getsockname()[1], given < 16)


def test_an_interrupted_call_returns_eintr() -> None:
    reading, writing = os.pipe()
    before = signal.signal(signal.SIGUSR1, lambda number, frame: None)
    signal.siginterrupt(signal.SIGUSR1, True)
    main = threading.main_thread().ident
    assert main is not None
    stop = threading.Event()

    def interrupt() -> None:
        while not stop.wait(0.01):
            signal.pthread_kill(main, signal.SIGUSR1)

    interrupter = threading.Thread(target=interrupt)
    interrupter.start()
    try:
        made = socket_calls.read(reading, socket_calls.new_buffer(1), 1)
    finally:
        stop.set()
        interrupter.join()
        signal.signal(signal.SIGUSR1, before)
        os.close(reading)
        os.close(writing)
    assert (made.returned, made.errno) == (-1, errno.EINTR)


def test_select_leaves_the_ready_descriptors_in_its_sets() -> None:
    reading, writing = os.pipe()
    try:
        sets = [socket_calls.fd_set(each) for each in ([reading], [writing], [])]
        made = socket_calls.select(sets[0], sets[1], sets[2], max(reading, writing), 1.0)
        assert made.returned == 1
        assert (socket_calls.in_fd_set(sets[0], reading), socket_calls.in_fd_set(sets[1], writing)) == (False, True)
    finally:
        os.close(reading)
        os.close(writing)


def test_an_fd_set_has_no_bit_for_descriptor_1024() -> None:
    with pytest.raises(ValueError, match="1024 does not fit"):
        socket_calls.fd_set([1024])
