"""What the kernel refuses, told by operation: what object, what was attempted, what came back, what to try."""

from __future__ import annotations

import errno

from labctl.errors import KernelError, LabImpossible, MachineError, describe_errno
from labctl.plan.operations import (
    AddAddress,
    AddRoute,
    MakeBridge,
    MakeLink,
    MakeNode,
    Operation,
    RemoveAddress,
    RemoveLink,
    RemoveNode,
    RemoveRoute,
    ResetSysctl,
    SetDown,
    SetImpairment,
    SetMtu,
    SetSysctl,
    SetUp,
)

DESCRIPTORS = "A lab takes about two descriptors a node; see `ulimit -n`."


def refusal(operation: Operation, number: int, detail: str, *, hint: str = "") -> KernelError | MachineError:
    """The kernel's refusal of an operation, in words; `detail` is the kernel's own, `hint` replaces the usual one.

    A MachineError where the machine is the reason, not the lab: its limits, or what its kernel lacks. LabImpossible
    where other labs could be made.
    """
    error = KernelError(
        subject(operation), _attempted(operation), number, detail=detail, hint=hint or _hint(operation, number)
    )
    for kind, errnos, machine_error in _OF_THE_MACHINE:
        if isinstance(operation, kind) and number in errnos:
            return machine_error(str(error))
    return error


def without_module(operation: SetImpairment, link: str, module: str, detail: str) -> LabImpossible:
    """A link that cannot be impaired because the kernel lacks a module, and what to try, as `labctl doctor` has it."""
    from labctl.kernel.modules import remedy_for_qdisc

    came_back = describe_errno(errno.ENOENT) + (f" ({detail.rstrip('.')})" if detail else "")
    return LabImpossible(
        f"link {link}: cannot give what {operation.node}:{operation.ifname} sends {operation.impairment}: {came_back}. "
        f"This kernel has no {module.removeprefix('sch_')}. {remedy_for_qdisc(module)}"
    )


def subject(operation: Operation) -> str:
    """The object that the operation is about, as messages name it."""
    match operation:
        case MakeNode() | SetSysctl() | RemoveNode() | ResetSysctl():
            return f"node {operation.node}"
        case MakeLink() | RemoveLink():
            return f"link {operation.a} - {operation.b}"
        case _:
            return f"{operation.node}:{operation.ifname}"


def _attempted(operation: Operation) -> str:
    match operation:
        case MakeNode():
            return f"make the {operation.kind}'s network namespace"
        case MakeLink():
            return "make the veth pair"
        case MakeBridge():
            return "make the bridge"
        case SetSysctl():
            return f"set {operation.key}={operation.value}"
        case AddAddress():
            return f"add address {operation.address}"
        case AddRoute():
            return f"add route {operation.destination} via {operation.gateway}"
        case SetUp():
            return "set it up"
        case SetDown():
            return "set it down"
        case RemoveNode():
            return "remove its network namespace"
        case RemoveLink():
            return "remove the veth pair"
        case RemoveAddress():
            return f"remove address {operation.address}"
        case RemoveRoute():
            return f"remove route {operation.destination} via {operation.gateway}"
        case SetMtu():
            return f"set its MTU to {operation.mtu}"
        case ResetSysctl():
            return f"reset {operation.key}"
        case SetImpairment():
            if operation.impairment is None:
                return "let its packets pass unimpaired"
            return f"give what it sends {operation.impairment}"


def _hint(operation: Operation, number: int) -> str:
    for kind, errnos, hint in _HINTS:
        if isinstance(operation, kind) and number in errnos:
            return hint
    return ""


_OF_THE_MACHINE: tuple[tuple[type, tuple[int, ...], type[MachineError]], ...] = (
    (MakeNode, (errno.ENOSPC, errno.EINVAL, errno.ENOSYS), MachineError),  # a limit; without CONFIG_NET_NS
    (MakeLink, (errno.EOPNOTSUPP,), MachineError),  # no veth, without which there are no links
    (MakeBridge, (errno.EOPNOTSUPP,), LabImpossible),
    (AddAddress, (errno.EAFNOSUPPORT, errno.EOPNOTSUPP), LabImpossible),  # no IPv6: a lab without can be made
)

_HINTS: tuple[tuple[type, tuple[int, ...], str], ...] = (
    (MakeNode, (errno.EPERM,), "Making namespaces needs root, or a user namespace in which we are root."),
    (MakeNode, (errno.ENOSPC,), "This machine allows too few. Try: sudo sysctl user.max_net_namespaces=20000"),
    (MakeNode, (errno.EMFILE, errno.ENFILE), DESCRIPTORS),
    (MakeNode, (errno.EROFS, errno.EACCES), "Is /proc/sys mounted read-only here (a container)?"),
    (MakeLink, (errno.EEXIST,), "Is an interface's name or index given twice on one node?"),
    (MakeLink, (errno.EXFULL,), "A bridge takes at most 1023 ports; spread them over several switches."),
    (MakeLink, (errno.EOPNOTSUPP,), "This kernel has no veth devices; try `modprobe veth` as root."),
    (MakeLink, (errno.EINVAL, errno.EADDRNOTAVAIL), "Are the MAC addresses unicast and the MTU between 68 and 65535?"),
    (MakeBridge, (errno.EOPNOTSUPP,), "This kernel has no bridge devices; try `modprobe bridge` as root."),
    (MakeBridge, (errno.EEXIST,), "Has a port of the switch the name of its bridge?"),
    (AddAddress, (errno.EEXIST,), "Is it given twice?"),
    (
        AddAddress,
        (errno.EACCES, errno.EAFNOSUPPORT, errno.EOPNOTSUPP),
        "Is IPv6 disabled there (net.ipv6.conf.*.disable_ipv6, ipv6.disable=1)?",
    ),
    (SetImpairment, (errno.ENODEV,), "Was the interface removed by hand? `labctl inspect` tells."),
    (
        SetImpairment,
        (errno.EINVAL, errno.EEXIST),
        "Was something put there by hand (tc qdisc show)? `labctl link A B clear` takes it away.",
    ),
    (SetMtu, (errno.EINVAL,), "An MTU is 68 to 65535 bytes."),
    (AddRoute, (errno.EEXIST,), "There is a route to that destination already."),
    (
        AddRoute,
        (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EINVAL),
        "Is the gateway on a network of that interface, and the link up?",
    ),
    (
        SetSysctl,
        (errno.ENOENT,),
        "This kernel has no such parameter in a network namespace of a lab; `sysctl -a` lists them.",
    ),
    (SetSysctl, (errno.EINVAL,), "Is that a value which the parameter takes?"),
    (
        SetSysctl,
        (errno.EACCES, errno.EPERM, errno.EROFS),
        "The parameter is the whole machine's, or /proc/sys is read-only here.",
    ),
)
