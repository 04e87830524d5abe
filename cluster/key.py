"""The API keys of a data folder, and the key that signs members' tokens: made once, at the first start, and kept.

The nodes read their hashes in the credentials, each second.
"""

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from pydantic import BaseModel

from cluster.document import Documents
from cluster.errors import ClusterError
from cluster.files import write_json
from service.credential import CredentialDocument, KeyRecord, Role, new_key, new_secret
from shard_router.document import read_document

KEY_ROLES: tuple[Role, ...] = ("admin", "service", "pos")


class Keys(BaseModel):
    """The raw development keys by role, and the private key (PEM) that signs members' tokens."""

    keys: dict[str, str]
    jwt_private_key: str


def ensure_keys(documents: Documents) -> None:
    """Make the development keys and the signing key unless they are there."""
    if documents.keys.exists() and documents.credentials.exists():
        _complete_credentials(documents)
        return
    made = {role: new_key(role) for role in KEY_ROLES if role != "member"}
    private = Ed25519PrivateKey.generate()
    private_pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    public_pem = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    credentials = CredentialDocument(
        keys=[record for _, record in made.values()],
        jwt_public_keys=[public_pem],
        forward_keys=[new_secret()],
        rejoin_keys=[new_secret()],
    )
    write_json(documents.credentials, credentials.model_dump(), mode=0o600)
    keys = {"keys": {role: text for role, (text, _) in made.items()}, "jwt_private_key": private_pem}
    write_json(documents.keys, keys, mode=0o600)


def _complete_credentials(documents: Documents) -> None:
    """Add what a document of an earlier version lacks."""
    credentials = read_document(documents.credentials, CredentialDocument)
    lists = {"forward_keys": credentials.forward_keys, "rejoin_keys": credentials.rejoin_keys}
    missing = {name: [new_secret()] for name, secrets in lists.items() if not secrets}
    if missing:
        completed = credentials.model_copy(update=missing)
        write_json(documents.credentials, completed.model_dump(), mode=0o600)


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
    credentials = read_credentials(documents)
    text, record = new_key(role, store, desk=desk, name=name)
    _write_credentials(documents, credentials.model_copy(update={"keys": [*credentials.keys, record]}))
    return text


def revoke_key(documents: Documents, key_id: str) -> KeyRecord:
    """Take a key out of the credentials, which nodes know within a second; ClusterError when there is none."""
    credentials = read_credentials(documents)
    revoked = [record for record in credentials.keys if record.id == key_id]
    if not revoked:
        raise ClusterError(f"no key {key_id}: `loyalty keys` lists them")
    left = [record for record in credentials.keys if record.id != key_id]
    _write_credentials(documents, credentials.model_copy(update={"keys": left}))
    return revoked[0]


def read_credentials(documents: Documents) -> CredentialDocument:
    """The credentials in the folder; ClusterError before the first start."""
    if not documents.credentials.exists():
        raise ClusterError(f"no credentials in {documents.data}: start the system once with `loyalty up`")
    return read_document(documents.credentials, CredentialDocument)


def _write_credentials(documents: Documents, credentials: CredentialDocument) -> None:
    write_json(documents.credentials, credentials.model_dump(), mode=0o600)
