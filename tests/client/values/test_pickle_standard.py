"""Values of the standard library in pickles: the same come back, made as their users make them."""

from __future__ import annotations

import datetime
import decimal
import pathlib
import pickle
import struct
import uuid
import zoneinfo
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kachery_p2p.client.values import codecs, pickles
from kachery_p2p.client.values.pickle_standard import make
from kachery_p2p.protocol.errors import BadInput, UnsafePickle

zones = st.none() | st.builds(
    datetime.timezone, st.timedeltas(datetime.timedelta(hours=-23), datetime.timedelta(hours=23))
)
values = st.one_of(
    st.dates(),
    st.times(timezones=zones),
    st.datetimes(timezones=zones),
    st.timedeltas(),
    st.decimals(),
    st.uuids(),
    st.lists(st.text(st.characters(exclude_characters="\0"), max_size=5)).map(
        lambda p: pathlib.Path(*p)
    ),
)


def same(one: Any, other: Any) -> bool:
    if isinstance(one, decimal.Decimal):
        return str(one) == str(other)
    return type(one) is type(other) and repr(one) == repr(other)


@given(st.lists(values, max_size=5), st.integers(2, pickle.HIGHEST_PROTOCOL))
def test_they_come_back_the_same_by_any_protocol(made: list[Any], protocol: int) -> None:
    shared = [*made, made[0] if made else None]
    assert all(map(same, shared, pickles.loads(pickles.dumps(shared))))
    # Before protocol 4 Python leaves out which of two equal hours it is.
    pickled = pickle.dumps(shared, protocol)
    assert all(map(same, pickle.loads(pickled), pickles.loads(pickled)))


@pytest.mark.parametrize(
    "value",
    [
        datetime.datetime.fromisoformat("2020-10-25T02:30").replace(fold=1),
        datetime.time(2, 30, fold=1, tzinfo=datetime.UTC),
        datetime.datetime.fromisoformat("9999-12-31T23:59:59.999999"),
        datetime.datetime.min.replace(tzinfo=datetime.timezone(datetime.timedelta(hours=1), "CET")),
        datetime.UTC,
        decimal.Decimal("-NaN123"),
        decimal.Decimal("1E+999999"),
        uuid.uuid1(),
        pathlib.PureWindowsPath("C:/a"),
        pathlib.PurePosixPath("/a"),
        {datetime.date(2020, 1, 1): {uuid.UUID(int=7)}},
    ],
)
def test_odd_ones_come_back_the_same_too(value: Any) -> None:
    loaded = pickles.loads(pickles.dumps(value))
    assert same(loaded, value)
    assert getattr(loaded, "fold", 0) == getattr(value, "fold", 0)


def test_one_uuid_in_two_places_is_one() -> None:
    one = uuid.uuid4()
    loaded = pickles.loads(pickles.dumps([one, one, {one: one}]))
    assert loaded[0] is loaded[1]
    assert loaded[2] == {one: one}


class _Sub(datetime.date):
    pass


class Decimal(decimal.Decimal):
    """Calls itself as one that is let through."""


Decimal.__module__ = "decimal"


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (_Sub(2020, 1, 1), "_Sub at x"),
        ([Decimal(1)], r"decimal.Decimal at x\[0\]"),
        (datetime.datetime(2020, 1, 1, tzinfo=zoneinfo.ZoneInfo("UTC")), "datetime.datetime at x"),
        (zoneinfo.ZoneInfo("UTC"), "ZoneInfo at x"),
    ],
)
def test_what_only_looks_like_one_is_refused(value: Any, told: str) -> None:
    with pytest.raises(UnsafePickle, match=told):
        pickles.dumps(value)
    with pytest.raises((UnsafePickle, BadInput, pickle.PicklingError)):
        pickles.loads(pickle.dumps(value, 4))


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("datetime", (b"\x07\xe4\x01\x63" + bytes(6),)),  # day 99
        ("datetime", (b"\x07\xe4\x01\x01\x63" + bytes(5),)),  # hour 99
        ("datetime", (b"\x07\xe4\x00\x01" + bytes(6),)),  # month 0
        ("datetime", (b"\0" * 10,)),
        ("date", (b"\x07\xe4\x0d\x01",)),
        ("time", (b"\x18" + bytes(5),)),
        ("time", (b"\0\0\0\xff\xff\xff",)),
        ("timedelta", (10**12, 0, 0)),
        ("timezone", (datetime.timedelta(days=2),)),
    ],
)
def test_parts_that_make_no_value_are_refused(name: str, args: tuple[Any, ...]) -> None:
    """Python's own unpickler makes some of these."""
    with pytest.raises((ValueError, OverflowError)):
        make(name, args)


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x04cuuid\nUUID\n)\x81}\x8c\x03int\x8c\x01xsb.",
        b"\x80\x04cuuid\nUUID\n)\x81}(\x8c\x03intK\x01\x8c\x01yK\x01ub.",
        b"\x80\x04cuuid\nUUID\n)\x81}\x8c\x03intJ\xff\xff\xff\xffsb.",
        b"\x80\x04cuuid\nUUID\n)\x81.",
        b"\x80\x04cuuid\nUUID\n\x8c\x01x\x85R.",
        b"\x80\x04cdatetime\ndatetime\n)\x81.",
        b"\x80\x04cpathlib\nPosixPath\nK\x01\x85R.",
        b"\x80\x04cpathlib\nPosixPath\n\x8c\x02a\0\x85}\x86R.",
        b"\x80\x04cdecimal\nDecimal\n\x8c\x01x\x85R.",
        b"\x80\x04cdatetime\ndatetime\nC\x0a" + bytes(10) + b"\x8c\x01z\x86R.",
    ],
)
def test_what_no_pickler_wrote_is_refused(data: bytes) -> None:
    with pytest.raises((UnsafePickle, BadInput)):
        pickles.loads(data)


@pytest.mark.parametrize(
    ("value", "remedy"),
    [
        (datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC), r"\.isoformat\(\)"),
        (datetime.date(2020, 1, 1), r"\.isoformat\(\)"),
        (datetime.timedelta(1), r"total_seconds"),
        (decimal.Decimal("1.1"), r"str\(x\), which keeps all its digits"),
        (uuid.UUID(int=1), r"str\(x\)"),
        (pathlib.Path("/a"), r"str\(x\)"),
    ],
)
def test_in_json_they_are_refused_with_how_to_write_them(value: Any, remedy: str) -> None:
    with pytest.raises(BadInput, match=rf"at \['a'\]\[0\]: .*{remedy}.*"):
        codecs.json_to_bytes({"a": [value]})


def test_a_struct_is_no_value_of_these() -> None:
    with pytest.raises(UnsafePickle):
        pickles.dumps(struct.Struct("<I"))
