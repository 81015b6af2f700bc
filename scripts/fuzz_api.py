"""Fuzz the HTTP API against its own OpenAPI document, in this process: `python scripts/fuzz_api.py --cases 5000`.

schemathesis makes the calls, valid ones and ones that break the document in one place, uses ids from answers in later
calls, and checks each answer: no 5xx, and status, headers, content type and body as the document says; what breaks the
document must be refused. A thread plays the worker, so that films are queued, made, failed and streamed meanwhile.
Left out is the check that all that fits the document is accepted: no schema can say which bytes are an image.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import patch

import schemathesis
import sqlalchemy as sa
from schemathesis.config import SchemathesisConfig
from schemathesis.engine import events, from_schema

from phonofilm.jobs import schema as tables
from phonofilm.serve import sender
from phonofilm.serve.app import create_app
from phonofilm.serve.config import Config
from phonofilm.serve.service import Service

EXAMPLES = 40  # of each operation in a round
MOST_ROUNDS = 20


@dataclass
class Report:
    """What was sent, and what was wrong with the answers."""

    cases: int = 0
    answers: Counter[int] = field(default_factory=Counter)  # by status
    operations: set[str] = field(default_factory=set)
    failures: dict[tuple[str, str], str] = field(default_factory=dict)  # (operation, check) → the first of them


def fuzz(folder: Path, cases: int, seed: int = 0, examples: int = EXAMPLES, *, systematic: bool = True) -> Report:
    """At least so many cases: random ones, round by round, and first (systematic) those that go through the document.

    folder: for the server's database and files. examples: random cases of each operation in a round.
    """
    config = Config(folder=folder, model="fake", models=("fake", "native"), hosts=("testserver",), webhook_hosts=("*",))
    report = Report()
    app = create_app(config)
    with patch.object(sender, "call", lambda _: (204, "")), _worker(app.state.service):  # nobody is called from here
        for number in range(MOST_ROUNDS):
            settings = {
                "seed": seed + number,
                "base-url": "http://127.0.0.1",
                "workers": 1,
                "generation": {"max-examples": examples, "database": "none", "no-shrink": True},
                "phases": {"coverage": {"enabled": systematic and number == 0}, "stateful": {"enabled": False}},
                "checks": {"positive_data_acceptance": {"enabled": False}},
            }
            document = schemathesis.openapi.from_asgi(
                "/openapi.json", app, config=SchemathesisConfig.from_dict(settings)
            )
            for event in from_schema(document).execute():
                _count(event, report)
            if report.cases >= cases:
                break
    app.state.service.close()
    return report


def _count(event: events.EngineEvent, report: Report) -> None:
    if isinstance(event, events.NonFatalError | events.FatalError):
        report.failures["engine", type(event).__name__] = str(vars(event))
    if not isinstance(event, events.ScenarioFinished):
        return
    operation = event.recorder.label
    report.operations.add(operation)
    for sent in event.recorder.interactions.values():
        report.cases += 1
        report.answers[sent.response.status_code if sent.response else 0] += 1
    for check in (check for checks in event.recorder.checks.values() for check in checks):
        if check.failure_info is not None:
            told = f"{check.failure_info.failure.message}\n{check.failure_info.code_sample}"
            report.failures.setdefault((operation, check.name), told)


@contextmanager
def _worker(service: Service) -> Iterator[None]:
    """Ends every job soon: most well, some badly; held ones are cancelled, so that streams of their events end."""
    over, folder = threading.Event(), service.config.folder
    (folder / "film").write_bytes(bytes(3000))
    waiting = sa.select(tables.jobs.c.id).where(tables.jobs.c.status == "queued").limit(50)

    def work() -> None:
        count = 0
        while not over.wait(0.1):
            with service.store.reading() as c:
                ids = c.execute(waiting).scalars().all()
            for id in ids:
                count += 1
                queued = service.store.get(id)
                job = queued and service.store.begin(id, queued.ticket, "a worker")
                if job is None:
                    service.store.cancel(id)
                elif count % 5 == 0:
                    service.store.fail(job, "generation_failed", "it failed")
                else:
                    service.store.preview(job, b"a picture")
                    files = {"video": f"films/{id}/film.mp4", "thumbnail": f"films/{id}/film.jpg"}
                    for name in files.values():
                        service.storage.put(folder / "film", name)
                    service.store.publish(job, files, {"total_energy_j": 1.0}, [])

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def main() -> int:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--cases", type=int, default=5000, help="at least so many")
    p.add_argument("--seed", type=int, default=0)
    a = p.parse_args()
    with tempfile.TemporaryDirectory(prefix="phonofilm.") as folder:
        report = fuzz(Path(folder), a.cases, a.seed)
    answers = ", ".join(f"{status}: {count}" for status, count in sorted(report.answers.items()))
    print(f"{report.cases} cases over {len(report.operations)} operations; answers {answers}")
    for (operation, check), told in report.failures.items():
        print(f"\n{operation}: {check}\n{told}")
    return 1 if report.failures else 0


if __name__ == "__main__":
    sys.exit(main())
