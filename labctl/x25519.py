"""Public keys of WireGuard: X25519 (RFC 7748, section 5).

Forty lines instead of a library: the only one that is widely kept, cryptography, takes 50 ms to import and a compiled
wheel, for one multiplication a key. It is not hardened against timing, and need not be: the keys are those of a lab.
"""

from __future__ import annotations

import base64

KEY_BYTES = 32
BASE_POINT = 9
_P = 2**255 - 19
_A24 = 121665


def public_key_of(private_key: str) -> str:
    """Return the public key of a private key, both in base64. ValueError."""
    return base64.b64encode(multiply(decode_key(private_key), BASE_POINT)).decode()


def decode_key(text: str) -> bytes:
    """Return the 32 bytes of a key in base64, the form of wg(8). ValueError."""
    key = base64.b64decode(text, validate=True)
    if len(key) != KEY_BYTES:
        raise ValueError(f"a key has {KEY_BYTES} bytes in base64, not {len(key)}")
    return key


def multiply(scalar: bytes, u: int) -> bytes:
    """Return the u-coordinate of scalar * u: the Montgomery ladder of RFC 7748."""
    k = int.from_bytes(scalar, "little") & ~7 & (1 << 255) - 1 | 1 << 254
    x2, z2, x3, z3, swap = 1, 0, u, 1, 0
    for t in reversed(range(255)):
        bit = k >> t & 1
        if swap ^ bit:
            x2, x3, z2, z3 = x3, x2, z3, z2
        swap = bit
        a, b = (x2 + z2) % _P, (x2 - z2) % _P
        aa, bb = a * a % _P, b * b % _P
        e = (aa - bb) % _P
        da, cb = (x3 - z3) * a % _P, (x3 + z3) * b % _P
        x3, z3 = (da + cb) ** 2 % _P, u * (da - cb) ** 2 % _P
        x2, z2 = aa * bb % _P, e * (aa + _A24 * e) % _P
    if swap:
        x2, z2 = x3, z3
    return (x2 * pow(z2, _P - 2, _P) % _P).to_bytes(KEY_BYTES, "little")
