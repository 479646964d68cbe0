"""Options, control messages and addresses with typed values, on real sockets over loopback."""

from __future__ import annotations

import pytest

from tests.integration.scenario.language.test_session import Process, bench, processes

__all__ = ["bench", "processes"]

Pair = tuple[Process, Process]


def test_a_structure_is_written_by_place_or_by_name_and_read_back(processes: Pair) -> None:
    server, _ = processes
    records = server.do(
        """
        c = socket(AF_INET, SOCK_STREAM)
        setsockopt(c, SOL_SOCKET, SO_LINGER, {1, 5})
        getsockopt(c, SOL_SOCKET, SO_LINGER) -> {1, 5}
        setsockopt(c, SOL_SOCKET, SO_LINGER, {l_linger=7, l_onoff=1})
        v = getsockopt(c, SOL_SOCKET, SO_LINGER) -> [1, 7]
        assert v.l_linger == 7
        assert v[0] == 1
        assert v == {l_linger=7}
        setsockopt(c, IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DO)
        getsockopt(c, IPPROTO_IP, IP_MTU_DISCOVER) -> IP_PMTUDISC_DO
        setsockopt(c, SOL_SOCKET, SO_BINDTOIFINDEX, "lo")
        getsockopt(c, SOL_SOCKET, SO_BINDTOIFINDEX)
        """
    )
    assert records[1].call == "setsockopt(3, SOL_SOCKET, SO_LINGER, {1, 5}, 8)"
    assert records[4].call == "getsockopt(3, SOL_SOCKET, SO_LINGER, {l_onoff=1, l_linger=7}, [8 -> 8])"
    assert records[5].call == "setsockopt(3, IPPROTO_IP, IP_MTU_DISCOVER, [IP_PMTUDISC_DO], 4)"
    assert records[-1].call == 'getsockopt(3, SOL_SOCKET, SO_BINDTOIFINDEX, ["lo"], [4 -> 4])'


def test_tcp_info_has_the_connections_state(processes: Pair) -> None:
    server, _ = processes
    records = server.do(
        """
        s = socket(AF_INET, SOCK_STREAM)
        bind(s, "127.0.0.1:0")
        listen(s, 1)
        me = getsockname(s)
        c = socket(AF_INET, SOCK_STREAM)
        connect(c, me)
        info = getsockopt(c, IPPROTO_TCP, TCP_INFO) -> {tcpi_state=TCP_ESTABLISHED}
        assert info.tcpi_state == TCP_ESTABLISHED
        assert info.tcpi_snd_mss > 500
        assert info.tcpi_snd_cwnd == 10
        assert info.tcpi_snd_wscale == info.tcpi_rcv_wscale
        getsockopt(s, IPPROTO_TCP, TCP_INFO) -> {tcpi_state=TCP_LISTEN}
        """
    )
    assert "{tcpi_state=TCP_ESTABLISHED, tcpi_ca_state=0," in records[6].call


@pytest.mark.parametrize(
    "value",
    [
        'IP_ADD_MEMBERSHIP, {"239.1.1.1", "lo"}',
        'IP_ADD_MEMBERSHIP, {"239.1.1.1", "127.0.0.1"}',
        'IP_ADD_MEMBERSHIP, {imr_multiaddr="239.1.1.1", imr_interface="127.0.0.1"}',
        'IP_ADD_MEMBERSHIP, {imr_multiaddr="239.1.1.1", imr_ifindex="lo"}',
        'MCAST_JOIN_GROUP, {"lo", "239.1.1.1"}',
        'IP_ADD_SOURCE_MEMBERSHIP, {"239.1.1.1", "127.0.0.1", "127.0.0.1"}',
        'MCAST_JOIN_SOURCE_GROUP, {"lo", "239.1.1.1", "127.0.0.1"}',
    ],
)
def test_a_group_is_joined_in_every_way_of_ip7(processes: Pair, value: str) -> None:
    server, _ = processes
    server.do(
        f"""
        r = socket(AF_INET, SOCK_DGRAM)
        bind(r, "239.1.1.1:5000")
        setsockopt(r, IPPROTO_IP, {value})
        u = socket(AF_INET, SOCK_DGRAM)
        setsockopt(u, IPPROTO_IP, IP_MULTICAST_IF, "lo")
        setsockopt(u, IPPROTO_IP, IP_MULTICAST_IF, "127.0.0.1")
        address = getsockopt(u, IPPROTO_IP, IP_MULTICAST_IF)
        assert address == "127.0.0.1"
        sendto(u, b"hello", "239.1.1.1:5000")
        recv(r, 100) -> b"hello" within 2s
        """
    )


def test_an_ipv6_group_is_joined(processes: Pair) -> None:
    server, _ = processes
    server.do(
        """
        r = socket(AF_INET6, SOCK_DGRAM)
        bind(r, "[::]:5000")
        setsockopt(r, IPPROTO_IPV6, IPV6_JOIN_GROUP, {"ff01::99", "lo"})
        setsockopt(r, IPPROTO_IPV6, MCAST_JOIN_GROUP, {"lo", "ff01::98"})
        setsockopt(r, IPPROTO_IPV6, IPV6_MULTICAST_IF, "lo")
        name = getsockopt(r, IPPROTO_IPV6, IPV6_MULTICAST_IF)
        assert name == "lo"
        setsockopt(r, IPPROTO_IPV6, IPV6_JOIN_GROUP, {"ff01::98", "lo"}) -> EADDRINUSE
        setsockopt(r, IPPROTO_IPV6, IPV6_LEAVE_GROUP, {ipv6mr_multiaddr="ff01::98", ipv6mr_interface="lo"})
        setsockopt(r, IPPROTO_IPV6, MCAST_LEAVE_GROUP, {"lo", "ff01::98"}) -> EADDRNOTAVAIL
        """
    )


def test_a_descriptor_is_passed_to_another_process(processes: Pair) -> None:
    server, other = processes
    server.do('s = socket(AF_UNIX, SOCK_STREAM)\nbind(s, "@rights")\nlisten(s, 1)')
    other.do('c = socket(AF_UNIX, SOCK_STREAM)\nconnect(c, "@rights")')
    server.do('conn = accept(s)\na, b = socketpair(AF_UNIX, SOCK_STREAM)\nwrite(b, b"through")')
    sent = server.do('sendmsg(conn, [b"x"], control=[{SOL_SOCKET, SCM_RIGHTS, [a]}]) -> 1')
    got = other.do(
        """
        data, addr, flags, control = recvmsg(c, 10) -> b"x"
        assert control == [{SOL_SOCKET, SCM_RIGHTS, [4]}]
        assert control[0].cmsg_type == SCM_RIGHTS
        fd = control[0].cmsg_data[0]
        read(fd, 100) -> b"through"
        """
    )
    assert sent[0].call == 'sendmsg(4, {NULL, [{"x", 1}], 1, [{SOL_SOCKET, SCM_RIGHTS, [5]}]}, 0)'
    assert "[{SOL_SOCKET, SCM_RIGHTS, [4]}]" in got[0].call


def test_without_room_a_descriptor_is_lost_and_msg_ctrunc_is_set(processes: Pair) -> None:
    server, _ = processes
    server.do(
        """
        a, b = socketpair(AF_UNIX, SOCK_DGRAM)
        sendmsg(a, [b"x"], control=[{cmsg_level=SOL_SOCKET, cmsg_type=SCM_RIGHTS, cmsg_data=[a]}])
        data, addr, flags = recvmsg(b, 10)
        assert flags & MSG_CTRUNC == MSG_CTRUNC
        """
    )


def test_credentials_and_timestamps_come_as_control_messages(processes: Pair) -> None:
    server, _ = processes
    server.do(
        """
        me = getpid()
        a, b = socketpair(AF_UNIX, SOCK_DGRAM)
        setsockopt(b, SOL_SOCKET, SO_PASSCRED, 1)
        write(a, b"x")
        data, addr, flags, control = recvmsg(b, 10, control=64)
        assert control[0].cmsg_type == SCM_CREDENTIALS
        assert control[0].cmsg_data.pid == me
        sendmsg(a, [b"y"], control=[{SOL_SOCKET, SCM_CREDENTIALS, {me, 0, 0}}])
        recvmsg(b, 10) -> b"y"
        getsockopt(a, SOL_SOCKET, SO_PEERCRED) -> {pid=me, uid=0}
        r = socket(AF_INET, SOCK_DGRAM)
        bind(r, "127.0.0.1:5000")
        setsockopt(r, SOL_SOCKET, SO_TIMESTAMPNS, 1)
        setsockopt(r, IPPROTO_IP, IP_PKTINFO, 1)
        setsockopt(r, IPPROTO_IP, IP_RECVTTL, 1)
        setsockopt(r, IPPROTO_IP, IP_RECVTOS, 1)
        u = socket(AF_INET, SOCK_DGRAM)
        control = [{IPPROTO_IP, IP_PKTINFO, {"lo", "127.0.0.9"}}, {IPPROTO_IP, IP_TTL, 9}]
        sendmsg(u, [b"z"], "127.0.0.1:5000", control=control)
        data, addr, flags, control = recvmsg(r, 10)
        assert addr.host == "127.0.0.9"
        assert control[0].cmsg_type == SCM_TIMESTAMPNS
        assert control[0].cmsg_data.tv_sec > 1000000000
        assert control[1] == {IPPROTO_IP, IP_PKTINFO, {"lo", "127.0.0.1", "127.0.0.1"}}
        assert control[2] == {IPPROTO_IP, IP_TTL, 9}
        assert control[3] == {IPPROTO_IP, IP_TOS, 0}
        """
    )


def test_an_icmp_error_comes_from_the_error_queue(processes: Pair) -> None:
    server, _ = processes
    records = server.do(
        """
        u = socket(AF_INET, SOCK_DGRAM)
        setsockopt(u, IPPROTO_IP, IP_RECVERR, 1)
        connect(u, "127.0.0.1:9")
        write(u, b"x")
        data, addr, flags, control = recvmsg(u, 10, MSG_ERRQUEUE)
        assert control[0].cmsg_data.ee_errno == ECONNREFUSED
        assert control[0].cmsg_data.ee_origin == SO_EE_ORIGIN_ICMP
        assert control[0].cmsg_data.ee_type == ICMP_DEST_UNREACH
        assert control[0].cmsg_data.offender.host == "127.0.0.1"
        """
    )
    assert "ee_errno=111 ECONNREFUSED, ee_origin=SO_EE_ORIGIN_ICMP, ee_type=3, ee_code=3" in records[-1].call


def test_packet_sockets_take_and_give_link_addresses(processes: Pair) -> None:
    server, _ = processes
    records = server.do(
        """
        p = socket(AF_PACKET, SOCK_DGRAM, htons(ETH_P_IP))
        bind(p, "lo")
        me = getsockname(p)
        assert me.ifname == "lo"
        assert me.protocol == htons(ETH_P_IP)
        bind(p, {AF_PACKET, htons(ETH_P_IP), "lo"})
        setsockopt(p, SOL_PACKET, PACKET_ADD_MEMBERSHIP, {"lo", PACKET_MR_PROMISC})
        u = socket(AF_INET, SOCK_DGRAM)
        sendto(u, b"hello", "127.0.0.1:9")
        data, addr = recvfrom(p, 2000)
        assert data[20 + 8] == 104
        assert addr.pkttype == PACKET_HOST
        sendto(p, data, {AF_PACKET, htons(ETH_P_IP), "lo", "00:00:00:00:00:00"})
        getsockopt(p, SOL_PACKET, PACKET_STATISTICS)
        n = socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE)
        bind(n, {AF_NETLINK, 0, 0})
        """
    )
    assert records[0].call == "socket(AF_PACKET, SOCK_DGRAM, htons(ETH_P_IP))"
    assert records[1].call == "bind(3, {AF_PACKET, 0, lo}, 20)"
    assert "{AF_PACKET, htons(ETH_P_IP), lo, PACKET_HOST, 00:00:00:00:00:00}" in records[7].call


def test_a_filter_drops_what_it_does_not_accept(processes: Pair) -> None:
    server, _ = processes
    server.do(
        """
        a, b = socketpair(AF_UNIX, SOCK_DGRAM)
        setsockopt(b, SOL_SOCKET, SO_ATTACH_FILTER, [{0x06, 0, 0, 0}])
        write(a, b"x") -> EPERM | 1
        recv(b, 10, MSG_DONTWAIT) -> EAGAIN
        setsockopt(b, SOL_SOCKET, SO_DETACH_FILTER, 0)
        write(a, b"y")
        recv(b, 10, MSG_DONTWAIT) -> b"y"
        """
    )


def test_an_unknown_interface_is_named_with_those_that_there_are(processes: Pair) -> None:
    server, _ = processes
    server.do("p = socket(AF_PACKET, SOCK_DGRAM, 0)\nr = socket(AF_INET, SOCK_DGRAM)")
    assert "no interface eth7 on this host; it has lo" in server.fail('bind(p, "eth7")')
    joined = 'setsockopt(r, IPPROTO_IP, IP_ADD_MEMBERSHIP, {"239.1.1.1", "eth7"})'
    assert "no interface eth7 on this host" in server.fail(joined)


def test_interfaces_are_read_and_set_by_ioctl(processes: Pair) -> None:
    server, _ = processes
    records = server.do(
        """
        s = socket(AF_INET, SOCK_DGRAM)
        mtu = ioctl(s, SIOCGIFMTU, "lo") -> 65536
        ioctl(s, SIOCSIFMTU, {"lo", 1400})
        ioctl(s, SIOCGIFMTU, "lo") -> 1400
        ioctl(s, SIOCGIFINDEX, "lo") -> 1
        name = ioctl(s, SIOCGIFNAME, {1})
        assert name == "lo"
        addr = ioctl(s, SIOCGIFADDR, "lo")
        assert addr.host == "127.0.0.1"
        flags = ioctl(s, SIOCGIFFLAGS, "lo")
        assert flags & IFF_LOOPBACK == IFF_LOOPBACK
        hw = ioctl(s, SIOCGIFHWADDR, "lo")
        assert hw == "00:00:00:00:00:00"
        ioctl(s, SIOCGIFMTU, "eth7") -> ENODEV
        ioctl(s, FIONBIO, 1)
        recv(s, 1) -> EAGAIN
        """
    )
    assert records[1].call == 'ioctl(3, SIOCGIFMTU, {ifr_name="lo", ifr_mtu=65536})'
    assert records[2].call == 'ioctl(3, SIOCSIFMTU, {ifr_name="lo", ifr_mtu=1400})'
    assert "ifr_flags=IFF_UP|IFF_LOOPBACK|IFF_RUNNING" in records[7].call


def test_epoll_returns_the_ready_descriptors(processes: Pair) -> None:
    server, _ = processes
    records = server.do(
        """
        a, b = socketpair(AF_UNIX, SOCK_STREAM)
        e = epoll_create1(EPOLL_CLOEXEC)
        epoll_ctl(e, EPOLL_CTL_ADD, a, EPOLLIN | EPOLLRDHUP | EPOLLET)
        epoll_ctl(e, EPOLL_CTL_ADD, a, EPOLLIN) -> EEXIST
        epoll_wait(e, 10, 0) -> 0
        write(b, b"x")
        ready = epoll_wait(e, 10, "1s") -> 1
        assert ready == [[a, EPOLLIN]]
        epoll_wait(e, 10, 0) -> 0
        close(b)
        ready = epoll_wait(e, 10, "1s") -> 1
        assert ready[0][1] & EPOLLRDHUP == EPOLLRDHUP
        epoll_ctl(e, EPOLL_CTL_MOD, a, EPOLLOUT)
        epoll_ctl(e, EPOLL_CTL_DEL, a)
        """
    )
    assert records[2].call == "epoll_ctl(5, EPOLL_CTL_ADD, 3, {EPOLLIN|EPOLLRDHUP|EPOLLET, data=3})"
    assert records[6].call == "epoll_wait(5, [{EPOLLIN, data=3}], 10, 1000)"
