"""An S3 bucket as an archive: moto's standalone server stands in for one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kachery_p2p.protocol.errors import OriginError, OriginRefused, OriginUnreachable
from kachery_p2p.protocol.limits import MANIFEST_CHUNK, MIB
from tests.node.harness import Live, laboratory

from .folders import content
from .lab import lab_with
from .servers import s3

LARGE = MANIFEST_CHUNK + 10 * MIB


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch, s3(patch) as url:
        yield url


async def test_a_bucket_is_an_archive_and_parts_of_it_are_served(bucket: str) -> None:
    data = content(LARGE)
    async with lab_with(bucket, archive=True) as lab:
        sha1, manifest = await lab.store("A", data)
        report = await lab.call("A", "archive", sha1=sha1)
        assert report["archive"] == bucket
        assert report["files"] == 2
        await lab.call("A", "origins", refresh=True)  # a listing finds what was put there
        assert lab["A"].origin_index.sum_verified()[0] == 2
        await lab.call("A", "delete_file", sha1=sha1, copies=0)
        live = Live()
        ranges = [(20 * MIB, 22 * MIB)]
        await lab.live("B", live, "load_bytes", sha1=sha1, manifest=manifest, ranges=ranges)
        assert bytes(live.sent) == data[20 * MIB : 22 * MIB]
        thing = lab["A"].inventory.look(sha1)
        assert thing is not None
        assert thing.held < 1.1 * 2 * MIB
    # Another node, which has only the bucket.
    async with lab_with(bucket) as lab:
        told = (await lab.call("A", "origins"))["origins"][0]
        assert (told["state"], told["objects"]) == ("ok", 2)
        await lab.load("B", sha1, manifest)
        assert lab.bytes_of("B", sha1) == data


async def test_an_upload_that_is_broken_off_leaves_nothing(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"{bucket}/broken-off"
    async with lab_with(url, archive=True) as lab:
        sha1, _ = await lab.store("A", content(MANIFEST_CHUNK - 1))
        path = lab["A"].store.path(sha1)
        path.chmod(0o600)
        path.write_bytes(content(MANIFEST_CHUNK - 1, 9))  # found out after the last byte
        with pytest.raises(Exception, match="does not match"):
            await lab.call("A", "archive", sha1=sha1)
        told = (await lab.call("A", "origins", refresh=True))["origins"][0]
        assert (told["state"], told["objects"]) == ("ok", 0)


async def test_a_bucket_that_is_not_there_and_credentials_that_are_wrong(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with laboratory("A") as lab:
        origins = [{"url": "s3://no-such-bucket/x"}]
        await lab.call("A", "set_origins", origins=origins)
        told = (await lab.call("A", "origins", refresh=True))["origins"][0]
        assert told["state"] in (OriginUnreachable.code, "ok")  # empty, as S3 says it
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
        await lab.call("A", "set_origins", origins=[{"url": bucket}])
        told = (await lab.call("A", "origins", refresh=True))["origins"][0]
        assert told["state"] == OriginRefused.code


async def test_credentials_that_are_put_right_are_taken_without_a_restart(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tokens of a day, say, that something renews in a file."""
    credentials = tmp_path / "credentials"
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(credentials))
    async with laboratory("A") as lab:
        await lab.call("A", "set_origins", origins=[{"url": bucket}])
        told = (await lab.call("A", "origins", refresh=True))["origins"][0]
        assert told["state"] == OriginRefused.code
        credentials.write_text("[default]\naws_access_key_id = x\naws_secret_access_key = y\n")
        told = (await lab.call("A", "origins", refresh=True))["origins"][0]
        assert told["state"] == "ok"


async def test_an_object_that_has_gone_to_slow_storage_takes_no_other_with_it(bucket: str) -> None:
    """A rule of the bucket moves what is old to where it must be asked back from."""
    boto3 = pytest.importorskip("boto3")
    url = f"{bucket}/cold"
    async with lab_with(url, archive=True) as lab:
        cold, _ = await lab.store("A", content(200_000, 1))
        warm, _ = await lab.store("A", content(200_000, 2))
        for sha1 in (cold, warm):
            await lab.call("A", "archive", sha1=sha1)
            await lab.call("A", "delete_file", sha1=sha1, copies=0)
        name, _, prefix = url.removeprefix("s3://").partition("/")
        key = f"{prefix}/sha1/{cold[:2]}/{cold[2:4]}/{cold[4:6]}/{cold}"
        source = {"Bucket": name, "Key": key}
        client = boto3.client("s3")
        client.copy_object(Bucket=name, Key=key, CopySource=source, StorageClass="GLACIER")
        error = await lab.error("A", cold)
        assert isinstance(error, OriginError)
        assert not isinstance(error, OriginRefused)
        assert "though others may" in str(error)
        await lab.load("A", warm)
        assert (await lab.call("A", "origins"))["origins"][0]["state"] == "ok"
