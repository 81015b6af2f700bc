"""Tell whether a file is signed, altered or unsigned, and by whom; without network, and in a process of its own.

What a signature after C2PA 2.x covers: every byte of picture, sound and statement. What it does not: the framing and
the zero padding of the manifest itself (about 1 kB), and in MP4 and MOV the boxes ftyp, free, skip and mfra, which hold
no picture and no sound ("BMFF-Based Hash").
"""

from __future__ import annotations

import dataclasses
import json
import mmap
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from phonofilm.errors import InputError, MediaError
from phonofilm.media.formats import SOUND_FILE, Limits, is_pattern, sequence, sniff
from phonofilm.media.sandbox import confine, run_apart
from phonofilm.provenance.identity import Identity, pem
from phonofilm.provenance.signing import ANYTHING, OFFLINE, PART, RECEIPT, Where, sidecar

TRUST_VARIABLE: Final = "PHONOFILM_TRUST"
Status = Literal["signed", "altered", "unsigned"]

NOTHING_PROVEN: Final = (
    "The absence of a signature proves nothing: converting or sending a film can drop it, and nobody must sign."
)
_HARMLESS: Final = {"signingCredential.untrusted", "signingCredential.expired"}  # of who signed, not of what
_BINDINGS: Final = {f"assertion.{kind}.match" for kind in ("dataHash", "bmffHash", "boxesHash", "collectionHash")}
_TRACES: Final = re.compile(rb"jumdc2pa|c2pa\.signature")  # what a manifest holds even where it cannot be read
_LONGEST: Final = 16 << 20  # bytes of a sidecar


@dataclass(frozen=True)
class Verdict:
    """What is known of a file.

    status: "signed" (the signature holds for the file as it is), "altered" (there is one, and it does not hold), or
    "unsigned", which proves nothing.
    where: the manifest lies in the file ("embedded") or beside it ("sidecar").
    signer: as the certificate names it; where status is "altered", as the file claims.
    trusted: the certificate is of this installation (`ours`), or of an authority on the trust list that was given.
    when: as the signer says, ISO 8601. made_by: the software. source_type: an IPTC digital source type.
    receipt: how it was made, where phonofilm made it. part: of a sequence, as `signing.Part`.
    problems: codes of C2PA 2.x ("Validation"), or words.
    """

    status: Status
    where: Where | None = None
    signer: str | None = None
    ours: bool = False
    trusted: bool = False
    when: str | None = None
    made_by: str | None = None
    source_type: str | None = None
    receipt: dict[str, Any] | None = None
    part: dict[str, Any] | None = None
    problems: tuple[str, ...] = ()

    @property
    def lines(self) -> list[str]:
        """The verdict for people."""
        problems = f" ({', '.join(self.problems)})" if self.problems else ""
        if self.status == "unsigned":
            return [f"unsigned: no signature was found{problems}", NOTHING_PROVEN]
        if self.status == "altered" and self.signer is None:
            return [f"altered: what there is of a signature cannot be read{problems}"]
        if self.status == "altered":
            return [f"altered: a signature in the name of {self.signer} does not hold for this file{problems}"]
        known = "this installation" if self.ours else "an authority on the trust list vouches"
        if not self.trusted:
            known = "certificate not known here, so the name may be anybody's"
        told = [f"signed: by {self.signer}; {known}{problems}"]
        if self.made_by:
            kind = f", {self.source_type.rsplit('/', 1)[-1]}" if self.source_type else ""
            told.append(f"made by: {self.made_by}{kind}{f', {self.when}' if self.when else ''}")
        if self.receipt:
            told.append(f"receipt: {', '.join(_facts(self.receipt))}")
        if self.where == "sidecar":
            told.append("The signature lies beside the file; keep the two together.")
        return told


def verify(
    path: str | Path, *, identity: Identity | None = None, trust: str | Path | None = None, apart: bool = True
) -> Verdict:
    """Look at a file, or at all files of a PNG sequence (a folder or out/%04d.png), which must belong together.

    identity: who "this installation" is, by default `Identity.known()`. trust: a PEM file of the certificates of
    authorities, by default $PHONOFILM_TRUST. apart: in a confined process, as strangers' files deserve.
    Raises MediaError if the file is none of the media that are read, InputError if `trust` cannot be used.
    """
    path = Path(path)
    identity = identity or Identity.known()
    question: dict[str, Any] = {
        "path": os.path.abspath(path),
        "serial": identity.serial if identity else None,
        "own": identity.authorities if identity else None,
        "trust": _trust(trust or os.environ.get(TRUST_VARIABLE)),
    }
    if not apart:
        return _look(**question)
    with tempfile.TemporaryDirectory(prefix="phonofilm.") as name:
        (Path(name) / "job.json").write_text(json.dumps(question), encoding="utf-8")
        told = run_apart("phonofilm.provenance.verifying", Path(name), Limits(), str(path))
    if "error" in told:
        raise MediaError(told["error"].replace(question["path"], str(path)))
    return Verdict(**{**told, "problems": tuple(told["problems"])})


def _trust(path: str | Path | None) -> str | None:
    if path is None:
        return None
    from cryptography import x509

    try:
        return pem(x509.load_pem_x509_certificates(Path(path).read_bytes()))  # and no key that may be there too
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: must be a PEM file of certificates ({error})") from error


def _look(path: str, serial: str | None, own: str | None, trust: str | None) -> Verdict:
    place = Path(path)
    if not (place.is_dir() or is_pattern(place)):
        return _look_at(place, serial, own, trust)
    files = sequence(place)
    if not files:
        raise MediaError(f"{path}: holds no numbered PNGs")
    files += [sound for sound in [files[0].parent / SOUND_FILE] if sound.is_file()]
    return _together({file.name: _look_at(file, serial, own, trust) for file in files})


def _look_at(path: Path, serial: str | None, own: str | None, trust: str | None) -> Verdict:
    if path.exists() and not path.is_file():
        raise MediaError(f"{path}: is not a regular file")
    sniff(path)
    verdict = _read(path, own, serial)
    return verdict if verdict.trusted or trust is None else _read(path, trust, None)


def _read(path: Path, anchors: str | None, serial: str | None) -> Verdict:
    """The verdict where authorities (PEM) are trusted: for any certificate, or for the one with `serial`, our own."""
    import c2pa

    context = c2pa.Context.from_dict({**OFFLINE, "trust": {"user_anchors": anchors}} if anchors else dict(OFFLINE))
    beside = sidecar(path)
    with path.open("rb") as file:
        try:
            with c2pa.Reader(None, file, None, context) as reader:
                return _judge(reader.json(), "embedded", serial)
        except c2pa.C2paError as error:
            if _traces(file.fileno()):
                return Verdict("altered", "embedded", problems=(_plain(error),))
            if not beside.is_file():
                silent = isinstance(error, c2pa.C2paError.ManifestNotFound | c2pa.C2paError.NotSupported)
                return Verdict("unsigned", problems=() if silent else (_plain(error),))
        if beside.stat().st_size > _LONGEST:
            raise MediaError(f"{beside}: has {beside.stat().st_size} bytes, allowed are {_LONGEST}")
        try:
            file.seek(0)
            with c2pa.Reader(ANYTHING, file, beside.read_bytes(), context) as reader:
                return _judge(reader.json(), "sidecar", serial)
        except c2pa.C2paError as error:
            return Verdict("altered", "sidecar", problems=(_plain(error),))


def _traces(handle: int) -> bool:
    with mmap.mmap(handle, 0, access=mmap.ACCESS_READ) as content:
        return _TRACES.search(content) is not None


def _judge(text: str, where: Where, serial: str | None) -> Verdict:
    """The verdict from the C2PA library's report. What it quotes from the file may be anything."""
    report = json.loads(text)
    manifest = _dig(report, "manifests", report.get("active_manifest")) or {}  # what is damaged may be left out
    results = report.get("validation_results") or {}
    active = results.get("activeManifest") or {}
    groups = [active, *(ingredient["validationDeltas"] for ingredient in results.get("ingredientDeltas") or ())]
    passed, failed = (
        {item["code"] for group in groups for item in group.get(kind) or ()} for kind in ("success", "failure")
    )
    validated = any(item["code"] == "claimSignature.validated" for item in active.get("success") or ())
    holds = validated and bool(passed & _BINDINGS) and failed <= _HARMLESS
    problems = sorted(failed - {"signingCredential.untrusted"})
    if not holds and not problems:
        problems = ["nothing binds the signature to the file"]

    info = manifest.get("signature_info") or {}
    names = [_plain(info[key]) for key in ("common_name", "issuer") if info.get(key)]
    trusted = holds and report.get("validation_state") == "Trusted" and serial in (None, info.get("cert_serial_number"))
    made = _dig(manifest, "claim_generator_info", 0) or {}
    assertions = {item["label"]: item.get("data") for item in manifest.get("assertions") or ()}
    actions = next((data for label, data in assertions.items() if label.startswith("c2pa.actions")), None)
    receipt, part = assertions.get(RECEIPT), assertions.get(PART)
    return Verdict(
        status="signed" if holds else "altered",
        where=where,
        signer=f"{names[0]} ({names[1]})" if len(names) > 1 else "".join(names) or None,
        ours=trusted and serial is not None,
        trusted=trusted,
        when=_plain(info.get("time") or _dig(actions, "actions", 0, "when") or "") or None,
        made_by=_plain(f"{made.get('name', '')} {made.get('version', '')}").strip() or None,
        source_type=_plain(_dig(actions, "actions", 0, "digitalSourceType") or "") or None,
        receipt=receipt if isinstance(receipt, dict) else None,
        part=part if isinstance(part, dict) else None,
        problems=tuple(map(_plain, problems)),
    )


def _together(verdicts: Mapping[str, Verdict]) -> Verdict:
    """One verdict on the files of a sequence, in order: signed if all are, by one signer, as parts of one film."""
    first = next((v for v in verdicts.values() if v.status != "unsigned"), None)
    if first is None:
        return Verdict("unsigned")
    wrong = [f"{name} is {verdict.status}" for name, verdict in verdicts.items() if verdict.status != "signed"]
    wrong += [
        f"{name} is signed by {v.signer}" for name, v in verdicts.items() if not wrong and v.signer != first.signer
    ]
    alone = all(verdict.part is None for verdict in verdicts.values())
    if not wrong and not alone:
        parts = (
            {"film": _dig(first.part, "film"), "number": k, "of": len(verdicts)} for k in range(1, 1 + len(verdicts))
        )
        wrong = [
            f"{name} is not part {part['number']} of {part['of']}"
            for part, (name, verdict) in zip(parts, verdicts.items(), strict=True)
            if verdict.part != part
        ]
    if wrong:
        shown = wrong[:3] + ([f"and {len(wrong) - 3} more"] if len(wrong) > 3 else [])
        return dataclasses.replace(first, status="altered", ours=False, trusted=False, problems=tuple(shown))
    loose = ("each by itself, nothing binds them to one film",) if alone and len(verdicts) > 1 else ()
    ours, trusted = (all(getattr(v, name) for v in verdicts.values()) for name in ("ours", "trusted"))
    return dataclasses.replace(first, ours=ours, trusted=trusted, part=None, problems=first.problems + loose)


def _facts(receipt: Mapping[str, Any]) -> Iterator[str]:
    """The receipt in a few words; it may hold anything."""
    for name, longest in (("model", 40), ("weights", 12), ("seed", 20)):
        if receipt.get(name) is not None:
            yield f"{name} {_plain(receipt[name])[:longest]}"
    for name, unit in (("seconds", "s"), ("energy_j", "J")):
        stages = receipt.get(name)
        if isinstance(stages, dict) and all(isinstance(value, int | float) for value in stages.values()):
            yield f"{sum(stages.values()):.1f} {unit}"
    if receipt.get("energy_method"):
        yield f"energy {_plain(receipt['energy_method'])}"


def _dig(value: Any, *keys: str | int) -> Any:
    for key in keys:
        try:
            value = value[key]
        except (KeyError, IndexError, TypeError):
            return None
    return value


def _plain(value: object, longest: int = 200) -> str:
    """Printable text, so that a name in a file cannot steer a terminal."""
    text = "".join(c if c.isprintable() else " " for c in str(value)[: 2 * longest])
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def main(folder: Path) -> None:
    """The child's side: FOLDER/job.json is the question, FOLDER/report.json the answer."""
    question = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    confine(Limits())
    try:
        answer = dataclasses.asdict(_look(**question))
    except MediaError as error:
        answer = {"error": str(error)}
    (folder / "report.json").write_text(json.dumps(answer), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
