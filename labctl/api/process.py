"""What is done to the process that uses the API, rather than to a lab."""

from __future__ import annotations


def enter_private_network() -> bool:
    """Give this process a network of its own, so that `Host.netns()` really enters hosts without root.

    For an ordinary user, in a single-threaded process, before anything else: it goes to a user, network and mount
    namespace of its own, in which it is root (of nothing but those) and has a loopback interface; the machine's network
    is out of reach from then on, for all that it starts, too. Returns False, and does nothing, for root.
    MachineError, with the remedy, where there are several threads or the machine does not let users do this.
    """
    from labctl.kernel import privilege

    return privilege.enter_private_network()
