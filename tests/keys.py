"""Credentials for nodes under test: a key of every kind by name, and the key that signs members' tokens."""

import json
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from service.credential import new_key, new_secret


def write_credentials(path: Path) -> tuple[dict[str, str], str]:
    """Write a credentials document; tells the keys by name and the private key (PEM) of members' tokens.

    `till330` and `till331` are bound to these stores, `desk330` has the right `desk` besides.
    """
    private = Ed25519PrivateKey.generate()
    public = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    made = {role: new_key(role) for role in ("pos", "service", "admin")} | {"other_pos": new_key("pos")}
    made |= {f"till{store}": new_key("pos", store) for store in ("330", "331")}
    made["desk330"] = new_key("pos", "330", desk=True)
    records = [record.model_dump() for _, record in made.values()]
    document = {"keys": records, "jwt_public_keys": [public], "forward_keys": [new_secret()]}
    document["rejoin_keys"] = [new_secret()]
    path.write_text(json.dumps(document))
    signing_key = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    return {name: text for name, (text, _) in made.items()}, signing_key
