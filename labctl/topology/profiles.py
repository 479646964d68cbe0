"""Impairments over time: a list of moments, a CSV file, or a Mahimahi trace.

A moment has the keys of impairments; those that it does not have stay as they were at the moment before. In a CSV file
the first row has the keys, and each other row is a moment; an empty cell leaves a value. A Mahimahi trace has a line
for each packet of 1500 bytes that a link can deliver: the time in milliseconds, from 1, in order (mm-link(1)). It
becomes the rates of windows, and repeats. Lines that begin with # are comments.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path

from labctl.documents.yaml_tree import read_bytes
from labctl.structs import Struct, replace
from labctl.topology.impairments import (
    RATE_MAX_BIT_S,
    RATE_MIN_BIT_S,
    ProfileSource,
    Value,
    Values,
    expanded,
    merged,
    read_changes,
    together,
)
from labctl.topology.netem import Impairment, Moment, Profile, QueueLimit, QueueUnit
from labctl.units import duration_s, format_duration

MOMENTS_MAX = 5_000
FILE_MAX_BYTES = 64 << 20
WINDOW_S = 0.5
_EXAMPLE = "[{at: 0s, delay: 10ms}, {at: 5s, delay: 80ms}]"
_OPPORTUNITY_BITS = 1500 * 8  # of each line of a Mahimahi trace
_TRACE_WAIT_S = 0.05  # of a packet in the queue, at the highest rate of a trace
_QUEUE_MIN_BYTES = 70_000


class _Options(Struct):
    moments: object = None
    file: str = ""
    loop: object = None
    window_s: float = WINDOW_S


def read_profile(source: ProfileSource, base: Mapping[str, Value]) -> Profile:
    """Return the profile; `base` has the values (as `impairments.read` returns them) that moments add to.

    ValueError, with the reason. OSError is one, too.
    """
    options = _options(source.written)
    if options.file:
        path = Path(source.directory, options.file)
        try:
            content = read_bytes(path, FILE_MAX_BYTES)
            if len(content) > FILE_MAX_BYTES:
                raise ValueError(f"the profile {options.file} is larger than {FILE_MAX_BYTES >> 20} MiB")
            lines = [line for line in content.decode("utf-8-sig").splitlines() if not line.startswith("#")]
        except OSError as error:
            raise ValueError(f"cannot read the profile {options.file}: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise ValueError(f"the profile {options.file} is not text") from error
        if lines and all(line.strip().isdigit() for line in lines[:10]):
            return _of_trace(lines, options, base)
        moments = _moments(_rows(lines, options.file), base, source)
    else:
        moments = _moments(options.moments, base, source)
    return Profile(moments, _loop_us(options.loop, moments))


def _options(written: object) -> _Options:
    if isinstance(written, str):
        return _Options(file=written)
    if isinstance(written, list):
        return _Options(moments=written)
    if not isinstance(written, Mapping):
        raise ValueError(
            "a profile is a file, a list such as [{at: 0s, delay: 10ms}, {at: 5s, delay: 80ms}], or a mapping"
        )
    known = ("file", "moments", "loop", "window")
    if unknown := [key for key in written if key not in known]:
        raise ValueError(f"a profile has no key `{unknown[0]}`: {', '.join(known)}")
    if ("file" in written) == ("moments" in written):
        raise ValueError("a profile has either `file` or `moments`")
    window_s = duration_s(written["window"]) if "window" in written else WINDOW_S
    if window_s < 0.001:
        raise ValueError(f"the window `{written['window']}` is too short: the minimum is 1ms")
    return _Options(written.get("moments"), str(written.get("file", "")), written.get("loop"), window_s)


def _rows(lines: list[str], name: str) -> list[dict[str, object]]:
    try:
        rows = list(csv.DictReader(lines, skipinitialspace=True, strict=True))
    except csv.Error as error:
        raise ValueError(f"the profile {name} is not CSV: {error}") from error
    if not rows or "at" not in rows[0]:
        raise ValueError(f"the profile {name} needs a first row of keys with `at`, for example `at,delay,rate`")
    if any(None in row for row in rows):
        raise ValueError(f"the profile {name} has a row with more values than keys")
    return [{key.strip(): value.strip() for key, value in row.items() if value and value.strip()} for row in rows]


def _moments(written: object, base: Mapping[str, Value], source: ProfileSource) -> tuple[Moment, ...]:
    if not isinstance(written, list) or not written:
        raise ValueError(f"a profile needs moments: {_EXAMPLE}")
    if len(written) > MOMENTS_MAX:
        raise ValueError(f"a profile has at most {MOMENTS_MAX} moments, not {len(written)}")
    values: Values = dict(base)
    found: list[Moment] = []
    for one in written:
        if not isinstance(one, Mapping) or "at" not in one:
            raise ValueError("each moment of a profile needs `at`: {at: 5s, delay: 80ms}")
        at_us = round(_at_s(one["at"]) * 1e6)
        try:
            now = read_changes({key: value for key, value in one.items() if key != "at"})
            values = merged({} if "preset" in now else values, expanded(now, is_far=source.is_far))
            if not found and at_us:
                found.append(Moment(0, _together(base)))
            found.append(Moment(at_us, _together(values)))
        except ValueError as error:
            raise ValueError(f"at {format_duration(at_us / 1e6)}: {error}") from error
    for before, after in pairwise(found):
        if before.at_us >= after.at_us:
            times = f"{format_duration(after.at_us / 1e6)} after {format_duration(before.at_us / 1e6)}"
            raise ValueError(f"the moments of a profile are in order of time, not {times}")
    return tuple(found)


def _at_s(written: object) -> float:
    """Read `5s`; a plain number, as in tables, is seconds."""
    try:
        return float(str(written)) if float(str(written)) >= 0 else duration_s(written)
    except ValueError:
        return duration_s(written)


def _together(values: Mapping[str, Value]) -> Impairment:
    made, flaw = together(values)
    if flaw is not None:
        raise ValueError(flaw.message)
    return made


def _loop_us(written: object, moments: tuple[Moment, ...]) -> int:
    if written in (None, False):
        return 0
    if written is True:
        raise ValueError("`loop` needs the time after which the profile repeats: `loop: 60s`")
    loop_us = round(duration_s(written) * 1e6)
    if loop_us <= moments[-1].at_us:
        raise ValueError(f"the profile cannot repeat after {written}: its last moment is later")
    return loop_us


def _of_trace(lines: list[str], options: _Options, base: Mapping[str, Value]) -> Profile:
    rates = list(_rates(lines, options))
    window_us = round(options.window_s * 1e6)
    values: Values = dict(base)
    if "queue" not in values:  # the buffer of a link does not shrink with its rate
        size = max(int(max(rates) / 8 * _TRACE_WAIT_S), _QUEUE_MIN_BYTES)
        values["queue"] = QueueLimit(size, QueueUnit.BYTES)
    moments: list[Moment] = []
    impairment = _together({**values, "rate": RATE_MIN_BIT_S})
    for number, rate in enumerate(rates):
        if not moments or moments[-1].impairment.rate_bit_s != rate:
            moments.append(Moment(number * window_us, replace(impairment, rate_bit_s=rate)))
    if len(moments) > MOMENTS_MAX:
        raise ValueError(
            f"the trace has {len(moments)} different windows, at most {MOMENTS_MAX}: use a longer `window`"
        )
    return Profile(tuple(moments), 0 if options.loop is False else len(rates) * window_us)


def _rates(lines: list[str], options: _Options) -> Iterator[int]:
    """Yield the rate of each window, which is never 0: that would be no limit."""
    window_ms = options.window_s * 1000
    counts: dict[int, int] = {}
    last = 0
    for line in lines:
        text = line.strip()
        if not text:
            continue
        if not text.isdigit() or int(text) < last:
            raise ValueError(f"the trace {options.file} needs a time in milliseconds, in order: `{text}` is not")
        last = int(text)
        window = int(max(last - 1, 0) / window_ms)
        counts[window] = counts.get(window, 0) + 1
    for window in range(max(counts, default=0) + 1):
        rate = round(counts.get(window, 0) * _OPPORTUNITY_BITS / options.window_s / 8) * 8
        yield min(max(rate, RATE_MIN_BIT_S), RATE_MAX_BIT_S)


def with_profile(made: Impairment, values: Mapping[str, Value]) -> Impairment:
    """Return the impairment with the profile that is among the values, if there is one. ValueError."""
    source = values.get("profile")
    if not isinstance(source, ProfileSource):
        return made
    base = {key: value for key, value in values.items() if key != "profile"}
    return replace(made, profile=read_profile(source, base))


def in_directory(values: Values, directory: Path) -> Values:
    """Return the values with a profile whose file is relative to that directory."""
    source = values.get("profile")
    return (
        {**values, "profile": replace(source, directory=str(directory))}
        if isinstance(source, ProfileSource)
        else values
    )
