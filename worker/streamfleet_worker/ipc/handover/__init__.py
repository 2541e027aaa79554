"""The publisher channel: cameras and the agent send messages to the publisher, as packets on a unix socket.

camera, agent: Sender ──SOCK_SEQPACKET──► Receiver: publisher
                 └─ never blocks; keeps a few messages while there is no publisher or it is busy
"""
