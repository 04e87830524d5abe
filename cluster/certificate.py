"""A certificate for the front door on this machine, of an authority of its own: for development only."""

from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from cluster.files import write_atomic

AUTHORITY, CERTIFICATE, KEY = "ca.pem", "door.pem", "door.key"
NAMES: Final = ("localhost",)
ADDRESSES: Final = ("127.0.0.1", "::1")
VALID_DAYS: Final = 365
_RENEWED_BEFORE: Final = timedelta(days=30)


def ensure_certificate(folder: Path) -> tuple[Path, Path]:
    """Certificate and key in a folder, made anew a month before they end; clients trust `ca.pem` beside them.

    The authority's key is thrown away at once: it has signed all that it ever will.
    """
    certificate, key = folder / CERTIFICATE, folder / KEY
    if not (key.exists() and _lasts(certificate)):
        _make(folder)
    return certificate, key


def _lasts(certificate: Path) -> bool:
    if not certificate.exists():
        return False
    ends_at = x509.load_pem_x509_certificate(certificate.read_bytes()).not_valid_after_utc
    return ends_at - datetime.now(UTC) > _RENEWED_BEFORE


def _make(folder: Path) -> None:
    authority_key, door_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    authority_name, door_name = _name("loyalty development authority"), _name("loyalty front door")
    usage = x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
    authority = (
        _builder(authority_name, authority_name, authority_key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .sign(authority_key, hashes.SHA256())
    )
    names: list[x509.GeneralName] = [x509.DNSName(name) for name in NAMES]
    names += [x509.IPAddress(ip_address(address)) for address in ADDRESSES]
    certificate = (
        _builder(door_name, authority_name, door_key)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    private = door_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    write_atomic(folder / KEY, private, mode=0o600)
    write_atomic(folder / AUTHORITY, authority.public_bytes(Encoding.PEM).decode())
    write_atomic(folder / CERTIFICATE, certificate.public_bytes(Encoding.PEM).decode())


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=VALID_DAYS))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
