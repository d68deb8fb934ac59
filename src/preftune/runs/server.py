"""The W&B server: the key for it, and whether it answers. Knows nothing of the wandb package."""

import contextlib
import netrc
import os
import socket
import threading
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

PATIENCE = 5.0  # s, name resolution included
_HOSTED = {
    "api.wandb.ai",
    "api.forge.coreweave.com",
}  # two names of W&B's own cloud; `wandb login` writes either


def api_key(base_url: str) -> str | None:
    """Find W&B's key where `wandb login` and people leave it: the environment, then the netrc file."""
    if key := os.environ.get("WANDB_API_KEY"):
        return key
    host = urlsplit(base_url).netloc
    for path in (os.environ.get("NETRC"), "~/.netrc", "~/_netrc"):
        if path is None:
            continue
        with contextlib.suppress(OSError, netrc.NetrcParseError):
            machines = netrc.netrc(str(Path(path).expanduser()))
            for machine in (host, *(_HOSTED if host in _HOSTED else ())):
                if entry := machines.authenticators(machine):
                    return entry[2] or None
    return None


def answers(base_url: str) -> bool:
    """Whether something accepts a connection at `base_url`, or at the proxy on the way there."""
    url = urlsplit(base_url)
    proxy = None if proxy_bypass(url.hostname or "") else getproxies().get(url.scheme)
    target = urlsplit(proxy) if proxy else url
    port = target.port or (80 if target.scheme == "http" else 443)
    connected = threading.Event()

    def connect() -> None:
        with contextlib.suppress(OSError), socket.create_connection((target.hostname or "", port), PATIENCE):
            connected.set()

    # In a thread, because no time limit holds for name resolution.
    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    return connected.is_set()
