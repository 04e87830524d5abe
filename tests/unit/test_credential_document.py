"""The credentials document of a data folder: made at birth, completed after an upgrade, kept otherwise."""

import json
from pathlib import Path

from cluster.document import Documents
from cluster.key import add_key, ensure_keys
from service.credential import Credentials


def read(folder: Path) -> dict[str, list[str]]:
    return json.loads((folder / "credentials.json").read_text())


def test_nodes_have_a_key_to_sign_what_they_forward_and_keep_it(tmp_path: Path) -> None:
    ensure_keys(Documents(tmp_path))
    made = read(tmp_path)
    assert len(made["forward_keys"]) == 1
    ensure_keys(Documents(tmp_path))
    add_key(Documents(tmp_path), "pos", "330")
    assert read(tmp_path)["forward_keys"] == made["forward_keys"]
    assert len(read(tmp_path)["keys"]) == len(made["keys"]) + 1


def test_a_document_of_an_earlier_version_is_completed_and_its_credentials_stay(tmp_path: Path) -> None:
    ensure_keys(Documents(tmp_path))
    keys = json.loads((tmp_path / "keys.json").read_text())["keys"]
    earlier = {name: value for name, value in read(tmp_path).items() if name in {"keys", "jwt_public_keys"}}
    (tmp_path / "credentials.json").write_text(json.dumps(earlier))
    ensure_keys(Documents(tmp_path))
    completed = read(tmp_path)
    assert {name: completed[name] for name in earlier} == earlier
    credentials = Credentials(tmp_path / "credentials.json")
    assert credentials.is_signed("a", credentials.sign("a"))
    assert credentials.principal(f"Bearer {keys['admin']}").role == "admin"
