"""Record a video of a drawn conveyor belt, to try Streamfleet without a camera.

python demo/film.py VIDEO [SECONDS]
"""

from __future__ import annotations

import sys

import cv2

from streamfleet_worker.video.synthetic.conveyor import FPS, HEIGHT, WIDTH, draw

BELT = 5  # a scene that the demo does not show

if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    video, seconds = sys.argv[1], float(sys.argv[2]) if len(sys.argv) > 2 else 20.0
    writer = cv2.VideoWriter(video, cv2.VideoWriter.fourcc(*"mp4v"), FPS, (WIDTH, HEIGHT))
    if not writer.isOpened():
        sys.exit(f"error: expected a writable path that ends in .mp4, got {video}")
    frames = round(seconds * FPS)
    for frame_id in range(frames):
        writer.write(draw(BELT, frame_id))
    writer.release()
    print(f"{video}: {frames} frames, {seconds:g} s")
