"""Calls in the form that scripts for kachery_client 1.2 and kachery_p2p 0.8 have them."""

from __future__ import annotations

import json

import pytest

import kachery_client as kc
from tests.daemons import Lab

WRITES = """
import kachery_client as kc

feed = kc.load_feed(feed_name_or_uri="results", create=True)
subfeed = feed.load_subfeed(subfeed_name="n", position=0, channel="*local*")
assert feed.is_writeable and subfeed.is_writeable
subfeed.append_messages([{"n": 1}, {"n": 2}])
assert kc.load_subfeed(subfeed_uri=subfeed.uri, channel="*local*").is_writeable
assert subfeed.get_uri() == subfeed.uri and subfeed.get_position() == 0
assert subfeed.get_subfeed_name() == "n"
assert subfeed.get_subfeed_hash() == subfeed.subfeed_hash
print(subfeed.uri)
"""

READS = """
import json, sys
import kachery_client as kc

subfeed = kc.load_subfeed(sys.argv[1], channel="lab")
assert not subfeed.is_writeable
watch = {"feedId": sys.argv[1].split("/")[2], "subfeedName": "n", "position": 0}
found = kc.watch_for_new_messages({"mine": watch}, wait_msec=10_000, channel="lab", signed=False)
assert found == {"mine": [{"n": 1}, {"n": 2}]}, found
subfeed.print_signed_messages()
try:
    kc.watch_for_new_messages({"mine": watch}, wait_msec=10, channel="another")
except kc.LoadFileError as error:
    print(json.dumps(error.code))
"""


@pytest.mark.processes
def test_feeds_as_older_scripts_call_them(lab: Lab) -> None:
    uri = lab.a.python(WRITES).strip()
    *printed, refused = map(json.loads, lab.b.python(READS, uri).splitlines())
    for number, signed in enumerate(printed, 1):
        kc.check_signed_message(signed, uri)
        assert signed["body"]["message"] == {"n": number}
    assert len(printed) == 2
    assert refused == "unknown-channel"


def test_a_parsed_uri_gives_its_text() -> None:
    text = "sha1://6af826b3d648ccba6b4bbe58e93e22add640d728/file.txt"
    uri = kc.parse_uri(text)
    assert uri.emit_uri() == str(uri) == kc.build_uri(uri_object=uri) == text
    assert uri.filename == "file.txt"


def test_every_error_is_a_load_file_error() -> None:
    with pytest.raises(kc.LoadFileError):
        kc.load_text("sha1://0123")
