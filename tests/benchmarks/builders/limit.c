/* The limit: networks built by a C program that sends rtnetlink(7) messages from one thread and waits for nothing else.
 *
 *     cc -O2 -Wall -o limit limit.c
 *
 * It answers the requests of contract.py on standard input: build SHAPE SIZE, exchange, close, reclaim. The shapes are
 * `pair`, `star` (SIZE hosts on a bridge) and `line` (SIZE hosts in a row, a veth pair between neighbours, no routes),
 * with the objects that labctl makes: a network namespace for each node, veth pairs created in place with one queue,
 * IPv4 and IPv6 addresses without duplicate address detection, a bridge without multicast snooping that is set up when
 * it has its ports. `build replay:FILE 0` sends the messages that replay.py has recorded of labctl. `spawn` runs `true`
 * on the first host and waits for it.
 *
 * Run it in a user namespace of its own (container.py): `reclaim` lowers the limit of network namespaces there.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/ethtool.h>
#include <linux/if_addr.h>
#include <linux/if_bridge.h>
#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <linux/sockios.h>
#include <linux/veth.h>
#include <net/if.h>
#include <sched.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { FIRST_FD = 16, BATCH = 1 << 16, PER_SEND = 64, PORT = 7000, TIMEOUT_S = 60, HOME = -1 };

static int count, home_fd, home_socket;     /* nodes; node i's namespace is open at FIRST_FD + i */
static int sockets[1 << 16];                /* each node's rtnetlink socket */
static int first_node, last_node;           /* the hosts of the exchange */
static uint32_t last_address;               /* of the last host, in network byte order */
static char batch[2 * BATCH];
static size_t used;
static int messages;

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec * 1e-9;
}

static void fail(const char *format, ...)
{
	int number = errno;
	va_list arguments;
	va_start(arguments, format);
	printf("{\"error\": \"");
	vprintf(format, arguments);
	printf(": %s\"}\n", strerror(number));
	fflush(stdout);
	exit(1);
}

static void answer(double began)
{
	printf("{\"seconds\": %.9f}\n", now() - began);
	fflush(stdout);
}

static void write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0 || write(fd, text, strlen(text)) < 0)
		fail("cannot write %s", path);
	close(fd);
}

static void enter(int fd)
{
	if (setns(fd, CLONE_NEWNET))
		fail("cannot enter a network namespace");
}

/* Messages: they are collected in `batch`, and sent together. */

static void *append(const void *data, size_t size)
{
	void *at = memcpy(batch + used, data, size);
	memset(batch + used + size, 0, NLMSG_ALIGN(size) - size);
	used += NLMSG_ALIGN(size);
	return at;
}

static size_t begin(int type, int flags, const void *header, size_t size)
{
	struct nlmsghdr message = {.nlmsg_type = type, .nlmsg_flags = NLM_F_REQUEST | flags, .nlmsg_seq = ++messages};
	size_t start = used;
	append(&message, sizeof message);
	append(header, size);
	return start;
}

static void end(size_t start)
{
	((struct nlmsghdr *)(batch + start))->nlmsg_len = used - start;
}

static size_t nest(int type)
{
	struct rtattr attribute = {.rta_type = type};
	size_t start = used;
	append(&attribute, sizeof attribute);
	return start;
}

static void unnest(size_t start)
{
	((struct rtattr *)(batch + start))->rta_len = used - start;
}

static void put(int type, const void *data, size_t size)
{
	struct rtattr attribute = {.rta_type = type, .rta_len = RTA_LENGTH(size)};
	append(&attribute, sizeof attribute);
	append(data, size);
}

static void put_u32(int type, uint32_t value)
{
	put(type, &value, sizeof value);
}

/* The kernel carries the messages out within send(2), so errors can be read as soon as it returns. */
static void send_batch(int sock, const void *data, size_t size)
{
	char reply[1 << 16];
	int length;
	if (send(sock, data, size, 0) < 0)
		fail("cannot send");
	while ((length = recv(sock, reply, sizeof reply, MSG_DONTWAIT)) > 0)
		for (struct nlmsghdr *h = (void *)reply; NLMSG_OK(h, length); h = NLMSG_NEXT(h, length))
			if (h->nlmsg_type == NLMSG_ERROR && ((struct nlmsgerr *)NLMSG_DATA(h))->error) {
				errno = -((struct nlmsgerr *)NLMSG_DATA(h))->error;
				fail("the kernel refused message %u", h->nlmsg_seq);
			}
}

static void flush(int sock)
{
	if (used)
		send_batch(sock, batch, used);
	used = messages = 0;
}

static void set_up(int index)
{
	struct ifinfomsg link = {.ifi_index = index, .ifi_flags = IFF_UP, .ifi_change = IFF_UP};
	end(begin(RTM_NEWLINK, 0, &link, sizeof link));
}

static void no_address_generation(int index)
{
	struct ifinfomsg link = {.ifi_index = index};
	uint8_t none = 1; /* IN6_ADDR_GEN_MODE_NONE */
	size_t start = begin(RTM_SETLINK, 0, &link, sizeof link), spec = nest(IFLA_AF_SPEC), inet6 = nest(AF_INET6);
	put(IFLA_INET6_ADDR_GEN_MODE, &none, 1);
	unnest(inet6);
	unnest(spec);
	end(start);
}

static void add_address(int family, int index, const void *address, int prefix)
{
	struct ifaddrmsg header = {.ifa_family = family, .ifa_prefixlen = prefix, .ifa_index = index,
				   .ifa_flags = family == AF_INET6 ? IFA_F_NODAD : 0};
	size_t size = family == AF_INET6 ? 16 : 4, start = begin(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, &header, sizeof header);
	put(IFA_LOCAL, address, size);
	put(IFA_ADDRESS, address, size);
	end(start);
}

static void veth_end(const char *name, int number, int side, int node)
{
	uint8_t mac[6] = {2, 0, 0, side, number >> 8, number};
	put(IFLA_IFNAME, name, strlen(name) + 1);
	put(IFLA_ADDRESS, mac, sizeof mac);
	put_u32(IFLA_NUM_TX_QUEUES, 1);
	put_u32(IFLA_NUM_RX_QUEUES, 1);
	put_u32(IFLA_NET_NS_FD, FIRST_FD + node);
}

/* One message creates both ends in their namespaces. Indexes of the two ends differ: equal ones delay IPv6. */
static void add_veth(int number, int node, const char *name, int index, int bridge, int peer, int peer_index)
{
	struct ifinfomsg one = {.ifi_index = index, .ifi_flags = bridge ? IFF_UP : 0, .ifi_change = bridge ? IFF_UP : 0};
	struct ifinfomsg other = {.ifi_index = peer_index};
	size_t start = begin(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &one, sizeof one);
	veth_end(name, number, 0, node);
	if (bridge)
		put_u32(IFLA_MASTER, bridge);
	size_t info = nest(IFLA_LINKINFO);
	put(IFLA_INFO_KIND, "veth", 5);
	size_t data = nest(IFLA_INFO_DATA), ends = nest(VETH_INFO_PEER);
	append(&other, sizeof other);
	veth_end("eth0", number, 1, peer);
	unnest(ends);
	unnest(data);
	unnest(info);
	end(start);
	if (messages >= PER_SEND)
		flush(home_socket);
}

static void add_bridge(int index)
{
	struct ifinfomsg link = {.ifi_index = index};
	uint8_t off = 0;
	size_t start = begin(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &link, sizeof link);
	put(IFLA_IFNAME, "br0", 4);
	size_t info = nest(IFLA_LINKINFO);
	put(IFLA_INFO_KIND, "bridge", 7);
	size_t data = nest(IFLA_INFO_DATA);
	put(IFLA_BR_MCAST_SNOOPING, &off, 1);
	unnest(data);
	unnest(info);
	end(start);
}

/* Nodes */

static int rtnetlink_socket(void)
{
	int one = 1, sock = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
	if (sock < 0 || setsockopt(sock, SOL_NETLINK, NETLINK_CAP_ACK, &one, sizeof one))
		fail("cannot open an rtnetlink socket");
	return sock;
}

static void add_node(int node)
{
	if (unshare(CLONE_NEWNET))
		fail("cannot create a network namespace");
	int fd = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
	if (fd < 0 || dup3(fd, FIRST_FD + node, O_CLOEXEC) < 0)
		fail("cannot open a network namespace");
	close(fd);
	int sock = rtnetlink_socket();
	sockets[node] = fcntl(sock, F_DUPFD_CLOEXEC, FIRST_FD + count); /* its number may be that of a later namespace */
	if (sockets[node] < 0)
		fail("cannot open a descriptor; `ulimit -n` limits them");
	close(sock);
}

static void configure(int index, int number)
{
	uint32_t ipv4 = htonl(0x0a000000 + number);
	uint8_t global[16] = {0xfd}, local[16] = {0xfe, 0x80};
	global[14] = local[14] = number >> 8;
	global[15] = local[15] = number;
	no_address_generation(index);
	add_address(AF_INET, index, &ipv4, 16);
	add_address(AF_INET6, index, global, 64);
	add_address(AF_INET6, index, local, 64);
	set_up(index);
}

/* Have the kernel do now what it defers for a link whose carrier has changed; a first packet would be lost until then. */
static void settle(int node, const char *name)
{
	struct ethtool_value state = {.cmd = ETHTOOL_GLINK};
	struct ifreq request = {.ifr_data = (void *)&state};
	snprintf(request.ifr_name, IFNAMSIZ, "%s", name);
	if (ioctl(sockets[node], SIOCETHTOOL, &request) || !state.data)
		fail("%s has no carrier", name);
}

static void build_star(int hosts)
{
	char name[IFNAMSIZ];
	add_node(0);
	write_file("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1");
	write_file("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1");
	for (int host = 1; host <= hosts; host++)
		add_node(host);
	set_up(1);
	add_bridge(2);
	flush(sockets[0]);
	enter(home_fd);
	for (int host = 1; host <= hosts; host++) {
		snprintf(name, sizeof name, "port%d", host);
		add_veth(host, 0, name, 10 + host, 2, host, 2);
	}
	flush(home_socket);
	for (int host = 1; host <= hosts; host++) {
		set_up(1);
		configure(2, host);
		flush(sockets[host]);
	}
	set_up(2);
	flush(sockets[0]);
	for (int host = 1; host <= hosts; host++) {
		snprintf(name, sizeof name, "port%d", host);
		settle(0, name);
		settle(host, "eth0");
	}
	settle(0, "br0");
	first_node = 1;
	last_node = hosts;
	last_address = htonl(0x0a000000 + hosts);
}

static void build_line(int hosts)
{
	for (int host = 0; host < hosts; host++)
		add_node(host);
	enter(home_fd);
	for (int host = 0; host + 1 < hosts; host++)
		add_veth(host, host, "eth1", 3, 0, host + 1, 2);
	flush(home_socket);
	for (int host = 0; host < hosts; host++) {
		set_up(1);
		if (host > 0)
			configure(2, 2 * host);
		if (host + 1 < hosts)
			configure(3, 2 * host + 1);
		flush(sockets[host]);
	}
	for (int host = 0; host + 1 < hosts; host++) {
		settle(host, "eth1");
		settle(host + 1, "eth0");
	}
	first_node = 0;
	last_node = 1; /* neighbours: there are no routes */
	last_address = htonl(0x0a000002);
}

/* The file of replay.py, in this machine's byte order: struct header, then records, each with its payload. */
struct header { char magic[4]; uint32_t nodes, first, last, address; };
struct record { uint32_t kind; int32_t node; uint32_t size; };
enum { NOTHING, MESSAGES, SYSCTL, CARRIER };

static void build_replay(const char *path)
{
	static char payload[4 * BATCH];
	struct header header;
	struct record record;
	FILE *file = fopen(path, "rb");
	if (!file || fread(&header, sizeof header, 1, file) != 1 || memcmp(header.magic, "LABR", 4))
		fail("cannot read %s", path);
	for (uint32_t node = 0; node < header.nodes; node++)
		add_node(node);
	enter(home_fd);
	while (fread(&record, sizeof record, 1, file) == 1) {
		if (record.size > sizeof payload || fread(payload, 1, record.size, file) != record.size)
			fail("cannot read %s", path);
		if (record.kind == MESSAGES)
			send_batch(record.node == HOME ? home_socket : sockets[record.node], payload, record.size);
		else if (record.kind == CARRIER)
			settle(record.node, payload);
		else if (record.kind == SYSCTL) {
			enter(FIRST_FD + record.node);
			write_file(payload, payload + strlen(payload) + 1);
		}
	}
	fclose(file);
	first_node = header.first;
	last_node = header.last;
	last_address = header.address;
}

static void build(const char *shape, int size)
{
	uint32_t nodes = size;
	if (!strcmp(shape, "star"))
		nodes++;
	else if (!strncmp(shape, "replay:", 7)) {
		struct header header;
		FILE *file = fopen(shape + 7, "rb");
		if (!file || fread(&header, sizeof header, 1, file) != 1)
			fail("cannot read %s", shape + 7);
		fclose(file);
		nodes = header.nodes;
	}
	count = nodes;
	if (nodes > sizeof sockets / sizeof *sockets)
		fail("too many nodes");
	if (!strcmp(shape, "star"))
		build_star(size);
	else if (!strcmp(shape, "pair") || !strcmp(shape, "line"))
		build_line(size);
	else if (!strncmp(shape, "replay:", 7))
		build_replay(shape + 7);
	else
		fail("unknown shape %s", shape);
	enter(home_fd);
}

/* A datagram from the first host to the last, sent again every 50 ms, and its answer. */
static void exchange(void)
{
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(PORT)}, sender;
	socklen_t length = sizeof sender;
	struct timeval wait = {.tv_usec = 50000};
	double until = now() + TIMEOUT_S;
	char byte;
	enter(FIRST_FD + last_node);
	int server = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (server < 0 || bind(server, (void *)&address, sizeof address))
		fail("cannot bind on the last host");
	enter(FIRST_FD + first_node);
	int client = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	enter(home_fd);
	setsockopt(server, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof wait);
	setsockopt(client, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof wait);
	address.sin_addr.s_addr = last_address;
	do {
		if (now() > until)
			fail("no datagram from the first host to the last and back");
		sendto(client, "x", 1, 0, (void *)&address, sizeof address);
		if (recvfrom(server, &byte, 1, 0, (void *)&sender, &length) == 1)
			sendto(server, "y", 1, 0, (void *)&sender, length);
	} while (recv(client, &byte, 1, 0) != 1);
	close(server);
	close(client);
}

static void spawn_true(void)
{
	extern char **environ;
	char *arguments[] = {"true", NULL};
	pid_t pid;
	int status;
	enter(FIRST_FD + first_node);
	if (posix_spawnp(&pid, "true", NULL, NULL, arguments, environ))
		fail("cannot run true");
	enter(home_fd);
	if (waitpid(pid, &status, 0) != pid || status)
		fail("true failed");
}

static void close_nodes(void)
{
	for (int node = 0; node < count; node++) {
		close(sockets[node]);
		close(FIRST_FD + node);
	}
	count = 0;
}

/* Return when this user namespace has no network namespace but the present one, and that which is made to find out. */
static void reclaim(void)
{
	double until = now() + TIMEOUT_S;
	char limit[16];
	write_file("/proc/sys/user/max_net_namespaces", "2");
	while (unshare(CLONE_NEWNET)) {
		if (errno != ENOSPC || now() > until)
			fail("the kernel still has network namespaces");
		usleep(100);
	}
	enter(home_fd);
	snprintf(limit, sizeof limit, "%d", INT_MAX);
	write_file("/proc/sys/user/max_net_namespaces", limit);
}

int main(void)
{
	char line[PATH_MAX + 64], word[16], shape[PATH_MAX];
	int size;
	struct rlimit files;
	getrlimit(RLIMIT_NOFILE, &files);
	files.rlim_cur = files.rlim_max;
	setrlimit(RLIMIT_NOFILE, &files);
	home_fd = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
	home_socket = rtnetlink_socket();
	answer(now());
	while (fgets(line, sizeof line, stdin) && sscanf(line, "%15s %4095s %d", word, shape, &size) >= 1) {
		double began = now();
		if (!strcmp(word, "build"))
			build(shape, size);
		else if (!strcmp(word, "exchange"))
			exchange();
		else if (!strcmp(word, "spawn"))
			spawn_true();
		else if (!strcmp(word, "close"))
			close_nodes();
		else if (!strcmp(word, "reclaim"))
			reclaim();
		answer(began);
	}
	return 0;
}
