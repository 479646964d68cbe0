"""The rules for names of nodes and interfaces: what is allowed, and when two names are the same.

A check returns what is wrong as a sentence's end (``is longer than 63 bytes``), or "" for a good name; whoever calls
knows what the name belongs to and where it stands.
"""

from __future__ import annotations

import re
import unicodedata

NODE_NAME_MAX_BYTES = 63  # HOST_NAME_MAX is 64 on Linux (uname(2)); a DNS label is at most 63
INTERFACE_NAME_MAX_BYTES = 15  # IFNAMSIZ is 16 with the final zero (linux/if.h)

BRIDGE = "br0"  # the name of a switch's bridge device, in the switch's own namespace
OUTSIDE_INTERFACE = "nat0"  # of a router with `nat`: the end of the veth pair that leads to the machine

_NUMBER = re.compile(r"0[xX][0-9a-fA-F]*|[0-9]+")
_RESERVED_NODES = frozenset({"localhost", "ip6-localhost", "ip6-loopback"})
# Directories of that name stand beside the interfaces' own in /proc/sys/net/ipv4/conf.
_RESERVED_INTERFACES = frozenset({"lo", "all", "default", BRIDGE, OUTSIDE_INTERFACE})
_INTERFACE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


def name_key(name: str) -> str:
    """What two names have in common when they are the same: host names are compared without case."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def node_name_problem(name: str) -> str:
    """What is wrong with a node's name, or ""."""
    if not name:
        return "is empty"
    for character in name:
        if not _is_name_character(character):
            return f"contains {_show(character)}; allowed are letters, digits, `-`, `_` and `.`"
    if name[0] in "-.":
        return f"starts with `{name[0]}`"
    if name[-1] in "-.":
        return f"ends with `{name[-1]}`"
    if ".." in name:
        return "contains `..`"
    size_bytes = len(name.encode())
    if size_bytes > NODE_NAME_MAX_BYTES:
        return f"is {size_bytes} bytes long; at most {NODE_NAME_MAX_BYTES} are allowed"
    if all(_NUMBER.fullmatch(label) for label in name.split(".")):
        # inet_aton(3) takes "1", "10.1" and "0x7f.1" for addresses, so getaddrinfo would never look the name up.
        return "reads as an IPv4 address; put a letter in it"
    if name_key(name) in _RESERVED_NODES:
        return "is what every host calls itself"
    return ""


def interface_name_problem(name: str) -> str:
    """What is wrong with an interface's name, or "". ASCII only: the kernel takes some UTF-8 bytes for spaces."""
    if not name:
        return "is empty"
    size_bytes = len(name.encode(errors="surrogatepass"))
    if size_bytes > INTERFACE_NAME_MAX_BYTES:
        return f"is {size_bytes} bytes long; the kernel allows {INTERFACE_NAME_MAX_BYTES}"
    if not _INTERFACE_NAME.fullmatch(name):
        return "may have ASCII letters, digits, `-`, `_` and `.`, and starts with a letter, a digit or `_`"
    if name in _RESERVED_INTERFACES:
        return "is a name that the kernel or labctl uses itself"
    return ""


def idna_form(name: str) -> str:
    """The name as a resolver asks for it when it has letters outside ASCII (RFC 3490), or "" where there is none."""
    if name.isascii():
        return ""
    try:
        encoded = name.encode("idna").decode("ascii")
    except UnicodeError:  # a script that IDNA 2003 does not know, or a label that becomes too long
        return ""
    return "" if encoded == name else encoded


def _is_name_character(character: str) -> bool:
    # Marks (category M) are parts of letters in many scripts: vowel signs, decomposed accents.
    return character in "-_." or character.isalnum() or unicodedata.category(character).startswith("M")


def _show(character: str) -> str:
    if character == " ":
        return "a space"
    return f"`{character}`" if character.isprintable() else f"the character U+{ord(character):04X}"
