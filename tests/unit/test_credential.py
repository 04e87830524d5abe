"""Who gets in, and who does not: every other text is one and the same 401."""

import json
import time
from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from shard_router.credential import AUDIENCE, Credentials, mint_member_token, new_key
from shard_router.errors import ProblemError
from shard_router.member_id import compose_member_id, format_member_id

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
}


@pytest.mark.parametrize("name", BAD)
def test_everything_else_is_unauthenticated(credentials: Credentials, name: str) -> None:
    with pytest.raises(ProblemError) as raised:
        credentials.principal(BAD[name])
    assert raised.value.code == "unauthenticated"
