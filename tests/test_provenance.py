"""A signature says who made a file and that it is as it was made; nothing else passes for one."""

from __future__ import annotations

import contextlib
import datetime
import functools
import http.server
import json
import os
import shutil
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import flash_clip
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from phonofilm.cli import main
from phonofilm.clip import Clip
from phonofilm.errors import InputError, MediaError, OutputError, PhonofilmError
from phonofilm.media import read, read_audio, write
from phonofilm.provenance import Claim, Identity, Verdict, sidecar, sign, verify
from phonofilm.provenance.signing import COMPOSED, GENERATED

EMBEDDED = ("a.mp4", "a.mov", "a.gif", "a.png", "a.wav")
BESIDE = ("a.webm", "a.mkv")
RECEIPT = {
    "model": "native",
    "seed": 3,
    "weights": "ab" * 32,
    "seconds": {"denoise": 0.5},
    "energy_j": {"denoise": 2.0},
}

look = functools.partial(verify, apart=False)  # the child process is tested once, below


@pytest.fixture(scope="module")
def identity(tmp_path_factory: pytest.TempPathFactory) -> Identity:
    return Identity.create(tmp_path_factory.mktemp("identity"))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a file of each kind, unsigned; noisy, so that most of it is media."""
    folder = tmp_path_factory.mktemp("plain")
    clip = flash_clip(16, 64, 48)
    noise = np.random.default_rng(0).integers(-25, 25, clip.frames.shape)
    clip = replace(clip, frames=(clip.frames.astype(int) + noise).clip(0, 255).astype(np.uint8))
    for name in (*EMBEDDED, *BESIDE):
        write(Clip(clip.frames[:1], clip.fps) if name == "a.png" else clip, folder / name)
    return folder


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory, plain: Path, identity: Identity) -> Path:
    folder = tmp_path_factory.mktemp("signed")
    for name in (*EMBEDDED, *BESIDE):
        shutil.copy(plain / name, folder)
        sign(folder / name, identity, Claim(RECEIPT))
    return folder


def flipped(path: Path, at: int, target: Path) -> Path:
    data = bytearray(path.read_bytes())
    data[at] ^= 0x10
    target.write_bytes(data)
    return target


def outcome(path: Path, identity: Identity) -> str:
    """The verdict's status; "refused" for a file that is not read at all."""
    try:
        return look(path, identity=identity).status
    except MediaError:
        return "refused"


# --- what is signed ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*EMBEDDED, *BESIDE])
def test_signed_verifies_and_plays_as_before(name: str, plain: Path, signed: Path, identity: Identity) -> None:
    verdict = look(signed / name, identity=identity)
    assert (verdict.status, verdict.ours, verdict.trusted, verdict.problems) == ("signed", True, True, ())
    assert verdict.signer == identity.name
    assert verdict.made_by is not None and verdict.made_by.startswith("phonofilm ")
    assert verdict.source_type == GENERATED and verdict.receipt == RECEIPT
    assert verdict.when is not None
    told = datetime.datetime.fromisoformat(verdict.when)
    assert abs((datetime.datetime.now(datetime.UTC) - told).total_seconds()) < 600
    assert verdict.where == ("sidecar" if name in BESIDE else "embedded")
    assert sidecar(signed / name).exists() == (name in BESIDE)
    if name in BESIDE:
        assert (signed / name).read_bytes() == (plain / name).read_bytes()
    elif name == "a.wav":
        before, after = (read_audio(folder / name, trusted=True) for folder in (plain, signed))
        assert np.array_equal(before.samples, after.samples)
    else:
        before, after = (read(folder / name, trusted=True) for folder in (plain, signed))
        assert np.array_equal(before.frames, after.frames)
        if before.audio:
            assert np.array_equal(before.audio.samples, after.audio.samples)


@pytest.mark.parametrize("name", [*EMBEDDED, *BESIDE])
def test_unsigned_proves_nothing(name: str, plain: Path, identity: Identity) -> None:
    verdict = look(plain / name, identity=identity)
    assert verdict == Verdict("unsigned")
    assert "proves nothing" in " ".join(verdict.lines)


def test_the_other_kind_of_source(plain: Path, tmp_path: Path, identity: Identity) -> None:
    path = Path(shutil.copy(plain / "a.png", tmp_path))
    sign(path, identity, Claim(source_type=COMPOSED))
    verdict = look(path, identity=identity)
    assert verdict.source_type == COMPOSED and verdict.receipt is None


def test_apart_equals_here(signed: Path, plain: Path, identity: Identity) -> None:
    assert verify(signed / "a.mp4", identity=identity) == look(signed / "a.mp4", identity=identity)
    with pytest.raises(MediaError, match=r"none of the media") as refused:
        verify(flipped(plain / "a.png", 0, plain.parent / "no.png"), identity=identity)
    assert str(plain.parent / "no.png") in str(refused.value)


# --- what is found ----------------------------------------------------------------------------------------------------


def unhashed(data: bytes, kind: str) -> list[tuple[int, int]]:
    """Stretches [start, end) of a file that a C2PA signature does not cover: the manifest's own framing and padding,
    and in MP4 and MOV the boxes ftyp and free."""
    if kind in (".mp4", ".mov"):
        out, at = [], 0
        while at < len(data):
            size, name = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
            if name in (b"ftyp", b"free", b"uuid"):
                out.append((at, at + size))
            at += size
        return out
    start = {".png": data.find(b"caBX") - 4, ".gif": data.find(b"!\xff\x0bC2PA_GIF"), ".wav": data.find(b"C2PA")}[kind]
    manifest = data.find(b"jumb") - 4
    size = int.from_bytes(data[manifest : manifest + 4], "big")
    if kind == ".gif":  # in pieces of 255 bytes
        size += size // 255 + 2
    return [(start, manifest + size + 4)]


@pytest.mark.parametrize("name", EMBEDDED)
def test_one_flipped_byte_is_found(name: str, signed: Path, tmp_path: Path, identity: Identity) -> None:
    data = (signed / name).read_bytes()
    free = unhashed(data, Path(name).suffix)
    covered = [k for k in range(len(data)) if not any(start <= k < end for start, end in free)]
    assert len(covered) > len(data) - 5000
    rng = np.random.default_rng(1)
    places = [covered[0], covered[-1], *rng.choice(covered, 40, replace=False)]
    found = {int(k): outcome(flipped(signed / name, k, tmp_path / name), identity) for k in places}
    assert "signed" not in found.values(), found
    assert list(found.values()).count("altered") >= 38  # the others are no media any more


@pytest.mark.parametrize("name", EMBEDDED)
def test_a_manifest_cannot_say_something_else(name: str, signed: Path, tmp_path: Path, identity: Identity) -> None:
    """Of the bytes in a manifest, those that matter are covered: names, receipt, certificate, signature, hashes."""
    data = (signed / name).read_bytes()
    for words in (b"phonofilm", b"trainedAlgorithmicMedia", b"denoise", b"Phonofilm ", b"self-issued", b"c2pa.created"):
        at = data.find(words, data.find(b"jumb"))
        if at > 0:  # a GIF cuts some in two
            assert outcome(flipped(signed / name, at, tmp_path / name), identity) == "altered", words
    manifest = data.find(b"jumb")
    places = np.random.default_rng(2).integers(manifest, manifest + 2200, 60)
    found = [outcome(flipped(signed / name, int(k), tmp_path / name), identity) for k in places]
    assert found.count("altered") > 50 and set(found) <= {"altered", "signed"}


@pytest.mark.parametrize("name", BESIDE)
def test_a_sidecar_holds_for_its_file_alone(name: str, signed: Path, tmp_path: Path, identity: Identity) -> None:
    film, beside = tmp_path / name, sidecar(tmp_path / name)
    shutil.copy(sidecar(signed / name), beside)
    size = (signed / name).stat().st_size
    for at in {0, size - 1, *range(0, size, size // 20)}:
        assert outcome(flipped(signed / name, at, film), identity) in ("altered", "refused")
    shutil.copy(signed / name, film)
    assert outcome(film, identity) == "signed"
    for at in (60, 500, 900):
        flipped(sidecar(signed / name), at, beside)
        assert outcome(film, identity) == "altered"
    for damage in (b"", b"garbage", sidecar(signed / name).read_bytes()[:700]):
        beside.write_bytes(damage)
        assert outcome(film, identity) == "altered"
    beside.unlink()
    assert outcome(film, identity) == "unsigned"


def test_a_sidecar_beside_another_file(signed: Path, plain: Path, tmp_path: Path, identity: Identity) -> None:
    for name in ("a.mkv", "a.mp4"):
        other = Path(shutil.copy(plain / name, tmp_path))
        shutil.copy(sidecar(signed / "a.webm"), sidecar(other))
        verdict = look(other, identity=identity)
        assert verdict.status == "altered" and "assertion.dataHash.mismatch" in verdict.problems
        assert verdict.signer == identity.name and not verdict.trusted


@pytest.mark.parametrize("name", EMBEDDED)
def test_truncated_or_prolonged(name: str, signed: Path, tmp_path: Path, identity: Identity) -> None:
    data = (signed / name).read_bytes()
    cut = tmp_path / name
    for size in (len(data) - 1, len(data) * 3 // 4, len(data) // 2, 100, 20, 0):
        cut.write_bytes(data[:size])
        assert outcome(cut, identity) != "signed", size
    cut.write_bytes(data + b"more")
    assert outcome(cut, identity) == "altered"


@pytest.mark.parametrize("name", ["a.mp4", "a.mov", "a.webm"])
def test_a_copy_that_was_made_anew_is_unsigned(name: str, signed: Path, tmp_path: Path, identity: Identity) -> None:
    import av

    write(read(signed / name, trusted=True), tmp_path / f"again-{name}")
    assert outcome(tmp_path / f"again-{name}", identity) == "unsigned"
    with av.open(str(signed / name)) as source, av.open(str(tmp_path / name), "w") as target:
        streams = {stream.index: target.add_stream_from_template(stream) for stream in source.streams}
        for packet in source.demux():
            if packet.dts is not None:
                packet.stream = streams[packet.stream.index]
                target.mux(packet)
    assert outcome(tmp_path / name, identity) == "unsigned"


GARBAGE = (
    b"", b"\x00" * 5000, b"RIFF\xff\xff\xff\xffWAVEfmt ", b"\x89PNG\r\n\x1a\n" + b"\xff" * 99, b"GIF89a" + b"\x21" * 99,
    b"\x00\x00\x00\x01ftypmp42" + b"\xff" * 64, b"\x00\x00\x00\x20ftypisom" + b"jumdc2pa" * 9, b"ffconcat version 1.0",
    b"\x1a\x45\xdf\xa3" + b"\xff" * 64,
)  # fmt: skip


@pytest.mark.parametrize("content", GARBAGE)
def test_hostile_garbage(content: bytes, tmp_path: Path, identity: Identity) -> None:
    path = tmp_path / "x.mp4"
    path.write_bytes(content)
    assert outcome(path, identity) != "signed"
    sidecar(path).write_bytes(content)
    assert outcome(path, identity) != "signed"


def test_what_is_no_file(tmp_path: Path, identity: Identity) -> None:
    for path in (tmp_path / "missing.mp4", tmp_path, tmp_path / "%04d.png"):
        with pytest.raises(MediaError):
            look(path, identity=identity)
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(MediaError, match="regular file"):
        look(tmp_path / "pipe.mp4", identity=identity)
    with pytest.raises(MediaError, match="cannot be opened"):
        sign(tmp_path / "missing.mp4", identity)


def test_names_in_a_file_cannot_steer_a_terminal() -> None:
    from phonofilm.provenance.verifying import _facts, _plain

    assert _plain("\x1b[2Jx\ny") == " [2Jx y" and len(_plain("x" * 999)) == 200
    hostile = {"model": "\x1b[31m", "weights": {"a": 1}, "seconds": {"a": "b"}, "energy_j": [1], "energy_method": "\n"}
    assert "\x1b" not in "".join(_facts(hostile))


def test_nothing_is_fetched(plain: Path, tmp_path: Path, identity: Identity) -> None:
    """A file that names a manifest elsewhere is not a way to learn who verifies it."""
    import c2pa

    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *_: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever).start()
        info = c2pa.C2paSignerInfo("es256", identity.presented.encode(), identity.key.encode(), None)
        with c2pa.Builder({"assertions": []}) as builder, c2pa.Signer.from_info(info) as signer:
            builder.set_intent(c2pa.C2paBuilderIntent.CREATE, c2pa.C2paDigitalSourceType.DIGITAL_CAPTURE)
            builder.set_no_embed()
            builder.set_remote_url(f"http://127.0.0.1:{server.server_port}/manifest")
            with (plain / "a.png").open("rb") as source, (tmp_path / "a.png").open("w+b") as target:
                builder.sign(signer, "image/png", source, target)
        verdict = look(tmp_path / "a.png", identity=identity)
        assert asked == []
        with pytest.raises(c2pa.C2paError), c2pa.Reader(tmp_path / "a.png"):
            pass
        assert asked == ["/manifest"]  # so it would have been
        server.shutdown()
    assert verdict.status == "unsigned" and "remote" in verdict.problems[0]


# --- who signs --------------------------------------------------------------------------------------------------------


def test_others_are_signed_but_not_known(signed: Path, identity: Identity, tmp_path: Path) -> None:
    stranger = Identity.create(tmp_path / "stranger", "A. Stranger")
    verdict = look(signed / "a.mp4", identity=stranger)
    assert (verdict.status, verdict.ours, verdict.trusted) == ("signed", False, False)
    assert "not known here" in verdict.lines[0]
    trust = tmp_path / "trust.pem"
    trust.write_text(stranger.authorities + identity.authorities)
    verdict = look(signed / "a.mp4", identity=stranger, trust=trust)
    assert (verdict.status, verdict.ours, verdict.trusted) == ("signed", False, True)
    namesake = Identity.create(tmp_path / "namesake", identity.name.split(" (")[0])
    assert namesake.name == identity.name
    assert not look(signed / "a.mp4", identity=namesake).trusted
    for wrong in (tmp_path / "none.pem", signed / "a.png"):
        with pytest.raises(InputError, match="PEM file of certificates"):
            look(signed / "a.mp4", identity=identity, trust=wrong)


def test_without_an_identity_verify_makes_none(signed: Path, home: Path) -> None:
    assert look(signed / "a.png").status == "signed"
    assert list(home.iterdir()) == []


def test_a_key_is_made_once_and_kept_secret(home: Path) -> None:
    first = Identity.default()
    folder = home / "identity"
    assert Identity.default() == Identity.load(folder) == first
    assert stat.S_IMODE((folder / "identity.pem").stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert sorted(path.name for path in folder.iterdir()) == ["authority.pem", "identity.pem"]
    assert "PRIVATE" not in (folder / "authority.pem").read_text() + repr(first)
    assert Identity.create(home / "other").serial != first.serial
    leaf, authority = first.certificates
    leaf.verify_directly_issued_by(authority)
    assert (leaf.not_valid_after_utc - leaf.not_valid_before_utc).days > 29 * 365


def test_processes_that_start_at_once_agree(home: Path) -> None:
    code = "from phonofilm.provenance import Identity; print(Identity.default().serial)"
    many = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    serials = {child.communicate()[0] for child in many}
    assert len(serials) == 1 and serials == {Identity.default().serial + "\n"}
    done: list[Identity] = []
    threads = [threading.Thread(target=lambda: done.append(Identity.create(home / "b"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) == 8 and len(set(done)) == 1
    assert len(list((home / "b").iterdir())) == 2


def test_a_home_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("PHONOFILM_HOME", str(tmp_path / "file"))
    with pytest.raises(OutputError, match="PHONOFILM_HOME"):
        Identity.default()


def test_a_damaged_identity_is_told_and_not_replaced(home: Path) -> None:
    Identity.default()
    path = home / "identity" / "identity.pem"
    path.write_text(path.read_text()[:500])
    with pytest.raises(InputError, match=r"identity\.pem"):
        Identity.default()
    assert len(path.read_text()) == 500


Key = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey


def issue(
    folder: Path, key: Key, seconds: float = 1000, organisation: str | None = "Studio", **changes: bool
) -> Identity:
    """An operator's own key and chain, as PEM files; changes: self_signed, encrypted, alone."""
    authority = ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.now(datetime.UTC)

    def make(common: str, subject: Key, signer: Key, issuer: str, *, ca: bool) -> x509.Certificate:
        def named(common: str) -> x509.Name:
            name = [x509.NameAttribute(x509.NameOID.COMMON_NAME, common)]
            name += [x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, organisation)] if organisation else []
            return x509.Name(name)

        builder = (
            x509.CertificateBuilder(named(issuer), named(common))
            .public_key(subject.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(seconds=seconds))
            .add_extension(x509.BasicConstraints(ca, None), critical=True)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
            .add_extension(x509.KeyUsage(not ca, *[False] * 4, ca, *[False] * 3), critical=True)
        )
        if not ca:
            builder = builder.add_extension(x509.ExtendedKeyUsage([x509.OID_EMAIL_PROTECTION]), critical=False)
        return builder.sign(signer, hashes.SHA256())

    own = key if changes.get("self_signed") and not isinstance(key, ed25519.Ed25519PrivateKey) else authority
    chain = [
        make("Ada", key, own, "An authority", ca=False),
        make("An authority", authority, authority, "Root", ca=True),
    ]
    folder.mkdir(exist_ok=True)
    secret = b"secret" if changes.get("encrypted") else None
    how = serialization.BestAvailableEncryption(secret) if secret else serialization.NoEncryption()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, how)
    (folder / "key.pem").write_bytes(pem)
    certificates = [c.public_bytes(serialization.Encoding.PEM) for c in (chain[:1] if changes.get("alone") else chain)]
    (folder / "chain.pem").write_bytes(b"".join(certificates))
    return Identity.read(folder / "key.pem", folder / "chain.pem")


KEYS: dict[str, Callable[[], Key]] = {
    "es256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "es384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "ps256": lambda: rsa.generate_private_key(65537, 2048),
    "ed25519": ed25519.Ed25519PrivateKey.generate,
}


@pytest.mark.parametrize("kind", KEYS)
def test_an_operators_own_key(
    kind: str, plain: Path, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = issue(tmp_path / "own", KEYS[kind]())
    assert own.algorithm == kind and own.name == "Ada (Studio)"
    monkeypatch.setenv("PHONOFILM_SIGN_KEY", str(tmp_path / "own" / "key.pem"))
    with pytest.raises(InputError, match="both"):
        Identity.default()
    monkeypatch.setenv("PHONOFILM_SIGN_CHAIN", str(tmp_path / "own" / "chain.pem"))
    assert Identity.default() == own
    path = Path(shutil.copy(plain / "a.png", tmp_path))
    assert sign(path, Identity.default()).by == "Ada (Studio)"
    verdict = look(path)
    assert (verdict.status, verdict.ours, verdict.signer) == ("signed", True, "Ada (Studio)")
    assert not (home / "identity").exists()


def test_keys_that_cannot_sign(tmp_path: Path, plain: Path) -> None:
    p256 = KEYS["es256"]()
    for said, key, changes in (
        ("without passphrase", p256, {"encrypted": True}),
        ("the one that signed it", p256, {"alone": True}),
        ("organisation", p256, {"organisation": None}),
        ("P-256, P-384", ec.generate_private_key(ec.SECP256K1()), {}),
    ):
        with pytest.raises(InputError, match=said):
            issue(tmp_path / "wrong", key, **changes)  # type: ignore[arg-type]
    first, second = issue(tmp_path / "1", p256), issue(tmp_path / "2", KEYS["es256"]())
    with pytest.raises(InputError, match="not that of the private key"):
        Identity.read(tmp_path / "1" / "key.pem", tmp_path / "2" / "chain.pem")
    path = Path(shutil.copy(plain / "a.mp4", tmp_path))
    before = path.read_bytes()
    for unfit in (replace(first, chain=second.chain), issue(tmp_path / "3", p256, seconds=-60)):
        with pytest.raises(OutputError, match=r"cannot sign .*a\.mp4 as Ada"):
            sign(path, unfit)
        assert path.read_bytes() == before
        assert not list(tmp_path.glob(".*"))
    with pytest.raises(InputError, match=r"1\.\.64"):
        Identity.create(tmp_path / "named", "x" * 65)


def test_a_certificate_that_expires_is_told(plain: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(plain / "a.png", tmp_path))
    for seconds in (1, 5, 25):  # a busy machine may be too late
        short = issue(tmp_path / "short", KEYS["es256"](), seconds)
        with contextlib.suppress(OutputError):
            sign(path, short)
            break
    ends = short.certificates[0].not_valid_after_utc + datetime.timedelta(seconds=1.1)
    time.sleep(max(0.0, (ends - datetime.datetime.now(datetime.UTC)).total_seconds()))
    verdict = look(path, identity=short)
    assert (verdict.status, verdict.trusted) == ("signed", False)
    assert verdict.problems == ("signingCredential.expired",)
    assert outcome(flipped(path, path.stat().st_size - 20, path), short) == "altered"


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def test_verify_says_which(
    plain: Path, signed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], no_network: None
) -> None:
    altered = flipped(signed / "a.wav", 3000, tmp_path / "b.wav")
    for path, code, word in (
        (signed / "a.webm", 0, "signed"),
        (altered, 1, "altered"),
        (plain / "a.gif", 3, "unsigned"),
    ):
        assert main(["verify", str(path)]) == code
        told = capsys.readouterr()
        assert told.out.startswith(f"{word}: ") and told.err == ""
        assert main(["verify", str(path), "--json"]) == code
        assert json.loads(capsys.readouterr().out)["status"] == word
    for wrong in ("missing.mp4", __file__):
        assert main(["verify", str(wrong)]) == PhonofilmError.exit_code + 1
        told = capsys.readouterr()
        assert told.out == "" and told.err.startswith("phonofilm: ") and told.err.count("\n") == 1
