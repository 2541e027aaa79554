"""Sent predictions that a device keeps for subscribers that missed them, and their replay."""
