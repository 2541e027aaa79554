"""The steps of `make gpu-check`: each is a process of its own, so that a driver that hangs ends only one."""
