"""The command line. It parses, calls, and shows; everything heavy is imported when it is needed."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from phonofilm import __version__
from phonofilm.errors import Cancelled, InputError, PhonofilmError
from phonofilm.request import QUALITIES, Adapter, Condition, Request
from phonofilm.serve.command import add_commands

if TYPE_CHECKING:
    from phonofilm.clip import Clip
    from phonofilm.energy import Receipt
    from phonofilm.engines import Engine
    from phonofilm.export import Exported
    from phonofilm.provenance import Identity

SUFFIXES = (".mp4", ".webm", ".gif", ".wav", ".png")
SOUNDING = (".mp4", ".webm", ".wav")


def main(argv: Sequence[str] | None = None) -> int:
    """Run `phonofilm ARGS`; returns the exit code: 0, 1 (something failed), 2 (wrong input), 130 (stopped)."""
    parser = build_parser()
    arguments = parser.parse_args(argv)
    if not hasattr(arguments, "run"):
        parser.print_help()
        return 0
    try:
        code: int = arguments.run(arguments)
        return code
    except PhonofilmError as error:
        print(f"phonofilm: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"phonofilm: {error.strerror or error}: {error.filename or ''}".rstrip(": "), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("phonofilm: stopped", file=sys.stderr)
        return Cancelled.exit_code


def build_parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    parser = argparse.ArgumentParser(prog="phonofilm", description="Type a sentence, get a short film with sound.")
    parser.add_argument("--version", action="version", version=f"phonofilm {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="")
    _add_generate(commands.add_parser("generate", help="make a film from a sentence", formatter_class=_Help))
    examples = commands.add_parser("examples", help="print prompts worth trying", formatter_class=_Help)
    examples.set_defaults(run=_examples)
    match = commands.add_parser("match", help="how well a sentence matches a film", formatter_class=_Help)
    match.add_argument("prompt")
    match.add_argument("clip", type=Path, help="a film file")
    match.add_argument("--weights", type=Path, metavar="DIR", help="other weights than the shipped ones")
    match.set_defaults(run=_match)
    _add_score(commands.add_parser("score", help="make sound for a silent film", formatter_class=_Help))
    _add_models(commands.add_parser("models", help="open models: which there are, what they need, and fetching one"))
    _add_calibrate(
        commands.add_parser("calibrate", help="measure the tiers of quality of an open model", formatter_class=_Help)
    )
    _add_verify(commands.add_parser("verify", help="is a file signed, altered or unsigned, and by whom"))
    _add_train(
        commands.add_parser("train", help="train the codec, the text model or the denoiser", formatter_class=_Help)
    )
    _add_tune(commands.add_parser("tune", help="tune an open model on your own clips (LoRA)", formatter_class=_Help))
    evaluate = commands.add_parser(
        "evaluate", help="measure the model exactly, on clips whose truth is known", formatter_class=_Help
    )
    evaluate.add_argument("--prompts", type=_positive, default=64, metavar="N", help="clips in each split")
    evaluate.add_argument(
        "--out", type=Path, default=Path("out/evaluation"), metavar="DIR", help="where the page and the JSON go"
    )
    evaluate.add_argument("--weights", type=Path, metavar="DIR", help="other weights than the shipped ones")
    evaluate.add_argument("--steps", type=_positive, help="sampler steps")
    evaluate.add_argument("--guidance", type=float, help="guidance scale")
    evaluate.add_argument("--best-of", type=_positive, default=1, metavar="N", help="keep the best match of N")
    evaluate.add_argument("--match-guidance", type=float, default=0.0, metavar="W", help="of the matcher's gradient")
    evaluate.add_argument("--size", default="square", help="square, portrait or landscape")
    evaluate.add_argument("--seconds", type=float, default=3.0)
    evaluate.add_argument(
        "--conditions", type=_not_negative, default=24, metavar="N",
        help="clips on which given images, clips and sounds are tried, 0 for none",
    )  # fmt: skip
    evaluate.add_argument(
        "--workers", type=_positive, default=1, metavar="N", help="processes of one thread each that share the work"
    )
    evaluate.add_argument(
        "--compare", type=Path, nargs="+", metavar="DIR",
        help="measure nothing: set evaluations beside each other, pair by pair, on the prompts that all have",
    )  # fmt: skip
    evaluate.add_argument(
        "--reuse", type=Path, metavar="DIR",
        help="an evaluation with the same codec, whose columns of truth and codec are taken over where it has them",
    )  # fmt: skip
    evaluate.set_defaults(run=_evaluate)
    add_commands(commands, _Help)
    return parser


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Shows defaults, except those that say nothing."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default in (None, False, argparse.SUPPRESS):
            return action.help
        return super()._get_help_string(action)


def _positive(text: str) -> int:
    return _at_least(1, int(text))


def _not_negative(text: str) -> int:
    return _at_least(0, int(text))


def _at_least(least: int, value: int) -> int:
    if value < least:
        raise argparse.ArgumentTypeError(f"must be at least {least}, got {value}")
    return value


# --- generate --------------------------------------------------------------------------------------------------------


def _add_generate(p: argparse.ArgumentParser) -> None:
    p.add_argument("prompt", help='what is to be seen and heard, such as "a red ball bounces on a wooden floor"')
    p.add_argument("-o", "--output", type=Path, default=Path("film.mp4"), metavar="FILE",
                   help=f"the file to write; its ending chooses the format ({', '.join(SUFFIXES)})")  # fmt: skip
    p.add_argument("--model", default="native", metavar="NAME",
                   help="native, or an open model: ORG/NAME or a folder (see phonofilm models)")  # fmt: skip
    p.add_argument("--seconds", type=float, default=3.0, help="length; of the native model 2 to 4 in steps of 0.25")
    p.add_argument("--size", default="square", help="square, portrait, landscape, or WIDTHxHEIGHT")
    p.add_argument("--seed", type=int, default=0, help="the same seed makes the same film")
    p.add_argument("--steps", type=int, help="denoising steps; more is slower")
    p.add_argument("--quality", choices=QUALITIES, default="full", help="how much work it may cost, without --steps")
    p.add_argument("--sampler", help="euler, heun or adams")
    p.add_argument("--guidance", type=float, help="how strictly picture and sound follow the prompt; 1 is off")
    p.add_argument("--negative", default="", metavar="TEXT", help="what is not wanted")
    p.add_argument("--best-of", type=int, default=1, metavar="N", help="make N and keep the one that matches best")
    p.add_argument("--match-guidance", type=float, default=0.0, metavar="W", help="let the matcher steer each step")
    p.add_argument("--picture", action="store_true", help="one frame without sound (write it to a .png)")
    p.add_argument("--image", metavar="FILE", help="the first frame")
    p.add_argument("--last-image", metavar="FILE", help="the last frame")
    p.add_argument("--continue", dest="continue_", metavar="FILE", help="a film to go on with; the result holds both")
    p.add_argument("--audio", metavar="FILE", help="a soundtrack to make the picture for")
    p.add_argument("--video", metavar="FILE", help="a picture track to make the sound for")
    p.add_argument("--mask", metavar="FILE", help="with --video: a picture, white where the film is to be made anew")
    p.add_argument("--reference", action="append", default=[], metavar="FILE",
                   help="an image of who or what is to be seen, where a model takes it; may be repeated")  # fmt: skip
    p.add_argument("--fps", type=float, help="frames a second, where the model has a choice")
    p.add_argument(
        "--lora", action="append", default=[], metavar="FILE[:SCALE]", help="weights that change an open model"
    )
    p.add_argument(
        "--score", action="store_true", help="then let the native model make the sound for a silent model's film"
    )
    _add_making(p)
    p.set_defaults(run=_generate)


def _add_making(p: argparse.ArgumentParser) -> None:
    """What is left beside a film, and where an open model runs."""
    p.add_argument(
        "--sheet", action="store_true", help="also write a contact sheet: frames over waveform and spectrogram"
    )
    p.add_argument("--receipt", action="store_true", help="also write what it cost and how it was made, as JSON")
    p.add_argument("--label", action="store_true", help="draw a small visible label on every frame")
    p.add_argument("--no-sign", action="store_true", help="do not sign the film (see phonofilm verify)")
    p.add_argument("--weights", type=Path, metavar="DIR", help="other weights than the shipped ones")
    p.add_argument("--device", choices=("cpu", "cuda"), help="where an open model runs, if not on the best there is")
    p.add_argument("--precision", choices=("fp32", "bf16", "int8"), help="of an open model, instead of the plan's")
    p.add_argument("--offload", choices=("none", "model", "group"), help="parts of an open model that take turns")
    p.add_argument("--compiled", action="store_const", const=True, help="compile an open model's blocks first")
    p.add_argument("-q", "--quiet", action="store_true", help="no progress bar, no notes")


def _request(a: argparse.Namespace) -> Request:
    given = {
        "first": a.image, "last": a.last_image, "continue": a.continue_, "audio": a.audio, "video": a.video,
        "mask": a.mask,
    }  # fmt: skip
    conditions = tuple(Condition(role=role, path=path) for role, path in given.items() if path)  # type: ignore[arg-type]
    conditions += tuple(Condition("reference", path=path) for path in a.reference)
    return Request(
        a.prompt, negative_prompt=a.negative, model=a.model, fps=a.fps, seconds=a.seconds, size=a.size,
        picture=a.picture, seed=a.seed, steps=a.steps, guidance=a.guidance, sampler=a.sampler, best_of=a.best_of,
        match_guidance=a.match_guidance, quality=a.quality, conditions=conditions,
        adapters=tuple(_adapter(text) for text in a.lora),
    )  # fmt: skip


def _adapter(text: str) -> Adapter:
    """FILE or FILE:SCALE."""
    path, colon, scale = text.rpartition(":")
    try:
        return Adapter(path=path, strength=float(scale)) if colon else Adapter(path=text)
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        return Adapter(path=text)  # a colon of the name's own


def _generate(a: argparse.Namespace) -> int:
    request = _request(a)
    _check_place(a.output, SOUNDING if a.score else SUFFIXES)
    for condition in request.conditions:
        if condition.path and Path(condition.path).resolve() == a.output.resolve():
            raise InputError(f"{a.output} is given as {condition.role!r}: name another file to write")
    from phonofilm.engines import Chunk, Hooks, join, load
    from phonofilm.engines.open.parallel import helping
    from phonofilm.engines.scoring import scored, silent, wish, with_score
    from phonofilm.export import export
    from phonofilm.media import check_ending
    from phonofilm.provenance import Identity

    if a.score:
        silent(a.model)
        if a.picture:
            raise InputError("a single picture has no sound: --score is for films")
    engine = _load(a, None if a.score else a.weights)  # with --score they are those of who makes the sound
    check_ending(a.output, picture=a.picture, sound=bool(a.score or engine.capabilities.sample_rate))
    if helping():  # under torchrun; the first process writes the film
        join(engine.generate(request))
        return 0
    identity = None if a.no_sign else Identity.default()
    bar = _Bar(a.quiet)
    hooks = Hooks(progress=lambda p: bar.show(p.stage, p.done, p.total))
    made: list[Chunk] = []

    def chunks() -> Iterator[Chunk]:
        for chunk in engine.generate(request, hooks):
            made.append(chunk)
            yield chunk

    try:
        if a.score:
            clip, receipt = join(chunks())
            clip, cost = scored(clip, wish(clip, a.prompt, seed=a.seed), load("native", a.weights), hooks)
            receipt = receipt and with_score(receipt, cost, "native")
            exported = export(clip, a.output, receipt, identity=identity, label=a.label)
        else:
            exported = export(chunks(), a.output, identity=identity, label=a.label)
            clip, receipt = join(iter(made))
    finally:
        bar.close()
    return _finish(a, clip, receipt, exported, identity, hooks.notes)


def _check_place(path: Path, suffixes: Sequence[str]) -> None:
    """Raise InputError unless a file of one of these endings can be meant; make its folder."""
    if path.suffix.lower() not in suffixes and "%" not in path.name:
        raise InputError(f"cannot write {path.name!r}: its ending must be one of {', '.join(suffixes)}")
    if not path.parent.exists():
        path.parent.mkdir(parents=True)


def _load(a: argparse.Namespace, weights: Path | None) -> Engine:
    from phonofilm.engines import load

    return load(a.model, weights, device=a.device, precision=a.precision, offload=a.offload, compiled=a.compiled)


def _finish(
    a: argparse.Namespace, clip: Clip, receipt: Receipt | None, exported: Exported, identity: Identity | None,
    notes: Sequence[str],
) -> int:  # fmt: skip
    """Say where the film is; write what was wished for beside it."""
    from phonofilm.export import labelled, statement
    from phonofilm.files import replacing
    from phonofilm.media import contact_sheet
    from phonofilm.provenance import sign

    _say(a, *notes, *([exported.line] if identity else []))
    print(exported.path)
    if a.sheet:
        target = exported.path.with_suffix(".sheet.png")
        shown = replace(clip, frames=labelled(clip.frames)) if a.label else clip
        with replacing(target) as beside:
            contact_sheet(shown, beside, title=a.prompt)
            if identity:
                sign(beside, identity, statement(receipt), place=target)
        print(target)
    if a.receipt and receipt is not None:
        target = exported.path.with_suffix(".receipt.json")
        with replacing(target) as beside:
            beside.write_text(receipt.to_json() + "\n", encoding="utf-8")
        print(target)
    if receipt is not None:
        _say(
            a,
            f"{clip_line(clip)}, {receipt.total_seconds:.1f} s of work, {receipt.total_energy_j:.0f} J",
            f"energy {receipt.energy_method}",
        )
    return 0


def clip_line(clip: Clip) -> str:
    """One line about a clip: size, length, sound."""
    sound = "silent" if clip.audio is None else f"{clip.audio.sample_rate / 1000:g} kHz"
    return f"{clip.width}x{clip.height}, {clip.seconds:g} s, {clip.fps:g} fps, {sound}"


def _say(a: argparse.Namespace, *lines: str) -> None:
    if not a.quiet:
        for line in lines:
            print(line, file=sys.stderr)


class _Bar:
    """A progress bar on a terminal, nothing elsewhere."""

    def __init__(self, quiet: bool) -> None:
        from tqdm import tqdm

        self._bar = tqdm(
            total=1,
            disable=quiet or not sys.stderr.isatty(),
            leave=False,
            bar_format="{desc} {bar} {n_fmt}/{total_fmt}",
        )

    def show(self, stage: str, done: int, total: int) -> None:
        self._bar.total, self._bar.n = total, done
        self._bar.set_description_str(stage)
        self._bar.refresh()

    def close(self) -> None:
        self._bar.close()


# --- score ------------------------------------------------------------------------------------------------------------


def _add_score(p: argparse.ArgumentParser) -> None:
    p.description = "Make sound for a film: it keeps its picture, its size and its rate."
    p.add_argument("film", type=Path, help="a film, such as out/silent.mp4")
    p.add_argument("prompt", help='what is heard, such as "rain on a tin roof, thunder"')
    p.add_argument("-o", "--output", type=Path, metavar="FILE",
                   help=f"the file to write ({', '.join(SOUNDING)}), else FILM.scored.mp4 beside the film")  # fmt: skip
    p.add_argument(
        "--model", default="native", metavar="NAME", help="native, or an open model that makes sound for films"
    )
    p.add_argument("--seed", type=int, default=0, help="the same seed makes the same sound")
    p.add_argument("--steps", type=int, help="denoising steps; more is slower")
    p.add_argument("--guidance", type=float, help="how strictly to follow the prompt; 1 is off")
    p.add_argument("--negative", default="", metavar="TEXT", help="what is not wanted")
    _add_making(p)
    p.set_defaults(run=_score)


def _score(a: argparse.Namespace) -> int:
    options = {
        "model": a.model, "seed": a.seed, "steps": a.steps, "guidance": a.guidance, "negative_prompt": a.negative
    }  # fmt: skip
    Request(a.prompt, **options)  # checks them
    target = a.output or a.film.with_name(f"{a.film.stem}.scored.mp4")
    _check_place(target, SOUNDING)
    if target.resolve() == a.film.resolve():
        raise InputError(f"{target} is the film itself: name another file to write")
    from phonofilm.engines import Hooks
    from phonofilm.engines.scoring import composer, scored, wish
    from phonofilm.export import export
    from phonofilm.media import check_ending, read
    from phonofilm.provenance import Identity

    composer(a.model)
    check_ending(target, picture=False, sound=True)
    identity = None if a.no_sign else Identity.default()
    bar = _Bar(a.quiet)
    hooks = Hooks(progress=lambda p: bar.show(p.stage, p.done, p.total))
    try:
        clip = read(a.film)
        clip, receipt = scored(clip, wish(clip, a.prompt, film=str(a.film), **options), _load(a, a.weights), hooks)
        exported = export(clip, target, receipt, identity=identity, label=a.label)
    finally:
        bar.close()
    return _finish(a, clip, receipt, exported, identity, hooks.notes)


# --- the others -------------------------------------------------------------------------------------------------------


def _examples(_: argparse.Namespace) -> int:
    from phonofilm.playhouse.captions import EXAMPLES

    print("\n".join(EXAMPLES))
    return 0


def _match(a: argparse.Namespace) -> int:
    Request(a.prompt)  # checks the prompt
    from phonofilm.engines import NativeEngine
    from phonofilm.engines.native import MATCHED
    from phonofilm.media import read

    engine = NativeEngine(a.weights)
    print(f"{engine.match(a.prompt, read(a.clip, size='native', seconds=MATCHED)):.3f}")
    return 0


def _add_models(p: argparse.ArgumentParser) -> None:
    p.description = "Open models that `phonofilm generate --model` takes, beside any other video model of diffusers."
    p.set_defaults(run=_models)
    actions = p.add_subparsers(title="actions", metavar="")
    pull = actions.add_parser("pull", help="fetch one; goes on where it was cut off")
    pull.add_argument("name", help="ORG/NAME")
    pull.set_defaults(run=_pull)
    show = actions.add_parser("show", help="what a model that is here can do, and how it would run")
    show.add_argument("name", help="ORG/NAME or a folder")
    show.set_defaults(run=_show)
    export = actions.add_parser("export", help="our own model as a pipeline of diffusers, which needs no phonofilm")
    export.add_argument("folder", type=Path, metavar="DIR", help="a new folder")
    export.add_argument("--weights", type=Path, metavar="DIR", help="other weights than the shipped ones")
    export.set_defaults(run=_export)


def _models(_: argparse.Namespace) -> int:
    from phonofilm.engines.open.listing import table

    print(table())
    return 0


def _pull(a: argparse.Namespace) -> int:
    from phonofilm.engines.open.listing import describe
    from phonofilm.engines.open.source import pull

    print(describe(pull(a.name, lambda line: print(line, file=sys.stderr))))
    return 0


def _show(a: argparse.Namespace) -> int:
    from phonofilm.engines.open.listing import describe
    from phonofilm.engines.open.source import find

    print(describe(find(a.name)))
    return 0


def _add_calibrate(p: argparse.ArgumentParser) -> None:
    p.description = (
        "Makes the same film in each tier of --quality, and writes down what it costs here and how near it stays to "
        "the full one."
    )
    p.add_argument("model", help="ORG/NAME or a folder")
    p.add_argument("--prompt", default="a dog runs along a beach, waves roll in", help="of the film")
    p.add_argument("--seconds", type=float, default=2.0)
    p.add_argument("--size", default="landscape", help="square, portrait, landscape, or WIDTHxHEIGHT")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--device", choices=("cpu", "cuda"), help="where it runs, if not on the best there is")
    p.add_argument("--precision", choices=("fp32", "bf16", "int8"), help="instead of the plan's")
    p.add_argument("--offload", choices=("none", "model", "group"), help="parts that take turns")
    p.set_defaults(run=_calibrate)


def _calibrate(a: argparse.Namespace) -> int:
    request = Request(a.prompt, model=a.model, seconds=a.seconds, size=a.size, seed=a.seed)
    from phonofilm.engines.open import OpenEngine
    from phonofilm.engines.open.calibration import calibrate

    engine = OpenEngine(a.model, a.device, precision=a.precision, offload=a.offload)
    bar = _Bar(False)
    try:
        found = calibrate(engine, request, lambda tier, p: bar.show(f"{tier}: {p.stage}", p.done, p.total))
    finally:
        bar.close()
    print(f"{engine.source.name} on {engine.machine.name}, {engine.plan}")
    for name, tier in found.items():
        print(f"{name:8} {tier.line(found['full'])}")
    return 0


def _export(a: argparse.Namespace) -> int:
    from phonofilm.engines.hub import export_pipeline

    print(export_pipeline(a.folder, a.weights))
    return 0


def _add_verify(p: argparse.ArgumentParser) -> None:
    p.description = (
        "Is a file signed, altered or unsigned, and by whom? Exit code 0: signed, 1: altered, 3: unsigned, "
        "2: it cannot be read. The absence of a signature proves nothing."
    )
    p.add_argument("file", type=Path, help="a film, a sound, a picture, or the folder of a sequence of pictures")
    p.add_argument("--trust", type=Path, metavar="PEM", help="certificates of authorities to believe")
    p.add_argument("--json", action="store_true", help="all that is known, as JSON")
    p.set_defaults(run=_verify)


def _verify(a: argparse.Namespace) -> int:
    from phonofilm.provenance import verify

    verdict = verify(a.file, trust=a.trust)
    if a.json:
        print(json.dumps(asdict(verdict), indent=2, ensure_ascii=False))
    else:
        print("\n".join(verdict.lines))
    return {"signed": 0, "altered": 1, "unsigned": 3}[verdict.status]


def _add_train(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "what",
        choices=("codec", "decoder", "text", "denoiser", "timer", "storyboards", "picture", "all"),
        help="the step; decoder: more of the codecs' decoders alone, which leaves all else valid; timer: when what is "
        "seen is heard, which takes minutes; storyboards, picture: go on with these parts of the denoiser in --start; "
        "all: go on with everything at once, on one large GPU",
    )
    p.add_argument("--preset", choices=("playhouse-cpu", "playhouse-gpu", "smoke"), default="playhouse-cpu")
    p.add_argument("--out", type=Path, default=Path("runs/playhouse"), metavar="DIR",
                   help="checkpoints, curves, sheets; the same command goes on from there, but for all")  # fmt: skip
    p.add_argument("--data", type=Path, metavar="DIR", help="a folder of captioned clips instead of the playhouse")
    p.add_argument("--hours", type=float, help="time to spend, instead of the preset's (not for timer)")
    p.add_argument(
        "--clips", type=_positive,
        help="not for codec, decoder, timer: clips of the playhouse to make and keep, instead of the preset's",
    )  # fmt: skip
    p.add_argument("--start", type=Path, metavar="DIR", help="storyboards, picture, all: weights to begin with "
                   "(default: the shipped ones); decoder: likewise (default: those in --out)")  # fmt: skip
    p.set_defaults(run=_train)


def _train(a: argparse.Namespace) -> int:
    if a.hours is not None and a.hours <= 0:
        raise InputError(f"hours must be above 0, got {a.hours:g}")
    from phonofilm.train.road import train

    train(a.what, a.preset, a.out, folder=a.data, hours=a.hours, clips=a.clips, start=a.start)
    return 0


def _add_tune(p: argparse.ArgumentParser) -> None:
    p.add_argument("--model", required=True, metavar="NAME", help="LTX-2.x or Wan: ORG/NAME that is here, or a folder")
    p.add_argument("--data", required=True, type=Path, metavar="DIR",
                   help="clips with captions: clip.mp4 + clip.txt, or metadata.jsonl")  # fmt: skip
    p.add_argument("--out", type=Path, default=Path("runs/tune"), metavar="DIR",
                   help="the LoRA, the state and the curve; the same command goes on from there")  # fmt: skip
    p.add_argument("--cache", type=Path, metavar="DIR", help="encoded clips, if not in cache in the folder of --out")
    p.add_argument("--steps", type=int, default=1000, help="in all; more goes on with what is there")
    p.add_argument("--rank", type=int, default=16, help="of the LoRA: a higher one holds more")
    p.add_argument("--lr", type=float, default=1e-4, help="learning rate")
    p.add_argument("--batch", type=int, default=1, help="clips a step")
    p.add_argument("--size", default="landscape", help="square, portrait, landscape, or WIDTHxHEIGHT")
    p.add_argument("--seconds", type=float, default=3.0, help="clips are cut there")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--device", choices=("cpu", "cuda"), help="if not the best there is")
    p.add_argument("-q", "--quiet", action="store_true", help="no progress bar, no notes")
    p.set_defaults(run=_tune)


def _tune(a: argparse.Namespace) -> int:
    from phonofilm.train.tune import Tuning, tune

    config = Tuning(
        steps=a.steps, rank=a.rank, rate=a.lr, batch=a.batch, size=a.size, seconds=a.seconds, seed=a.seed
    )  # fmt: skip
    done = tune(a.model, a.data, a.out, config, cache=a.cache, device=a.device, progress=not a.quiet)
    before, after = done.losses
    counts = f"learnt from {done.clips} clips, {len(done.skipped)} skipped"
    _say(a, f"{counts}; loss with the same noise before and after: {before:.4f}, {after:.4f}")
    print(done.lora)
    return 0


def _evaluate(a: argparse.Namespace) -> int:
    if a.compare:
        from phonofilm.evaluate.compare import compare

        print(compare(a.compare), end="")
        return 0
    from phonofilm.engines import NativeEngine
    from phonofilm.evaluate.run import evaluate_engine

    bar = _Bar(False)
    try:
        text = evaluate_engine(
            NativeEngine(a.weights), a.prompts, a.out, size=a.size, seconds=a.seconds, conditions=a.conditions,
            progress=partial(bar.show, "evaluate"), workers=a.workers, reuse=a.reuse, steps=a.steps,
            guidance=a.guidance, best_of=a.best_of, match_guidance=a.match_guidance,
        )  # fmt: skip
    finally:
        bar.close()
    print(text)
    print(a.out / "index.html")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
