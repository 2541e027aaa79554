"""An api that is in a hurry: whoever takes nothing for two seconds is left, and models are tried hastily.

python -m tests.fakes.impatient_api OPTIONS OF streamfleet-api
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from dataclasses import replace

from streamfleet_api.config import parse
from streamfleet_api.main import listen, serve
from streamfleet_api.storage import model_trial
from streamfleet_api.web.auth import load_token

STUCK = 2.0  # seconds

if __name__ == "__main__":
    model_trial._PROGRAM = "tests.fakes.hasty_trial"
    config = replace(parse(sys.argv[1:], os.environ), stuck=STUCK)
    config.data_dir.mkdir(mode=0o700, parents=True)
    with listen(config.host, config.port) as listener:
        # As long as the api's own patience, from the first byte that is not taken.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(2 * STUCK * 1000))
        asyncio.run(serve(config, load_token(config.token_path)[0], listener))
