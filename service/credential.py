"""Who is asking: API keys of tills, services and admins, and tokens of members.

Keys read `loy_<id>_<secret>`; only the SHA-256 of the secret is kept (it has 256 random bits, so a
slow hash would add nothing). Members carry an EdDSA JWT whose subject is their member id.
"""

import hashlib
import hmac
import secrets
import time
from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final, Literal

import jwt
import structlog
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from pydantic import BaseModel, ConfigDict, Field

from shard_router.document import Stamp, read_document, stamp_of
from shard_router.errors import DocumentError, MalformedIdError, ProblemError
from shard_router.member_id import format_member_id, parse_member_id

AUDIENCE: Final = "loyalty"
EARLY_S: Final = 10.0
"""How far an issuer's clock may be ahead of this node's, as far as a node's may be off its primary's. A token that has
begun by then is taken at once; its end stays the one it names."""
_TOKEN_CACHE_MAX: Final = 10_000
_KEY_CACHE_MAX: Final = 10_000
_RELOAD_INTERVAL_S: Final = 1.0

Role = Literal["pos", "service", "admin", "member"]


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks. `store` binds a till's key to one store; a member's token has `member_id` and `expires_at` (s).

    `desk` gives a bound key what a service desk does: transfers, and changes of what a member is found by.
    """

    credential: str
    role: Role
    store: str | None = None
    member_id: int | None = None
    expires_at: float | None = None
    desk: bool = False

    @property
    def label(self) -> str:
        """What logs call it: a key by its id. They name no member."""
        return self.credential if self.member_id is None else "member"

    def may_see(self, member_id: int) -> bool:
        """Whether this principal may see a member's data: staff all, a member their own."""
        return self.member_id is None or self.member_id == member_id

    def require(self, *roles: Role) -> None:
        """Pass for these roles; `forbidden` for any other."""
        if self.role not in roles:
            raise ProblemError("forbidden", f"role {self.role} may not do this")


Seconds = Annotated[float, Field(allow_inf_nan=False)]
Secret = Annotated[str, Field(min_length=32)]


class KeyRecord(BaseModel):
    """One API key as stored."""

    # A misspelt `store` must not make a key of one store one of all.
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)
    id: str
    sha256: str
    role: Literal["pos", "service", "admin"]
    store: str | None = None
    desk: bool = False
    name: str | None = None
    """What its holder is called; for people."""
    created_at: str | None = None
    """RFC 3339."""


class CredentialDocument(BaseModel):
    """The credentials document."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)
    keys: list[KeyRecord] = []
    jwt_public_keys: list[str] = []
    forward_keys: list[Secret] = []
    """Secrets with which nodes sign what they forward: the first signs, all are accepted. A new one is added last, and
    moved to the front when every node has it."""
    rejoin_keys: list[Secret] = []
    """Secrets under which phones, e-mails and cards of those who left are hashed: the first hashes, all are looked for.
    One that is removed forgets whom it knew."""


class _Claims(BaseModel):
    """What we read of a member's token. A claim of another type than its own makes the token invalid."""

    model_config = ConfigDict(strict=True)
    sub: str
    aud: str | list[str]
    exp: Seconds
    nbf: Seconds | None = None
    iat: Seconds | None = None


def new_key(
    role: Literal["pos", "service", "admin"], store: str | None = None, *, desk: bool = False, name: str | None = None
) -> tuple[str, KeyRecord]:
    """A fresh key: the text to hand out once, and the record to keep."""
    key_id, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
    digest = hashlib.sha256(secret.encode()).hexdigest()
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    record = KeyRecord(id=key_id, sha256=digest, role=role, store=store, desk=desk, name=name, created_at=now)
    return f"loy_{key_id}_{secret}", record


def new_secret() -> str:
    """A fresh secret for one of the lists of the document."""
    return secrets.token_urlsafe(32)


def mint_member_token(private_key_pem: str, member_id: int, *, lifetime_s: int = 3600) -> str:
    """A token for one member's own data, signed with an Ed25519 key."""
    now = int(time.time())
    claims = {"sub": format_member_id(member_id), "aud": AUDIENCE, "iat": now, "exp": now + lifetime_s}
    return jwt.encode(claims, private_key_pem, algorithm="EdDSA")


class Credentials:
    """Checks credentials against the document, which is read again within a second of a change.

    DocumentError when it cannot be used at the start; later the last good one stays in force.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.folder = path.parent
        self._seen: Stamp | None = None
        self._checked_at = 0.0
        self._trouble: str | None = None
        self._keys: dict[str, KeyRecord] = {}
        self._public_keys: list[Ed25519PublicKey] = []
        self._forward_keys: list[bytes] = []
        self._rejoin_keys: list[bytes] = []
        # Verifying EdDSA costs about 190 us, a look-up under one; a token is cached until it expires.
        self._tokens: OrderedDict[str, tuple[float, Principal]] = OrderedDict()
        # A till sends the same header all day: it is checked once per reading of the document.
        self._known_keys: dict[str | None, Principal] = {}
        self._reload()

    def principal(self, authorization: str | None) -> Principal:
        """The principal of an Authorization header; `unauthenticated` for anything else than a valid one."""
        self.look()
        known = self._known_keys.get(authorization)
        if known:
            return known
        scheme, _, credential = (authorization or "").partition(" ")
        credential = credential.strip()
        if scheme.lower() != "bearer" or not credential or not credential.isascii():
            raise ProblemError("unauthenticated", "send Authorization: Bearer <credential>")
        if not credential.startswith("loy_"):
            return self._of_token(credential)
        principal = self._of_key(credential)
        if len(self._known_keys) < _KEY_CACHE_MAX:
            self._known_keys[authorization] = principal
        return principal

    def _of_key(self, text: str) -> Principal:
        _, key_id, secret = (*text.split("_", 2), "", "")[:3]
        record = self._keys.get(key_id)
        digest = hashlib.sha256(secret.encode()).hexdigest()
        if record is None or not hmac.compare_digest(digest, record.sha256):
            raise ProblemError("unauthenticated", "unknown or revoked key")
        return Principal(record.id, record.role, store=record.store, desk=record.desk)

    def _of_token(self, text: str) -> Principal:
        cached = self._tokens.get(text)
        if cached and cached[0] > time.time():
            return cached[1]
        claims = self._verify(text)
        try:
            member_id = parse_member_id(claims.sub)
        except MalformedIdError as error:
            raise ProblemError("unauthenticated", "the token names no member") from error
        principal = Principal(
            f"member:{format_member_id(member_id)}", "member", member_id=member_id, expires_at=claims.exp
        )
        self._tokens[text] = (claims.exp, principal)
        if len(self._tokens) > _TOKEN_CACHE_MAX:
            self._tokens.popitem(last=False)
        return principal

    def sign(self, message: str) -> str:
        """The mark of a node of ours under a message; empty when the document holds no key for it."""
        self.look()
        return _mac(self._forward_keys[0], message) if self._forward_keys else ""

    def is_signed(self, message: str, mark: str) -> bool:
        """Whether a node of ours has put this mark under the message."""
        self.look()
        return mark.isascii() and any(hmac.compare_digest(_mac(key, message), mark) for key in self._forward_keys)

    def pseudonyms(self, message: str) -> list[str]:
        """What stands for a message where it must not be kept: 128 bits as hex by each key, in their order."""
        self.look()
        return [_mac(key, message)[:32] for key in self._rejoin_keys]

    def _verify(self, text: str) -> _Claims:
        for public_key in self._public_keys:
            try:
                claims = jwt.decode(
                    text,
                    public_key,
                    algorithms=["EdDSA"],
                    audience=AUDIENCE,
                    leeway=EARLY_S,
                    options={"require": ["exp", "sub", "aud"]},
                )
                return _in_time(_Claims.model_validate(claims))
            except jwt.InvalidSignatureError:
                continue
            except Exception as error:
                raise ProblemError("unauthenticated", "invalid token") from error
        raise ProblemError("unauthenticated", "invalid token")

    def look(self) -> str | None:
        """Read the document if it is time to; why what it says now is not in force, None when it is."""
        now = time.monotonic()
        if now - self._checked_at < _RELOAD_INTERVAL_S:
            return self._trouble
        self._checked_at = now  # first, so that a document that stays broken is not read by each request
        before = self._trouble
        try:
            self._reload()
            self._trouble = None
        except DocumentError as error:
            self._seen = None  # a file that comes back may be the one it was
            self._trouble = f"{error}; the credentials known before stay in force"
        if self._trouble and self._trouble != before:
            structlog.get_logger().warning("credentials_not_adopted", trouble=self._trouble)
        return self._trouble

    def _reload(self) -> None:
        stamp = stamp_of(self._path)
        if stamp and stamp == self._seen:
            return
        document = read_document(self._path, CredentialDocument)
        self._public_keys = [_public_key(self._path, text) for text in document.jwt_public_keys]
        self._keys = {record.id: record for record in document.keys}
        self._forward_keys = [text.encode() for text in document.forward_keys]
        self._rejoin_keys = [text.encode() for text in document.rejoin_keys]
        self._tokens.clear()
        self._known_keys.clear()
        self._seen = stamp


def _in_time(claims: _Claims) -> _Claims:
    """The claims of a token that has not ended: the leeway of its beginning is none of its end."""
    if claims.exp <= time.time():
        raise jwt.ExpiredSignatureError
    return claims


def _mac(key: bytes, message: str) -> str:
    return hmac.digest(key, message.encode(), "sha256").hex()


def _public_key(path: Path, text: str) -> Ed25519PublicKey:
    try:
        key = load_pem_public_key(text.encode())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise DocumentError(f"{path}: jwt_public_keys: not a public key in PEM") from error
    if not isinstance(key, Ed25519PublicKey):
        raise DocumentError(f"{path}: jwt_public_keys: not an Ed25519 key")
    return key
