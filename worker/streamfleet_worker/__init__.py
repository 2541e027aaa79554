"""The worker: the agent on a device, which makes the observed state equal the desired one."""
