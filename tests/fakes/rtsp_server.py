"""An RTSP server for tests, by GStreamer. It runs under the system's Python, and imports nothing of ours.

    /usr/bin/python3 tests/fakes/rtsp_server.py --port 8554 --size 640x480 --user u --password p

Plays a moving picture at `rtsp://127.0.0.1:PORT/live` and says on stdout, a line each: `ready`, and
`login right` or `login wrong` for each request that carries a login.
"""

from __future__ import annotations

import argparse
import sys

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtsp", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtsp, GstRtspServer  # noqa: E402

ENCODERS = {
    "h264": "openh264enc gop-size=15 ! h264parse ! rtph264pay name=pay0 pt=96 config-interval=-1",
    "jpeg": "jpegenc ! rtpjpegpay name=pay0 pt=26",
    "vp8": "vp8enc deadline=1 keyframe-max-dist=15 ! rtpvp8pay name=pay0 pt=96",
}
AUDIO = "( audiotestsrc is-live=true ! alawenc ! rtppcmapay name=pay0 pt=8 )"


class Door(GstRtspServer.RTSPAuth):
    """Says who knocks with which success."""

    def do_authenticate(self, context: GstRtspServer.RTSPContext) -> bool:
        """Look at the login of one request, if it has one."""
        done = GstRtspServer.RTSPAuth.do_authenticate(self, context)
        found, _ = context.request.get_header(GstRtsp.RTSPHeaderField.AUTHORIZATION, 0)
        if found == GstRtsp.RTSPResult.OK:
            print("login right" if context.token is not None else "login wrong", flush=True)
        return done


def main() -> None:
    """Serve until killed."""
    options = parsed()
    Gst.init(None)
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(str(options.port))
    factory = GstRtspServer.RTSPMediaFactory()
    factory.set_launch(launched(options))
    factory.set_shared(True)
    if options.password:
        server.set_auth(door(options))
        factory.add_role_from_structure(viewer())
    server.get_mount_points().add_factory("/live", factory)
    if server.attach(None) == 0:
        sys.exit(f"port {options.port} cannot be had")
    print("ready", flush=True)
    GLib.MainLoop().run()


def parsed() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--size", default="640x480")
    parser.add_argument("--fps", type=int, default=15)
    parser.add_argument("--codec", choices=[*ENCODERS, "audio"], default="h264")
    parser.add_argument("--user", default="")
    parser.add_argument("--password", default="")
    parser.add_argument("--auth", choices=["basic", "digest"], default="digest")
    return parser.parse_args()


def launched(options: argparse.Namespace) -> str:
    """What GStreamer shall play."""
    if options.codec == "audio":
        return AUDIO
    width, height = options.size.split("x")
    picture = f"video/x-raw,format=I420,width={width},height={height},framerate={options.fps}/1"
    return f"( videotestsrc is-live=true pattern=ball ! {picture} ! {ENCODERS[options.codec]} )"


def door(options: argparse.Namespace) -> Door:
    """Who may come in, and how he says who he is."""
    auth = Door()
    token = GstRtspServer.RTSPToken.new()
    token.set_string("media.factory.role", "viewer")
    if options.auth == "digest":
        auth.set_supported_methods(GstRtsp.RTSPAuthMethod.DIGEST)
        auth.add_digest(options.user, options.password, token)
    else:
        auth.add_basic(GstRtspServer.RTSPAuth.make_basic(options.user, options.password), token)
    return auth


def viewer() -> Gst.Structure:
    """The role of whoever may see the picture."""
    text = "viewer, media.factory.access=(boolean)true, media.factory.construct=(boolean)true"
    return Gst.Structure.from_string(text)[0]


if __name__ == "__main__":
    main()
