"""How cameras and the agent hand messages to the publisher: packets on a unix socket, never waited for.

camera, agent: Outlet ──SOCK_SEQPACKET──► Intake: publisher
                 └─ keeps a few, while there is no publisher or it does not take them
"""
