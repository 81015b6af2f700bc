"""What containers are told fits what there is: commands, variables, probes, ports, volumes, times."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from phonofilm.cli import build_parser
from phonofilm.files import HOME_VARIABLE
from phonofilm.jobs.worker import STEP_SECONDS
from phonofilm.provenance.identity import CHAIN_VARIABLE, KEY_VARIABLE
from phonofilm.serve.command import DATABASE, GRACE_SECONDS, STREAMS_SECONDS

ROOT = Path(__file__).parents[1]
KNOWN = {DATABASE, HOME_VARIABLE, KEY_VARIABLE, CHAIN_VARIABLE}


def instructions() -> list[tuple[str, str]]:
    """(instruction, rest) of the Dockerfile."""
    text = re.sub(r"\\\n", " ", (ROOT / "Dockerfile").read_text(encoding="utf-8"))
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(line.split()[0], line.partition(" ")[2]) for line in lines]


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))["services"]


@pytest.fixture(scope="module")
def cluster() -> dict[tuple[str, str], dict[str, Any]]:
    documents = yaml.safe_load_all((ROOT / "deploy" / "kubernetes.yaml").read_text(encoding="utf-8"))
    return {(one["kind"], one["metadata"]["name"]): one for one in documents}


def pod(cluster: dict[tuple[str, str], dict[str, Any]], part: str) -> tuple[dict[str, Any], dict[str, Any]]:
    found = cluster["Deployment", f"phonofilm-{part}"]["spec"]["template"]["spec"]
    return found, found["containers"][0]


def test_the_image_is_made_of_what_is_there_and_runs_as_nobody_special() -> None:
    told = instructions()
    copied = [word for name, rest in told if name == "COPY" and "--from" not in rest for word in rest.split()[:-1]]
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    for name in copied:
        assert (ROOT / name).exists() and f"!{name}" in ignored, name
    assert [rest for name, rest in told if name == "USER"] == ["phonofilm"]
    arguments = json.loads(next(rest for name, rest in told if name == "CMD"))
    serve = build_parser().parse_args(arguments)
    assert [rest for name, rest in told if name == "EXPOSE"] == [str(serve.port)]
    check = next(rest for name, rest in told if name == "HEALTHCHECK")
    assert f"127.0.0.1:{serve.port}/healthz" in check
    installed = next(rest for name, rest in told if name == "RUN" and "'.[" in rest)
    extras = re.search(r"\.\[([\w,]+)\]", installed)
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert extras is not None and all(f"\n{name} = [" in project for name in extras[1].split(","))


@pytest.mark.parametrize("service", ["api", "worker"])
def test_compose_gives_commands_that_there_are(compose: dict[str, Any], service: str) -> None:
    one = compose[service]
    command = build_parser().parse_args(one["command"])
    assert set(one["environment"]) <= KNOWN
    mounted = {volume.partition(":")[2] for volume in one["volumes"]}
    assert command.files in mounted
    home = next(rest for name, rest in instructions() if name == "ENV").partition(f"{HOME_VARIABLE}=")[2].split()[0]
    assert home in mounted
    if service == "api":
        assert command.workers == 0 and one["ports"][0].endswith(f":{command.port}")
        assert int(one["stop_grace_period"].removesuffix("s")) > STREAMS_SECONDS
    else:
        assert int(one["stop_grace_period"].removesuffix("s")) > GRACE_SECONDS + STEP_SECONDS


@pytest.mark.parametrize("part", ["api", "worker"])
def test_kubernetes_gives_commands_that_there_are(cluster: dict[tuple[str, str], dict[str, Any]], part: str) -> None:
    spec, container = pod(cluster, part)
    command = build_parser().parse_args(container["args"])
    assert {variable["name"] for variable in container["env"]} <= KNOWN
    assert command.files in {mount["mountPath"] for mount in container["volumeMounts"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in spec["volumes"]}
    for volume in spec["volumes"]:
        if claim := volume.get("persistentVolumeClaim"):
            assert ("PersistentVolumeClaim", claim["claimName"]) in cluster
    labels = cluster["Deployment", f"phonofilm-{part}"]["spec"]["template"]["metadata"]["labels"]
    assert cluster["Deployment", f"phonofilm-{part}"]["spec"]["selector"]["matchLabels"] == labels
    grace = spec["terminationGracePeriodSeconds"]
    assert grace > (STREAMS_SECONDS if part == "api" else GRACE_SECONDS + STEP_SECONDS)


def test_probes_and_service_reach_the_api(cluster: dict[tuple[str, str], dict[str, Any]]) -> None:
    _, container = pod(cluster, "api")
    command = build_parser().parse_args(container["args"])
    port = container["ports"][0]
    assert port["containerPort"] == command.port
    probes = {name: container[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness", "readiness")}
    assert all(probe["port"] == port["name"] for probe in probes.values())
    assert [probe["path"].partition("?")[0] for probe in probes.values()] == ["/healthz", "/healthz", "/readyz"]
    service = cluster["Service", "phonofilm"]["spec"]
    labels = cluster["Deployment", "phonofilm-api"]["spec"]["template"]["metadata"]["labels"]
    assert service["selector"].items() <= labels.items() and service["ports"][0]["targetPort"] == port["name"]


def test_what_the_documents_say_can_be_typed() -> None:
    """Every command of the runbook is one that the parser takes."""
    text = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```sh\n(.*?)```", text[text.index("## Running it") :], re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    commands = [line.partition("phonofilm ")[2] for line in lines if re.match(r"(\w+=\S+ )*phonofilm ", line)]
    assert len(commands) >= 5
    for command in commands:
        alone = re.split(r" [>|] ", command)[0]  # what the shell does with its output is not for us
        build_parser().parse_args(shlex.split(alone, comments=True))
