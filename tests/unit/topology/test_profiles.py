"""Values over time: lists, CSV files and Mahimahi traces, and their mistakes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from labctl.topology.impairments import ProfileSource, read_changes
from labctl.topology.netem import Profile
from labctl.topology.profiles import MOMENTS_MAX, read_profile
from tests.unit.topology.drafts import from_lines, resolved


def profile(written: object, directory: Path = Path(), **base: object) -> Profile:
    return read_profile(ProfileSource(written, str(directory)), read_changes(base))


def shown(made: Profile) -> list[str]:
    return [f"{moment.at_us / 1e6:g}: {moment.impairment}" for moment in made.moments]


def test_a_moment_leaves_the_values_that_it_does_not_have() -> None:
    made = profile([{"at": "0s", "delay": "10ms"}, {"at": 5, "loss": "1%"}, {"at": "1m", "delay": 0}], rate="8mbit")
    assert shown(made) == [
        "0: delay 10ms rate 8mbit",
        "5: delay 10ms loss 1% rate 8mbit",
        "60: loss 1% rate 8mbit",
    ]
    assert made.loop_us == 0


def test_before_the_first_moment_the_link_has_its_own_values() -> None:
    made = profile({"moments": [{"at": "2s", "preset": "dsl"}], "loop": "4s"}, loss="1%")
    assert shown(made) == ["0: loss 1%", "2: delay 25ms rate 384kbit"]
    assert made.loop_us == 4_000_000


def test_a_csv_file_has_keys_in_its_first_row(tmp_path: Path) -> None:
    (tmp_path / "cell.csv").write_text("# of a cell\nat, rate, loss\n0, 12mbit,\n10.5, , 1%\n")
    assert shown(profile("cell.csv", tmp_path)) == ["0: rate 12mbit", "10.5: loss 1% rate 12mbit"]
    (tmp_path / "spreadsheet.csv").write_bytes(b"\xef\xbb\xbfat,rate\r\n0,12mbit\r\n")  # with a byte order mark
    assert shown(profile("spreadsheet.csv", tmp_path)) == ["0: rate 12mbit"]


def test_a_trace_is_the_rate_of_each_window_and_repeats(tmp_path: Path) -> None:
    first = [str(at) for at in range(1, 501)]  # a packet each millisecond
    third = [str(at) for at in range(1001, 1501, 2)]
    (tmp_path / "trace").write_text("\n".join(first + third) + "\n")
    made = profile("trace", tmp_path, loss="1%")
    assert shown(made) == [
        "0: loss 1% rate 12mbit queue 75000B",
        "0.5: loss 1% rate 1kbit queue 75000B",
        "1: loss 1% rate 6mbit queue 75000B",
    ]
    assert made.loop_us == 1_500_000
    assert profile({"file": "trace", "loop": False}, tmp_path).loop_us == 0
    assert [moment.at_us for moment in profile({"file": "trace", "window": "1s"}, tmp_path).moments] == [0, 1_000_000]


def test_a_link_s_profile_holds_for_each_direction_and_an_end_s_for_its_own() -> None:
    topology = resolved(
        "hosts: {a: , b: }",
        "links: [{ends: [a, {node: b, profile: [{at: 1s, loss: 3%}]}], loss: 1%, profile: [{at: 1s, loss: 2%}]}]",
    )
    found = [topology.node(node).interface("eth0").impairment for node in "ab"]
    assert [shown(one.profile)[-1] for one in found if one and one.profile] == ["1: loss 2%", "1: loss 3%"]
    assert str(found[0]) == "loss 1%, profile of 2 moments"


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("absent.csv", "cannot read the profile absent.csv: No such file or directory"),
        ("wrong.csv", "needs a first row of keys with `at`"),
        ("wide.csv", "more values than keys"),
        ("mixed.trace", "needs a time in milliseconds, in order: `x`"),
        ([], "a profile needs moments"),
        ([{"delay": "1ms"}], "each moment of a profile needs `at`"),
        ([{"at": "1s", "delai": "1ms"}], "at 1s: unknown key `delai`; did you mean `delay`?"),
        ([{"at": "1s", "jitter": "1ms"}], "at 1s: jitter needs a delay"),
        ([{"at": "2s", "loss": "1%"}, {"at": "1s", "loss": "2%"}], "in order of time, not 1s after 2s"),
        ({"file": "x", "moments": []}, "either `file` or `moments`"),
        ({"file": "x", "repeat": 1}, "a profile has no key `repeat`: file, moments, loop, window"),
        ({"moments": [{"at": "2s"}], "loop": "1s"}, "cannot repeat after 1s: its last moment is later"),
        ({"moments": [{"at": "2s"}], "loop": True}, "`loop` needs the time after which"),
        ([{"at": number} for number in range(MOMENTS_MAX + 1)], "at most 5000 moments, not 5001"),
    ],
)
def test_mistakes_say_what_to_write(written: object, said: str, tmp_path: Path) -> None:
    (tmp_path / "wrong.csv").write_text("delay\n1ms\n")
    (tmp_path / "wide.csv").write_text("at,delay\n1,1ms,2\n")
    (tmp_path / "mixed.trace").write_text("\n".join([str(at) for at in range(1, 12)] + ["x"]))
    with pytest.raises(ValueError, match=said):
        profile(written, tmp_path)


def test_a_mistake_in_a_file_is_reported_at_its_profile() -> None:
    _, mistakes = from_lines("hosts: {a: , b: }", "links: [{ends: [a, b], profile: absent.csv}]")
    assert "random.yaml:2:33: cannot read the profile absent.csv" in str(mistakes[0])


def test_special_files_are_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for name in ("fifo", "/dev/zero"):
        with pytest.raises(ValueError, match=f"cannot read the profile {name}: .*not a regular file"):
            profile(name, tmp_path)
