"""Rules for the names of nodes and interfaces.

A check returns the end of a sentence (``is longer than 63 bytes``), or "" for a valid name; the caller puts the name
and its position in front.
"""

from __future__ import annotations

NODE_NAME_MAX_BYTES = 63  # HOST_NAME_MAX is 64 on Linux (uname(2)); a DNS label is at most 63
INTERFACE_NAME_MAX_BYTES = 15  # IFNAMSIZ is 16 with the final zero (linux/if.h)

LOOPBACK = "lo"
BRIDGE = "br0"  # a switch's bridge device, in the switch's own namespace
OUTSIDE_INTERFACE = "nat0"  # on a router with `nat`: its end of the veth pair to the machine

_HEXADECIMAL = frozenset("0123456789abcdefABCDEF")
_WORD = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_")
_RESERVED_NODES = frozenset({"localhost", "ip6-localhost", "ip6-loopback"})
# /proc/sys/net/ipv4/conf has directories named `all` and `default` beside those of the interfaces.
_RESERVED_INTERFACES = frozenset({LOOPBACK, "all", "default", BRIDGE, OUTSIDE_INTERFACE})


def name_key(name: str) -> str:
    """Return the form in which names are compared: host names are the same regardless of case."""
    if name.isascii():
        return name.lower()
    import unicodedata

    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def node_name_problem(name: str) -> str:
    """Return the reason why a node cannot have the name, or ""."""
    if not name:
        return "is empty"
    for character in name:
        if not _is_name_character(character):
            shown = "a space" if character == " " else f"`{character}`"
            shown = shown if character.isprintable() else f"the character U+{ord(character):04X}"
            return f"contains {shown}; allowed are letters, digits, `-`, `_` and `.`"
    if name[0] in "-.":
        return f"starts with `{name[0]}`"
    if name[-1] in "-.":
        return f"ends with `{name[-1]}`"
    if ".." in name:
        return "contains `..`"
    size_bytes = len(name.encode())
    if size_bytes > NODE_NAME_MAX_BYTES:
        return f"is {size_bytes} bytes long; at most {NODE_NAME_MAX_BYTES} are allowed"
    if all(map(_is_number, name.split("."))):
        # inet_aton(3) reads "1", "10.1" and "0x7f.1" as addresses, so getaddrinfo(3) would not look the name up.
        return "reads as an IPv4 address; put a letter in it"
    if name_key(name) in _RESERVED_NODES:
        return "is reserved: every host uses it for itself"
    return ""


def interface_name_problem(name: str) -> str:
    """Return the reason why an interface cannot have the name, or "".

    Only ASCII is valid: the kernel reads some UTF-8 bytes as spaces.
    """
    if not name:
        return "is empty"
    size_bytes = len(name.encode(errors="surrogatepass"))
    if size_bytes > INTERFACE_NAME_MAX_BYTES:
        return f"is {size_bytes} bytes long; the kernel allows {INTERFACE_NAME_MAX_BYTES}"
    if name[0] not in _WORD or not _WORD.issuperset(name.replace(".", "").replace("-", "")):
        return "is not valid: use ASCII letters, digits, `-`, `_` and `.`, and start with a letter, a digit or `_`"
    if name in _RESERVED_INTERFACES:
        return "is reserved for the kernel or labctl"
    return ""


def idna_form(name: str) -> str:
    """Return the name as resolvers send it (RFC 3490), or "" for an ASCII name or one without such a form."""
    if name.isascii():
        return ""
    try:
        encoded = name.encode("idna").decode("ascii")
    except UnicodeError:  # a script unknown to IDNA 2003, or a label that becomes too long
        return ""
    return "" if encoded == name else encoded


def _is_number(label: str) -> bool:
    """Whether it is written as a decimal or a hexadecimal number (`0x` counts, as for inet_aton(3))."""
    if label[:2] in ("0x", "0X"):
        return _HEXADECIMAL.issuperset(label[2:])
    return label.isascii() and label.isdecimal()


def _is_name_character(character: str) -> bool:
    if character in "-_." or character.isalnum():
        return True
    import unicodedata

    # Marks (category M) are parts of letters in many scripts: vowel signs, decomposed accents.
    return unicodedata.category(character).startswith("M")
