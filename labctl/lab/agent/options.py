"""Socket options and control messages: which level each belongs to, and which type its value has in C.

PURE: one table for the checker of the call language, for packing and unpacking of values, and for reports. Sources:
socket(7), ip(7), ipv6(7), tcp(7), udp(7), packet(7), unix(7), netlink(7), and the kernel's UAPI headers.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType

from labctl.lab.agent.constants import CONSTANTS
from labctl.structs import Struct


class ValueKind(StrEnum):
    """The form of a value in memory."""

    NUMBER = "a number"  # int
    WIDE = "a number of 64 bits"
    INTERFACE = 'an interface, "eth0"'  # int: its index
    INTERFACE_BE = 'an interface, "eth0" (in network byte order)'  # int: htonl(index)
    TEXT = "a text"  # char[], ended by NUL
    BYTES = 'bytes, b"..."'
    DURATION = 'a duration, "200ms"'  # struct timeval
    NUMBERS = "a list of numbers"  # int[]
    STRUCT = "a structure"
    MEMBERSHIP = "struct ip_mreq"  # or ip_mreqn
    MULTICAST_IF = "an interface or an address of it"  # struct in_addr, or ip_mreqn
    FILTER = "a list of struct sock_filter"  # struct sock_fprog


class Field(Struct, frozen=True):
    """A member of a C structure.

    `code`: a letter of the struct module, or `ipv4`, `ipv6`, `group4`, `group6` (that take addresses), `interface` (an
    index), `be16` (network byte order), `sockaddr` (struct sockaddr_storage), `mac` (8 bytes), `bytes:N`, `timespec`,
    or a part of one byte: `low4`, `high4`, `low1`. `names` begin the constants that it takes.
    """

    name: str
    code: str
    names: str = ""


class StructType(Struct, frozen=True):
    """A C structure. `required` members must be given; omitted members are 0."""

    name: str
    fields: tuple[Field, ...]
    required: int
    usage: str  # how it is written


class ValueType(Struct, frozen=True):
    """The type of an option's value. `size`: of the buffer for getsockopt(2), bytes."""

    kind: ValueKind
    struct: StructType | None = None
    names: str = ""  # beginning of the constants that a number is one of
    size: int = 4

    @property
    def meaning(self) -> str:
        """The type in C's words, for people."""
        return self.struct.name if self.struct is not None else str(self.kind)

    @property
    def usage(self) -> str:
        """How such a value is written."""
        if self.struct is not None:
            return self.struct.usage
        if self.names:
            return f"{self.names}..."
        return _USAGES[self.kind]


_USAGES = {
    ValueKind.NUMBER: "1",
    ValueKind.WIDE: "1",
    ValueKind.INTERFACE: '"eth0"',
    ValueKind.INTERFACE_BE: '"eth0"',
    ValueKind.TEXT: '"..."',
    ValueKind.BYTES: 'b"..."',
    ValueKind.DURATION: '"200ms" or {tv_sec=0, tv_usec=200000}',
    ValueKind.NUMBERS: "[1, 2]",
    ValueKind.MEMBERSHIP: '{"239.1.1.1", "eth0"} or {"239.1.1.1", "10.0.0.1"}: the group, the interface or its address',
    ValueKind.MULTICAST_IF: '"eth0" or "10.0.0.1"',
    ValueKind.FILTER: "[{0x06, 0, 0, 0xffff}]: code, jt, jf, k",
}


def _struct(name: str, members: str, required: int, usage: str) -> StructType:
    """`members`: `name:code` or `name:code:names`, separated by blanks."""
    fields = []
    for member in members.split():
        field, _, rest = member.partition(":")
        code, _, names = rest.partition("|")
        fields.append(Field(field, code, names))
    return StructType(name, tuple(fields), required, usage)


LINGER = _struct("struct linger", "l_onoff:i l_linger:i", 2, "{1, 0} or {l_onoff=1, l_linger=0}")
TIMEVAL = _struct("struct timeval", "tv_sec:l tv_usec:l", 1, "{1, 500000}")
UCRED = _struct("struct ucred", "pid:i uid:I gid:I", 3, "{pid=1, uid=0, gid=0}")
MREQN = _struct(
    "struct ip_mreqn", "imr_multiaddr:group4 imr_address:ipv4 imr_ifindex:interface", 1, '{"239.1.1.1", "eth0"}'
)
MREQ_SOURCE = _struct(
    "struct ip_mreq_source",
    "imr_multiaddr:group4 imr_interface:ipv4 imr_sourceaddr:ipv4",
    3,
    '{"232.1.1.1", "10.0.0.1", "10.0.0.2"}: the group, an address of the interface, the source',
)
MREQ6 = _struct("struct ipv6_mreq", "ipv6mr_multiaddr:group6 ipv6mr_interface:interface", 1, '{"ff05::1", "eth0"}')
ANYCAST6 = _struct("struct ipv6_mreq", "ipv6mr_acaddr:ipv6 ipv6mr_interface:interface", 1, '{"fd00::1", "eth0"}')
GROUP_REQ = _struct(
    "struct group_req", "gr_interface:interface gr_group:sockaddr", 2, '{"eth0", "239.1.1.1"} or {"eth0", "ff05::1"}'
)
GROUP_SOURCE_REQ = _struct(
    "struct group_source_req",
    "gsr_interface:interface gsr_group:sockaddr gsr_source:sockaddr",
    3,
    '{"eth0", "232.1.1.1", "10.0.0.2"}: the interface, the group, the source',
)
PKTINFO = _struct(
    "struct in_pktinfo",
    "ipi_ifindex:interface ipi_spec_dst:ipv4 ipi_addr:ipv4",
    1,
    '{"eth0", "10.0.0.1"}: the interface, the source address',
)
PKTINFO6 = _struct("struct in6_pktinfo", "ipi6_addr:ipv6 ipi6_ifindex:interface", 1, '{"fd00::1", "eth0"}')
MTUINFO6 = _struct("struct ip6_mtuinfo", "ip6m_addr:bytes:28 ip6m_mtu:I", 2, "{ip6m_mtu=1280}")
TXTIME = _struct("struct sock_txtime", "clockid:i flags:I", 1, "{11, 0}")
PACKET_MREQ = _struct(
    "struct packet_mreq",
    "mr_ifindex:interface mr_type:H|PACKET_MR_ mr_alen:H mr_address:mac",
    2,
    '{"eth0", PACKET_MR_PROMISC} or {"eth0", PACKET_MR_MULTICAST, 6, "01:00:5e:01:01:01"}',
)
PACKET_STATS = _struct("struct tpacket_stats", "tp_packets:I tp_drops:I", 2, "{tp_packets=1, tp_drops=0}")
RING = _struct(
    "struct tpacket_req", "tp_block_size:I tp_block_nr:I tp_frame_size:I tp_frame_nr:I", 4, "{4096, 4, 2048, 8}"
)
AUXDATA = _struct(
    "struct tpacket_auxdata",
    "tp_status:I|TP_STATUS_ tp_len:I tp_snaplen:I tp_mac:H tp_net:H tp_vlan_tci:H tp_vlan_tpid:H",
    1,
    "{tp_status=TP_STATUS_USER}",
)
MD5SIG = _struct(
    "struct tcp_md5sig",
    "tcpm_addr:sockaddr tcpm_flags:B tcpm_prefixlen:B tcpm_keylen:H tcpm_ifindex:interface tcpm_key:bytes:80",
    1,
    '{tcpm_addr="10.0.0.2", tcpm_keylen=6, tcpm_key=b"secret"}',
)
SOCK_FILTER = _struct("struct sock_filter", "code:H jt:B jf:B k:I", 4, "{0x06, 0, 0, 0xffff}")
TIMESPEC = _struct("struct timespec", "tv_sec:l tv_nsec:l", 1, "{1, 500000000}")
TIMESTAMPING = _struct(
    "struct scm_timestamping", "software:timespec deprecated:timespec hardware:timespec", 1, "{{1, 0}, {0, 0}, {0, 0}}"
)
EXTENDED_ERROR = _struct(
    "struct sock_extended_err",
    "ee_errno:I|E ee_origin:B|SO_EE_ORIGIN_ ee_type:B ee_code:B ee_pad:B ee_info:I ee_data:I offender:sockaddr_rest",
    1,
    "{ee_errno=ECONNREFUSED, ee_origin=SO_EE_ORIGIN_ICMP}",
)
MEMINFO = _struct(
    "the array of SO_MEMINFO",
    "rmem_alloc:I rcvbuf:I wmem_alloc:I sndbuf:I fwd_alloc:I wmem_queued:I optmem:I backlog:I drops:I",
    9,
    "{rmem_alloc=0, rcvbuf=212992}",
)
INFO = _struct(
    "struct tcp_info",
    "tcpi_state:B|TCP_ tcpi_ca_state:B tcpi_retransmits:B tcpi_probes:B tcpi_backoff:B tcpi_options:B "
    "tcpi_snd_wscale:low4 tcpi_rcv_wscale:high4 tcpi_delivery_rate_app_limited:low1 tcpi_rto:I tcpi_ato:I "
    "tcpi_snd_mss:I tcpi_rcv_mss:I tcpi_unacked:I tcpi_sacked:I tcpi_lost:I tcpi_retrans:I tcpi_fackets:I "
    "tcpi_last_data_sent:I tcpi_last_ack_sent:I tcpi_last_data_recv:I tcpi_last_ack_recv:I tcpi_pmtu:I "
    "tcpi_rcv_ssthresh:I tcpi_rtt:I tcpi_rttvar:I tcpi_snd_ssthresh:I tcpi_snd_cwnd:I tcpi_advmss:I "
    "tcpi_reordering:I tcpi_rcv_rtt:I tcpi_rcv_space:I tcpi_total_retrans:I tcpi_pacing_rate:Q "
    "tcpi_max_pacing_rate:Q tcpi_bytes_acked:Q tcpi_bytes_received:Q tcpi_segs_out:I tcpi_segs_in:I "
    "tcpi_notsent_bytes:I tcpi_min_rtt:I tcpi_data_segs_in:I tcpi_data_segs_out:I tcpi_delivery_rate:Q "
    "tcpi_busy_time:Q tcpi_rwnd_limited:Q tcpi_sndbuf_limited:Q tcpi_delivered:I tcpi_delivered_ce:I "
    "tcpi_bytes_sent:Q tcpi_bytes_retrans:Q tcpi_dsack_dups:I tcpi_reord_seen:I tcpi_rcv_ooopack:I tcpi_snd_wnd:I "
    "tcpi_rcv_wnd:I tcpi_rehash:I tcpi_total_rto:H tcpi_total_rto_recoveries:H tcpi_total_rto_time:I",
    0,
    "{tcpi_state=TCP_ESTABLISHED}",
)

NUMBER = ValueType(ValueKind.NUMBER)

# Each row: the levels, the value (a structure or a kind, its size in bytes, and the prefix of the constants that it is
# one of), and the options of that value.
_LEVELS = """
SOL_SOCKET NUMBER:4 SO_DEBUG SO_REUSEADDR SO_DONTROUTE SO_BROADCAST SO_SNDBUF SO_RCVBUF SO_SNDBUFFORCE SO_RCVBUFFORCE
    SO_KEEPALIVE SO_OOBINLINE SO_NO_CHECK SO_PRIORITY SO_REUSEPORT SO_PASSCRED SO_RCVLOWAT SO_SNDLOWAT SO_TIMESTAMP
    SO_TIMESTAMP_OLD SO_TIMESTAMP_NEW SO_ACCEPTCONN SO_PASSSEC SO_MARK SO_RXQ_OVFL SO_WIFI_STATUS SO_PEEK_OFF SO_NOFCS
    SO_LOCK_FILTER SO_SELECT_ERR_QUEUE SO_BUSY_POLL SO_MAX_PACING_RATE SO_BPF_EXTENSIONS SO_INCOMING_CPU SO_ATTACH_BPF
    SO_DETACH_BPF SO_DETACH_FILTER SO_ATTACH_REUSEPORT_EBPF SO_CNX_ADVICE SO_DETACH_REUSEPORT_BPF SO_TIMESTAMPNS
    SO_TIMESTAMPNS_OLD SO_TIMESTAMPNS_NEW SO_INCOMING_NAPI_ID SO_ZEROCOPY SO_PREFER_BUSY_POLL SO_BUSY_POLL_BUDGET
    SO_BUF_LOCK SO_RESERVE_MEM SO_TXREHASH SO_RCVMARK SO_PASSPIDFD SO_PEERPIDFD SO_RCVPRIORITY SO_PASSRIGHTS SO_INQ
SOL_SOCKET NUMBER:4:E SO_ERROR
SOL_SOCKET NUMBER:4:SOCK_ SO_TYPE
SOL_SOCKET NUMBER:4:AF_ SO_DOMAIN
SOL_SOCKET NUMBER:4:IPPROTO_ SO_PROTOCOL
SOL_SOCKET NUMBER:4:SOF_TIMESTAMPING_ SO_TIMESTAMPING SO_TIMESTAMPING_OLD SO_TIMESTAMPING_NEW
SOL_SOCKET LINGER:8 SO_LINGER
SOL_SOCKET DURATION:16 SO_RCVTIMEO SO_SNDTIMEO SO_RCVTIMEO_OLD SO_SNDTIMEO_OLD SO_RCVTIMEO_NEW SO_SNDTIMEO_NEW
SOL_SOCKET UCRED:12 SO_PEERCRED
SOL_SOCKET TEXT:16 SO_BINDTODEVICE
SOL_SOCKET INTERFACE:4 SO_BINDTOIFINDEX
SOL_SOCKET FILTER:4096 SO_ATTACH_FILTER SO_ATTACH_REUSEPORT_CBPF
SOL_SOCKET BYTES:4096 SO_PEERNAME
SOL_SOCKET TEXT:256 SO_PEERSEC
SOL_SOCKET NUMBERS:4096 SO_PEERGROUPS
SOL_SOCKET MEMINFO:36 SO_MEMINFO
SOL_SOCKET WIDE:8 SO_COOKIE SO_NETNS_COOKIE
SOL_SOCKET TXTIME:8 SO_TXTIME
IPPROTO_IP NUMBER:4 IP_TTL IP_HDRINCL IP_ROUTER_ALERT IP_RECVOPTS IP_RETOPTS IP_RECVRETOPTS IP_PKTINFO IP_RECVERR
    IP_RECVTTL IP_RECVTOS IP_MTU IP_FREEBIND IP_PASSSEC IP_TRANSPARENT IP_RECVORIGDSTADDR IP_ORIGDSTADDR IP_MINTTL
    IP_NODEFRAG IP_CHECKSUM IP_BIND_ADDRESS_NO_PORT IP_RECVFRAGSIZE IP_RECVERR_RFC4884 IP_MULTICAST_TTL
    IP_MULTICAST_LOOP IP_MULTICAST_ALL IP_LOCAL_PORT_RANGE IP_PROTOCOL
IPPROTO_IP NUMBER:4:IPTOS_ IP_TOS
IPPROTO_IP NUMBER:4:IP_PMTUDISC_ IP_MTU_DISCOVER
IPPROTO_IP BYTES:4096 IP_OPTIONS IP_PKTOPTIONS IP_MSFILTER IP_XFRM_POLICY IP_IPSEC_POLICY
IPPROTO_IP MULTICAST_IF:4 IP_MULTICAST_IF
IPPROTO_IP INTERFACE_BE:4 IP_UNICAST_IF
IPPROTO_IP MEMBERSHIP:12 IP_ADD_MEMBERSHIP IP_DROP_MEMBERSHIP
IPPROTO_IP MREQ_SOURCE:12 IP_ADD_SOURCE_MEMBERSHIP IP_DROP_SOURCE_MEMBERSHIP IP_BLOCK_SOURCE IP_UNBLOCK_SOURCE
IPPROTO_IP+IPPROTO_IPV6 GROUP_REQ:136 MCAST_JOIN_GROUP MCAST_LEAVE_GROUP
IPPROTO_IP+IPPROTO_IPV6 GROUP_SOURCE_REQ:264 MCAST_JOIN_SOURCE_GROUP MCAST_LEAVE_SOURCE_GROUP MCAST_BLOCK_SOURCE
    MCAST_UNBLOCK_SOURCE
IPPROTO_IP+IPPROTO_IPV6 BYTES:4096 MCAST_MSFILTER
IPPROTO_IPV6 NUMBER:4 IPV6_CHECKSUM IPV6_UNICAST_HOPS IPV6_MULTICAST_HOPS IPV6_MULTICAST_LOOP IPV6_ROUTER_ALERT IPV6_MTU
    IPV6_RECVERR IPV6_V6ONLY IPV6_MULTICAST_ALL IPV6_ROUTER_ALERT_ISOLATE IPV6_RECVERR_RFC4884 IPV6_FLOWINFO
    IPV6_FLOWINFO_SEND IPV6_HDRINCL IPV6_RECVPKTINFO IPV6_2292PKTINFO IPV6_RECVHOPLIMIT IPV6_2292HOPLIMIT IPV6_HOPLIMIT
    IPV6_RECVHOPOPTS IPV6_2292HOPOPTS IPV6_RECVRTHDR IPV6_2292RTHDR IPV6_RECVDSTOPTS IPV6_2292DSTOPTS IPV6_RECVPATHMTU
    IPV6_DONTFRAG IPV6_RECVTCLASS IPV6_TCLASS IPV6_AUTOFLOWLABEL IPV6_MINHOPCOUNT IPV6_RECVORIGDSTADDR IPV6_ORIGDSTADDR
    IPV6_TRANSPARENT IPV6_RECVFRAGSIZE IPV6_FREEBIND
IPPROTO_IPV6 NUMBER:4:AF_ IPV6_ADDRFORM
IPPROTO_IPV6 NUMBER:4:IPV6_PREFER_SRC_ IPV6_ADDR_PREFERENCES
IPPROTO_IPV6 NUMBER:4:IPV6_PMTUDISC_ IPV6_MTU_DISCOVER
IPPROTO_IPV6 INTERFACE:4 IPV6_MULTICAST_IF
IPPROTO_IPV6 INTERFACE_BE:4 IPV6_UNICAST_IF
IPPROTO_IPV6 MREQ6:20 IPV6_ADD_MEMBERSHIP IPV6_DROP_MEMBERSHIP IPV6_JOIN_GROUP IPV6_LEAVE_GROUP
IPPROTO_IPV6 ANYCAST6:20 IPV6_JOIN_ANYCAST IPV6_LEAVE_ANYCAST
IPPROTO_IPV6 PKTINFO6:20 IPV6_PKTINFO
IPPROTO_IPV6 MTUINFO6:32 IPV6_PATHMTU
IPPROTO_IPV6 BYTES:4096 IPV6_HOPOPTS IPV6_RTHDR IPV6_RTHDRDSTOPTS IPV6_DSTOPTS IPV6_NEXTHOP IPV6_2292PKTOPTIONS
    IPV6_FLOWLABEL_MGR IPV6_XFRM_POLICY IPV6_IPSEC_POLICY
IPPROTO_TCP NUMBER:4 TCP_NODELAY TCP_MAXSEG TCP_CORK TCP_KEEPIDLE TCP_KEEPINTVL TCP_KEEPCNT TCP_SYNCNT TCP_LINGER2
    TCP_DEFER_ACCEPT TCP_WINDOW_CLAMP TCP_QUICKACK TCP_THIN_LINEAR_TIMEOUTS TCP_THIN_DUPACK TCP_USER_TIMEOUT TCP_REPAIR
    TCP_REPAIR_QUEUE TCP_QUEUE_SEQ TCP_FASTOPEN TCP_TIMESTAMP TCP_NOTSENT_LOWAT TCP_SAVE_SYN TCP_FASTOPEN_CONNECT
    TCP_FASTOPEN_NO_COOKIE TCP_INQ TCP_TX_DELAY TCP_AO_REPAIR TCP_IS_MPTCP TCP_RTO_MAX_MS TCP_RTO_MIN_US
    TCP_DELACK_MAX_US
IPPROTO_TCP INFO:256 TCP_INFO
IPPROTO_TCP TEXT:16 TCP_CONGESTION TCP_ULP
IPPROTO_TCP MD5SIG:216 TCP_MD5SIG TCP_MD5SIG_EXT
IPPROTO_TCP BYTES:4096 TCP_FASTOPEN_KEY TCP_SAVED_SYN TCP_CC_INFO TCP_REPAIR_OPTIONS TCP_REPAIR_WINDOW
    TCP_ZEROCOPY_RECEIVE TCP_AO_ADD_KEY TCP_AO_DEL_KEY TCP_AO_INFO TCP_AO_GET_KEYS
IPPROTO_UDP NUMBER:4 UDP_CORK UDP_ENCAP UDP_NO_CHECK6_TX UDP_NO_CHECK6_RX UDP_SEGMENT UDP_GRO
SOL_RAW NUMBER:4 ICMP_FILTER
IPPROTO_ICMPV6 NUMBERS:4096 ICMP6_FILTER
SOL_PACKET NUMBER:4 PACKET_AUXDATA PACKET_ORIGDEV PACKET_VERSION PACKET_HDRLEN PACKET_RESERVE PACKET_LOSS
    PACKET_VNET_HDR PACKET_TX_TIMESTAMP PACKET_TIMESTAMP PACKET_FANOUT PACKET_TX_HAS_OFF PACKET_QDISC_BYPASS
    PACKET_COPY_THRESH PACKET_IGNORE_OUTGOING
SOL_PACKET PACKET_MREQ:16 PACKET_ADD_MEMBERSHIP PACKET_DROP_MEMBERSHIP
SOL_PACKET PACKET_STATS:8 PACKET_STATISTICS
SOL_PACKET RING:16 PACKET_RX_RING PACKET_TX_RING
SOL_PACKET BYTES:4096 PACKET_FANOUT_DATA PACKET_ROLLOVER_STATS
SOL_NETLINK NUMBER:4 NETLINK_ADD_MEMBERSHIP NETLINK_DROP_MEMBERSHIP NETLINK_PKTINFO NETLINK_BROADCAST_ERROR
    NETLINK_NO_ENOBUFS NETLINK_LISTEN_ALL_NSID NETLINK_CAP_ACK NETLINK_EXT_ACK NETLINK_GET_STRICT_CHK
SOL_NETLINK NUMBERS:4096 NETLINK_LIST_MEMBERSHIPS
SOL_MPTCP BYTES:4096 MPTCP_INFO MPTCP_TCPINFO MPTCP_SUBFLOW_ADDRS MPTCP_FULL_INFO
"""
_CONTROL = """
SOL_SOCKET NUMBERS:4 SCM_RIGHTS
SOL_SOCKET UCRED:256 SCM_CREDENTIALS
SOL_SOCKET TEXT:256 SCM_SECURITY
SOL_SOCKET NUMBER:4 SCM_PIDFD SO_RXQ_OVFL SO_MARK SO_PRIORITY SCM_WIFI_STATUS
SOL_SOCKET NUMBER:4:SOF_TIMESTAMPING_ SO_TIMESTAMPING
SOL_SOCKET TIMEVAL:256 SCM_TIMESTAMP
SOL_SOCKET TIMESPEC:256 SCM_TIMESTAMPNS SO_TIMESTAMPNS_NEW
SOL_SOCKET TIMEVAL:256 SO_TIMESTAMP_NEW
SOL_SOCKET TIMESTAMPING:256 SCM_TIMESTAMPING SO_TIMESTAMPING_NEW
SOL_SOCKET WIDE:8 SCM_TXTIME
SOL_SOCKET BYTES:4096 SCM_TIMESTAMPING_OPT_STATS SCM_TIMESTAMPING_PKTINFO
IPPROTO_IP PKTINFO:256 IP_PKTINFO
IPPROTO_IP NUMBER:4 IP_TTL IP_CHECKSUM IP_RECVFRAGSIZE IP_PROTOCOL
IPPROTO_IP NUMBER:4:IPTOS_ IP_TOS
IPPROTO_IP EXTENDED_ERROR:256 IP_RECVERR
IPPROTO_IP BYTES:4096 IP_ORIGDSTADDR IP_RECVOPTS IP_RETOPTS IP_PASSSEC
IPPROTO_IPV6 PKTINFO6:256 IPV6_PKTINFO IPV6_2292PKTINFO
IPPROTO_IPV6 NUMBER:4 IPV6_HOPLIMIT IPV6_TCLASS IPV6_2292HOPLIMIT IPV6_RECVFRAGSIZE IPV6_DONTFRAG IPV6_FLOWINFO
IPPROTO_IPV6 EXTENDED_ERROR:256 IPV6_RECVERR
IPPROTO_IPV6 MTUINFO6:256 IPV6_PATHMTU
IPPROTO_IPV6 BYTES:4096 IPV6_ORIGDSTADDR IPV6_HOPOPTS IPV6_RTHDR IPV6_DSTOPTS
IPPROTO_TCP NUMBER:4 TCP_CM_INQ
IPPROTO_UDP NUMBER:4 UDP_SEGMENT UDP_GRO
SOL_PACKET AUXDATA:256 PACKET_AUXDATA
SOL_NETLINK NUMBER:4 NETLINK_PKTINFO
"""

# A second name of the same level; where several options share a number the first of the table is the one shown.
LEVEL_NAMES = ("SOL_SOCKET", "IPPROTO_IP", "IPPROTO_IPV6", "IPPROTO_TCP", "IPPROTO_UDP", "SOL_PACKET", "SOL_")
CMSG = _struct(
    "struct cmsghdr",
    "cmsg_level:i|SOL_ cmsg_type:i cmsg_data:any",
    3,
    '{SOL_SOCKET, SCM_RIGHTS, [fd]} or {IPPROTO_IP, IP_PKTINFO, {"eth0", "10.0.0.1"}}',
)


class Option(Struct, frozen=True):
    """An option, or a type of control messages: its name, the levels that it belongs to, and its value's type."""

    name: str
    levels: tuple[int, ...]
    type: ValueType


def _table(text: str) -> Mapping[str, Option]:
    structures = {name: value for name, value in globals().items() if isinstance(value, StructType)}
    found: dict[str, Option] = {}
    for row in text.strip().replace("\n    ", " ").splitlines():
        levels, kind, *names = row.split()
        kind, size, *prefix = kind.split(":")
        if kind in structures:
            value = ValueType(ValueKind.STRUCT, structures[kind], size=int(size))
        else:
            value = ValueType(ValueKind[kind], names="".join(prefix), size=int(size))
        numbers = tuple(CONSTANTS[level] for level in levels.split("+"))
        found |= {name: Option(name, numbers, value) for name in names if name in CONSTANTS}
    return MappingProxyType(found)


def _by_number(options: Mapping[str, Option]) -> Mapping[tuple[int, int], Option]:
    found: dict[tuple[int, int], Option] = {}
    for option in options.values():
        for level in option.levels:
            found.setdefault((level, CONSTANTS[option.name]), option)
    return MappingProxyType(found)


OPTIONS = _table(_LEVELS)
CONTROL = _table(_CONTROL)
_OPTIONS_BY_NUMBER = _by_number(OPTIONS)
_CONTROL_BY_NUMBER = _by_number(CONTROL)


def option_at(level: int, number: int) -> Option | None:
    """The option of that level and number; None if the table has none."""
    return _OPTIONS_BY_NUMBER.get((level, number))


def control_at(level: int, number: int) -> Option | None:
    """The type of control messages of that level and number."""
    return _CONTROL_BY_NUMBER.get((level, number))


def option_name(level: int, number: int) -> str:
    """`SO_REUSEADDR` for (SOL_SOCKET, 2); the number as text where it has no name here."""
    option = option_at(level, number)
    return str(number) if option is None else option.name


def level_name(level: int) -> str:
    """`IPPROTO_TCP` for 6."""
    for name in LEVEL_NAMES[:-1]:
        if CONSTANTS[name] == level:
            return name
    from labctl.lab.agent.constants import name_of

    return name_of(level, "SOL_", "IPPROTO_")


def wants(field: Field) -> str:
    """What a member takes, for people."""
    if field.code in ("ipv4", "group4"):
        return 'it takes an IPv4 address, "10.0.0.1"'
    if field.code in ("ipv6", "group6"):
        return 'it takes an IPv6 address, "fd00::1"'
    if field.code == "interface":
        return 'it takes an interface, "eth0"'
    if field.code == "sockaddr":
        return 'it takes an address, "239.1.1.1" or "10.0.0.1:80"'
    if field.code == "mac":
        return 'it takes a hardware address, "02:00:00:00:00:01"'
    if field.code.startswith("bytes:"):
        return f'it takes at most {field.code[6:]} bytes, b"..."'
    return f"it takes {field.names}..." if field.names else "it takes a number"


class Request(Struct, frozen=True):
    """A request of ioctl(2). `member` is the member of struct ifreq that it reads or writes; "" for an int."""

    name: str
    code: str  # of the value: `i`, `h`, `ipv4`, `mac`, `name`
    member: str = ""
    gives: bool = True
    names: str = ""  # beginning of the flags that it is made of

    @property
    def usage(self) -> str:
        """How the third argument is written."""
        if not self.member:
            return "1" if not self.gives else ""
        if self.gives:
            return "{ifr_ifindex=2}" if self.code == "name" else '"eth0"'
        return f'{{"eth0", {_EXAMPLES[self.code]}}}'


_EXAMPLES = {"i": "1400", "h": "IFF_UP", "ipv4": '"10.0.0.1"', "mac": '"02:00:00:00:00:01"'}
_INTERFACE = (  # netdevice(7): SIOCGIF... and SIOCSIF... of the same ending
    ("FLAGS", "h", "ifr_flags", "IFF_"),
    ("MTU", "i", "ifr_mtu", ""),
    ("METRIC", "i", "ifr_metric", ""),
    ("TXQLEN", "i", "ifr_qlen", ""),
    ("ADDR", "ipv4", "ifr_addr", ""),
    ("DSTADDR", "ipv4", "ifr_dstaddr", ""),
    ("BRDADDR", "ipv4", "ifr_broadaddr", ""),
    ("NETMASK", "ipv4", "ifr_netmask", ""),
    ("HWADDR", "mac", "ifr_hwaddr", ""),
)
REQUESTS = (
    *(Request(name, "i") for name in ("FIONREAD", "SIOCOUTQ", "SIOCOUTQNSD", "SIOCATMARK", "SIOCGPGRP")),
    *(Request(name, "i", gives=False) for name in ("FIONBIO", "SIOCSPGRP")),
    *(Request(f"SIOCGIF{ending}", code, member, True, names) for ending, code, member, names in _INTERFACE),
    *(Request(f"SIOCSIF{ending}", code, member, False, names) for ending, code, member, names in _INTERFACE),
    Request("SIOCGIFINDEX", "i", "ifr_ifindex"),
    Request("SIOCGIFNAME", "name", "ifr_name"),
)
_BY_NUMBER = {CONSTANTS[request.name]: request for request in REQUESTS}


def ioctl_request(number: int) -> Request:
    """The request of that number; an unknown request is assumed to write an int."""
    return _BY_NUMBER.get(number, Request(hex(number), "i"))
