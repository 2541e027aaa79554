"""The values and bytes that broker, worker and api share. It loads neither zmq nor numpy nor cv2."""

from __future__ import annotations
