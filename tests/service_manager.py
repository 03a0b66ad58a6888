"""What ``systemctl`` does with a unit of the how-tos, where no systemd runs.

``python -m tests.service_manager daemon-reload | restart NAME | reload nginx``, as root, in a
sandbox. Of a unit it knows User, Group, StateDirectory, RuntimeDirectory and ExecStart; the rest is
checked by systemd's own ``systemd-analyze verify`` if that is installed.
"""

from __future__ import annotations

import os
import pwd
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

UNITS = Path("/etc/systemd/system")
SECONDS = 30
# The interpreter may lie in a folder that only root may enter; the right to read is not the right to
# connect to a socket, or to write.
READ_ALL = ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]


def settings(name: str) -> dict[str, str]:
    """The [Service] settings of a unit and its drop-ins; of one that stands twice, the last."""
    found: dict[str, str] = {}
    unit = UNITS / f"{name}.service"
    for path in [unit, *sorted(Path(f"{unit}.d").glob("*.conf"))]:
        section = ""
        for line in path.read_text(encoding="utf-8").replace("\\\n", " ").splitlines():
            if line.startswith("["):
                section = line
            elif section == "[Service]" and "=" in line:
                key, _, value = line.partition("=")
                found[key] = value
    return found


def as_user(user: str, group: str) -> list[str]:
    return ["setpriv", "--reuid", user, "--regid", group, "--init-groups", *READ_ALL]


def restart(name: str) -> None:
    service = settings(name)
    user, group = service["User"], service["Group"]
    stop(name)
    for folder in ("/var/lib/" + service["StateDirectory"], "/run/" + service["RuntimeDirectory"]):
        os.makedirs(folder, exist_ok=True)
        shutil.chown(folder, user, group)
    log = Path(f"/var/log/{name}.log")
    with log.open("ab") as output:
        process = subprocess.Popen(
            [*as_user(user, group), *shlex.split(service["ExecStart"])],
            env={"PATH": "/usr/bin:/bin", "HOME": pwd.getpwnam(user).pw_dir},
            stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True, cwd="/",
        )  # fmt: skip
    Path(f"/run/{name}.pid").write_text(str(process.pid))
    socket = Path("/run", service["RuntimeDirectory"], "node.sock")
    deadline = time.monotonic() + SECONDS
    while not socket.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"{name} does not run: {log.read_text()}")
        time.sleep(0.05)
    process.returncode = 0  # it lives on


def stop(name: str) -> None:
    written = Path(f"/run/{name}.pid")
    if written.exists():
        pid = int(written.read_text())
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + SECONDS
        while Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text():
            if time.monotonic() > deadline:
                raise SystemExit(f"{name} does not stop")
            time.sleep(0.05)


def verify() -> None:
    if shutil.which("systemd-analyze"):
        for unit in UNITS.glob("kachery*.service"):
            subprocess.run(["systemd-analyze", "verify", "--man=no", str(unit)], check=True)


def reload_nginx() -> None:
    # 'nginx -t' leaves an empty file.
    pid = Path("/run/nginx.pid")
    running = pid.exists() and pid.read_text().strip()
    subprocess.run(["nginx", *(["-s", "reload"] if running else [])], check=True)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["daemon-reload"]:
            verify()
        case ["restart", name]:
            restart(name)
        case ["reload", "nginx"]:
            reload_nginx()
        case wrong:
            raise SystemExit(f"no such command: {wrong}")
