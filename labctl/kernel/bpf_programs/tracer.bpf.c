// SPDX-License-Identifier: MIT
/*
 * Events of a lab's network namespaces: labctl.kernel.bpf loads these programs and reads their records.
 *
 * Each program returns at once unless its network namespace is in `nodes`. Records go to one ring buffer; those that
 * find it full are counted. Times are CLOCK_MONOTONIC. The programs are BPF raw tracepoints with BTF (tp_btf), so that
 * the kernel checks the types of their arguments and reads members of these without a helper. Members of what they
 * point to are read by a helper: for each typed pointer that is followed, the verifier searches all types of the
 * kernel (Linux 6.4 and later), which doubles the time to load. A load through a pointer that is NULL yields 0. Before Linux 6.13, the verifier takes no argument for NULL and removes comparisons with it.
 */
#include "kernel_types.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

char LICENSE[] SEC("license") = "Dual MIT/GPL";

/* Kinds of records; labctl/kernel/bpf.py has the same numbers. */
enum kind { KIND_STATE = 1, KIND_RETRANSMIT = 2, KIND_RESET_SENT = 3, KIND_RESET_RECEIVED = 4, KIND_DROP = 5, KIND_CALL = 6, KIND_ACCEPT_QUEUE = 7 };

struct header {
	__u16 bytes; /* of the whole record */
	__u16 kind;
	__u32 netns; /* inode number */
	__u64 at_ns;
};

struct socket_record {
	struct header header;
	__u64 cookie;
	__u64 inode; /* 0: no descriptor refers to the socket (yet, or any more) */
	__u8 local[16];
	__u8 peer[16];
	__u16 local_port;
	__u16 peer_port;
	__u16 family;
	__u8 state; /* before the event */
	__u8 new_state;
	__u32 receive_queue; /* of a listener: its accept queue, and the limit of that */
	__u32 send_queue;
	__u32 receive_buffer;
	__u32 send_buffer;
	__u32 congestion_window;
	__u32 srtt_us8; /* eighths of a microsecond */
	__u32 retransmits;
	__u32 reason; /* enum sk_rst_reason, or the socket's error */
};

#define FRAME_BYTES 128

/* A packet that was dropped. */
struct drop_record {
	struct header header;
	__u64 cookie; /* of its socket; 0: none, or not given yet */
	__u32 reason; /* enum skb_drop_reason */
	__u32 length; /* of the packet, from `frame` on */
	__u16 protocol; /* of Ethernet */
	__u16 captured; /* bytes in `frame` */
	__u8 has_ethernet; /* whether `frame` begins with the Ethernet header; with the IP header otherwise */
	__u8 has_route;
	__u8 is_route_local; /* the route's device is a loopback */
	__u8 unused;
	__u32 interface; /* index; 0: none yet, on its way out */
	__u32 arrived_on; /* index of the interface; 0: it was made here */
	__u32 route_interface;
	char interface_name[16];
	char location[40]; /* symbol of the function */
	__u8 frame[FRAME_BYTES];
};

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 20);
} events SEC(".maps");

/* Inode numbers of the network namespaces to follow. */

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__type(key, __u32);
	__type(value, __u32);
} nodes SEC(".maps");

/* Listeners, for the length of their accept queues: a connection does not refer to its listener. */
struct listener_key {
	__u32 netns;
	__u16 port;
	__u16 family;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, struct listener_key);
	__type(value, __u64); /* address of struct sock */
} listeners SEC(".maps");

/* What was lost because a ring was full, by CPU. */
enum { LOST_EVENTS = 0, LOST_CALLS = 1, LOST_OTHER_ABI = 2, LOST_COUNTS = 3 };

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, LOST_COUNTS);
	__type(key, __u32);
	__type(value, __u64);
} lost SEC(".maps");

struct config {
	__u64 wakeup_bytes; /* unread bytes from which on the reader is woken */
	__u64 own_pids; /* inode number of the reader's PID namespace */
};

SEC(".rodata.config") const volatile struct config config = {};

static __always_inline void count_lost(__u32 what)
{
	__u64 *count = bpf_map_lookup_elem(&lost, &what);

	if (count)
		*count += 1;
}

static __always_inline void *reserve(__u64 bytes)
{
	void *record = bpf_ringbuf_reserve(&events, bytes, 0);

	if (!record)
		count_lost(LOST_EVENTS);
	return record;
}

static __always_inline __u64 wakeup_flags(__u64 unread)
{
	return unread >= config.wakeup_bytes ? BPF_RB_FORCE_WAKEUP : BPF_RB_NO_WAKEUP;
}

static __always_inline void submit(void *record)
{
	bpf_ringbuf_submit(record, wakeup_flags(bpf_ringbuf_query(&events, BPF_RB_AVAIL_DATA)));
}

static __always_inline bool is_followed(__u32 netns)
{
	return netns && bpf_map_lookup_elem(&nodes, &netns);
}

static __always_inline void set_ends(struct socket_record *record, const struct sock_common *common)
{
	record->family = common->skc_family;
	record->local_port = common->skc_num;
	record->peer_port = __builtin_bswap16(common->skc_dport);
	if (record->family == AF_INET6) {
		bpf_probe_read_kernel(record->local, 16, &common->skc_v6_rcv_saddr);
		bpf_probe_read_kernel(record->peer, 16, &common->skc_v6_daddr);
	} else {
		__builtin_memset(record->local, 0, 16);
		__builtin_memset(record->peer, 0, 16);
		*(__u32 *)record->local = common->skc_rcv_saddr;
		*(__u32 *)record->peer = common->skc_daddr;
	}
}

static __always_inline void set_queues(struct socket_record *record, struct sock *sk)
{
	struct tcp_sock *tcp = bpf_skc_to_tcp_sock(sk);

	record->receive_buffer = sk->sk_rcvbuf;
	record->send_buffer = sk->sk_sndbuf;
	if (!tcp)
		return;
	if (!record->local_port) /* it has ended */
		record->local_port = __builtin_bswap16(tcp->inet_conn.icsk_inet.inet_sport);
	if (sk->__sk_common.skc_state == TCP_LISTEN) {
		record->receive_queue = sk->sk_ack_backlog;
		record->send_queue = sk->sk_max_ack_backlog;
		return;
	}
	record->receive_queue = tcp->rcv_nxt - tcp->copied_seq;
	record->send_queue = tcp->write_seq - tcp->snd_una;
	record->congestion_window = tcp->snd_cwnd;
	record->srtt_us8 = tcp->srtt_us;
	record->retransmits = tcp->total_retrans;
}

static __always_inline struct socket_record *new_socket_record(__u32 netns, __u16 kind)
{
	struct socket_record *record;

	if (!is_followed(netns))
		return 0;
	record = reserve(sizeof(*record));
	if (!record)
		return 0;
	__builtin_memset(record, 0, sizeof(*record));
	record->header.bytes = sizeof(*record);
	record->header.kind = kind;
	record->header.netns = netns;
	record->header.at_ns = bpf_ktime_get_ns();
	return record;
}

/* A record of the ends of a connection: a full socket, a request, or one in TIME_WAIT. NULL if it is not followed. */
static __always_inline struct socket_record *of_ends(const struct sock_common *common, __u16 kind)
{
	struct socket_record *record = new_socket_record(BPF_CORE_READ(common, skc_net.net, ns.inum), kind);

	if (record) {
		record->cookie = common->skc_cookie.counter;
		record->state = record->new_state = common->skc_state;
		set_ends(record, common);
	}
	return record;
}

/* A record of a full socket. */
static __always_inline struct socket_record *of_socket(struct sock *sk, __u16 kind)
{
	struct socket_record *record = of_ends(&sk->__sk_common, kind);

	if (record) {
		record->cookie = bpf_get_socket_cookie(sk);
		record->inode = BPF_CORE_READ(sk, sk_socket, file, f_inode, i_ino);
		set_queues(record, sk);
	}
	return record;
}

/* The accept queue of the listener of a connection that is being established, with the connection. */
static __always_inline void record_accept_queue(__u32 netns, __u16 port, __u16 family)
{
	struct listener_key key = {.netns = netns, .port = port, .family = family};
	struct socket_record *record;
	__u64 *address = bpf_map_lookup_elem(&listeners, &key);
	struct sock *sk;

	if (!address && family == AF_INET) {
		key.family = AF_INET6; /* a listener of both families */
		address = bpf_map_lookup_elem(&listeners, &key);
	}
	if (!address)
		return;
	sk = (struct sock *)*address;
	if (BPF_CORE_READ(sk, __sk_common.skc_state) != TCP_LISTEN || BPF_CORE_READ(sk, __sk_common.skc_num) != port)
		return;
	record = new_socket_record(netns, KIND_ACCEPT_QUEUE);
	if (!record)
		return;
	record->cookie = BPF_CORE_READ(sk, __sk_common.skc_cookie.counter);
	record->inode = BPF_CORE_READ(sk, sk_socket, file, f_inode, i_ino);
	record->family = BPF_CORE_READ(sk, __sk_common.skc_family);
	record->local_port = port;
	if (record->family == AF_INET6)
		BPF_CORE_READ_INTO(&record->local, sk, __sk_common.skc_v6_rcv_saddr);
	else
		BPF_CORE_READ_INTO((__u32 *)record->local, sk, __sk_common.skc_rcv_saddr);
	record->state = record->new_state = TCP_LISTEN;
	record->receive_queue = BPF_CORE_READ(sk, sk_ack_backlog);
	record->send_queue = BPF_CORE_READ(sk, sk_max_ack_backlog);
	submit(record);
}

SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(inet_sock_set_state, struct sock *sk, int old, int new)
{
	struct socket_record *record;
	struct listener_key key = {};
	__u64 address;

	if (sk->sk_protocol != IPPROTO_TCP)
		return 0;
	record = of_socket(sk, KIND_STATE);
	if (!record)
		return 0;
	key.netns = record->header.netns;
	key.port = record->local_port;
	key.family = record->family;
	record->state = old;
	record->new_state = new;
	record->reason = sk->sk_err;
	submit(record);
	address = (__u64)sk;
	if (new == TCP_LISTEN)
		bpf_map_update_elem(&listeners, &key, &address, BPF_ANY);
	else if (old == TCP_LISTEN && new != TCP_SYN_RECV)
		bpf_map_delete_elem(&listeners, &key);
	else if (old == TCP_SYN_RECV && new == TCP_ESTABLISHED)
		record_accept_queue(key.netns, key.port, key.family);
	return 0;
}

SEC("tp_btf/tcp_retransmit_skb")
int BPF_PROG(tcp_retransmit_skb, struct sock *sk)
{
	struct socket_record *record = of_socket(sk, KIND_RETRANSMIT);

	if (record)
		submit(record);
	return 0;
}

/* A SYN-ACK sent again. */
SEC("tp_btf/tcp_retransmit_synack")
int BPF_PROG(tcp_retransmit_synack, struct sock *sk, struct request_sock *request)
{
	struct socket_record *record = of_ends(&request->__req_common, KIND_RETRANSMIT);

	if (record)
		submit(record);
	return 0;
}

SEC("tp_btf/tcp_receive_reset")
int BPF_PROG(tcp_receive_reset, struct sock *sk)
{
	struct socket_record *record = of_socket(sk, KIND_RESET_RECEIVED);

	if (record)
		submit(record);
	return 0;
}

static __always_inline __u32 netns_of_device(const struct sk_buff *skb)
{
	return BPF_CORE_READ(skb, dev, nd_net.net, ns.inum);
}

/* The ends of a received TCP segment, from the receiver's side. */
static __always_inline struct socket_record *of_segment(const struct sk_buff *skb)
{
	struct socket_record *record = new_socket_record(netns_of_device(skb), KIND_RESET_SENT);
	const void *network, *transport;
	__u16 ports[2] = {};

	if (!record)
		return 0;
	network = skb->head + skb->network_header;
	transport = skb->head + skb->transport_header;
	if (skb->protocol == __builtin_bswap16(ETH_P_IPV6)) {
		record->family = AF_INET6;
		bpf_probe_read_kernel(record->peer, 16, network + 8);
		bpf_probe_read_kernel(record->local, 16, network + 24);
	} else {
		record->family = AF_INET;
		bpf_probe_read_kernel(record->peer, 4, network + 12);
		bpf_probe_read_kernel(record->local, 4, network + 16);
	}
	bpf_probe_read_kernel(ports, sizeof(ports), transport);
	record->peer_port = __builtin_bswap16(ports[0]);
	record->local_port = __builtin_bswap16(ports[1]);
	return record;
}

/* Without a socket (a refused port), sk is NULL; before Linux 6.10 that is not reported, and there is no reason. */
SEC("tp_btf/tcp_send_reset")
int BPF_PROG(tcp_send_reset, struct sock *sk, struct sk_buff *skb)
{
	struct socket_record *record = 0;
	__u8 state = sk ? sk->__sk_common.skc_state : 0;

	if (state == TCP_TIME_WAIT || state == TCP_NEW_SYN_RECV)
		record = of_ends(&sk->__sk_common, KIND_RESET_SENT);
	else if (state && state != TCP_LISTEN)
		record = of_socket(sk, KIND_RESET_SENT);
	else if (skb)
		record = of_segment(skb);
	if (!record)
		return 0;
	if (bpf_core_type_exists(enum sk_rst_reason))
		record->reason = ctx[2];
	submit(record);
	return 0;
}

/* Whether a packet freed for this reason was not lost. */
static __always_inline bool is_no_loss(__u32 reason)
{
#define IS(name) (bpf_core_enum_value_exists(enum skb_drop_reason, name) && reason == bpf_core_enum_value(enum skb_drop_reason, name))
	return IS(SKB_NOT_DROPPED_YET) || IS(SKB_CONSUMED) || IS(SKB_DROP_REASON_NOT_SPECIFIED) ||
	       IS(SKB_DROP_REASON_OTHERHOST) || IS(SKB_DROP_REASON_QUEUE_PURGE);
#undef IS
}

SEC("tp_btf/kfree_skb")
int BPF_PROG(kfree_skb, struct sk_buff *skb, void *location, int reason)
{
	struct net_device *dev = BPF_CORE_READ(skb, dev);
	struct drop_record *record;
	struct sock *sk;
	__u64 address = (__u64)location;
	__u32 netns, start, captured;

	if (is_no_loss(reason))
		return 0;
	/* The device shares its place with other members where a socket holds the packet. */
	sk = BPF_CORE_READ(skb, sk);
	if (sk) {
		__u16 family = BPF_CORE_READ(sk, __sk_common.skc_family);

		if (family == AF_UNIX || family == AF_NETLINK) /* messages, not packets */
			return 0;
	}
	netns = sk ? BPF_CORE_READ(sk, __sk_common.skc_net.net, ns.inum) : netns_of_device(skb);
	if (!is_followed(netns))
		return 0;
	record = reserve(sizeof(*record));
	if (!record)
		return 0;
	__builtin_memset(record, 0, sizeof(*record));
	record->header.bytes = sizeof(*record);
	record->header.kind = KIND_DROP;
	record->header.netns = netns;
	record->header.at_ns = bpf_ktime_get_ns();
	record->cookie = sk ? BPF_CORE_READ(sk, __sk_common.skc_cookie.counter) : 0;
	record->reason = reason;
	record->protocol = __builtin_bswap16(skb->protocol);
	record->arrived_on = skb->skb_iif;
	if (dev) {
		record->interface = BPF_CORE_READ(dev, ifindex);
		bpf_probe_read_kernel(record->interface_name, sizeof(record->interface_name), &dev->name);
	}
	if (skb->_skb_refdst & ~1UL) {
		const struct dst_entry *route = (void *)(skb->_skb_refdst & ~1UL);

		record->has_route = 1;
		record->route_interface = BPF_CORE_READ(route, dev, ifindex);
		record->is_route_local = (BPF_CORE_READ(route, dev, flags) & IFF_LOOPBACK) != 0;
	}
	start = skb->mac_header;
	record->has_ethernet = start != (__u16)~0 && skb->network_header - start == ETH_HLEN;
	if (!record->has_ethernet)
		start = skb->network_header;
	/* The whole size always: struct skb_shared_info follows the packet, so there is something to read. */
	bpf_probe_read_kernel(record->frame, FRAME_BYTES, skb->head + start);
	captured = skb->tail - start;
	record->captured = captured < FRAME_BYTES ? captured : FRAME_BYTES;
	record->length = skb->len + (__u32)(skb->data - skb->head) - start;
	bpf_snprintf(record->location, sizeof(record->location), "%ps", &address, sizeof(address));
	submit(record);
	return 0;
}

#include "syscalls.h"
