"""An api that may open few files, and is in a hurry.

python -m tests.fakes.cramped_api OPTIONS OF streamfleet-api
"""

from __future__ import annotations

import os
import resource
import sys
from dataclasses import replace

import uvloop

from streamfleet_api.config import parse
from streamfleet_api.main import listen, load_certificate, serve
from streamfleet_api.web.auth import load_token
from streamfleet_api.web.connections import Limits
from streamfleet_core.runtime.startup import log_as

DESCRIPTORS = 256
SLOW = 3.0  # seconds for a head, and for 4 kB of a body: longer than a machine stands still

if __name__ == "__main__":
    log_as("api")
    resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))
    limits = replace(Limits.of(DESCRIPTORS), head=SLOW, body=SLOW)
    config = replace(parse(sys.argv[1:], os.environ), limits=limits)
    config.data_dir.mkdir(mode=0o700, parents=True)
    with listen(config.host, config.port) as listener:
        token, _ = load_token(config.token_path)
        uvloop.run(serve(config, token, listener, certificate=load_certificate(config)))
