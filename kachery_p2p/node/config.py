"""What a node is started with."""

from __future__ import annotations

import dataclasses
import grp
from dataclasses import dataclass
from pathlib import Path

from kachery_p2p.local.places import SOCKET_NAME
from kachery_p2p.local.socket_path import MAX_SOCKET_PATH, fits
from kachery_p2p.protocol.errors import BadInput, BadPath
from kachery_p2p.protocol.limits import MAX_FILE, MAX_LABEL, MAX_OPTION_ITEMS, MAX_URL
from kachery_p2p.protocol.links.addresses import Network, parse_network
from kachery_p2p.protocol.quantities import check_rate
from kachery_p2p.storage.backing.setting import OriginSetting, checked


@dataclass(frozen=True)
class Config:
    """All of it is known before anything is opened; :meth:`check` says what cannot work."""

    state_dir: Path
    storage_dir: Path
    runtime_dir: Path
    label: str = ""
    listen: str | None = None
    """``HOST:PORT`` on which other nodes may connect; None: no port at all."""
    public_url: str | None = None
    """What other nodes can dial to reach this one (through a reverse proxy, say)."""
    proxy: bool = False
    """Willing to relay and index for the channels that make this node a proxy."""
    web: bool = True
    """A proxy serves the page that opens share links."""
    api_port: int | None = None
    auth_group: str | None = None
    socket_mode: int = 0o600
    others_read_only: bool = False
    trust_forwarded: tuple[str, ...] | None = None
    """Networks of reverse proxies whose X-Forwarded-For is believed, beside this computer itself; None:
    nobody's is."""
    origins: tuple[str, ...] = ()
    """Web sites (``https://lab.example.org``) whose pages may connect; others are refused."""
    private_networks: tuple[str, ...] = ()
    """Networks in which addresses that other members name are dialled, whatever is there."""
    lan: bool = False
    """Say in the local network that this node is there, and hear who else is."""
    tls_cert: Path | None = None
    tls_key: Path | None = None
    local_api: bool = True
    """False: nobody on this machine can talk to the node. For nodes inside another program."""
    allow_tasks: tuple[str, ...] | None = None
    """The task functions that backends of this node may run for others; None: all they offer."""
    max_storage: int | None = None
    """Bytes that the storage folder may hold; 0: without a limit; None: as it was said last."""
    max_upload: int | None = None
    """Bytes a second of files that go out; 0: without a limit; None: as it was said last."""
    max_download: int | None = None
    """The same of files that come from other nodes."""
    backing: tuple[OriginSetting, ...] | None = None
    """Origins and archives, the storage elsewhere that it reads; None: as they were said last."""
    durable: bool = True
    """False gives up safety against power cuts (not against crashes). For tests and scratch."""

    def address(self) -> tuple[str, int] | None:
        """``listen``, split. Raises BadInput."""
        if self.listen is None:
            return None
        host, colon, port = self.listen.rpartition(":")
        if not colon or not host or not port.isdigit() or int(port) > 65_535:
            raise BadInput(
                what=f"--listen {self.listen}", reason="it must be HOST:PORT, such as 0.0.0.0:8080"
            )
        return host.strip("[]"), int(port)

    def trusted(self) -> tuple[Network, ...] | None:
        """``trust_forwarded``, parsed. Raises BadInput."""
        if self.trust_forwarded is None:
            return None
        return _networks("--trust-forwarded", self.trust_forwarded)

    def private(self) -> tuple[Network, ...]:
        """``private_networks``, parsed. Raises BadInput."""
        return _networks("--private-network", self.private_networks)

    @property
    def is_shared(self) -> bool:
        """Whether others than the user who started it may use the node."""
        return self.auth_group is not None or self.socket_mode & 0o077 != 0

    @property
    def others_may_read(self) -> bool:
        """Whether that is everybody on this computer, and not a group alone."""
        return self.socket_mode & 0o007 != 0 or (self.others_read_only and not self.auth_group)

    @property
    def socket_path(self) -> Path:
        return self.runtime_dir / SOCKET_NAME

    def group_id(self) -> int | None:
        """The id of ``auth_group``. Raises BadInput if there is no such group."""
        if self.auth_group is None:
            return None
        try:
            return grp.getgrnam(self.auth_group).gr_gid
        except KeyError:
            raise BadInput(
                what=f"--auth-group {self.auth_group}", reason="there is no such group"
            ) from None

    def check(self) -> None:
        """Raises BadInput, BadPath for what can never work."""
        self._check_text()
        self.address()
        self.group_id()
        self.trusted()
        self.private()
        self._check_origins()
        checked(self.backing or ())
        if self.max_storage is not None and not 0 <= self.max_storage <= MAX_FILE:
            raise BadInput(what="--max-storage", reason=f"not between 0 and {MAX_FILE} bytes")
        for what, rate in (("upload", self.max_upload), ("download", self.max_download)):
            check_rate(rate or 0, f"--max-{what}")
        if len(self.label) > MAX_LABEL:
            raise BadInput(what="--label", reason=f"longer than {MAX_LABEL} characters")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise BadInput(what="--tls-cert", reason="--tls-cert and --tls-key go together")
        if self.public_url is not None and (
            len(self.public_url) > MAX_URL or not self.public_url.startswith(("ws://", "wss://"))
        ):
            raise BadInput(
                what=f"--public-url {self.public_url}", reason="it must be a ws:// or wss:// URL"
            )
        for folder in (self.state_dir, self.storage_dir, self.runtime_dir):
            self._check_name(folder)
        if self.local_api and not fits(self.socket_path):
            raise BadInput(
                what=f"socket path {self.socket_path}",
                reason=f"longer than the {MAX_SOCKET_PATH} bytes that the system allows; set "
                "XDG_RUNTIME_DIR to a shorter folder",
            )

    def _check_text(self) -> None:
        """What was typed is told to others, to clients at least, and that is text."""
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            for text in value if isinstance(value, tuple) else (value,):
                if isinstance(text, str) and not text.isascii():
                    option = f"--{field.name.replace('_', '-')}"
                    try:
                        text.encode()
                    except UnicodeEncodeError:
                        raise BadInput(
                            what=option, reason=f"{text!r:.200} is no UTF-8, or the locale says so"
                        ) from None

    def _check_name(self, folder: Path) -> None:
        """Where it is, is told to clients, and that is text."""
        try:
            str(folder).encode()
        except UnicodeEncodeError:
            raise BadPath(
                path=str(folder),
                reason="its name is no UTF-8, or the locale says so; choose another folder, or set "
                "LC_ALL=C.UTF-8",
            ) from None

    def _check_origins(self) -> None:
        if len(self.origins) > MAX_OPTION_ITEMS:
            raise BadInput(what="--origins", reason=f"more than {MAX_OPTION_ITEMS}")
        for origin in self.origins:
            scheme, _, host = origin.partition("://")
            if origin != "null" and (not scheme or not host or "/" in host):
                raise BadInput(
                    what=f"--origins {origin[:200]!r}",
                    reason="it must be what a browser says, such as https://lab.example.org, "
                    "without a path",
                )


def _networks(option: str, texts: tuple[str, ...]) -> tuple[Network, ...]:
    if len(texts) > MAX_OPTION_ITEMS:
        raise BadInput(what=option, reason=f"more than {MAX_OPTION_ITEMS} networks")
    try:
        return tuple(map(parse_network, texts))
    except BadInput as error:
        reason = f"{error.fields['reason']}; write it like 10.0.0.0/8"
        raise BadInput(what=option, reason=reason) from error
