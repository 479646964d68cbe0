/* SPDX-License-Identifier: MIT
 *
 * System calls of programs on the nodes, from entry to return, with the memory that their arguments point to. What is
 * read of which call is in the table `calls`, which user space fills (labctl/kernel/call_layout.py).
 */
#pragma once

#define REGIONS 3
#define REGION_BYTES 256
#define ENTRY_BYTES 128 /* of a region that is read at the entry of a call */
#define VECTORS 4
#define CALL_BYTES 2048
#define POLLED 8

/* How many bytes to read. */
enum rule {
	RULE_NONE = 0,
	RULE_FIXED = 1, /* `parameter` bytes */
	RULE_ARGUMENT = 2, /* as many as that argument */
	RULE_POINTED = 3, /* as many as the 32-bit number that that argument points to */
	RULE_RESULT = 4, /* as many as the call returned */
	RULE_RESULT_TIMES = 5, /* `parameter` times what the call returned */
	RULE_POLL = 6, /* struct pollfd, as many as that argument */
	RULE_SETS = 7, /* a fd_set; at the entry, three of them and the timeout */
	RULE_VECTORS = 8, /* struct iovec, as many as that argument, and the data that they point to */
	RULE_MESSAGE = 9, /* struct msghdr, and what it points to */
};

struct region {
	__u8 argument;
	__u8 rule;
	__u8 parameter;
	__u8 limit; /* in units of 8 bytes; 0: REGION_BYTES */
};

/* Which descriptors make a call one of a socket's. */
enum { FILES_NONE = 0, FILES_ARGUMENT = 1, FILES_POLL = 2, FILES_SETS = 3 };

struct call_layout {
	__u8 is_traced;
	__u8 files;
	__u8 descriptors; /* bits of the arguments that are descriptors (FILES_ARGUMENT); one of them must be a socket */
	__u8 value_result; /* the argument that points to a length, read at the entry; 0: none */
	struct region entry;
	struct region regions[REGIONS];
};

/* Followed by parts. */
struct call_record {
	struct header header; /* at the entry */
	__u64 until_ns; /* 0: it has not returned */
	__s64 result;
	__u64 inode; /* of the socket that the call names, or returns */
	__u64 cookie;
	__u32 pid; /* as the program sees it */
	__u32 tid;
	__u16 number;
	__u16 is_forked; /* the process has executed no program since fork(2) made it */
	__u32 length_before; /* what the argument `value_result` pointed to */
	char program[16];
	__u64 arguments[8]; /* six, and two for bounds that the verifier sees */
};

/* A part of the memory of the process; padded to a multiple of 8 bytes. */
struct part {
	__u16 bytes;
	__u8 what; /* index of the region; PART_* */
	__u8 unused;
	__u32 whole; /* bytes that there were */
};

/* A record as user space reads it, too. */
struct call_in_progress {
	struct call_record record;
	struct part part;
	__u8 entry[ENTRY_BYTES];
};

enum { PART_ENTRY = 16, PART_NAME = 17, PART_VECTORS = 18, PART_DATA = 19 };

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} call_records SEC(".maps");

/* By the number of the system call. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 512);
	__type(key, __u32);
	__type(value, struct call_layout);
} calls SEC(".maps");

/* By thread. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, __u64);
	__type(value, struct call_in_progress);
} in_progress SEC(".maps");

struct scratch {
	struct call_in_progress begun;
	__u8 record[2 * CALL_BYTES + sizeof(struct part) + REGION_BYTES];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct scratch);
} scratch SEC(".maps");

static __always_inline struct scratch *get_scratch(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&scratch, &zero);
}

/* The functions that are not inlined are verified once each, instead of for every caller and every way through it. */

/* Whether a descriptor of the calling process is a socket, whose names are then in `begun`. */
__noinline int find_socket(__u64 descriptor)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct fdtable *table = task->files->fdt;
	struct scratch *space = get_scratch();
	struct file *file = 0;
	struct socket *socket;
	struct inode *inode;

	if (!space || descriptor >= table->max_fds)
		return 0;
	bpf_probe_read_kernel(&file, sizeof(file), table->fd + descriptor);
	inode = BPF_CORE_READ(file, f_inode);
	if ((BPF_CORE_READ(inode, i_mode) & S_IFMT) != S_IFSOCK)
		return 0;
	socket = BPF_CORE_READ(file, private_data);
	space->begun.record.inode = BPF_CORE_READ(inode, i_ino);
	space->begun.record.cookie = BPF_CORE_READ(socket, sk, __sk_common.skc_cookie.counter);
	return 1;
}

__noinline int polls_a_socket(__u64 address, __u64 count)
{
	__u64 polled; /* struct pollfd */

	for (int i = 0; i < POLLED; i++) {
		if (i >= count || bpf_probe_read_user(&polled, sizeof(polled), (void *)address + i * sizeof(polled)))
			return 0;
		if ((int)polled >= 0 && find_socket((__u32)polled))
			return 1;
	}
	return count > POLLED; /* there may be one */
}

__noinline int selects_a_socket(__u64 count, __u64 sets)
{
	for (int i = 0; i < 64; i++) {
		if (i >= count)
			return 0;
		if ((sets >> i) & 1 && find_socket(i))
			return 1;
	}
	return 1; /* there may be one */
}

/* 0 if the process has another ABI than the kernel. */
static __always_inline bool set_arguments(__u64 *arguments, struct pt_regs *regs)
{
	struct pt_regs___x86_64 *x86 = (void *)regs;
	struct pt_regs___arm64 *arm = (void *)regs;

	if (bpf_core_field_exists(x86->di)) {
		arguments[0] = x86->di;
		arguments[1] = x86->si;
		arguments[2] = x86->dx;
		arguments[3] = x86->r10;
		arguments[4] = x86->r8;
		arguments[5] = x86->r9;
		return x86->cs != X86_USER32_CS;
	}
	if (bpf_core_field_exists(arm->user_regs)) {
		for (int i = 0; i < 6; i++)
			arguments[i] = BPF_CORE_READ(arm, user_regs.regs[i]);
		return !(BPF_CORE_READ(arm, user_regs.pstate) & ARM64_MODE32);
	}
	return 0;
}

__noinline __u64 size_of(__u32 rule, __u32 parameter, __u64 argument, __s64 result)
{
	__u64 size = 0;
	__u32 pointed = 0;

	switch (rule) {
	case RULE_FIXED:
		size = parameter;
		break;
	case RULE_ARGUMENT:
		size = argument;
		break;
	case RULE_POINTED:
		if (argument)
			bpf_probe_read_user(&pointed, sizeof(pointed), (void *)argument);
		size = pointed;
		break;
	case RULE_RESULT:
		size = result > 0 ? result : 0;
		break;
	case RULE_RESULT_TIMES:
		size = result > 0 ? result * parameter : 0;
		break;
	case RULE_POLL:
		size = argument * 8;
		break;
	}
	return size;
}

/* Append a part to the record; the offset behind it. */
__noinline __u32 add_part(__u32 offset, __u32 what, __u64 address, __u64 whole, __u32 limit)
{
	struct scratch *space = get_scratch();
	struct part *part;
	__u64 bytes = whole < limit ? whole : limit;

	if (!space || !address || !whole || offset > CALL_BYTES)
		return offset;
	barrier_var(offset); /* the verifier must see the bound, which the compiler has deduced */
	part = (void *)space->record + (offset & (2 * CALL_BYTES - 1));
	barrier_var(bytes);
	if (bytes > REGION_BYTES)
		bytes = REGION_BYTES;
	if (bpf_probe_read_user(part + 1, bytes, (void *)address))
		return offset;
	part->bytes = bytes;
	part->what = what;
	part->unused = 0;
	part->whole = whole > 0xffffffff ? 0xffffffff : whole;
	return offset + ((sizeof(*part) + bytes + 7) & ~7);
}

struct vector {
	__u64 address;
	__u64 length;
};

/* struct iovec[], and of the first vectors the data, `total` bytes together. */
__noinline __u32 add_vectors(__u32 offset, __u64 address, __u64 count, __u64 total)
{
	struct vector vector;

	offset = add_part(offset, PART_VECTORS, address, count * sizeof(vector), VECTORS * sizeof(vector));
	for (int i = 0; i < VECTORS; i++) {
		__u64 bytes;

		if (i >= count || bpf_probe_read_user(&vector, sizeof(vector), (void *)address + i * sizeof(vector)))
			break;
		bytes = vector.length < total ? vector.length : total;
		total -= bytes;
		offset = add_part(offset, PART_DATA, vector.address, bytes, REGION_BYTES);
	}
	return offset;
}

struct message { /* struct msghdr */
	__u64 name;
	__u64 name_bytes; /* the upper half is padding */
	__u64 vectors;
	__u64 count;
	__u64 control;
	__u64 control_bytes;
	__u64 flags;
};

/* struct msghdr, and what it points to. */
__noinline __u32 add_message(__u32 offset, __u32 what, __u64 address, __u64 total)
{
	struct message message;

	if (bpf_probe_read_user(&message, sizeof(message), (void *)address))
		return offset;
	offset = add_part(offset, what, address, sizeof(message), sizeof(message));
	offset = add_part(offset, PART_NAME, message.name, (__u32)message.name_bytes, ENTRY_BYTES);
	return add_vectors(offset, message.vectors, message.count, total);
}

/* The number that a process has in a PID namespace. The verifier allows no arithmetic with a typed pointer. */
static __always_inline __u32 number_of(struct pid **where, __u32 offset)
{
	__u64 address = 0;
	__u32 number = 0;

	bpf_probe_read_kernel(&address, sizeof(address), where);
	address += bpf_core_field_offset(struct pid, numbers[0].nr) + offset;
	bpf_probe_read_kernel(&number, sizeof(number), (void *)address);
	return number;
}

SEC("tp_btf/sys_enter")
int BPF_PROG(sys_enter, struct pt_regs *regs, long number)
{
	struct task_struct *task = bpf_get_current_task_btf();
	__u32 key = number, netns = task->nsproxy->net_ns->ns.inum, offset;
	__u64 thread = bpf_get_current_pid_tgid();
	struct scratch *space = get_scratch();
	struct call_in_progress *begun;
	struct call_record *record;
	struct call_layout *layout;
	__u64 *arguments;
	__u32 name[2];

	if (!is_followed(netns))
		return 0;
	layout = bpf_map_lookup_elem(&calls, &key);
	if (!layout || !layout->is_traced || !space)
		return 0;
	begun = &space->begun;
	record = &begun->record;
	arguments = record->arguments;
	/* Neither labctl's own processes on the node, nor visits of processes outside of the lab. */
	bpf_get_current_comm(record->program, sizeof(record->program));
	__builtin_memcpy(name, record->program, sizeof(name));
	if (name[0] == 0x6362616c /* labc */ && (name[1] & 0xffffff) == 0x2d6c74 /* tl- */)
		return 0;
	if (task->nsproxy->pid_ns_for_children->ns.inum == config.own_pids)
		return 0;
	if (!set_arguments(arguments, regs)) {
		count_lost(LOST_OTHER_ABI);
		return 0;
	}
	arguments[6] = arguments[7] = 0;
	record->inode = record->cookie = 0;
	if (layout->files == FILES_ARGUMENT) {
		__u8 which = layout->descriptors;

		if (!(which & 1 && find_socket(arguments[0])) && !(which & 2 && find_socket(arguments[1])) &&
		    !(which & 4 && find_socket(arguments[2])))
			return 0;
	} else if (layout->files == FILES_POLL) {
		if (!polls_a_socket(arguments[0], arguments[1]))
			return 0;
	} else if (layout->files == FILES_SETS) {
		__u64 sets = 0, set;

		for (int i = 1; i <= 3; i++) {
			set = 0;
			if (arguments[i])
				bpf_probe_read_user(&set, sizeof(set), (void *)arguments[i]);
			sets |= set;
		}
		if (!selects_a_socket(arguments[0], sets))
			return 0;
	}
	record->header.kind = KIND_CALL;
	record->header.netns = netns;
	record->until_ns = record->result = 0;
	offset = task->thread_pid->level * bpf_core_type_size(struct upid);
	record->tid = record->pid = number_of(&task->thread_pid, offset);
	if ((__u32)thread != thread >> 32) /* not the first thread */
		record->pid = number_of(&task->group_leader->thread_pid, offset);
	record->number = number;
	record->is_forked = (task->group_leader->flags & PF_FORKNOEXEC) != 0;
	record->length_before = 0;
	if (layout->value_result)
		bpf_probe_read_user(&record->length_before, 4, (void *)arguments[layout->value_result & 7]);
	begun->part.bytes = 0;
	if (layout->entry.rule == RULE_SETS) {
		for (int i = 0; i < 4; i++) { /* and the timeout */
			__builtin_memset(begun->entry + i * 16, 0, 16);
			if (arguments[1 + i])
				bpf_probe_read_user(begun->entry + i * 16, 16, (void *)arguments[1 + i]);
		}
		begun->part.bytes = 64;
	} else if (layout->entry.rule) {
		__u64 address = arguments[layout->entry.argument & 7];
		__u64 bytes = size_of(layout->entry.rule, layout->entry.parameter, arguments[layout->entry.parameter & 7], 0);

		barrier_var(bytes);
		if (bytes > ENTRY_BYTES)
			bytes = ENTRY_BYTES;
		if (address && !bpf_probe_read_user(begun->entry, bytes, (void *)address))
			begun->part.bytes = bytes;
	}
	begun->part.what = PART_ENTRY;
	begun->part.unused = 0;
	begun->part.whole = begun->part.bytes;
	record->header.bytes = sizeof(*record);
	if (begun->part.bytes)
		record->header.bytes += sizeof(begun->part) + ((begun->part.bytes + 7) & ~7);
	record->header.at_ns = bpf_ktime_get_ns();
	if (bpf_map_update_elem(&in_progress, &thread, begun, BPF_ANY))
		count_lost(LOST_CALLS);
	return 0;
}

SEC("tp_btf/sys_exit")
int BPF_PROG(sys_exit, struct pt_regs *regs, long result)
{
	__u64 thread = bpf_get_current_pid_tgid(), until_ns = bpf_ktime_get_ns(), flags;
	struct call_in_progress *begun = bpf_map_lookup_elem(&in_progress, &thread);
	struct scratch *space = get_scratch();
	struct call_layout *layout;
	struct call_record *record;
	__u32 offset, key;

	if (!begun || !space)
		return 0;
	key = begun->record.number;
	layout = bpf_map_lookup_elem(&calls, &key);
	if (!layout)
		return 0;
	record = (void *)space->record;
	bpf_probe_read_kernel(record, sizeof(*begun), begun);
	record->until_ns = until_ns;
	record->result = result;
	if (layout->files == FILES_NONE && result >= 0) { /* a new socket */
		space->begun.record.inode = space->begun.record.cookie = 0;
		find_socket(result);
		record->inode = space->begun.record.inode;
		record->cookie = space->begun.record.cookie;
	}
	offset = record->header.bytes;
	for (int i = 0; i < REGIONS; i++) {
		struct region *region = &layout->regions[i];
		__u64 address = begun->record.arguments[region->argument & 7];
		__u64 argument = begun->record.arguments[region->parameter & 7];
		__u64 total = region->limit ? (result > 0 ? result : 0) : ~0ULL; /* what was received */

		if (region->rule == RULE_NONE)
			break;
		if (region->rule == RULE_SETS) {
			offset = add_part(offset, i, address, 16, 16);
		} else if (region->rule == RULE_VECTORS) {
			offset = add_vectors(offset, address, argument, total);
		} else if (region->rule == RULE_MESSAGE) {
			offset = add_message(offset, i, address, total);
		} else {
			__u64 size = size_of(region->rule, region->parameter, argument, result);

			offset = add_part(offset, i, address, size, region->limit ? region->limit * 8 : REGION_BYTES);
		}
	}
	bpf_map_delete_elem(&in_progress, &thread);
	barrier_var(offset);
	offset &= 2 * CALL_BYTES - 1;
	record->header.bytes = offset;
	flags = wakeup_flags(bpf_ringbuf_query(&call_records, BPF_RB_AVAIL_DATA));
	if (bpf_ringbuf_output(&call_records, record, offset, flags))
		count_lost(LOST_CALLS);
	return 0;
}
