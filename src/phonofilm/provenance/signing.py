"""Sign a finished file after C2PA 2.x (spec.c2pa.org): what it is, what made it, and what that cost.

MP4, MOV, GIF, PNG and WAV carry their manifest. C2PA has no place for one in WebM and MKV, so theirs lies beside them
as FILE.c2pa ("External Manifests").
"""

from __future__ import annotations

import datetime
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from phonofilm import __version__
from phonofilm.errors import OutputError
from phonofilm.files import replacing
from phonofilm.media.formats import sniff
from phonofilm.provenance.identity import Identity

if TYPE_CHECKING:
    import c2pa

Where = Literal["embedded", "sidecar"]

RECEIPT: Final = "org.phonofilm.receipt"
PART: Final = "org.phonofilm.part"
GENERATED: Final = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
COMPOSED: Final = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
"""Kinds of source by the IPTC: made by a trained model; and made by one from picture or sound that was given."""

OFFLINE: Final[Mapping[str, Any]] = {
    "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False},
    # identities of the CAWG kind may name a host, which the library would ask
    "core": {"allowed_network_hosts": [], "allow_redirects": False, "decode_identity_assertions": False},
    "builder": {"thumbnail": {"enabled": False}},
}
"""Settings of the C2PA library with which it never uses the network."""

_EMBEDS: Final = {"mov": "video/mp4", "gif": "image/gif", "PNG": "image/png", "wav": "audio/wav"}
ANYTHING: Final = "video/webm"
"""A type that the C2PA library does not know: it then hashes the file as it is, byte by byte."""


@dataclass(frozen=True)
class Part:
    """One of the files that make one film, such as a picture of a sequence: its number (from 1) of how many."""

    film: str
    number: int
    of: int


@dataclass(frozen=True)
class Claim:
    """What is signed. receipt: plain JSON about the making; put no words of people in it, whoever has the file sees it.

    source_type: GENERATED or COMPOSED.
    """

    receipt: Mapping[str, Any] | None = None
    source_type: str = GENERATED
    part: Part | None = None


@dataclass(frozen=True)
class Signed:
    """How a file was signed. path: of the manifest, which is the file itself or its sidecar."""

    by: str
    where: Where
    path: Path


def sidecar(path: str | Path) -> Path:
    """Where the manifest of a file lies that cannot carry it."""
    path = Path(path)
    return path.with_name(f"{path.name}.c2pa")


def sign(path: str | Path, identity: Identity, claim: Claim | None = None, *, place: Path | None = None) -> Signed:
    """Sign a finished file in place; anything that changes it later breaks the signature, so this comes last.

    place: the name that the file will have, if it does not have it yet; a sidecar is written beside that.
    Raises MediaError if the file is none that is read here, OutputError if it cannot be signed; it is then unchanged.
    """
    import c2pa

    path = Path(path)
    place = place or path
    kind = _EMBEDS.get(sniff(path))
    try:
        builder = c2pa.Builder(_manifest(claim or Claim()), context=c2pa.Context.from_dict(dict(OFFLINE)))
        if kind is None:
            builder.set_no_embed()
        with _signer(identity) as signer, path.open("rb") as source:
            if kind is None:
                with tempfile.TemporaryFile() as copy:  # the library writes one, though it changes nothing
                    manifest = builder.sign(signer, ANYTHING, source, copy)
                with replacing(sidecar(place)) as beside:
                    beside.write_bytes(manifest)
                return Signed(identity.name, "sidecar", sidecar(place))
            with replacing(path) as beside:
                with beside.open("w+b") as target:
                    builder.sign(signer, kind, source, target)
                shutil.copymode(path, beside)
            return Signed(identity.name, "embedded", place)
    except c2pa.C2paError as error:
        raise OutputError(f"cannot sign {place} as {identity.name}: {error}") from error


def _signer(identity: Identity) -> c2pa.Signer:
    import c2pa

    pems = identity.presented.encode(), identity.key.encode()
    info = c2pa.C2paSignerInfo(identity.algorithm, *pems, None)  # no time-stamp authority
    return c2pa.Signer.from_info(info)


def _manifest(claim: Claim) -> dict[str, Any]:
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    maker = {"name": "phonofilm", "version": __version__}
    action = {"action": "c2pa.created", "when": now, "softwareAgent": maker, "digitalSourceType": claim.source_type}
    assertions: dict[str, Any] = {"c2pa.actions.v2": {"actions": [action]}}
    if claim.receipt is not None:
        assertions[RECEIPT] = dict(claim.receipt)
    if claim.part is not None:
        assertions[PART] = asdict(claim.part)
    return {
        "claim_generator_info": [maker],
        "assertions": [{"label": label, "data": data, "created": True} for label, data in assertions.items()],
    }
