"""Whether what deploy/ and constraints.txt name is there: commands, files, settings, packages.

That the services run is tried by hand, not here.
"""

import re
import shlex
import shutil
import subprocess
import tomllib
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from dagster._config import process_config, resolve_to_config_type
from dagster._daemon.cli import create_dagster_daemon_cli
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from refresh_pipeline import front_door
from refresh_pipeline.api import access
from refresh_pipeline.api.guard import host_names
from refresh_pipeline.cli.app import app
from refresh_pipeline.instance.queues import FILES_QUEUE
from refresh_pipeline.settings import DAGSTER_VARIABLES, Settings

REPOSITORY = Path(__file__).resolve().parents[1]
DEPLOY = REPOSITORY / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
DOCKERFILE = DEPLOY / "docker" / "Dockerfile"
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
CLICK_COMMANDS: dict[str, Any] = {
    "refresh-web": typer.main.get_command(front_door.app),
    "dagster-daemon": create_dagster_daemon_cli(),
    "refresh": typer.main.get_command(app),
}

OURS = re.compile(r"\b((?:REFRESH|DROPBOX|DAGSTER)_[A-Z_]+)\b")


def settings_names() -> set[str]:
    return {str(field.validation_alias) for field in Settings.model_fields.values()}


def dockerfile() -> list[str]:
    """Its instructions, continued lines joined and comments left out."""
    lines = [line for line in DOCKERFILE.read_text().splitlines() if not line.startswith("#")]
    return [line for line in "\n".join(lines).replace("\\\n", " ").splitlines() if line]


def dockerfile_environment() -> dict[str, str]:
    [line] = [line for line in dockerfile() if line.startswith("ENV ")]
    return dict(pair.split("=", maxsplit=1) for pair in line.removeprefix("ENV ").split())


def compose() -> dict[str, Any]:
    return yaml.safe_load((DEPLOY / "docker" / "docker-compose.yaml").read_text())["services"]


def checked_by(service: dict[str, Any]) -> list[str]:
    """The command of a service's health check."""
    return service.get("healthcheck", {}).get("test", ["CMD"])[1:]


def workers() -> list[list[str]]:
    """The commands of the workers of several machines."""
    services = yaml.safe_load((DEPLOY / "docker" / "docker-compose.cluster.yaml").read_text())["services"]
    return [each["command"] for each in services.values() if each.get("command", [])[:2] == ["refresh", "worker"]]


def manifests() -> dict[str, Any]:
    documents = yaml.safe_load_all((KUBERNETES / "base" / "refresh-pipeline.yaml").read_text())
    return {document["kind"]: document["spec"] for document in documents}


def unit(path: Path) -> dict[str, list[str]]:
    """The lines of a unit's service, by key; a key may stand there many times."""
    found: dict[str, list[str]] = {}
    for line in path.read_text().split("[Service]")[1].split("[Install]")[0].splitlines():
        key, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found.setdefault(key, []).append(value)
    return found


def commands() -> list[list[str]]:
    pod = manifests()["Deployment"]["template"]["spec"]["containers"]
    given = [
        yaml.safe_load(dockerfile()[-1].removeprefix("CMD ")),
        *(service["command"] for service in compose().values() if "command" in service),
        *workers(),
        *(check for service in compose().values() if (check := checked_by(service)) and check[0] != "python"),
        *(container["args"] for container in pod if "args" in container),
        *(c["livenessProbe"]["exec"]["command"] for c in pod if "exec" in c["livenessProbe"]),
        *(shlex.split(unit(path)["ExecStart"][0]) for path in UNITS),
    ]
    return [[Path(words[0]).name, *words[1:]] for words in given]


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_every_command_is_installed_and_knows_its_options(words: list[str]) -> None:
    assert words[0] in {script.name for script in entry_points(group="console_scripts")}
    command, arguments = CLICK_COMMANDS[words[0]], words[1:]
    if hasattr(command, "commands"):
        command, arguments = command.commands[arguments[0]], arguments[1:]
    command.make_context(words[0], [each for each in arguments if not each.endswith("workspace.yaml") and each != "-w"])
    options = {option for parameter in command.params for option in parameter.opts}
    assert {each for each in arguments if each.startswith("-")} <= options


def test_workers_take_every_queue_that_a_job_names() -> None:
    queues = {words[words.index("--queue") + 1] if "--queue" in words else "dagster" for words in workers()}
    assert queues == {"dagster", FILES_QUEUE}


def test_podman_sees_the_health_that_the_daemon_waits_for() -> None:
    assert checked_by(compose()["web"])[0] == "python"
    assert compose()["daemon"]["depends_on"] == {"web": {"condition": "service_healthy"}}


def test_workspaces_lie_where_the_image_and_the_checkout_have_them() -> None:
    paths = {word for words in commands() for word in words if word.endswith("workspace.yaml")}
    assert paths == {"/etc/refresh-pipeline/workspace.yaml", "/opt/refresh-pipeline/workspace.yaml"}
    assert any(re.fullmatch(r"COPY .*workspace.yaml.* /etc/refresh-pipeline/", line) for line in dockerfile())


def test_every_variable_is_a_setting_or_dagsters() -> None:
    known = settings_names() | set(DAGSTER_VARIABLES) | {"DAGSTER_HOME"}
    for path in (path for path in DEPLOY.rglob("*") if path.is_file()):
        assert set(OURS.findall(path.read_text())) - known == set(), path


def test_wide_runs_are_cheap_wherever_dagster_is_started() -> None:
    assert dockerfile_environment().items() >= DAGSTER_VARIABLES.items()
    for path in UNITS:
        assert {f"{name}={value}" for name, value in DAGSTER_VARIABLES.items()} <= set(unit(path)["Environment"])
    # Containers have them from the image.
    assert {service["image"] for service in compose().values()} == {"refresh-pipeline"}
    assert {c["image"] for c in manifests()["Deployment"]["template"]["spec"]["containers"]} == {"refresh-pipeline"}


def test_the_image_is_built_from_files_that_are_there_and_let_in() -> None:
    let_in = (DEPLOY / "docker" / "Dockerfile.dockerignore").read_text().split()
    copied = [line.split()[1:-1] for line in dockerfile() if line.startswith("COPY ") and "--from" not in line]
    for name in {word for words in copied for word in words if not word.startswith("--")}:
        assert (REPOSITORY / name).exists()
        assert f"!{name}" in let_in


def test_the_image_has_a_python_that_the_project_supports() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    versions = [line.split()[1].removeprefix("python:").split("-")[0] for line in dockerfile() if line[:5] == "FROM "]
    assert len(versions) == 2
    assert all(version in SpecifierSet(project["requires-python"]) for version in versions)


def test_nothing_runs_as_root() -> None:
    assert "USER 10001" in dockerfile()
    assert manifests()["Deployment"]["template"]["spec"]["securityContext"]["runAsNonRoot"] is True
    assert {unit(path)["User"][0] for path in UNITS} == {"refresh-pipeline"}


def test_nobody_else_reaches_the_web_ui() -> None:
    assert compose()["web"]["ports"] == ["127.0.0.1:3000:3000", "127.0.0.1:8080:8080"]
    assert manifests()["Service"]["type"] == "ClusterIP"
    assert all("-h 0.0.0.0" not in path.read_text() for path in UNITS)
    # In a container other containers reach the port: the front door wants a key there.
    for container in containers_with_ports():
        assert container["envFrom"] == [{"secretRef": {"name": "refresh-pipeline"}}]


def containers_with_ports() -> list[dict[str, Any]]:
    return [each for each in manifests()["Deployment"]["template"]["spec"]["containers"] if "ports" in each]


def test_probes_come_under_a_name_that_is_answered_and_need_no_key() -> None:
    public = {3000: front_door.PUBLIC, 8080: access.PUBLIC}
    for container in containers_with_ports():
        [port] = [each["containerPort"] for each in container["ports"]]
        for probe in (container["readinessProbe"], container["livenessProbe"]):
            [host] = [header["value"] for header in probe["httpGet"]["httpHeaders"] if header["name"] == "Host"]
            assert host in host_names(port)
            assert probe["httpGet"]["path"] in public[port]


def test_both_processes_see_one_another_as_runs_name_them() -> None:
    pod = manifests()["Deployment"]["template"]["spec"]
    assert pod["shareProcessNamespace"]
    assert pod["hostname"]
    assert compose()["web"]["hostname"] == compose()["daemon"]["hostname"]
    assert {compose()[name]["pid"] for name in ("daemon", "api")} == {"service:web"}


def test_files_are_shared_by_one_machine_alone() -> None:
    deployment = manifests()["Deployment"]
    assert (deployment["replicas"], deployment["strategy"]["type"]) == (1, "Recreate")
    mounts = [c["volumeMounts"] for c in deployment["template"]["spec"]["containers"]]
    assert all(each == mounts[0] for each in mounts)


def test_dagsters_settings_are_copied_once_and_the_users_from_then_on(tmp_path: Path) -> None:
    (tmp_path / "dagster.yaml").write_text("shipped")
    script = (DEPLOY / "docker" / "entrypoint").read_text().replace("/etc/refresh-pipeline", str(tmp_path))
    home = tmp_path / "data" / "dagster"

    (tmp_path / "dagster-cluster.yaml").write_text("of several machines")

    def start(**variables: str) -> str:
        command = ["sh", "-c", script, "entrypoint", "cat", str(home / "dagster.yaml")]
        environment = {"DAGSTER_HOME": str(home), "PATH": "/usr/bin:/bin", **variables}
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout

    assert start() == "shipped"
    (home / "dagster.yaml").write_text("the user's")
    assert start() == "the user's"
    assert [path.name for path in home.iterdir()] == ["dagster.yaml"]
    (home / "dagster.yaml").unlink()
    assert start(REFRESH_POSTGRES_URL="postgresql://x/y") == "of several machines"


def kustomized(overlay: str) -> dict[str, dict[str, Any]]:
    """The objects of an overlay by kind and name, as the cluster would get them."""
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl is not installed: overlays are not built here")
    built = subprocess.run([kubectl, "kustomize", str(KUBERNETES / overlay)], capture_output=True, check=True).stdout
    objects = list(yaml.safe_load_all(built))
    return {f"{each['kind']}/{each['metadata']['name'].removeprefix('refresh-pipeline')}": each for each in objects}


def pods(objects: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {
        name: each["spec"]["template"]["spec"] for name, each in objects.items() if "template" in each.get("spec", {})
    }


def container_names(pod: dict[str, Any]) -> list[str]:
    return sorted(container["name"] for container in pod["containers"])


def test_overlays_of_kubernetes_have_what_several_machines_need() -> None:
    alone, cluster, runs = (kustomized(overlay) for overlay in ("base", "cluster", "runs"))
    assert sorted(alone) == ["Deployment/", "PersistentVolumeClaim/", "Service/"]
    servers = {"Deployment/-redis", "StatefulSet/-postgres", "Service/-redis", "Service/-postgres"}
    assert set(cluster) - set(alone) == {*servers, "Deployment/-worker"}
    accounts = {"ServiceAccount/", "Role/", "RoleBinding/", "ConfigMap/-dagster"}
    assert set(runs) - set(alone) == servers | accounts
    own = ["api", "daemon", "web"]
    names = [container_names(pods(each)["Deployment/"]) for each in (alone, cluster, runs)]
    assert names == [own, [*own, "worker-files"], own]
    queues = [pods(cluster)["Deployment/-worker"]["containers"][0], *pods(cluster)["Deployment/"]["containers"]]
    commands = [each["args"] for each in queues if each.get("args", [])[:2] == ["refresh", "worker"]]
    assert sorted(commands) == sorted(workers())


def test_every_pod_of_the_overlays_is_confined_and_finds_its_secret() -> None:
    for overlay in ("base", "cluster", "runs"):
        for name, pod in pods(kustomized(overlay)).items():
            assert pod["securityContext"]["runAsNonRoot"] is True, name
            for container in pod["containers"]:
                assert container["securityContext"]["allowPrivilegeEscalation"] is False, name
                assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}, name
                secrets = [each["secretRef"]["name"] for each in container.get("envFrom", [])]
                keys = [each["valueFrom"]["secretKeyRef"]["name"] for each in container["env"] if "valueFrom" in each]
                assert {*secrets, *keys} == {"refresh-pipeline"}, name


def test_a_pod_for_each_run_has_the_settings_that_the_launcher_knows() -> None:
    objects = kustomized("runs")
    [text] = objects["ConfigMap/-dagster"]["data"].values()
    settings = yaml.safe_load(text)
    assert settings["storage"] == yaml.safe_load((REPOSITORY / "dagster-cluster.yaml").read_text())["storage"]
    config = settings["run_launcher"]["config"]
    assert f"ConfigMap/{config['instance_config_map'].removeprefix('refresh-pipeline')}" in objects
    pod = pods(objects)["Deployment/"]
    assert pod["serviceAccountName"] == config["service_account_name"]
    assert {volume["name"] for volume in config["volumes"]} == {mount["name"] for mount in config["volume_mounts"]}
    launchers = pytest.importorskip("dagster_k8s", reason="the extra kubernetes is not installed")
    schema = resolve_to_config_type(launchers.K8sRunLauncher.config_type())
    assert process_config(schema, config).success


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.stem)
def test_systemd_understands_the_units(path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze is not installed")
    said = subprocess.run([analyze, "verify", str(path)], capture_output=True, text=True, check=False).stderr
    # /opt/refresh-pipeline is not on this machine.
    assert [line for line in said.splitlines() if "is not executable: No such file" not in line] == []


def pins(file: str) -> dict[str, str]:
    """The packages of a file of constraints, by their versions."""
    lines = [line for line in (REPOSITORY / file).read_text().splitlines() if not line.startswith("#")]
    assert [line for line in lines if not re.fullmatch(r"[\w.-]+==[\w.]+", line)] == []
    names = [canonicalize_name(line.partition("==")[0]) for line in lines]
    assert len(set(names)) == len(names)
    return dict(zip(names, (line.partition("==")[2] for line in lines), strict=True))


@pytest.mark.parametrize("file", ["constraints.txt", "constraints-cluster.txt"])
def test_constraints_pin_each_package_once_and_name_no_place(file: str) -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    extras, pinned = project["optional-dependencies"], pins(file)
    if file == "constraints.txt":
        del extras["lake"]
    wanted = [*project["dependencies"], *(each for extra in extras.values() for each in extra)]
    assert {canonicalize_name(Requirement(each).name) for each in wanted} <= set(pinned)
    assert [
        each for each in map(Requirement, wanted) if pinned[canonicalize_name(each.name)] not in each.specifier
    ] == []


def test_constraints_of_a_cluster_differ_in_duckdb_alone() -> None:
    usual, of_a_cluster = pins("constraints.txt"), pins("constraints-cluster.txt")
    differing = {name: version for name, version in of_a_cluster.items() if usual.get(name) != version}
    assert {name for name in differing if not name.startswith("duckdb-extension-")} == {"duckdb"}
    assert set(differing.values()) == {of_a_cluster["duckdb"]}
    assert set(usual) <= set(of_a_cluster)
