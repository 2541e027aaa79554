"""The text that `streamfleet up` prints once the fleet is ready."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path

import ifaddr

from streamfleet.defaults import DEFAULT_DATA_DIR, DEFAULT_URL
from streamfleet_api.local.demo import CAMERAS
from streamfleet_api.local.options import Options


def startup_banner(
    options: Options,
    devices: list[str],
    *,
    token: str | None,
    demo_runs: bool,
    logs: Path | None,
    fingerprint: str,
) -> str:
    """The summary of a fleet that is ready. `token` is None unless it is new; `demo_runs`: it predicts."""
    program = program_name()
    lines = ["Streamfleet is ready.", "", f"  HTTP       {options.url}"]
    if not options.is_private:
        lines += [f"             {options.url_at(host)}  from other machines" for host in _hosts(options)]
        lines.append(f"  token      {token or 'kept in ' + str(options.api_dir / 'token')}")
        lines.append(f"  TLS        STREAMFLEET_FINGERPRINT={fingerprint}")
    lines.append(f"  devices    {', '.join(devices) or f'none: {program} devices add NAME'}")
    if options.demo:
        text = "running" if demo_runs else "starting"
        lines.append(f"  pipelines  {', '.join(CAMERAS)}: {text}")
    lines.append(f"  data       {options.data_dir}")
    if logs:
        lines.append(f"  logs       {logs}")
    lines += ["", "in another terminal:"]
    if options.url != DEFAULT_URL:
        lines.append(f"  export STREAMFLEET_URL={options.url}")
    if options.data_dir != Path(DEFAULT_DATA_DIR).expanduser():
        lines.append(f"  export STREAMFLEET_DATA_DIR={shlex.quote(str(options.data_dir))}")
    lines += [
        f"  {program} {arguments:24}  {text}"
        for arguments, text in (
            ("tail", "predictions as they happen"),
            ("pipelines", "what runs where"),
            ("models add ID FILE", "your own model"),
            ("run --model ID --video …", "your own camera"),
            *([("logs -f", "the logs of all processes")] if logs else []),
        )
    ]
    lines += ["", "Ctrl-C ends everything on this machine."]
    return "\n".join(lines)


def program_name() -> str:
    """`streamfleet` as it can be typed here: its name if it is on PATH, otherwise its shortest path."""
    own = Path(sys.executable).with_name("streamfleet")
    if not own.exists():
        return f"{shlex.quote(sys.executable)} -m streamfleet_api.cli.main"
    found = shutil.which(own.name)
    if found is not None and own.samefile(found):
        return own.name
    relative = os.path.relpath(own)
    if os.sep not in relative:
        relative = f"./{relative}"  # otherwise the shell searches PATH
    return shlex.quote(min(relative, str(own), key=len))


def _hosts(options: Options) -> list[str]:
    """The hosts under which other machines reach this one."""
    if options.advertise:
        return list(options.advertise)
    if not options.is_everywhere:
        return []  # the first line names it
    return own_addresses()


def own_addresses() -> list[str]:
    """The IPv4 addresses of this machine, without loopback."""
    addresses = [ip.ip for adapter in ifaddr.get_adapters() for ip in adapter.ips if isinstance(ip.ip, str)]
    return [address for address in addresses if not address.startswith("127.")]
