"""The credentials document of a data folder: made at birth, completed after an upgrade, kept otherwise."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cluster.document import Documents
from cluster.errors import ClusterError
from cluster.key import add_key, ensure_keys, read_keys, revoke_key
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


def give_and_take_back(documents: Documents) -> str:
    """A key that stays, beside others that are revoked."""
    kept = ""
    for _ in range(8):
        kept = add_key(documents, "pos")
        revoke_key(documents, add_key(documents, "service").split("_")[1])
    return kept


def test_of_keys_that_are_made_and_revoked_at_once_none_is_lost_and_none_comes_back(tmp_path: Path) -> None:
    ensure_keys(Documents(tmp_path))
    with ThreadPoolExecutor(3) as pool:
        kept = list(pool.map(give_and_take_back, [Documents(tmp_path)] * 3))
    credentials = Credentials(tmp_path / "credentials.json")
    assert {credentials.principal(f"Bearer {text}").role for text in kept} == {"pos"}
    records: list[dict[str, str]] = json.loads((tmp_path / "credentials.json").read_text())["keys"]
    assert sorted(one["role"] for one in records) == ["admin", *["pos"] * 25, "service"]


def test_where_the_development_keys_are_gone_those_of_tills_stay(tmp_path: Path) -> None:
    documents = Documents(tmp_path)
    ensure_keys(documents)
    till, before = add_key(documents, "pos", "330"), read(tmp_path)
    documents.keys.unlink()
    ensure_keys(documents)
    credentials, now = Credentials(documents.credentials), read(tmp_path)
    assert credentials.principal(f"Bearer {till}").store == "330"
    assert credentials.principal(f"Bearer {read_keys(documents)['admin']}").role == "admin"
    assert all(now[name][: len(kept)] == kept for name, kept in before.items())
    assert {name: len(one) for name, one in now.items()} == {
        "keys": 7, "jwt_public_keys": 2, "forward_keys": 1, "rejoin_keys": 1
    }  # fmt: skip


def test_where_the_credentials_are_gone_nothing_is_made_in_their_place(tmp_path: Path) -> None:
    """All keys of tills would be void, and who has left counted as new, without a word."""
    documents = Documents(tmp_path)
    ensure_keys(documents)
    documents.credentials.unlink()
    keys = documents.keys.read_bytes()
    with pytest.raises(ClusterError, match=r"credentials\.json is gone: put your copy of it back"):
        ensure_keys(documents)
    assert not documents.credentials.exists()
    assert documents.keys.read_bytes() == keys
    documents.keys.unlink()  # as the message says
    ensure_keys(documents)
    assert Credentials(documents.credentials).principal(f"Bearer {read_keys(documents)['pos']}").role == "pos"
