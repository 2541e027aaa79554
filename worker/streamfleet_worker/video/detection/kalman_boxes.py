"""Kalman filters with constant velocity for the boxes of all tracks, in two arrays. Pure arithmetic.

The four coordinates of a box have the same noise and do not depend on one another. So each is a filter of its
own with two numbers, position and velocity, and all four have the same covariance: it depends on the times of
the measurements, and not on their values.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]

# Variances in pixels², velocities in pixels per frame.
_INITIAL = np.eye(2)  # of a track that was measured once
_MEASUREMENT = 0.1
_PROCESS = 0.01  # added per frame, to position and velocity
_JITTER = 0.004  # seconds by which the time between two frames may differ from the source's rate


class KalmanBoxes:
    """The estimated boxes of tracks, in the order in which the tracks were added."""

    def __init__(self, rate: float) -> None:
        """`rate`: the frames/s of the source."""
        self._rate = rate
        self._state = np.empty((2, 4, 0))  # (position and velocity, x1 y1 x2 y2, tracks)
        self._covariance = np.empty((2, 2, 0))  # (position and velocity, position and velocity, tracks)

    def __len__(self) -> int:
        return self._state.shape[2]

    @property
    def boxes(self) -> Doubles:
        """The estimates: (4, tracks), x1 y1 x2 y2 in pixels."""
        boxes: Doubles = self._state[0]
        return boxes

    def add(self, boxes: Doubles) -> None:
        """Add tracks with their first measurements (4, n). Their velocity is unknown and starts at 0."""
        state = np.stack([boxes, np.zeros_like(boxes)])
        covariance = np.repeat(_INITIAL[:, :, None], boxes.shape[1], axis=2)
        self._state = np.concatenate([self._state, state], axis=2)
        self._covariance = np.concatenate([self._covariance, covariance], axis=2)

    def keep(self, kept: npt.NDArray[np.bool_]) -> None:
        """Remove all tracks but these: a mask (tracks,)."""
        self._state = self._state[:, :, kept]
        self._covariance = self._covariance[:, :, kept]

    def predict(self, elapsed: float) -> None:
        """Move all tracks on by `elapsed` seconds."""
        step = elapsed * self._rate  # frames
        position, velocity = self._state
        position += step * velocity
        # F P Fᵀ + Q, where F adds `step` velocities to the position.
        covariance = self._covariance
        covariance[0] += step * covariance[1]
        covariance[:, 0] += step * covariance[:, 1]
        covariance += self._noise(step)

    def correct(self, tracks: npt.NDArray[np.int64], boxes: Doubles) -> None:
        """Correct these tracks, each of them once, by new measurements (4, n) in the same order."""
        covariance = self._covariance
        measured, weight = self.boxes.copy(), np.zeros(len(self))
        measured[:, tracks] = boxes
        weight[tracks] = 1  # without a measurement 0, so that nothing changes
        gain = covariance[:, 0] * (weight / (covariance[0, 0] + _MEASUREMENT))  # (2, tracks)
        self._state += gain[:, None] * (measured - self.boxes)
        covariance -= gain[:, None] * covariance[0]

    def _noise(self, step: float) -> Doubles:
        """The covariance (2, 2, 1) that a step of so many frames adds."""
        if abs(step - 1) <= _JITTER * self._rate:
            return _FRAME_NOISE
        # White noise of the acceleration, constant during a step.
        effect = np.array([step * step / 2, step])
        return _PROCESS * np.outer(effect, effect)[:, :, None]


_FRAME_NOISE = _PROCESS * np.eye(2)[:, :, None]
