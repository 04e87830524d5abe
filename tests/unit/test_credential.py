"""Who gets in, and who does not: every other text is one and the same 401."""

import json
import time
from pathlib import Path

import jwt
import pytest
import structlog.testing
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from jwt.utils import base64url_encode

from service import credential
from service.credential import AUDIENCE, EARLY_S, Credentials, mint_member_token, new_key
from shard_router.errors import DocumentError, ProblemError
from shard_router.member_id import compose_member_id, format_member_id
from tests.file import put

MEMBER = compose_member_id(1, slot=1, unique=1)


def pem(key: Ed25519PrivateKey) -> tuple[str, str]:
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return private.decode(), public.decode()


PRIVATE, PUBLIC = pem(Ed25519PrivateKey.generate())
OTHER_PRIVATE, _ = pem(Ed25519PrivateKey.generate())
KEY, RECORD = new_key("pos", "330")


@pytest.fixture
def credentials(tmp_path: Path) -> Credentials:
    file = tmp_path / "credentials.json"
    file.write_text(json.dumps({"keys": [RECORD.model_dump()], "jwt_public_keys": [PUBLIC]}))
    return Credentials(file)


def test_a_key_is_its_principal_with_role_and_store(credentials: Credentials) -> None:
    principal = credentials.principal(f"Bearer {KEY}")
    assert (principal.role, principal.store, principal.member_id) == ("pos", "330", None)


def test_a_token_sees_its_own_member_only(credentials: Credentials) -> None:
    principal = credentials.principal(f"Bearer {mint_member_token(PRIVATE, MEMBER)}")
    assert principal.role == "member"
    assert principal.may_see(MEMBER)
    assert not principal.may_see(MEMBER + 1)


def claims(**changes: object) -> dict[str, object]:
    now = int(time.time())
    return {"sub": format_member_id(MEMBER), "aud": AUDIENCE, "iat": now, "exp": now + 60} | changes


BAD = {
    "nothing": None,
    "no scheme": KEY,
    "another scheme": f"Basic {KEY}",
    "half a key": "Bearer " + KEY[:-1],
    "no secret": f"Bearer loy_{RECORD.id}_",
    "no id": "Bearer loy_",
    "expired": f"Bearer {jwt.encode(claims(exp=1), PRIVATE, algorithm='EdDSA')}",
    "another audience": f"Bearer {jwt.encode(claims(aud='x'), PRIVATE, algorithm='EdDSA')}",
    "another signer": f"Bearer {jwt.encode(claims(), OTHER_PRIVATE, algorithm='EdDSA')}",
    "no member": f"Bearer {jwt.encode(claims(sub='admin'), PRIVATE, algorithm='EdDSA')}",
    "alg none": f"Bearer {jwt.encode(claims(), None, algorithm='none')}",
    "rubbish": "Bearer a.b.c",
    "huge": "Bearer " + "x" * 100_000,
    "a head too deep": f"Bearer {base64url_encode(b'[' * 6_000).decode()}.e30.eA",
}


@pytest.mark.parametrize("name", BAD)
def test_everything_else_is_unauthenticated(credentials: Credentials, name: str) -> None:
    with pytest.raises(ProblemError) as raised:
        credentials.principal(BAD[name])
    assert raised.value.code == "unauthenticated"


WRONGLY_TYPED = {
    "exp as a text": {"exp": "1995651200"},
    "exp as a truth": {"exp": True},
    "exp as a list": {"exp": [1995651200]},
    "exp that is no number": {"exp": float("nan")},
    "exp without an end": {"exp": float("inf")},
    "exp beyond counting": {"exp": 10**400},
    "nbf as a text": {"nbf": "1"},
    "nbf without a beginning": {"nbf": float("-inf")},
    "iat as a text": {"iat": "1"},
    "sub as a number": {"sub": 7},
    "sub as a list": {"sub": [format_member_id(MEMBER)]},
    "aud as an object": {"aud": {AUDIENCE: 1}},
    "aud with more than texts": {"aud": [AUDIENCE, 7]},
}


def signed(**changes: object) -> str:
    """A token as an issuer with a fault would sign it: no library looks at its claims."""
    head, content = ({"alg": "EdDSA", "typ": "JWT"}, claims(**changes))
    text = ".".join(base64url_encode(json.dumps(part).encode()).decode() for part in (head, content))
    key = serialization.load_pem_private_key(PRIVATE.encode(), None)
    assert isinstance(key, Ed25519PrivateKey)
    return f"{text}.{base64url_encode(key.sign(text.encode())).decode()}"


@pytest.mark.parametrize("name", WRONGLY_TYPED)
def test_a_signed_token_with_a_wrongly_typed_claim_is_unauthenticated_first_and_later(
    credentials: Credentials, name: str
) -> None:
    assert credentials.principal(f"Bearer {signed()}").role == "member"
    token = signed(**WRONGLY_TYPED[name])
    for _ in range(2):
        with pytest.raises(ProblemError) as raised:
            credentials.principal(f"Bearer {token}")
        assert raised.value.code == "unauthenticated"


@pytest.mark.parametrize("claim", ["iat", "nbf"])
def test_a_token_of_an_issuer_whose_clock_is_a_little_ahead_is_taken_at_once(
    credentials: Credentials, claim: str
) -> None:
    ahead = time.time() + EARLY_S - 5
    assert credentials.principal(f"Bearer {signed(**{claim: ahead})}").member_id == MEMBER
    with pytest.raises(ProblemError) as raised:
        credentials.principal(f"Bearer {signed(**{claim: time.time() + 10 * EARLY_S})}")
    assert raised.value.code == "unauthenticated"


def test_a_token_that_has_ended_is_not_taken_a_moment_longer(credentials: Credentials) -> None:
    with pytest.raises(ProblemError) as raised:
        credentials.principal(f"Bearer {signed(exp=time.time() - 0.001)}")
    assert raised.value.code == "unauthenticated"


FORWARD_KEYS = ["k" * 32, "l" * 32]


def test_a_mark_of_any_key_in_force_is_good_and_of_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(credential, "_RELOAD_INTERVAL_S", 0.0)
    file = tmp_path / "credentials.json"
    put(file, json.dumps({"forward_keys": FORWARD_KEYS[:1]}))
    credentials = Credentials(file)
    old = credentials.sign("eu GET /x")
    put(file, json.dumps({"forward_keys": FORWARD_KEYS[::-1]}))
    new = credentials.sign("eu GET /x")
    assert old != new
    assert [credentials.is_signed("eu GET /x", mark) for mark in (old, new, "", "\xe9", "0" * 64)] == [
        True, True, False, False, False,
    ]  # fmt: skip
    assert not credentials.is_signed("eu GET /y", new)
    put(file, json.dumps({"forward_keys": FORWARD_KEYS[1:]}))
    assert not credentials.is_signed("eu GET /x", old)


def test_without_a_key_nothing_is_signed(credentials: Credentials) -> None:
    mark = credentials.sign("eu GET /x")
    assert mark == ""
    assert not credentials.is_signed("eu GET /x", mark)


RSA_KEY = """-----BEGIN PUBLIC KEY-----
MFwwDQYJKoZIhvcNAQEBBQADSwAwSAJBAKj34GkxFhD90vcNLYLInFEX6Ppy1tPf
9Cnzj4p4WGeKLs1Pt8QuKUpRKfFLfRYC9AIKjbJTWit+CqvjWYzvQwECAwEAAQ==
-----END PUBLIC KEY-----
"""
BROKEN = {
    "half written": '{"keys": [{"id"',
    "empty": "",
    "no document": "[]",
    "a record without a role": '{"keys": [{"id": "a", "sha256": "b"}]}',
    "a misspelt list": '{"jwt_public_key": []}',
    "a misspelt store": '{"keys": [{"id": "a", "sha256": "b", "role": "pos", "stores": "c"}]}',
    "no public key": '{"jwt_public_keys": ["x"]}',
    "a public key of another kind": json.dumps({"jwt_public_keys": [RSA_KEY]}),
    "gone": None,
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_document_that_breaks_while_running_leaves_the_last_good_one_in_force_and_is_told_once(
    credentials: Credentials, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(credential, "_RELOAD_INTERVAL_S", 0.0)
    file = tmp_path / "credentials.json"
    good = file.read_text()
    credentials.principal(f"Bearer {KEY}")
    with structlog.testing.capture_logs() as logged:
        put(file, BROKEN[name])
        for _ in range(3):
            assert credentials.principal(f"Bearer {KEY}").role == "pos"
            assert credentials.principal(f"Bearer {mint_member_token(PRIVATE, MEMBER)}").role == "member"
    assert [(entry["event"], entry["log_level"]) for entry in logged] == [("credentials_not_adopted", "warning")]
    other, record = new_key("admin")
    put(file, json.dumps(json.loads(good) | {"keys": [record.model_dump()]}))
    assert credentials.principal(f"Bearer {other}").role == "admin"
    with pytest.raises(ProblemError):
        credentials.principal(f"Bearer {KEY}")


def test_a_broken_document_is_looked_at_again_after_the_interval_and_not_by_each_request(
    credentials: Credentials, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path / "credentials.json", "{")
    now = time.monotonic() + 10
    monkeypatch.setattr(credential.time, "monotonic", lambda: now)
    credentials.principal(f"Bearer {KEY}")
    other, record = new_key("admin")
    put(tmp_path / "credentials.json", json.dumps({"keys": [record.model_dump()]}))
    with pytest.raises(ProblemError):
        credentials.principal(f"Bearer {other}")
    now += 1
    assert credentials.principal(f"Bearer {other}").role == "admin"


@pytest.mark.parametrize("name", BROKEN)
def test_a_node_does_not_start_with_a_broken_document(tmp_path: Path, name: str) -> None:
    put(tmp_path / "credentials.json", BROKEN[name])
    with pytest.raises(DocumentError) as failure:
        Credentials(tmp_path / "credentials.json")
    assert str(tmp_path / "credentials.json") in str(failure.value)
    assert "\n" not in str(failure.value)


def test_what_is_wrong_with_the_document_is_told_without_its_secrets(
    credentials: Credentials, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(credential, "_RELOAD_INTERVAL_S", 0.0)
    put(tmp_path / "credentials.json", json.dumps({"keys": [{"id": "a", "secret": KEY}], "jwt_public_keys": [[KEY]]}))
    with structlog.testing.capture_logs() as logged:
        credentials.principal(f"Bearer {KEY}")
    assert "keys.0.sha256" in logged[0]["trouble"]
    assert KEY not in str(logged)
