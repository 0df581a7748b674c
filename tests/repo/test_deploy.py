"""deploy/ as far as it can be read without the daemons that run it: every path, flag, port and probe is one of ours."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.repo.tree import ROOT
from tripos import config

DEPLOY = ROOT / "deploy"
PUBLIC_PROBES = {"/livez", "/readyz"}


def known_flags() -> set[str]:
    return {config.flag(name) for name in config.settings()} | {"--config"}


def test_every_flag_and_variable_is_a_setting() -> None:
    for path in sorted(each for each in DEPLOY.rglob("*") if each.is_file()):
        text = path.read_text()
        for command in re.findall(r"tripos serve[^\n]*|\"serve\"[^\n]*", text):
            assert set(re.findall(r"--[a-z-]+", command)) <= known_flags(), (path, command)
        variables = set(re.findall(r"\bTRIPOS_[A-Z_]+", text)) - {"TRIPOS_PORT"}  # which a comment explains
        assert variables <= {config.variable(name) for name in config.settings()}, path


def stages() -> list[list[tuple[str, str]]]:
    """The instructions of the Dockerfile, by stage: (word, rest)."""
    text = re.sub(r"\\\n\s*", " ", re.sub(r"^#.*\n", "", (DEPLOY / "Dockerfile").read_text(), flags=re.MULTILINE))
    found: list[list[tuple[str, str]]] = []
    for line in filter(None, map(str.strip, text.splitlines())):
        word, _, rest = line.partition(" ")
        if word == "FROM":
            found.append([])
        found[-1].append((word, rest.strip()))
    return found


def test_the_image_has_two_stages_and_a_user_of_its_own() -> None:
    build, last = stages()
    assert dict(build)["FROM"].endswith("AS build")
    words = [word for word, _ in last]
    assert words.index("USER") < words.index("ENTRYPOINT")
    assert ("USER", "10001") in last
    assert not [rest for word, rest in last if word == "RUN" and "apt-get" in rest]


def test_the_image_copies_what_there_is_and_what_the_build_needs() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    copied = [shlex.split(rest) for stage in stages() for word, rest in stage if word == "COPY"]
    sources = {source for words in copied if not words[0].startswith("--from") for source in words[:-1]}
    assert all((ROOT / source).exists() for source in sources)
    assert {f"!{source}" for source in sources} == {line for line in ignored if line.startswith("!")}
    named = re.findall(r"-r (requirements/\S+)", (DEPLOY / "Dockerfile").read_text())
    assert named
    assert all((ROOT / name).is_file() for name in named)


def test_the_images_probe_is_python_that_runs() -> None:
    (probe,) = [rest for word, rest in stages()[-1] if word == "HEALTHCHECK"]
    program = yaml.safe_load(probe.partition("CMD ")[2])
    assert program[:2] == ["python", "-c"]
    compile(program[2], "healthcheck", "exec")
    assert ":8000/livez" in program[2]


def documents() -> list[dict[str, Any]]:
    return [
        each for path in sorted((DEPLOY / "kubernetes").glob("*.yaml")) for each in yaml.safe_load_all(path.read_text())
    ]


def one(kind: str) -> Any:
    (found,) = [each for each in documents() if each["kind"] == kind]
    return found


def test_the_manifests_agree_with_each_other() -> None:
    pod = one("Deployment")["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    labels = pod["metadata"]["labels"]
    assert one("Deployment")["spec"]["selector"]["matchLabels"] == labels
    assert one("Service")["spec"]["selector"] == labels
    assert one("PodMonitor")["spec"]["selector"]["matchLabels"] == labels
    ports = {port["name"] for port in container["ports"]}
    assert {port["targetPort"] for port in one("Service")["spec"]["ports"]} <= ports
    assert {each["port"] for each in one("PodMonitor")["spec"]["podMetricsEndpoints"]} <= ports
    assert {each["name"] for each in container["volumeMounts"]} == {each["name"] for each in pod["spec"]["volumes"]}
    for probe in ("livenessProbe", "readinessProbe"):
        assert container[probe]["httpGet"]["path"] in PUBLIC_PROBES
        assert container[probe]["httpGet"]["port"] in ports


def test_a_pod_may_drain_and_never_sees_our_names_as_settings(tmp_path: Path) -> None:
    spec = one("Deployment")["spec"]["template"]["spec"]
    assert spec["enableServiceLinks"] is False
    file = tmp_path / "tripos.toml"
    file.write_text(one("ConfigMap")["data"]["tripos.toml"])
    options = config.read_options((), {}, {}, str(file))
    (container,) = spec["containers"]
    slept_s = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    assert spec["terminationGracePeriodSeconds"] >= options.server.drain_s + slept_s + 5
    mounts = [each["mountPath"] for each in container["volumeMounts"]]
    assert any(options.server.api_key_file.startswith(mount) for mount in mounts)
    assert any(options.models[0].source.startswith(mount) for mount in mounts)
    assert {port["containerPort"] for port in container["ports"]} == {options.server.port}


def test_every_container_gives_up_what_it_does_not_need() -> None:
    spec = one("Deployment")["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["securityContext"]["capabilities"]["drop"] == ["ALL"]
    service = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["tripos"]
    assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"])


def test_compose_names_only_what_it_defines() -> None:
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    service = compose["services"]["tripos"]
    assert (DEPLOY / service["build"]["context"] / service["build"]["dockerfile"]).is_file()
    assert set(service["secrets"]) == set(compose["secrets"])  # by name: who owns a file, and its mode, Compose keeps
    named = [each.partition(":")[0] for each in service["volumes"] if not each.startswith((".", "/"))]
    assert named == list(compose["volumes"])
    assert service["environment"]["TRIPOS_API_KEY_FILE"] == f"/run/secrets/{service['secrets'][0]}"


def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("needs systemd-analyze")
    unit = tmp_path / "tripos.service"
    text = (DEPLOY / "tripos.service").read_text()
    unit.write_text(text.replace("/opt/tripos/bin/tripos", shutil.which("true") or "/bin/true"))
    done = subprocess.run([analyze, "verify", str(unit)], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    stop_s = int(re.findall(r"TimeoutStopSec=(\d+)", text)[0])
    assert stop_s > config.ServerOptions().drain_s + 2


def test_proxies_let_go_of_idle_connections_before_we_do() -> None:
    """Else a request may meet a connection that is being closed."""
    ours_s = config.ServerOptions().keep_alive_s
    assert int(re.findall(r"keepalive_timeout (\d+)s", (DEPLOY / "nginx.conf").read_text())[0]) < ours_s
    assert int(re.findall(r"keepalive (\d+)s", (DEPLOY / "Caddyfile").read_text())[0]) < ours_s


def test_a_line_that_goes_on_is_no_comment() -> None:
    """A shell would end the command there."""
    for before, after in pairwise((DEPLOY / "Dockerfile").read_text().splitlines()):
        assert not (before.endswith("\\") and after.lstrip().startswith("#"))
