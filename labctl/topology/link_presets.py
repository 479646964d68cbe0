"""Presets of links by kind of access, from published measurements.

A preset has what a subscriber gets: packets to it (`down`) and from it (`up`). The delay of each direction is half
of the round trip that the source gives. No loss is set: the queue of the rate drops packets itself.
"""

from __future__ import annotations

from collections.abc import Mapping

from labctl.structs import Struct


class Preset(Struct, frozen=True):
    """Rates in bits a second, 0 for none; the delay of each direction; and where the numbers come from."""

    about: str
    down_bit_s: int
    up_bit_s: int
    delay_us: int
    source: str

    def values(self, *, is_far: bool) -> dict[str, int]:
        """Return the values by key, as `impairments.read` does; `is_far` for packets to the subscriber."""
        values = {"delay": self.delay_us, "rate": self.down_bit_s if is_far else self.up_bit_s}
        return {key: value for key, value in values.items() if value}


_WEBPAGETEST = "WebPageTest, www/settings/connectivity.ini.sample"

PRESETS: Mapping[str, Preset] = {
    "lan": Preset("Gigabit Ethernet", 1_000_000_000, 1_000_000_000, 0, "IEEE 802.3ab (1000BASE-T)"),
    "wifi": Preset(
        "a wireless LAN: one stream in a channel of 20 MHz, RTT 20 ms",
        65_000_000,
        65_000_000,
        10_000,
        "IEEE 802.11n, MCS 7; half of all packets wait longer: Pei et al., WiFi Can Be the Weakest Link of Round Trip "
        "Network Latency in the Wild, INFOCOM 2016",
    ),
    "dsl": Preset("DSL, RTT 50 ms", 1_500_000, 384_000, 25_000, _WEBPAGETEST),
    "cable": Preset("cable, RTT 28 ms", 5_000_000, 1_000_000, 14_000, _WEBPAGETEST),
    "3g": Preset("3G, RTT 300 ms", 1_600_000, 768_000, 150_000, _WEBPAGETEST),
    "4g": Preset(
        "LTE, RTT 55 ms",
        21_300_000,
        6_300_000,
        27_500,
        "Opensignal, State of Mobile: USA, May 2019 (means); Daoudi, Web Performance Calendar 2013 (median RTT)",
    ),
    "5g": Preset(
        "5G, RTT 51 ms",
        166_130_000,
        21_080_000,
        25_500,
        "Ookla, Growing and Slowing: The State of 5G Worldwide in 2021 (medians); Speedtest, USA, Q2 2023 (RTT)",
    ),
    "satellite-leo": Preset(
        "a low Earth orbit, RTT 50 ms",
        87_250_000,
        13_540_000,
        25_000,
        "Ookla, Starlink in the USA, Q3 2021 (medians); Michel et al., A First Look at Starlink Performance, IMC 2022 "
        "(median RTT)",
    ),
    "satellite-geo": Preset(
        "a geostationary orbit, RTT 558 ms",
        19_300_000,
        2_540_000,
        279_000,
        "RFC 2488, section 2; Ookla, HughesNet in the USA, Q3 2021 (medians)",
    ),
    "transatlantic": Preset(
        "New York - London, RTT 59 ms", 0, 0, 29_475, "Hibernia Express, measured 2015: 58.95 ms (no rate)"
    ),
}
