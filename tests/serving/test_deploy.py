"""Tests the files of deploy/ with their own validators and against the real server."""

import importlib
import json
import re
import subprocess
import sys
import types

import kubernetes.client
import kubernetes_validate
import promql_parser
import pytest
import server as serving
import yaml

DEPLOY = serving.ROOT / "deploy"
YAML_FILES = sorted(DEPLOY.rglob("*.yaml"))
KUBERNETES_VERSIONS = ("1.28", "1.34")
PLAIN = {"str": str, "int": int, "bool": bool, "float": (int, float), "object": object}


def documents(file):
    return [document for document in yaml.safe_load_all(file.read_text()) if document]


def name_of(file):
    return str(file.relative_to(DEPLOY))


def test_there_are_files():
    assert {name_of(file) for file in YAML_FILES} == {
        "kserve/inferenceservice.yaml",
        "kserve/servingruntime.yaml",
        "kubernetes/convert.yaml",
        "kubernetes/serve.yaml",
    }


def test_yamllint():
    done = subprocess.run(
        [sys.executable, "-m", "yamllint", "--strict", "-c", DEPLOY / ".yamllint", *YAML_FILES],
        stdout=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("version", KUBERNETES_VERSIONS)
@pytest.mark.parametrize("file", sorted((DEPLOY / "kubernetes").glob("*.yaml")), ids=name_of)
def test_kubernetes(file, version):
    for document in documents(file):
        kubernetes_validate.validate(document, version, strict=True)


def kserve_models():
    """kserve.models alone: the package itself wants a web server and more."""
    if "kserve" not in sys.modules:
        spec = importlib.util.find_spec("kserve")
        package = types.ModuleType("kserve")
        package.__path__ = spec.submodule_search_locations
        sys.modules["kserve"] = package
    return importlib.import_module("kserve.models")


def check_object(value, kind, where):
    """Checks a value against a type as the generated classes of KServe and Kubernetes name it."""
    items = re.fullmatch(r"[Ll]ist\[(.*)\]", kind)
    values = re.fullmatch(r"[Dd]ict[\[(]str, (.*)[\])]", kind)
    if items:
        assert isinstance(value, list), f"{where} must be a list"
        for index, item in enumerate(value):
            check_object(item, items[1], f"{where}[{index}]")
    elif values:
        assert isinstance(value, dict), f"{where} must be a mapping"
        for key, item in value.items():
            check_object(item, values[1], f"{where}.{key}")
    elif kind in PLAIN:
        assert isinstance(value, PLAIN[kind]), f"{where} must be of type {kind}"
        assert kind == "bool" or not isinstance(value, bool), f"{where} must be of type {kind}"
    else:
        known = getattr(kserve_models(), kind, None) or getattr(kubernetes.client, kind)
        fields = {wire: name for name, wire in known.attribute_map.items()}
        assert isinstance(value, dict), f"{where} must be a {kind}"
        for key, item in value.items():
            assert key in fields, f"{where}: {kind} has no {key}"
            check_object(item, known.openapi_types[fields[key]], f"{where}.{key}")
        # The class itself checks what must be there.
        known(**{fields[key]: item for key, item in value.items()})


@pytest.mark.parametrize("file", sorted((DEPLOY / "kserve").glob("*.yaml")), ids=name_of)
def test_kserve(file):
    for document in documents(file):
        version = document["apiVersion"].removeprefix("serving.kserve.io/")
        check_object(document, version.capitalize() + document["kind"], document["kind"])


def test_the_check_of_kserve_files_can_fail():
    [runtime] = documents(DEPLOY / "kserve/servingruntime.yaml")
    for change in (
        lambda spec: spec.update(multiModels=False),
        lambda spec: spec.update(multiModel="no"),
        lambda spec: spec["containers"][0].update(imagePull="Always"),
        lambda spec: spec["containers"][0]["resources"].update(limits=["cpu"]),
        lambda spec: spec.pop("containers"),
    ):
        broken = json.loads(json.dumps(runtime))
        change(broken["spec"])
        with pytest.raises((AssertionError, ValueError)):
            check_object(broken, "V1alpha1ServingRuntime", "ServingRuntime")


def server_arguments(document):
    """Arguments of tritonserver in any object that runs it."""
    if isinstance(document, dict):
        if document.get("command") == ["tritonserver"]:
            yield from document["args"]
        for value in document.values():
            yield from server_arguments(value)
    elif isinstance(document, list):
        for value in document:
            yield from server_arguments(value)


@pytest.mark.parametrize(
    "file", [file for file in YAML_FILES if "tritonserver" in file.read_text()], ids=name_of
)
def test_the_server_takes_the_arguments(file, checkpoint, tmp_path):
    """The real server starts with them, on other paths and ports, and generates an image."""
    [arguments] = [list(server_arguments(document)) for document in documents(file)][:1]
    kept = [a for a in arguments if not re.match("--(model-repository|http-port|grpc-port|metrics)", a)]
    assert len(kept) < len(arguments)
    repository = serving.convert(checkpoint, tmp_path / "models", "--default-size", "32x32")
    with serving.Server(repository, tmp_path / "log.txt", *kept) as own, own.grpc_client() as client:
        serving.generate(client, prompt="a", num_inference_steps=1)
        assert own.get("/v2/models/bls/ready") == ""


def expressions(dashboard):
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            yield panel["title"], target["expr"]


def test_dashboard(server, client):
    dashboard = json.loads((DEPLOY / "grafana-dashboard.json").read_text())
    serving.generate(client, prompt="a", num_inference_steps=1)
    metrics = server.get("/metrics", server.metrics_port)
    families = set(re.findall(r"^# TYPE (\S+)", metrics, re.MULTILINE))
    labels = set(re.findall(r'[{,](\w+)="', metrics)) | {"job", "instance"}  # those of a scrape
    named = set()
    for title, expression in expressions(dashboard):
        plain = re.sub(r'"\$\w+"', '".*"', expression.replace("$__rate_interval", "5m"))
        promql_parser.parse(plain)
        used = set(re.findall(r"\b(?:nv|flux)_\w+", plain))
        assert used and used <= families, (title, used - families)
        by = {label for group in re.findall(r"by \(([^)]*)\)", plain) for label in group.split(", ")}
        assert by | set(re.findall(r'(\w+)=~?"', plain)) <= labels, title
        named |= used
    assert {family for family in families if family.startswith("flux_")} <= named


def test_dashboard_is_well_formed():
    dashboard = json.loads((DEPLOY / "grafana-dashboard.json").read_text())
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    variables = {variable["name"] for variable in dashboard["templating"]["list"]}
    text = json.dumps(dashboard)
    assert set(re.findall(r"\$\{?([a-z]+)\b", text)) <= variables
    taken = set()
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
