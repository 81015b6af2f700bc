"""`phonofilm serve`, `worker`, `mcp`, and the operator's `keys`, `webhooks`, `usage`: parsing, processes, signals."""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

from phonofilm.errors import InputError
from phonofilm.files import home

if TYPE_CHECKING:
    from phonofilm.jobs.store import Store
    from phonofilm.serve.config import Config

GRACE_SECONDS: Final = 60  # that running jobs get to finish when a worker is told to stop
KEY: Final = "PHONOFILM_KEY"
BEARER: Final = "PHONOFILM_WEBHOOK_BEARER"
DATABASE: Final = "PHONOFILM_DATABASE_URL"  # a password has no place among arguments, which all users of a machine see
STREAMS_SECONDS: Final = 5  # that answers under way get to finish when the server is told to stop
Formatter = type[argparse.HelpFormatter]


def add_commands(commands: Any, formatter: Formatter) -> None:
    """Put the commands of the service beside the others."""
    serve = commands.add_parser("serve", help="run the service: API and a worker", formatter_class=formatter)
    serve.add_argument("--host", default="127.0.0.1", help="the address to listen at")
    serve.add_argument("--port", type=int, default=8600)
    serve.add_argument(
        "--workers", type=int, default=1, metavar="N", help="worker processes on this machine, 0 for none"
    )
    serve.add_argument("--insecure", action="store_true", help="let others in without keys")
    serve.add_argument("--allow-host", action="append", default=[], metavar="NAME", help="a name that it is called by")
    serve.add_argument(
        "--fetch-from", action="append", default=[], metavar="HOST", help="a host from which images may be fetched"
    )
    serve.add_argument(
        "--webhook-to", action="append", default=[], metavar="HOST",
        help="a host to which callers may have webhooks sent, * for any public one",
    )  # fmt: skip
    serve.add_argument("--policy", metavar="WHAT", help="a file of words to refuse, or module:function")
    _working(serve)
    _shared(serve)
    serve.set_defaults(run=_serve)
    worker = commands.add_parser("worker", help="take jobs from the queue of a service", formatter_class=formatter)
    _working(worker)
    _shared(worker)
    worker.set_defaults(run=_worker)
    mcp = commands.add_parser("mcp", help="tools for a chat assistant, over stdio (MCP)", formatter_class=formatter)
    mcp.add_argument("--url", help="use the server there instead of the database here")
    mcp.add_argument("--key", help=f"for the server there; better given as ${KEY}")
    _working(mcp)
    _shared(mcp)
    mcp.set_defaults(run=_mcp)
    keys = commands.add_parser("keys", help="keys of those who may call the service", formatter_class=formatter)
    actions = keys.add_subparsers(title="actions", metavar="", required=True)
    create = actions.add_parser("create", help="make a key, and show it once", formatter_class=formatter)
    create.add_argument("name")
    create.add_argument("--seconds-a-day", type=float, help="of film")
    create.add_argument("--concurrent", type=int, help="jobs that are open at the same time")
    create.add_argument("--requests-a-minute", type=int)
    _shared(create)
    create.set_defaults(run=_keys_create)
    for name, told, run in (("list", "show all keys", _keys_list), ("revoke", "make a key useless", _keys_revoke)):
        action = actions.add_parser(name, help=told, formatter_class=formatter)
        if name == "revoke":
            action.add_argument("key", help="its id, or its first characters, as `list` shows them")
        _shared(action)
        action.set_defaults(run=run)
    _add_webhooks(commands, formatter)
    _add_usage(commands, formatter)


def _add_webhooks(commands: Any, formatter: Formatter) -> None:
    webhooks = commands.add_parser("webhooks", help="who is told when a film ends", formatter_class=formatter)
    actions = webhooks.add_subparsers(title="actions", metavar="", required=True)
    add = actions.add_parser(
        "add", help="tell a URL, and show once the secret by which it knows us", formatter_class=formatter
    )
    add.add_argument("url", help="https://…")
    add.add_argument("--key", metavar="ID", help="of this key's films alone, not of everybody's")
    add.add_argument("--usage", action="store_true", help=f"of usage, as CloudEvents; ${BEARER} goes with each call")
    add.add_argument("--allow-private", action="store_true", help="it may be an address inside, and http")
    add.set_defaults(run=_webhooks_add)
    every = actions.add_parser("list", help="show all, and how they fare", formatter_class=formatter)
    every.set_defaults(run=_webhooks_list)
    again = actions.add_parser("retry", help="send again what was given up", formatter_class=formatter)
    again.set_defaults(run=_webhooks_retry)
    remove = actions.add_parser("remove", help="tell it nothing more", formatter_class=formatter)
    remove.set_defaults(run=_webhooks_remove)
    for action in (again, remove):
        action.add_argument("webhook", help="its id")
    for action in (add, every, again, remove):
        _shared(action)


def _add_usage(commands: Any, formatter: Formatter) -> None:
    usage = commands.add_parser("usage", help="what films are billed by", formatter_class=formatter)
    actions = usage.add_subparsers(title="actions", metavar="", required=True)
    export = actions.add_parser("export", help="one event for each published film", formatter_class=formatter)
    export.add_argument("--since", metavar="TIME", help="2026-11-01, or 2026-11-01T12:00:00Z; from then on")
    export.add_argument("--until", metavar="TIME", help="up to then, and not then")
    export.add_argument("--key", metavar="ID", help="films of this key alone")
    export.add_argument("--format", choices=("jsonl", "csv"), default="jsonl", help="jsonl: CloudEvents, one a line")
    _shared(export)
    export.set_defaults(run=_usage_export)


def _working(p: argparse.ArgumentParser) -> None:
    p.add_argument("--at-once", type=int, default=1, metavar="N", help="films at the same time, in each worker")
    p.add_argument("--limit", type=float, default=1800.0, metavar="SECONDS", help="for one film")
    p.add_argument("--keep-days", type=float, default=7.0, metavar="DAYS", help="how long films are kept")
    p.add_argument("--label", action="store_true", help="draw a small visible label on every film")


def _shared(p: argparse.ArgumentParser) -> None:
    p.add_argument("--data-dir", type=Path, default=home(), metavar="DIR", help="database and films")
    p.add_argument(
        "--database-url", metavar="URL",
        help=f"postgresql://… in place of the embedded SQLite; better given as ${DATABASE}",
    )  # fmt: skip
    p.add_argument("--files", metavar="PLACE", help="where films go: a folder, or s3://BUCKET/FOLDER")
    p.add_argument("--model", default="native", help="the model used where a request names none")
    p.add_argument("--weights", type=Path, metavar="DIR", help="other weights than the shipped ones")


def _config(a: argparse.Namespace) -> Config:
    from phonofilm.serve.config import Config

    serving = {}
    if hasattr(a, "keep_days"):
        if a.at_once < 1 or a.limit <= 0:
            raise InputError(f"at-once must be at least 1 and limit above 0, got {a.at_once} and {a.limit:g}")
        serving = {"keep_seconds": 86_400 * a.keep_days}
    if hasattr(a, "host"):
        serving |= {
            "host": a.host, "port": a.port, "insecure": a.insecure, "hosts": tuple(a.allow_host),
            "image_hosts": tuple(a.fetch_from), "webhook_hosts": tuple(a.webhook_to),
        }  # fmt: skip
    models = tuple(dict.fromkeys((a.model, "native")))
    return Config(
        folder=a.data_dir, database=a.database_url or os.environ.get(DATABASE), films=a.files, model=a.model,
        models=models, weights=a.weights, **serving,
    )  # fmt: skip


def _serve(a: argparse.Namespace) -> int:
    config = _config(a)
    if a.workers < 0:
        raise InputError(f"workers must be at least 0, got {a.workers}")
    if a.workers > 1 and config.database_url.startswith("sqlite"):
        raise InputError("SQLite serves one worker process; for more give --database-url postgresql://…")
    if not config.local and not config.insecure and not _has_keys(config):
        raise InputError(
            f"{config.host} can be reached from other machines: make a key first (phonofilm keys create NAME), "
            "or let everybody in with --insecure"
        )
    import uvicorn

    from phonofilm.jobs import traces
    from phonofilm.jobs.scratch import Scratch
    from phonofilm.serve.app import create_app
    from phonofilm.serve.policy import load_hook
    from phonofilm.serve.sender import Sender

    _log_to_stderr()
    traces.start("phonofilm-api")
    app = create_app(config, load_hook(a.policy))
    stop, sender = threading.Event(), Sender(app.state.store)
    scratch = Scratch()
    scratch.install()
    command = [sys.executable, "-m", "phonofilm.cli", "worker", *_worker_options(a, config)]
    for _ in range(a.workers):
        threading.Thread(target=_keep_running, args=(command, config.database_url, stop), daemon=True).start()
    settings = uvicorn.Config(
        app, config.host, config.port, log_config=None, access_log=False, timeout_graceful_shutdown=STREAMS_SECONDS
    )

    class Server(uvicorn.Server):
        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            app.state.service.stopping.set()
            super().handle_exit(sig, frame)

    server = Server(settings)
    print(f"phonofilm: http://{config.host}:{config.port} (data in {config.folder})", file=sys.stderr)
    signal.signal(signal.SIGTERM, lambda *_: None)  # uvicorn raises it again once it has shut down
    sender.start()
    try:
        with contextlib.suppress(KeyboardInterrupt):
            server.run()
    finally:
        stop.set()
        _wait_for_workers()
        sender.stop()  # last: it tells of the films that workers were let finish
        scratch.remove()
    return 0


def _mcp(a: argparse.Namespace) -> int:
    import asyncio

    from phonofilm.serve import mcp

    _log_to_stderr()
    if a.url:
        asyncio.run(mcp.bridge(a.url, a.key or os.environ.get(KEY)))
        return 0
    from phonofilm.serve.service import Service

    config = _config(a)
    service, stop = Service(config), threading.Event()
    command = [sys.executable, "-m", "phonofilm.cli", "worker", *_worker_options(a, config)]
    keeper: threading.Thread | None = None
    waking = threading.Lock()  # assistants call several tools at once

    def wake() -> None:
        nonlocal keeper
        with waking:
            if (keeper is None or not keeper.is_alive()) and not service.store.alive():
                keeper = threading.Thread(target=_keep_running, args=(command, config.database_url, stop), daemon=True)
                keeper.start()

    try:
        asyncio.run(mcp.over_stdio(service, wake))
    finally:
        stop.set()
        _wait_for_workers()
        service.close()
    return 0


def _worker_options(a: argparse.Namespace, config: Config) -> list[str]:
    options = ["--data-dir", str(a.data_dir), "--files", config.storage, "--model", a.model, "--limit", str(a.limit)]
    options += ["--at-once", str(a.at_once), "--keep-days", str(a.keep_days), *(["--label"] if a.label else [])]
    return options + (["--weights", str(a.weights)] if a.weights else [])


_children: Final[list[subprocess.Popen[bytes]]] = []


def _keep_running(command: list[str], database_url: str, stop: threading.Event) -> None:
    """Run a worker, and another when it dies; one that dies early waits longer each time."""
    pause, environment = 0.5, {**os.environ, DATABASE: database_url}
    while not stop.is_set():
        began = time.monotonic()
        with subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True, env=environment) as child:
            _children.append(child)
            child.wait()
            _children.remove(child)
        pause = 0.5 if time.monotonic() - began > 5 else min(4.0, 2 * pause)
        stop.wait(pause)


def _wait_for_workers() -> None:
    for child in list(_children):
        child.terminate()
    for child in list(_children):
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(GRACE_SECONDS + 10)


def _worker(a: argparse.Namespace) -> int:
    config = _config(a)
    # torch's threads spin while they wait for each other; beside anything else that runs, films took five times as long
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from phonofilm.jobs import traces
    from phonofilm.jobs.scratch import Scratch
    from phonofilm.jobs.storage import Storage
    from phonofilm.jobs.store import Store
    from phonofilm.jobs.worker import Worker, WorkerConfig
    from phonofilm.provenance import Identity
    from phonofilm.serve.films import Films

    _log_to_stderr()
    traces.start("phonofilm-worker")
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    scratch, storage = Scratch(), Storage(config.storage)
    scratch.install()
    with Store(config.database_url, keep_seconds=config.keep_seconds) as store:
        films = Films(Identity.default(), label=a.label)
        settings = WorkerConfig(weights=a.weights, at_once=a.at_once, limit_seconds=a.limit)
        worker = Worker(store, storage, films, settings)
        worker.start()
        _follow_parent(ended.set)
        ended.wait()
        worker.stop(GRACE_SECONDS)
    scratch.remove()
    traces.stop()
    logging.shutdown()
    os._exit(0)  # threads that wait for what will not come, such as an engine that hangs, must not keep the process


def _follow_parent(act: Callable[[], None]) -> None:
    """Call `act` when the process that started this one is gone: its end of the pipe at stdin closes then."""
    import stat

    if not stat.S_ISFIFO(os.fstat(0).st_mode):
        return

    def wait() -> None:
        with contextlib.suppress(OSError):
            while os.read(0, 1024):
                pass
        act()

    threading.Thread(target=wait, daemon=True).start()


def _has_keys(config: Config) -> bool:
    from phonofilm.jobs import keys
    from phonofilm.jobs.store import Store

    with Store(config.database_url) as store:
        return any(key.revoked_at is None for key in keys.every(store))


def _keys_create(a: argparse.Namespace) -> int:
    from phonofilm.jobs import keys
    from phonofilm.jobs.store import Limits, Store

    with Store(_config(a).database_url) as store:
        key, text = keys.create(store, a.name, Limits(a.seconds_a_day, a.concurrent, a.requests_a_minute))
    print(text)
    print(f"phonofilm: the key of {key.name} ({key.id}); it is not stored and cannot be shown again", file=sys.stderr)
    return 0


def _keys_list(a: argparse.Namespace) -> int:
    from phonofilm.jobs import keys
    from phonofilm.jobs.store import Store

    with Store(_config(a).database_url) as store:
        for key in keys.every(store):
            made = time.strftime("%Y-%m-%d", time.gmtime(key.created_at))
            state = "revoked" if key.revoked_at else "valid"
            limits = {name: value for name, value in vars(key.limits).items() if value is not None}
            print(f"{key.id}  {key.shown}…  {made}  {state:7}  {key.name}  {json.dumps(limits) if limits else ''}")
    return 0


def _keys_revoke(a: argparse.Namespace) -> int:
    from phonofilm.jobs import keys
    from phonofilm.jobs.store import Store

    with Store(_config(a).database_url) as store:
        key = keys.revoke(store, a.key)
    print(f"{key.id} of {key.name} is revoked")
    return 0


def _owner(store: Store, name: str | None) -> str | None:
    """The owner that a key's id, its first characters, or `local` mean."""
    from phonofilm.jobs import keys
    from phonofilm.jobs.job import LOCAL

    return name if name in (None, LOCAL) else keys.named(store, str(name)).id


def _webhooks_add(a: argparse.Namespace) -> int:
    from phonofilm.jobs import webhooks
    from phonofilm.jobs.store import Store

    with Store(_config(a).database_url) as store:
        kind: webhooks.Kind = "usage" if a.usage else "video"
        owner, bearer = _owner(store, a.key) or webhooks.ALL, os.environ.get(BEARER) if a.usage else None
        hook, secret = webhooks.add(store, a.url, owner, kind, private=a.allow_private, bearer=bearer)
    print(secret)
    print(f"phonofilm: the secret of {hook.id}, by which {hook.url} knows our messages", file=sys.stderr)
    return 0


def _webhooks_list(a: argparse.Namespace) -> int:
    from phonofilm.jobs import webhooks
    from phonofilm.jobs.store import Store

    with Store(_config(a).database_url) as store:
        for hook in webhooks.every(store):
            whose = "all keys" if hook.owner == webhooks.ALL else hook.owner
            counts = f"{hook.delivered} delivered, {hook.waiting} waiting, {hook.given_up} given up"
            told = f"; {hook.failures} attempts failed, the last: {hook.told}" if hook.told else ""
            print(f"{hook.id}  {hook.kind:5}  {whose}  {hook.url}  {counts}{told}")
    return 0


def _webhooks_retry(a: argparse.Namespace) -> int:
    from phonofilm.jobs import webhooks
    from phonofilm.jobs.store import Store

    with Store(_config(a).database_url) as store:
        print(f"{webhooks.retry(store, a.webhook)} messages are sent again")
    return 0


def _webhooks_remove(a: argparse.Namespace) -> int:
    from phonofilm.jobs import webhooks
    from phonofilm.jobs.store import Store

    with Store(_config(a).database_url) as store:
        webhooks.remove(store, a.webhook)
    print(f"{a.webhook} is told nothing more")
    return 0


def _usage_export(a: argparse.Namespace) -> int:
    from phonofilm.jobs import usage
    from phonofilm.jobs.store import Store

    since, until = (None if text is None else usage.moment(text) for text in (a.since, a.until))
    with Store(_config(a).database_url) as store:
        owner = _owner(store, a.key)
        sys.stdout.writelines(usage.export(store, a.format, since=since, until=until, owner=owner))
    return 0


class _Lines(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"), "level": record.levelname.lower(),
            "logger": record.name, "message": record.getMessage(),
        }  # fmt: skip
        if name := getattr(record, "request_id", None):
            line["request_id"] = name
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def _log_to_stderr() -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(_Lines())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    for name in ("httpx", "dbos", "multipart", "python_multipart"):
        logging.getLogger(name).setLevel(logging.WARNING)
