"""The values and messages that broker, worker and API share. Imports neither zmq nor numpy nor cv2."""

from __future__ import annotations
