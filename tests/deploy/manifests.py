"""What is in deploy/: the documents of its YAML files, and the parts that the checks look at."""

import json
import pathlib
import re

import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
# Objects that `kubectl apply` takes; the values of a Helm chart are none.
OBJECT_FOLDERS = ("kubernetes", "kserve")
ADAPTER_VALUES = DEPLOY / "prometheus-adapter-values.yaml"
DASHBOARD = DEPLOY / "grafana-dashboard.json"


def documents(folder):
    """The objects of a folder, in the order of their files."""
    found = []
    for file in sorted((DEPLOY / folder).glob("*.yaml")):
        found += [document for document in yaml.safe_load_all(file.read_text()) if document]
    return found


def of_kind(objects, *kinds):
    return [document for document in objects if document["kind"] in kinds]


def name_of(document):
    return f"{document['kind']}/{document['metadata']['name']}"


def pods(objects):
    """(name, labels, pod spec, replicas) of whatever runs containers."""
    for document in objects:
        name, spec = name_of(document), document["spec"]
        if document["kind"] == "Pod":
            yield name, document["metadata"].get("labels", {}), spec, 1
        elif document["kind"] in ("Deployment", "Job"):
            template = spec["template"]
            labels = template.get("metadata", {}).get("labels", {})
            yield name, labels, template["spec"], spec.get("replicas", 1)
        elif document["kind"] == "ServingRuntime":
            # KServe adds the fields of a pod that the service's predictor has.
            for service in of_kind(objects, "InferenceService"):
                predictor = service["spec"]["predictor"]
                if predictor["model"]["runtime"] == document["metadata"]["name"]:
                    yield name, {}, {**predictor, **spec}, predictor.get("minReplicas", 1)


def servers(objects):
    """(name, pod spec, container, replicas) of whatever starts a Triton server."""
    for name, _, spec, replicas in pods(objects):
        for container in spec["containers"]:
            if {"serve", "tritonserver"} & set(command_line(container)):
                yield name, spec, container, replicas


def command_line(container):
    return container.get("command", []) + container.get("args", [])


def option(container, name):
    """The value of an option, given as --name=value; None without it."""
    for argument in command_line(container):
        if argument.startswith(f"--{name}="):
            return argument.split("=", 1)[1]
    return None


def pre_stop_seconds(container):
    action = container.get("lifecycle", {}).get("preStop", {})
    if "sleep" in action:
        return action["sleep"]["seconds"]
    command = action.get("exec", {}).get("command", [])
    return int(command[1]) if command[:1] == ["sleep"] else 0


def probes(container):
    for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
        if kind in container:
            yield kind, container[kind]


def probe_seconds(probe):
    """How long a probe may fail before something happens."""
    return probe.get("periodSeconds", 10) * probe.get("failureThreshold", 3)


def backend_metrics():
    """Names of the metrics that the backend makes."""
    source = (ROOT / "triton/metrics.cc").read_text()
    return set(re.findall(r'"(flux_\w+)"', source))


def front_metrics() -> set:
    """Names of the metrics that the HTTP front itself exports."""
    source = (ROOT / "front/gauges.cc").read_text()
    return set(re.findall(r'"(flux_front_\w+)"', source))


def dashboard():
    return json.loads(DASHBOARD.read_text())


def expressions(board):
    """(title, expression) of everything that a dashboard asks Prometheus for, made plain PromQL."""
    for panel in board["panels"]:
        for target in panel.get("targets", []):
            plain = re.sub(r'"\$\w+"', '".*"', target["expr"])
            yield panel["title"], plain.replace("$__rate_interval", "5m")


def adapter_rules():
    return yaml.safe_load(ADAPTER_VALUES.read_text())["rules"]["custom"]
