"""The development certificate of the front door: kept while it lasts, and signed by the authority beside it."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from cluster import certificate
from cluster.certificate import AUTHORITY, ensure_certificate


def test_a_certificate_is_made_once_and_signed_by_the_authority_beside_it(tmp_path: Path) -> None:
    made = ensure_certificate(tmp_path)
    content = made[0].read_bytes()
    assert ensure_certificate(tmp_path) == made
    assert made[0].read_bytes() == content
    assert made[1].stat().st_mode & 0o777 == 0o600
    authority = x509.load_pem_x509_certificate((tmp_path / AUTHORITY).read_bytes())
    x509.load_pem_x509_certificate(content).verify_directly_issued_by(authority)


def test_a_certificate_that_soon_ends_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as short:
        short.setattr(certificate, "VALID_DAYS", 20)
        ensure_certificate(tmp_path)
    renewed, _ = ensure_certificate(tmp_path)
    ends_at = x509.load_pem_x509_certificate(renewed.read_bytes()).not_valid_after_utc
    assert ends_at > datetime.now(UTC) + timedelta(days=300)
