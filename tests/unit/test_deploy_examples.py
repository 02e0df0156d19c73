"""The examples for Docker compose, systemd and nginx: all parse, and each confines its programs."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.requirements import MissingRequirement, free_port, require

yaml = pytest.importorskip("yaml", reason="No PyYAML: make install.")
ROOT = Path(__file__).parents[2]
UNITS = [ROOT / "deploy" / "systemd" / f"ohsessions-{kind}@.service" for kind in ("gateway", "worker")]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
SITE = [name for name in SERVICES if name.startswith(("gateway", "worker", "migrate"))]
EXPOSURE = {"gateway": 20, "worker": 45}
"""Tenths of systemd's exposure level: a worker needs the permissions that people's programs need."""
services = pytest.mark.parametrize("name", SERVICES)


def options(unit: Path) -> dict[str, str]:
    """Return the options of a unit's [Service], with the last value of each."""
    lines = unit.read_text().partition("[Service]")[2].partition("[Install]")[0].splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def find(program: str, package: str) -> str:
    def look() -> str:
        if found := shutil.which(program, path="/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/bin"):
            return found
        raise MissingRequirement(f"No {program}: apt-get install {package}.")

    return require(look)


# Docker compose


@services
def test_no_container_can_gain_what_it_does_not_start_with(name: str) -> None:
    service = SERVICES[name]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["read_only"] is True
    assert "privileged" not in service
    assert not {"SYS_ADMIN", "NET_ADMIN", "SYS_PTRACE"} & set(service.get("cap_add", []))


@services
def test_no_secret_stands_in_the_environment_of_a_container(name: str) -> None:
    for variable, value in SERVICES[name].get("environment", {}).items():
        if re.search("SECRET|PASSWORD|KEY", variable):
            assert variable.endswith("_FILE")
            assert value.startswith("/run/secrets/")
        assert "POSTGRES_PASSWORD" not in value


@pytest.mark.parametrize("name", SITE)
def test_secrets_are_files_that_the_containers_user_alone_reads(name: str) -> None:
    user = SERVICES[name].get("user", re.findall(r"^USER (.+)$", (ROOT / "Dockerfile").read_text(), re.M)[-1])
    number = re.findall(rf"--uid (\d+) {user}\b", (ROOT / "Dockerfile").read_text())[0]
    for secret in SERVICES[name]["secrets"]:
        assert (secret["uid"], secret["gid"], secret["mode"]) == (number, number, 0o400)


def test_gateways_and_workers_have_users_of_their_own_and_only_workers_have_files() -> None:
    assert SERVICES["worker-1"]["user"] == "ohsessions-worker"
    assert "user" not in SERVICES["gateway-1"]
    assert {name for name in SITE if "volumes" in SERVICES[name]} == {"worker-1", "worker-2"}


@pytest.mark.parametrize("name", [name for name in SITE if name != "migrate"])
def test_what_faces_people_or_runs_their_programs_has_limits(name: str) -> None:
    assert {"mem_limit", "pids_limit", "ulimits"} <= SERVICES[name].keys()


def test_only_the_proxy_is_reached_from_outside_and_the_stores_reach_nobody() -> None:
    assert {name: s["ports"] for name, s in SERVICES.items() if "ports" in s} == {
        "nginx": ["127.0.0.1:8000:8080"]
    }
    assert COMPOSE["networks"]["store"] == {"internal": True}
    for name in ("postgres", "redis"):
        assert SERVICES[name]["networks"] == ["store"]
    assert "store" not in SERVICES["nginx"]["networks"]


# systemd


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_a_service_has_limits_and_no_capabilities(unit: Path) -> None:
    found = options(unit)
    assert {"MemoryMax", "TasksMax", "LimitNOFILE"} <= found.keys()
    assert (found["CapabilityBoundingSet"], found["AmbientCapabilities"]) == ("", "")
    assert (found["NoNewPrivileges"], found["ProtectSystem"]) == ("yes", "strict")
    assert (found["PrivateTmp"], found["UMask"], found["LimitCORE"]) == ("yes", "0077", "0")


def test_gateway_and_worker_are_different_users_and_only_the_worker_writes() -> None:
    gateway, worker = map(options, UNITS)
    assert gateway["User"] == gateway["Group"] != worker["User"] == worker["Group"]
    assert "ReadWritePaths" not in gateway
    assert worker["ReadWritePaths"] == "/var/lib/ohsessions"


def test_the_worker_may_make_the_namespaces_of_a_sandbox() -> None:
    assert "RestrictNamespaces" not in options(UNITS[1])
    dropped = options(ROOT / "deploy" / "systemd" / "ohsessions-worker-sandbox.conf")
    assert set(dropped) <= options(UNITS[1]).keys()
    assert set(dropped.values()) == {"no"}


def test_the_file_of_secrets_is_made_readable_by_root_alone() -> None:
    page = (ROOT / "docs" / "deploy.md").read_text()
    assert "install -m 600 deploy/systemd/ohsessions.env /etc/ohsessions.env" in page
    assert all(options(unit)["EnvironmentFile"] == "/etc/ohsessions.env" for unit in UNITS)


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_systemd_understands_every_line_and_finds_little_exposed(unit: Path, tmp_path: Path) -> None:
    program = find("systemd-analyze", "systemd")
    copy = tmp_path / unit.name
    copy.write_text(re.sub("^ExecStart=.*", "ExecStart=/bin/true", unit.read_text(), flags=re.M))
    done = subprocess.run([program, "verify", "--man=no", copy], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    threshold = f"--threshold={EXPOSURE[unit.name.split('-')[1].split('@')[0]]}"
    command = [program, "security", "--offline=yes", threshold, copy]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-300:]


# nginx


def test_nginx_takes_the_examples(tmp_path: Path) -> None:
    program = find("nginx", "nginx-light")
    for file in (ROOT / "deploy" / "nginx").iterdir():
        text = file.read_text().replace("/var/log/nginx/access.log", str(tmp_path / "access.log"))
        (tmp_path / file.name).write_text(text.replace("listen 8080", f"listen 127.0.0.1:{free_port()}"))
    (tmp_path / "mime.types").write_text("types {}\n")
    command = [program, "-t", "-p", tmp_path, "-c", tmp_path / "nginx.conf", "-e", "stderr"]
    command += ["-g", f"pid {tmp_path / 'pid'};"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "directive",
    [
        "limit_conn ohsessions_connections",
        "limit_req zone=ohsessions_requests",
        "limit_req zone=ohsessions_logins",
        "client_header_timeout",
        "client_body_timeout",
        "client_max_body_size",
        'proxy_set_header X-Forwarded-Host ""',
        "proxy_set_header X-Forwarded-For $remote_addr",
    ],
)
def test_nginx_bounds_what_one_address_may_do_and_believes_no_forwarded_header(directive: str) -> None:
    assert directive in (ROOT / "deploy" / "nginx" / "ohsessions.conf").read_text()
