"""TCP keepalive for ZeroMQ sockets: a lost host or network is detected within 8 s.

Do not use ZMTP heartbeats. If a connection ends while its messages wait for room in a queue, libzmq 4.3.5
keeps it until they are read. The next heartbeat to that peer, or the reply to a heartbeat among the waiting
messages, then aborts the process: `Assertion failed: !_io_error`. This applies to both sides of a connection.
The end of a peer's process needs no keepalive: the kernel reports it, over TCP and over unix sockets.
"""

from __future__ import annotations

import zmq

KEEPALIVE: dict[int, int] = {
    zmq.TCP_KEEPALIVE: 1,
    zmq.TCP_KEEPALIVE_IDLE: 2,  # seconds of silence before the first probe
    zmq.TCP_KEEPALIVE_INTVL: 2,
    zmq.TCP_KEEPALIVE_CNT: 3,
    # ms until sent data must be acknowledged: TCP does not probe while data is unacknowledged. This also
    # bounds how long a peer may read nothing.
    zmq.TCP_MAXRT: 6000,
}
