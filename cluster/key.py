"""The API keys of a data folder, and the key that signs members' tokens: made once, at the first start, and kept.

The nodes read their hashes in the credentials, each second.
"""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from pydantic import BaseModel

from cluster.document import Documents
from cluster.errors import ClusterError
from cluster.files import in_turn, write_json
from service.credential import CredentialDocument, KeyRecord, Role, new_key, new_secret
from shard_router.document import read_document

KEY_ROLES: tuple[Role, ...] = ("admin", "service", "pos")


class Keys(BaseModel):
    """The raw development keys by role, and the private key (PEM) that signs members' tokens."""

    keys: dict[str, str]
    jwt_private_key: str


def ensure_keys(documents: Documents) -> None:
    """Make the development keys and the signing key unless they are there. What the credentials hold stays."""
    documents.data.mkdir(parents=True, exist_ok=True)
    with in_turn(_lock(documents)):
        if documents.credentials.exists():
            _complete_credentials(documents)
        elif documents.keys.exists():
            raise ClusterError(
                f"{documents.credentials} is gone: put your copy of it back. Where there is none, take {documents.keys}"
                " away too, and all credentials are made anew: no till's key that was given out is valid then"
            )
        if not documents.keys.exists():
            _make_keys(documents)


def _make_keys(documents: Documents) -> None:
    """Keys that nobody was given yet, in the credentials first: what is not written down is valid nowhere."""
    made = {role: new_key(role) for role in KEY_ROLES if role != "member"}
    private = Ed25519PrivateKey.generate()
    private_pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    public_pem = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    empty = CredentialDocument(keys=[], forward_keys=[new_secret()], rejoin_keys=[new_secret()])
    credentials = read_credentials(documents) if documents.credentials.exists() else empty
    added = {
        "keys": [*credentials.keys, *(record for _, record in made.values())],
        "jwt_public_keys": [*credentials.jwt_public_keys, public_pem],
    }
    _write_credentials(documents, credentials.model_copy(update=added))
    keys = {"keys": {role: text for role, (text, _) in made.items()}, "jwt_private_key": private_pem}
    write_json(documents.keys, keys, mode=0o600)


def _complete_credentials(documents: Documents) -> None:
    """Add what a document of an earlier version lacks."""
    credentials = read_document(documents.credentials, CredentialDocument)
    lists = {"forward_keys": credentials.forward_keys, "rejoin_keys": credentials.rejoin_keys}
    missing = {name: [new_secret()] for name, secrets in lists.items() if not secrets}
    if missing:
        _write_credentials(documents, credentials.model_copy(update=missing))


def read_keys(documents: Documents) -> dict[str, str]:
    """The raw development keys by role; ClusterError before the first start."""
    return _read_keys(documents).keys


def signing_key(documents: Documents) -> str:
    """The private key (PEM) of member tokens."""
    return _read_keys(documents).jwt_private_key


def _read_keys(documents: Documents) -> Keys:
    if not documents.keys.exists():
        raise ClusterError(f"no keys in {documents.data}: start the system once with `loyalty up`")
    return read_document(documents.keys, Keys)


def add_key(
    documents: Documents, role: Role, store: str | None = None, *, desk: bool = False, name: str | None = None
) -> str:
    """A new API key, which nodes know within a second; the text is shown once and not kept."""
    if role == "member":
        raise ClusterError("members use tokens: `loyalty token member ID`")
    text, record = new_key(role, store, desk=desk, name=name)
    with _changing(documents) as credentials:
        _write_credentials(documents, credentials.model_copy(update={"keys": [*credentials.keys, record]}))
    return text


def revoke_key(documents: Documents, key_id: str) -> KeyRecord:
    """Take a key out of the credentials, which nodes know within a second; ClusterError when there is none."""
    with _changing(documents) as credentials:
        revoked = [record for record in credentials.keys if record.id == key_id]
        if not revoked:
            raise ClusterError(f"no key {key_id}: `loyalty keys` lists them")
        left = [record for record in credentials.keys if record.id != key_id]
        _write_credentials(documents, credentials.model_copy(update={"keys": left}))
    return revoked[0]


@contextmanager
def _changing(documents: Documents) -> Generator[CredentialDocument]:
    """The credentials to write anew, which nobody else does meanwhile: of two at once one would undo the other."""
    read_credentials(documents)  # where nothing was ever started there is nothing to lock
    with in_turn(_lock(documents)):
        yield read_credentials(documents)


def _lock(documents: Documents) -> Path:
    return documents.credentials.with_suffix(".lock")


def read_credentials(documents: Documents) -> CredentialDocument:
    """The credentials in the folder; ClusterError before the first start."""
    if not documents.credentials.exists():
        raise ClusterError(f"no credentials in {documents.data}: start the system once with `loyalty up`")
    return read_document(documents.credentials, CredentialDocument)


def _write_credentials(documents: Documents, credentials: CredentialDocument) -> None:
    write_json(documents.credentials, credentials.model_dump(), mode=0o600)
