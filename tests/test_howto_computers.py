"""The how-tos that set up a whole computer, followed word for word on one that is made for it.

That computer is this one in namespaces of its own: its network, its processes, and its ``/etc``,
``/run``, ``/home`` and so on are not this one's. No systemd is in it; :mod:`tests.service_manager`
does what the units say. nginx is the real one.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemons import ROOT, short_folder
from tests.documents import END_SECONDS, Reading, Shell, moved
from tests.netns import hosts
from tests.service_manager import as_user

REASON = hosts.why_not()
pytestmark = [
    pytest.mark.netns,
    pytest.mark.processes,
    pytest.mark.skipif(REASON is not None, reason=str(REASON)),
]
NAME = "lab.example.org"
CERTIFICATE = f"/etc/letsencrypt/live/{NAME}"
TERMINALS = {"A": "alice", "C": "carol", "O": "olga"}
"""R is root."""
NUMBERS = {"alice": 2001, "carol": 2002, "olga": 2003}
USERS = " ".join(f"{name}:{number}" for name, number in NUMBERS.items())
MANAGER = f"env PYTHONPATH={ROOT} {sys.executable} -m tests.service_manager"
TYPED = {
    "sudo systemctl daemon-reload": f"{MANAGER} daemon-reload",
    "sudo systemctl enable --now kachery-p2p": f"{MANAGER} restart kachery-p2p",
    "sudo systemctl restart kachery-p2p": f"{MANAGER} restart kachery-p2p",
    "sudo systemctl reload nginx": f"{MANAGER} reload nginx",
}
SETUP = f"""
set -e
ip link set lo up
mkdir -p {{folder}}/etc {{folder}}/lib/nginx
cp -a /etc/. {{folder}}/etc
mount --bind {{folder}}/etc /etc
mount --bind {{folder}}/lib /var/lib
for each in /run /opt /home /var/log /var/mail; do mount -t tmpfs none $each; done
mkdir -p /var/log/nginx /opt/kachery-p2p/bin /home/alice /home/carol /home/olga /etc/systemd/system
for each in {USERS}; do
  name=${{{{each%:*}}}} id=${{{{each#*:}}}}
  echo "$name:x:$id:$id::/home/$name:/bin/bash" >> /etc/passwd
  echo "$name:x:$id:" >> /etc/group
  mkdir -p /run/user/$id
  chown $id:$id /home/$name /run/user/$id
done
echo '127.0.0.1 localhost {NAME}' > /etc/hosts
printf '#!/bin/sh\\nPYTHONPATH={ROOT} exec {sys.executable} -m kachery_p2p.cli "$@"\\n' \
  > /opt/kachery-p2p/bin/kachery-p2p
chmod 755 /opt/kachery-p2p/bin/kachery-p2p
mkdir -p {CERTIFICATE}
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN={NAME} \
  -addext subjectAltName=DNS:{NAME} -keyout {CERTIFICATE}/privkey.pem \
  -out {CERTIFICATE}/fullchain.pem 2>/dev/null
"""


class Computer:
    """The namespaces, and terminals in them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.chmod(0o1777)
        setup = SETUP.format(folder=folder)
        self._init = subprocess.Popen(
            ["unshare", "-m", "-n", "-p", "--fork", "--mount-proc", "--kill-child",
             "bash", "-c", f"{setup}\necho ready\nexec sleep infinity"],
            stdout=subprocess.PIPE, cwd="/",
        )  # fmt: skip
        assert self._init.stdout
        assert self._init.stdout.readline() == b"ready\n"
        children = Path(f"/proc/{self._init.pid}/task/{self._init.pid}/children").read_text()
        self._pid = children.split()[0]

    def shell(self, terminal: str) -> Shell:
        user = TERMINALS.get(terminal)
        enter = ["nsenter", "--target", self._pid, "--mount", "--net", "--pid", "--wd=/"]
        path = "/opt/kachery-p2p/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        if user is None:
            shell = Shell([*enter, "bash", "--norc"], {"PATH": path, "HOME": "/root"}, self._folder)
            shell.run('sudo() { "$@"; }')
            return shell
        environment = {
            "PATH": path,
            "HOME": f"/home/{user}",
            "XDG_RUNTIME_DIR": f"/run/user/{NUMBERS[user]}",
            "SSL_CERT_FILE": f"{CERTIFICATE}/fullchain.pem",
        }
        return Shell([*enter, *as_user(user, user), "bash", "--norc"], environment, self._folder)

    def adapted(self, text: str) -> str:
        return moved(text, tmp=self._folder, data=self._folder / "data")

    def write(self, path: str, text: str) -> None:
        """It lies in this computer's own /etc, which is a folder here."""
        assert path.startswith("/etc/")
        there = self._folder / path.lstrip("/")
        there.parent.mkdir(parents=True, exist_ok=True)
        there.write_text(self.adapted(text), encoding="utf-8")

    def close(self) -> None:
        self._init.kill()
        self._init.wait(END_SECONDS)
        assert self._init.stdout
        self._init.stdout.close()


@pytest.fixture
def computer() -> Iterator[Computer]:
    with short_folder() as folder:
        made = Computer(folder)
        try:
            yield made
        finally:
            made.close()


@pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not installed")
def test_howto_proxy(computer: Computer) -> None:
    Reading(computer, replaced=TYPED).follow(ROOT / "docs/howto-proxy.md")


def test_howto_shared_computer(computer: Computer) -> None:
    Reading(computer, replaced=TYPED).follow(ROOT / "docs/howto-shared-computer.md")
