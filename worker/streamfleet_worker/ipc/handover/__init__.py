"""How cameras and the agent hand messages to the publisher: packets on a unix socket, never waited for.

camera, agent: Sender ──SOCK_SEQPACKET──► Receiver: publisher
                 └─ keeps a few, while there is no publisher or it does not take them
"""
