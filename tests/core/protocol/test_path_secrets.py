"""What of a camera's path may be shown. CANARY is what must not be; a test rather hides too much."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamfleet_core.protocol.source_reference import redacted, sanitised

SECRET = [
    "rtsp://h/user=admin&password=CANARY&channel=1&stream=0.sdp?real_stream",
    "rtsp://h/user=admin_password=CANARY_channel=1_stream=0.sdp",
    "rtsp://h:554/user=admin;password=CANARY;channel=1",
    "rtsp://h/user=admin&password=CAN&ARY&channel=1.sdp",
    "rtsp://h/user=admin&password=a/CANARY&channel=1.sdp",
    "rtsp://h/USER=admin&PASSWORD=CANARY",
    "rtsp://h/%75ser=admin&%70assword=CANARY",
    "rtsp://h/user%3Dadmin%26password%3DCANARY%26channel%3D1",
    "rtsp://h/user%253Dadmin%2526password%253DCANARY",
    "rtsp://h/live%3Fpassword%3DCANARY",
    "rtsp://h/live;user=admin;password=CANARY/ch1",
    "rtsp://h/live;jsessionid=CANARY",
    "rtsp://h/loginuse=admin&loginpas=CANARY",
    "rtsp://h/live,pwd=CANARY",
    "rtsp://h/x=CANARY",
    "rtsp://h/CANARY==",
    "rtsp://h/channel=CANARY&stream=0",
    "rtsp://h/cam/realmonitor?channel=1&user=admin&password=CANARY",
    "rtsp://h/h264/admin/CANARY/ch1/main",
    "rtsp://h/h264/Administrator/CANARY/",
    "rtsp://h/live/root/CANARY",
    "rtsp://h/0/admin:CANARY/main",
    "rtsp://h/admin%3ACANARY/main",
    "rtsp://h/user/admin/password/CANARY/live",
    "rtsp://h/login/joe/CANARY/ch1",
    "rtsp://h/token/CANARY/live",
    "rtsp://h/%74oken/CANARY/live",
    "rtsp://h/access-token/CANARY",
    "rtsp://h/auth/CANARY/live/ch1",
    "rtsp://h/auth/joe/CANARY/",
    "rtsp://h/auth//CANARY/",
    "rtsp://h/api_key/CANARY",
    "rtsp://h/stream-key/CANARY",
    "rtsp://h/token-CANARY/live",
    "rtsp://h/passwordCANARY/live",
    "https://h/hls/eyJhbGciOi.CANARY/index.m3u8",
    "https://h/hls/0a1b2c3d4e5f60718293a4b5CANARY/index.m3u8".replace("CANARY", ""),
    "https://h/s/123e4567-e89b-12d3-a456-426614174000/index.m3u8",
    "rtsps://h:7441/aBcDeFgHiJ123456?enableSrtp",
    "rtsps://h:7441/xK2mPq8RtY4bNc9Z",
    "https://h/hls/secure/CANARY/1700000000/index.m3u8",
    "https://h/playbackToken/CANARY/index.m3u8",
    "https://h/hdnts=exp=1700000000~hmac=CANARY/index.m3u8",
    "rtsp://h/live.sdp&user=admin&pass=CANARY",
    "rtsp://h/live/pin-CANARY/ch1",
    "rtsp://h/key_CANARY/ch1",
    "rtsp://h/live;token:CANARY",
    "rtsp://h/token%2FCANARY/ch1",
    "rtsp://h/Authorization/Basic/CANARY",
    "RTSP://admin:CANARY@h/PASSWORD=CANARY",
    "rtsp://h/user=admin&password=CANARY&channel=1&password=CANARY&subtype=0",
    "rtmp://h/live2/CANARY",
    "rtmps://h:443/rtmp/CANARY?s_bl=1",
    "http://h/videostream.cgi?usr=admin&pwd=CANARY",
    "http://h/videostream.cgi;usr=admin;pwd=CANARY",
    "http://admin:CANARY@h/axis-cgi/mjpg/video.cgi",
    "http://CANARY@h/video",
    "http://:CANARY@h/video",
    "http://h/video#token=CANARY",
    "http://user:pa%40CANARY@[::1]:8080/video",
    "10.0.0.9/user=admin&password=CANARY&channel=1",
    "user:CANARY@10.0.0.9/h264",
]
CHANCE = ("0a1b2c3d", "123e4567", "aBcDeFgH", "xK2mPq8R")
HARMLESS = [
    *("rtsp://h/door", "rtsp://h:554/cam/realmonitor", "rtsp://h/Streaming/Channels/101", "rtsp://h/onvif1"),
    *("rtsp://h/h264Preview_01_main", "rtsp://h/axis-media/media.amp", "rtsp://h/live/ch00_0", "rtsp://h/"),
    *(
        "rtsp://h/videoMain",
        "rtsp://h/unicast/c1/s0/live",
        "rtsp://h/media/video1",
        "rtsp://h/stream2",
        "rtsp://h",
    ),
    *(
        "http://h/ISAPI/Streaming/channels/102/picture",
        "http://h/videostream.cgi",
        "http://h/mjpg/video.mjpg",
    ),
    *(
        "https://h/hls/camera-entrance-2/index.m3u8",
        "https://h/BigBuckBunny_115k.mov",
        "http://h/monkey/keypad",
    ),
    *(
        "https://h/big_buck_bunny_720p_h264.mov",
        "http://h/2024-10-01T12-00-00.mp4",
        "http://h/v1/recordings/17.mp4",
    ),
    *(
        "rtsp://h/channel=1&subtype=0",
        "rtsp://h/channel=1_stream=0.sdp",
        "rtmp://h/live",
        "/videos/token/a.mp4",
    ),
    *(
        "/videos/user:1@home/cam:2.mp4",
        "C:1.mp4",
        "traffic=1.mp4",
        "TestPatternStreamProducer",
        "scene://conveyor/1",
    ),
]


@pytest.mark.parametrize("reference", SECRET)
def test_what_opens_a_door_is_hidden_wherever_it_stands(reference: str) -> None:
    shown = str(sanitised(reference))

    assert "CAN" not in shown
    assert "ARY" not in shown
    assert not any(part in shown for part in CHANCE)
    assert sanitised(shown) == shown
    assert "CANARY" not in redacted(f"cannot open {reference}: it is gone")


@pytest.mark.parametrize("reference", HARMLESS)
def test_what_opens_no_door_is_shown(reference: str) -> None:
    assert sanitised(reference) == reference


@pytest.mark.parametrize(
    ("reference", "shown"),
    [
        (SECRET[0], "rtsp://h/user=***&password=***&channel=1&stream=0.sdp"),
        (SECRET[1], "rtsp://h/user=***_password=***_channel=1_stream=0.sdp"),
        ("rtsp://h/h264/admin/CANARY/ch1/main", "rtsp://h/h264/***/***/ch1/main"),
        ("rtsp://h/token/CANARY/live", "rtsp://h/token/***/live"),
        ("rtmp://h/live/CANARY", "rtmp://h/live/***"),
    ],
)
def test_the_rest_of_the_path_still_tells_cameras_apart(reference: str, shown: str) -> None:
    assert sanitised(reference) == shown


@given(st.text(alphabet="ab1/=&;_-.:@?#%*", max_size=40), st.sampled_from(("rtsp", "http", "rtmp")))
def test_what_was_shown_once_is_shown_so_again(path: str, scheme: str) -> None:
    shown = sanitised(f"{scheme}://h/{path}")

    assert sanitised(shown) == shown
    assert redacted(str(shown)) == shown
