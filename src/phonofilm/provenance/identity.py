"""Who signs: a private key and the certificates that name its holder.

A key is made when the first film is signed, or the operator brings one. A key that made itself proves that two films
come from the same place, and nothing about whose place it is; for that, bring a certificate of an authority.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import os
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from phonofilm.errors import InputError, OutputError
from phonofilm.files import HOME_VARIABLE, home, replacing

if TYPE_CHECKING:
    from cryptography import x509

KEY_VARIABLE: Final = "PHONOFILM_SIGN_KEY"
CHAIN_VARIABLE: Final = "PHONOFILM_SIGN_CHAIN"

FILE: Final = "identity.pem"  # the key, its certificate, the authority's certificate
AUTHORITY_FILE: Final = "authority.pem"  # the last of these alone, for those who want to recognise our films
YEARS: Final = 30
"""How long a certificate made here is valid. Without a time-stamp authority, which would need a network, a signature
cannot outlive its certificate."""

_CURVES: Final = {"secp256r1": "es256", "secp384r1": "es384", "secp521r1": "es512"}


@dataclass(frozen=True)
class Identity:
    """A signer. key: PEM (PKCS #8). chain: PEM, the signer's certificate first, an authority's certificate last."""

    key: str = field(repr=False)
    chain: str = field(repr=False)
    algorithm: str  # of C2PA: es256, es384, es512, ps256 or ed25519

    # --- where they come from ---------------------------------------------------------------------------------------
    @classmethod
    def default(cls) -> Self:
        """The one that is known here, or a new one. Raises InputError and OutputError as `known` and `create`."""
        return cls.known() or cls.create(home() / "identity")

    @classmethod
    def known(cls) -> Self | None:
        """The operator's own ($PHONOFILM_SIGN_KEY and $PHONOFILM_SIGN_CHAIN), the one made here, or None."""
        key, chain = os.environ.get(KEY_VARIABLE), os.environ.get(CHAIN_VARIABLE)
        if key and chain:
            return cls.read(key, chain)
        if key or chain:
            raise InputError(f"{KEY_VARIABLE} and {CHAIN_VARIABLE} must both be set, or neither")
        folder = home() / "identity"
        return cls.load(folder) if (folder / FILE).exists() else None

    @classmethod
    def read(cls, key: str | Path, chain: str | Path) -> Self:
        """An operator's own: PEM files of a private key without passphrase, and of at least two certificates.

        The certificates: the signer's, then the one that signed it, and so on. They must fit the key and the
        certificate profile of C2PA 2.x (§14.5: digitalSignature, an extended use such as emailProtection, an
        organisation, not self-signed). InputError says what does not.
        """
        return cls._of(_content(Path(key)), _content(Path(chain)), f"{key} and {chain}")

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """What `create` made in `folder`. Raises InputError if it is not there or damaged."""
        path = Path(folder) / FILE
        content = _content(path)
        return cls._of(content, content, str(path))

    @classmethod
    def create(cls, folder: str | Path, name: str | None = None) -> Self:
        """Make an identity in `folder`, unless there is one; of processes that try at once, all get the first one's.

        name: of the signer, 1..64 characters; by default Phonofilm and eight digits of the key's hash.
        Key and certificates are one file of mode 0600, so that they always fit. Raises OutputError.
        """
        folder = Path(folder)
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not (folder / FILE).exists():
                handle, beside = tempfile.mkstemp(prefix=".identity.", dir=folder)  # mode 0600
                try:
                    with os.fdopen(handle, "w", encoding="ascii") as file:
                        file.write(_make(name))
                        file.flush()
                        os.fsync(handle)
                    with contextlib.suppress(FileExistsError):  # unlike a rename, a link never replaces
                        os.link(beside, folder / FILE)
                finally:
                    os.unlink(beside)
        except OSError as error:
            raise OutputError(
                f"cannot make a signing key in {folder}: {error.strerror or error} ({HOME_VARIABLE} chooses the folder)"
            ) from error
        identity = cls.load(folder)
        if not (folder / AUTHORITY_FILE).exists():
            with replacing(folder / AUTHORITY_FILE) as public:
                public.write_text(identity.authorities, encoding="ascii")
        return identity

    @classmethod
    def _of(cls, key_pem: bytes, chain_pem: bytes, what: str) -> Self:
        from cryptography import x509
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives import serialization as s

        try:
            key = s.load_pem_private_key(key_pem, None)
            chain = x509.load_pem_x509_certificates(chain_pem)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise InputError(f"{what}: no private key without passphrase and certificates in PEM ({error})") from error
        spki = s.Encoding.DER, s.PublicFormat.SubjectPublicKeyInfo
        if key.public_key().public_bytes(*spki) != chain[0].public_key().public_bytes(*spki):
            raise InputError(f"{what}: the first certificate is not that of the private key")
        if len(chain) < 2:
            raise InputError(f"{what}: needs the signer's certificate and the one that signed it, got one")
        if not _first(chain[0], "2.5.4.10"):
            raise InputError(f"{what}: the signer's certificate must name an organisation (O)")
        private = key.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, s.NoEncryption())
        return cls(private.decode(), pem(chain), _algorithm(key, what))

    # --- what they say ----------------------------------------------------------------------------------------------
    @cached_property
    def certificates(self) -> list[x509.Certificate]:
        """The signer's first."""
        from cryptography import x509

        return x509.load_pem_x509_certificates(self.chain.encode())

    @property
    def name(self) -> str:
        """Common name and organisation of the signer."""
        common, organisation = (_first(self.certificates[0], oid) for oid in ("2.5.4.3", "2.5.4.10"))
        return f"{common} ({organisation})" if common else organisation

    @property
    def serial(self) -> str:
        """Serial number of the signer's certificate, decimal."""
        return str(self.certificates[0].serial_number)

    @property
    def presented(self) -> str:
        """PEM of the certificates that go into a film: all but roots, which a verifier must have from elsewhere."""
        return pem(c for c in self.certificates if c.issuer != c.subject)

    @property
    def authorities(self) -> str:
        """PEM of the certificates above the signer's; they hold nothing secret."""
        return pem(self.certificates[1:])


def pem(certificates: Iterable[x509.Certificate]) -> str:
    """The certificates as text."""
    from cryptography.hazmat.primitives.serialization import Encoding

    return "".join(certificate.public_bytes(Encoding.PEM).decode() for certificate in certificates)


def _first(certificate: x509.Certificate, oid: str) -> str:
    """The subject's first attribute of that kind, or nothing."""
    found = [str(a.value) for a in certificate.subject if a.oid.dotted_string == oid]
    return found[0] if found else ""


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error


def _algorithm(key: Any, what: str) -> str:
    """The signature algorithm of C2PA 2.x ("Digital Signatures") that goes with a private key."""
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    name = None
    if isinstance(key, ec.EllipticCurvePrivateKey):
        name = _CURVES.get(key.curve.name)
    elif isinstance(key, rsa.RSAPrivateKey) and key.key_size >= 2048:
        name = "ps256"
    elif isinstance(key, ed25519.Ed25519PrivateKey):
        name = "ed25519"
    if name is None:
        raise InputError(f"{what}: the key must be of P-256, P-384, P-521, Ed25519, or RSA of at least 2048 bits")
    return name


def _make(name: str | None) -> str:
    """PEM of a new P-256 key, its certificate, and the certificate of an authority whose key is forgotten at once.

    The authority is there because C2PA forbids certificates that sign themselves (C2PA 2.x §14.5.1). Forgotten, its key
    can sign nobody else: who trusts the authority trusts this key alone.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives import serialization as s
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    key, authority_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    spki = key.public_key().public_bytes(s.Encoding.DER, s.PublicFormat.SubjectPublicKeyInfo)
    own = name or f"Phonofilm {hashlib.sha256(spki).hexdigest()[:8]}"
    if not (own.isprintable() and own.strip() and len(own) <= 64):
        raise InputError(f"the name of a signer must be 1..64 printable characters, got {own!r}")
    now = datetime.datetime.now(datetime.UTC)

    def certificate(who: str, public: ec.EllipticCurvePublicKey, *, authority: bool) -> x509.Certificate:
        def named(common: str) -> x509.Name:
            organisation = x509.NameAttribute(NameOID.ORGANIZATION_NAME, "self-issued")
            return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common), organisation])

        usage = dict.fromkeys(
            ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "crl_sign",
             "encipher_only", "decipher_only"), False,
        )  # fmt: skip
        builder = (
            x509.CertificateBuilder()
            .subject_name(named(who))
            .issuer_name(named("Phonofilm authority"))
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))  # clocks differ
            .not_valid_after(now + datetime.timedelta(days=365.25 * YEARS))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=0 if authority else None), critical=True)
            .add_extension(
                x509.KeyUsage(digital_signature=not authority, key_cert_sign=authority, **usage), critical=True
            )
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False
            )
        )
        if not authority:
            uses = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION])  # one of those that C2PA accepts
            builder = builder.add_extension(uses, critical=False)
        return builder.sign(authority_key, hashes.SHA256())

    made = (
        certificate(own, key.public_key(), authority=False),
        certificate("Phonofilm authority", authority_key.public_key(), authority=True),
    )
    return key.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, s.NoEncryption()).decode() + pem(made)
