"""Every export is labelled if wished, whole, and signed; or it is not there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import FPS, RATE, flash_clip

from phonofilm.cli import main
from phonofilm.clip import Clip
from phonofilm.energy import Receipt
from phonofilm.engines import CATALOGUE, Chunk
from phonofilm.errors import InputError, OutputError
from phonofilm.export import export, statement
from phonofilm.export.label import labelled
from phonofilm.jobs.job import Job
from phonofilm.media import read, read_audio, write
from phonofilm.provenance import Identity, sidecar, sign, verify
from phonofilm.provenance.signing import COMPOSED, GENERATED
from phonofilm.request import Request
from phonofilm.serve.films import Films

KINDS = ("a.mp4", "a.mov", "a.webm", "a.mkv", "a.gif", "a.wav", "folder", "seq/f-%03d.png")
SECRETS = ("a secret wish", "nothing evil", "/private/face.png", "/private/voice.wav")
RECEIPT = Receipt(
    request={
        "prompt": SECRETS[0], "negative_prompt": SECRETS[1], "model": "native", "seconds": 2.0, "steps": None,
        "conditions": [{"role": "first", "path": SECRETS[2], "digest": None, "strength": 1.0}],
        "adapters": [{"path": SECRETS[3], "digest": None, "strength": 1.0}],
    },
    seed=5, weights="cd" * 32, seconds={"denoise": 0.25}, energy_j={"denoise": 1.5}, energy_method="estimated: so",
)  # fmt: skip


@pytest.fixture(scope="module")
def identity(tmp_path_factory: pytest.TempPathFactory) -> Identity:
    return Identity.create(tmp_path_factory.mktemp("identity"))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Identity:
    return Identity.create(tmp_path_factory.mktemp("stranger"))


@pytest.fixture
def clip() -> Clip:
    return flash_clip(16)


def chunks(clip: Clip, receipt: Receipt | None = RECEIPT, length: int = 4) -> Iterator[Chunk]:
    assert clip.audio is not None
    for start in range(0, len(clip.frames), length):
        sound = clip.audio.samples[:, start * RATE // FPS : (start + length) * RATE // FPS]
        last = start + length >= len(clip.frames)
        yield Chunk(clip.frames[start : start + length], sound, FPS, RATE, receipt if last else None)


def files(path: Path) -> list[Path]:
    """The media of an export."""
    folder = path if path.is_dir() else path.parent
    several = path.is_dir() or "%" in path.name
    return sorted(p for p in folder.iterdir() if p.is_file()) if several else [path]


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_is_signed_and_one_flipped_byte_is_found(
    name: str, clip: Clip, tmp_path: Path, identity: Identity
) -> None:
    path = tmp_path / name
    exported = export(chunks(clip), path, identity=identity)
    verdict = verify(path, identity=identity, apart=False)
    assert (verdict.status, verdict.ours, verdict.problems) == ("signed", True, ())
    assert verdict.source_type == GENERATED
    assert verdict.receipt is not None and verdict.receipt["seed"] == 5 and verdict.receipt["given"] == ["first"]
    assert identity.name in exported.line and len(exported.signed) == len(files(path))
    beside = name in ("a.webm", "a.mkv")
    assert sidecar(path).exists() == beside == ("cannot hold a signature" in exported.line)
    rng = np.random.default_rng(3)
    for file in rng.choice(files(path), 3):  # type: ignore[arg-type]
        data = file.read_bytes()
        at = int(rng.integers(len(data) // 2, len(data) - 64)) if name != "a.wav" else 5000
        file.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        assert verify(path, identity=identity, apart=False).status == "altered"
        assert verify(file, identity=identity, apart=False).status == "altered"
        file.write_bytes(data)
    assert verify(path, identity=identity, apart=False).status == "signed"


@pytest.mark.parametrize("name", [*KINDS, "a.png"])
def test_nothing_that_people_wrote_is_in_the_file(name: str, clip: Clip, tmp_path: Path, identity: Identity) -> None:
    source = Clip(clip.frames[:1], FPS) if name == "a.png" else clip
    export(source, tmp_path / name, RECEIPT, identity=identity)
    for file in tmp_path.rglob("*"):
        content = file.read_bytes() if file.is_file() else b""
        assert not any(secret.encode() in content for secret in SECRETS)


@pytest.mark.parametrize("name", ["a.mp4", "a.webm", "a.gif", "folder"])
def test_chunks_and_clips_make_the_same_film(name: str, clip: Clip, tmp_path: Path, identity: Identity) -> None:
    export(chunks(clip), tmp_path / "1" / name, identity=identity)
    export(clip, tmp_path / "2" / name, RECEIPT)
    write(clip, tmp_path / "3" / name)
    one, two, three = (read(tmp_path / folder / name, trusted=True) for folder in "123")
    assert np.array_equal(one.frames, three.frames) and np.array_equal(two.frames, three.frames)
    if three.audio:
        assert np.array_equal(one.audio.samples, three.audio.samples)
    assert verify(tmp_path / "2" / name, identity=identity, apart=False).status == "unsigned"


def test_a_sequence_must_stay_together(clip: Clip, tmp_path: Path, identity: Identity) -> None:
    look = lambda: verify(tmp_path / "s", identity=identity, apart=False)  # noqa: E731
    export(clip, tmp_path / "s", RECEIPT, identity=identity)
    export(replace(clip, frames=255 - clip.frames), tmp_path / "other", RECEIPT, identity=identity)
    assert look().status == "signed" and len(files(tmp_path / "s")) == 17
    third, fourth = (tmp_path / "s" / f"000{k}.png" for k in (3, 4))
    kept, next_ = third.read_bytes(), fourth.read_bytes()
    third.write_bytes(next_)
    fourth.write_bytes(kept)
    assert look().problems == ("0003.png is not part 4 of 17", "0004.png is not part 5 of 17")
    fourth.write_bytes(next_)
    third.write_bytes((tmp_path / "other" / "0003.png").read_bytes())
    assert look().problems == ("0003.png is not part 4 of 17",)
    third.unlink()
    assert look().status == "altered"
    write(Clip(clip.frames[3:4], FPS), third)
    assert look().problems == ("0003.png is unsigned",)
    third.write_bytes(kept)
    assert look().status == "signed"
    (tmp_path / "s" / "sound.wav").unlink()
    assert look().status == "altered"


@pytest.mark.parametrize(
    ("roles", "kind"),
    [((), GENERATED), (("first", "last"), GENERATED), (("audio",), COMPOSED), (("continue",), COMPOSED)],
)
def test_given_media_make_it_a_composition(roles: tuple[str, ...], kind: str) -> None:
    given = [{"role": role, "path": "x", "digest": None, "strength": 1.0} for role in roles]
    claim = statement(replace(RECEIPT, request={**RECEIPT.request, "conditions": given}))
    assert claim.source_type == kind
    assert claim.receipt is not None and claim.receipt["given"] == list(roles)
    assert statement(None).receipt is None
    json.dumps(claim.receipt)


# --- nothing half-made ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*KINDS, "a.png"])
@pytest.mark.parametrize("older", [False, True])
def test_a_signer_that_fails_leaves_nothing(
    name: str, older: bool, clip: Clip, tmp_path: Path, identity: Identity, stranger: Identity
) -> None:
    clip = Clip(clip.frames[:1], FPS) if name == "a.png" else clip
    path = tmp_path / name
    if older:
        write(clip, path)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    unfit = replace(identity, chain=stranger.chain)
    with pytest.raises(OutputError, match="cannot sign"):
        export(clip, path, RECEIPT, identity=unfit)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
    assert older or list(tmp_path.iterdir()) in ([], [path.parent])


def test_an_engine_that_fails_leaves_nothing(clip: Clip, tmp_path: Path, identity: Identity) -> None:
    def failing() -> Iterator[Chunk]:
        yield next(chunks(clip))
        raise InputError("no more")

    for name in KINDS:
        with pytest.raises(InputError, match="no more"):
            export(failing(), tmp_path / name, identity=identity)
    with pytest.raises(InputError, match="no chunks"):
        export(iter(()), tmp_path / "a.mp4", identity=identity)
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


def test_a_sidecar_goes_with_its_film(clip: Clip, tmp_path: Path, identity: Identity) -> None:
    path = tmp_path / "a.webm"
    export(clip, path, identity=identity)
    export(clip, path)
    assert not sidecar(path).exists() and verify(path, identity=identity, apart=False).status == "unsigned"


def test_signing_keeps_the_mode(clip: Clip, tmp_path: Path, identity: Identity) -> None:
    write(clip, tmp_path / "a.mp4")
    (tmp_path / "a.mp4").chmod(0o600)
    sign(tmp_path / "a.mp4", identity)
    assert (tmp_path / "a.mp4").stat().st_mode & 0o777 == 0o600


# --- the label --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("width", "height"), [(128, 128), (96, 160), (160, 96), (40, 40), (640, 360)])
def test_the_label_is_seen(width: int, height: int) -> None:
    frames = flash_clip(16, width, height).frames
    marked = labelled(frames)
    changed = np.abs(marked.astype(int) - frames).max((0, 3)) > 0
    rows, columns = np.nonzero(changed)
    assert rows.max() == height - 1 and columns.max() == width - 1  # the corner
    assert changed.mean() < 0.12
    box = np.s_[:, rows.min() :, columns.min() :]
    luma = marked[box].astype(float).mean(3)
    for picture in (0, 12):  # colours, and a white frame
        assert np.percentile(luma[picture], 99) - np.median(luma[picture]) > 90
    assert (frames == flash_clip(16, width, height).frames).all()  # not in place
    with pytest.raises(InputError, match="8x8"):
        labelled(frames[:, :8, :8])


@pytest.mark.parametrize("name", ["a.mp4", "a.webm", "a.gif", "folder", "a.wav"])
def test_the_label_is_in_all_frames_and_leaves_the_sound(
    name: str, clip: Clip, tmp_path: Path, identity: Identity
) -> None:
    export(chunks(clip), tmp_path / "1" / name, identity=identity, label=True)
    write(clip, tmp_path / "2" / name)
    if name == "a.wav":
        one, two = (read_audio(tmp_path / folder / name, trusted=True) for folder in "12")
        assert np.array_equal(one.samples, two.samples)
        return
    seen, bare = (read(tmp_path / folder / name, trusted=True) for folder in "12")
    wanted = labelled(clip.frames)
    corner, rest = np.s_[:, -14:, -65:], np.s_[:, :-24]
    error = np.abs(seen.frames[corner].astype(int) - wanted[corner]).mean((1, 2, 3))
    assert (error < 12).all()
    assert np.abs(bare.frames[corner].astype(int) - wanted[corner]).mean() > 60
    assert np.abs(seen.frames[rest].astype(int) - clip.frames[rest]).mean() < 4
    if bare.audio:
        assert np.array_equal(seen.audio.samples, bare.audio.samples)
    assert verify(tmp_path / "1" / name, identity=identity, apart=False).status == "signed"


# --- the command ------------------------------------------------------------------------------------------------------


class Ready:
    """An engine whose film is made already."""

    capabilities = CATALOGUE["native"]

    def __init__(self, *_: object, **__: object) -> None: ...

    def generate(self, *_: object) -> Iterator[Chunk]:
        return chunks(flash_clip(32))


def test_generate_signs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("phonofilm.engines.load", Ready)
    film, bare = tmp_path / "film.mp4", tmp_path / "bare.mp4"
    assert main(["generate", "a red ball", "-o", str(film), "--sheet", "--label"]) == 0
    told = capsys.readouterr()
    name = Identity.default().name
    assert told.err.count(f"signed by {name}") == 1
    verdicts = [verify(path, apart=False) for path in (film, tmp_path / "film.sheet.png")]
    assert all(verdict.ours and verdict.signer == name for verdict in verdicts)
    assert verdicts[0].receipt is not None and verdicts[0].receipt["model"] == "native"
    assert main(["verify", str(film)]) == 0
    assert "this installation" in capsys.readouterr().out
    assert main(["generate", "a red ball", "-o", str(bare), "--no-sign"]) == 0
    assert "signed" not in capsys.readouterr().err
    assert main(["verify", str(bare)]) == 3
    capsys.readouterr()
    changed = np.abs(read(film, trusted=True).frames.astype(int) - read(bare, trusted=True).frames)
    assert changed[:, -14:, -65:].mean() > 50 and changed[:, :100].mean() < 2
    assert main(["generate", "a red ball", "-o", str(bare), "--no-sign", "--sheet"]) == 0
    sheets = [read(path.with_suffix(".sheet.png"), trusted=True).frames.astype(int) for path in (film, bare)]
    assert np.abs(sheets[0] - sheets[1]).max() > 50  # the label is on it, too
    capsys.readouterr()
    assert main(["generate", "a red ball", "-o", str(tmp_path / "q.webm"), "-q"]) == 0
    assert capsys.readouterr().err == ""
    assert main(["verify", str(tmp_path / "q.webm")]) == 0


def test_the_label_is_on_what_a_server_shows_too(tmp_path: Path, clip: Clip, identity: Identity) -> None:
    made = []
    for label in (False, True):
        (tmp_path / str(label)).mkdir()
        job = Job("video_x", "local", Request("a flash"))
        made.append(Films(identity, label)(chunks(clip), tmp_path / str(label), job))
    for variant in ("thumbnail", "spritesheet"):
        bare, marked = (read(files[variant], trusted=True).frames.astype(int) for files in made)
        assert np.abs(bare - marked).max() > 50


def test_a_key_that_cannot_be_made_stops_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("phonofilm.engines.load", Ready)
    monkeypatch.setattr(Ready, "generate", lambda *_: pytest.fail("it worked"))
    (tmp_path / "file").touch()
    monkeypatch.setenv("PHONOFILM_HOME", str(tmp_path / "file"))
    assert main(["generate", "a ball", "-o", str(tmp_path / "film.mp4")]) == OutputError.exit_code
    told = capsys.readouterr().err
    assert "PHONOFILM_HOME" in told and told.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
