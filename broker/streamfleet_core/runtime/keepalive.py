"""How ZeroMQ sockets notice that the host of a peer, or the network to it, is gone: TCP does, within 8 s.

Never by heartbeats of ZMTP. If a connection ends while messages of it wait for room in a queue, libzmq 4.3.5
keeps it until they are read. The next heartbeat to that peer, or the answer to one that waits among them,
then ends the process: `Assertion failed: !_io_error`. This holds for whoever binds and for whoever connects.
The kernel itself tells of the end of a peer's process, over TCP and over unix sockets.
"""

from __future__ import annotations

import zmq

KEEPALIVE: dict[int, int] = {
    zmq.TCP_KEEPALIVE: 1,
    zmq.TCP_KEEPALIVE_IDLE: 2,  # seconds without a word of the peer, until it is asked
    zmq.TCP_KEEPALIVE_INTVL: 2,
    zmq.TCP_KEEPALIVE_CNT: 3,
    # ms until what was sent must be acknowledged: as long as something is, TCP asks nothing. So it bounds how
    # long a peer may read nothing, too.
    zmq.TCP_MAXRT: 6000,
}
