"""What is answered to a server that wants a login, by the examples of the RFCs."""

from __future__ import annotations

import re

import pytest

from streamfleet_worker.camera.login import Login, authorization

MUFASA = Login("Mufasa", "Circle of Life")
RFC_7616 = (
    'Digest realm="http-auth@example.org", qop="auth, auth-int", algorithm={}, '
    'nonce="7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v", '
    'opaque="FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS"'
)
CNONCE = "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ"


def answered(*challenges: str, login: Login = MUFASA, cnonce: str = CNONCE) -> tuple[str, str]:
    """The method, and the response or the whole value."""
    given = authorization(challenges, login, verb="GET", target="/dir/index.html", nonce=cnonce)
    assert given is not None
    found = re.search(r'response="(\w+)"', given.value)
    return given.method, found[1] if found else given.value


@pytest.mark.parametrize(
    ("algorithm", "response"),
    [
        ("MD5", "8ca523f5e9506fed4657c9700eebdbec"),
        ("SHA-256", "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"),
    ],
)
def test_a_digest_is_that_of_rfc_7616(algorithm: str, response: str) -> None:
    assert answered(RFC_7616.format(algorithm)) == (algorithm, response)


def test_a_digest_with_qop_is_that_of_rfc_2617() -> None:
    challenge = (
        'Digest realm="testrealm@host.com", qop="auth,auth-int", nonce="dcd98b7102dd2f0e8b11d0f600bfb0c093", '
        'opaque="5ccc069c403ebaf9f0171e9517f40e41"'
    )

    given = answered(challenge, login=Login("Mufasa", "Circle Of Life"), cnonce="0a4f113b")

    assert given == ("MD5", "6629fae49393a05397450978507c4ef1")


def test_a_digest_without_qop_is_that_of_old_cameras() -> None:
    challenge = 'Digest realm="testrealm@host.com", nonce="dcd98b7102dd2f0e8b11d0f600bfb0c093"'

    given = answered(challenge, login=Login("Mufasa", "CircleOfLife"))

    assert given == ("MD5", "1949323746fe6a43ef61f9606e7febea")


def test_a_basic_login_is_that_of_rfc_7617() -> None:
    login = Login("Aladdin", "open sesame")

    assert answered('Basic realm="x"', login=login) == ("Basic", "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==")


@pytest.mark.parametrize(
    ("challenges", "method"),
    [
        (['Basic realm="a, Digest b=c"', RFC_7616.format("MD5")], "MD5"),
        ([f'Basic realm="a", {RFC_7616.format("MD5")}'], "MD5"),
        ([RFC_7616.format("MD5"), RFC_7616.format("SHA-256")], "SHA-256"),
        ([RFC_7616.format("SHA-512-256"), "Basic"], "Basic"),
        (['digest realm="a", nonce="b", qop="auth-int"', 'BASIC realm="a"'], "Basic"),
    ],
)
def test_the_best_of_what_is_offered_is_taken(challenges: list[str], method: str) -> None:
    assert answered(*challenges)[0] == method


@pytest.mark.parametrize("challenges", [[], ["Negotiate"], ["NTLM"], [RFC_7616.format("SHA-512-256")], ["="]])
def test_nothing_is_said_to_what_nobody_knows(challenges: list[str]) -> None:
    assert authorization(challenges, MUFASA, verb="GET", target="/", nonce="n") is None


def test_a_password_is_not_shown() -> None:
    given = authorization(['Basic realm="x"'], MUFASA, verb="GET", target="/", nonce="n")

    assert "Circle" not in repr(MUFASA)
    assert repr(given) == "Authorization(method='Basic')"
