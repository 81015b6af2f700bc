"""Open models in words: what there is, what each can do and needs here."""

from __future__ import annotations

from phonofilm.engines.open.calibration import known
from phonofilm.engines.open.engine import OpenEngine
from phonofilm.engines.open.families import FAMILIES, Family
from phonofilm.engines.open.plan import GIB, Machine, choose, here, rough
from phonofilm.engines.open.source import Source
from phonofilm.errors import InputError


def table(machine: Machine | None = None) -> str:
    """All families and their known repositories, as text."""
    machine = machine or here()
    lines = [f"This machine: {machine.name}, {machine.free / GIB:.1f} GiB free on the {machine.device}.", ""]
    for family in FAMILIES:
        lines.append(f"{family.title}: picture{' with sound' if family.sound else ', silent'}")
        lines.append(f"    takes    {_conditions(family)}")
        width, height = family.size
        lines.append(
            f"    makes    {width}x{height} (sides in steps of {family.multiple}), up to {family.longest} frames "
            f"({family.longest / family.fps:.1f} s) at {family.fps:g} frames a second"
        )
        lines.append(f"    licence  {family.licence}{f' ({family.limits})' if family.limits else ''}")
        for repository, billions in family.repositories.items():
            need = rough(family, billions, machine)
            fits = "" if need <= machine.free else ", more than is free"
            lines.append(f"    {repository}: {billions:g} billion parameters, about {need / GIB:.0f} GiB{fits}")
        lines.append("")
    lines.append("Licences are those known in November 2026; a model's own page decides.")
    lines.append("phonofilm models pull ORG/NAME fetches one, phonofilm models show ORG/NAME looks at it.")
    return "\n".join(lines)


def describe(source: Source, machine: Machine | None = None) -> str:
    """A checkpoint that is here: what it can do, and how it would run, as text."""
    machine = machine or here()
    engine = OpenEngine(source.name, source=source)
    family, able = engine.family, engine.capabilities
    sound = f"sound at {able.sample_rate / 1000:g} kHz" if able.sample_rate else "silent"
    wide = able.formats["landscape"]
    lines = [
        f"{source.name}: {family.title} ({source.pipeline}), {source.values / 1e9:.3g} billion parameters",
        f"    in       {source.folder}",
        f"    takes    {', '.join(['text', *able.conditions])}",
        f"    makes    {wide[0]}x{wide[1]} (sides in steps of {able.multiple}), {able.seconds[0]:g} to "
        f"{able.seconds[1]:.1f} s at {able.fps:g} frames a second, {sound}",
        f"    licence  {family.licence}{f' ({family.limits})' if family.limits else ''}",
    ]
    try:
        plan = str(choose(source, wide, family.made(round(3 * able.fps)), machine)[0])
    except InputError as error:
        plan = str(error)
    lines.append(f"    3 s here {plan}")
    measured = known(engine)
    for name, tier in (measured or {}).items():
        lines.append(f"    {name:8} {tier.line((measured or {})['full'])}")
    if measured is None:
        lines.append(f"    quality  never measured here: phonofilm calibrate {source.name}")
    return "\n".join(lines)


def _conditions(family: Family) -> str:
    return ", ".join(["text", *family.conditions])
