"""The YAML files of deploy/: each object is valid, and together they do what they are for. Every
check is tried on broken copies, too."""

import copy
import subprocess
import sys

import checks
import jsonschema
import manifests
import promql_parser
import pytest
import schemas
from manifests import name_of

CLUSTER = manifests.documents("kubernetes")
KSERVE = manifests.documents("kserve")
OBJECTS = CLUSTER + KSERVE
# All that KServe's runtime names besides: the volume claims.
KSERVE_OBJECTS = KSERVE + manifests.of_kind(CLUSTER, "PersistentVolumeClaim")


def test_yamllint():
    command = [sys.executable, "-m", "yamllint", "--strict", "-c", manifests.DEPLOY / ".yamllint"]
    done = subprocess.run(
        [*command, manifests.DEPLOY], stdout=subprocess.PIPE, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_there_is_everything():
    assert sorted(name_of(document) for document in OBJECTS) == [
        "Deployment/flux-triton",
        "HorizontalPodAutoscaler/flux-triton",
        "InferenceService/flux",
        "Job/flux-convert",
        "PersistentVolumeClaim/flux-checkpoint",
        "PersistentVolumeClaim/flux-models",
        "Pod/flux-copy",
        "PodDisruptionBudget/flux-triton",
        "Service/flux-triton",
        "Service/flux-triton-grpc",
        "ServiceMonitor/flux-triton",
        "ServingRuntime/flux-triton",
    ]
    assert len(list(manifests.servers(CLUSTER))) == 1
    assert len(list(manifests.servers(KSERVE_OBJECTS))) == 1


@pytest.mark.parametrize("version", schemas.KUBERNETES_VERSIONS)
@pytest.mark.parametrize("document", OBJECTS, ids=name_of)
def test_schema(document, version):
    schemas.validate(document, version)


@pytest.mark.parametrize("document", OBJECTS, ids=name_of)
def test_the_schema_refuses_unknown_fields(document):
    """Of an object of every kind, at the top and deep inside."""
    mappings = list(inner_mappings(document, ""))
    assert len(mappings) > 2
    for path in mappings:
        broken = copy.deepcopy(document)
        inside(broken, path)["notAField"] = 1
        with pytest.raises(Exception, match="notAField"):
            schemas.validate(broken)


def inner_mappings(value, path):
    """Paths of the mappings whose keys are fields; those whose keys are names are left out."""
    free = ("labels", "annotations", "matchLabels", "selector", "requests", "limits", "modelFormat")
    if isinstance(value, dict):
        yield path
        for key, item in value.items():
            if key not in free:
                yield from inner_mappings(item, f"{path}/{key}")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from inner_mappings(item, f"{path}/{index}")


def inside(document, path):
    for key in path.split("/")[1:]:
        document = document[int(key)] if isinstance(document, list) else document[key]
    return document


@pytest.mark.parametrize("check", checks.CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("objects", [CLUSTER, KSERVE_OBJECTS], ids=["kubernetes", "kserve"])
def test_check(objects, check):
    assert list(check(objects)) == []


def test_autoscaling():
    rules = manifests.adapter_rules()
    assert list(checks.autoscaling(CLUSTER, rules)) == []
    rule, _ = rules
    matchers = 'namespace="default",pod=~"a|b"'
    query = rule["metricsQuery"].replace("<<.Series>>", rule["seriesQuery"].partition("{")[0])
    query = query.replace("<<.LabelMatchers>>", matchers).replace("<<.GroupBy>>", "pod")
    promql_parser.parse(query)
    promql_parser.parse(rule["seriesQuery"])


def test_adapter_values_are_valid():
    values = {"rules": {"default": False, "custom": manifests.adapter_rules()}}
    jsonschema.validate(values, schemas.ADAPTER_VALUES)
    values["rules"]["custom"][0]["metricQuery"] = "up"
    with pytest.raises(jsonschema.ValidationError, match="metricQuery"):
        jsonschema.validate(values, schemas.ADAPTER_VALUES)


DEPLOYMENT = "Deployment/flux-triton /spec"
POD = f"{DEPLOYMENT}/template/spec"
SERVER = f"{POD}/containers/0"
RUNTIME = "ServingRuntime/flux-triton /spec/containers/0"
COMMAND = ["flux-triton", "serve", "/models/flux", "--address=0.0.0.0", "--"]
# (check, where, key, value instead, what is said). None removes the key.
BROKEN = [
    (checks.images, SERVER, "image", "registry.example.com/flux-triton", "no fixed tag"),
    (checks.images, SERVER, "image", "registry:5000/flux-triton:latest", "no fixed tag"),
    (checks.images, RUNTIME, "image", "registry.example.com/flux-triton:0.0.9", "several images"),
    (checks.starts, SERVER, "command", ["tritonserver"], "not flux-triton serve"),
    (checks.starts, SERVER, "command", COMMAND[:3] + COMMAND[4:], "without --address"),
    (checks.starts, SERVER, "command", COMMAND[:4], "needs --"),
    (checks.ports, f"{SERVER}/ports/1", "name", "rpc", "port grpc leads nowhere"),
    (checks.ports, f"{SERVER}/ports/0", "containerPort", 8090, "http port 8000 is not listed"),
    (checks.ports, f"{SERVER}/livenessProbe/httpGet", "port", "web", "livenessProbe asks port web"),
    (checks.ports, f"{RUNTIME}/readinessProbe/httpGet", "port", 8000, "asks port 8000"),
    (checks.ports, "Service/flux-triton-grpc /spec/selector", "app", "flux", "selects no pod"),
    (checks.selectors, f"{DEPLOYMENT}/selector/matchLabels", "app", "flux", "not match its pods"),
    (
        checks.selectors,
        f"{POD}/topologySpreadConstraints/0/labelSelector/matchLabels",
        "app",
        "flux",
        "topology spread",
    ),
    (
        checks.selectors,
        "PodDisruptionBudget/flux-triton /spec/selector/matchLabels",
        "app",
        "flux",
        "selects no pod",
    ),
    (
        checks.selectors,
        "HorizontalPodAutoscaler/flux-triton /spec/scaleTargetRef",
        "name",
        "flux",
        "no Deployment flux",
    ),
    (checks.scrapes, "ServiceMonitor/flux-triton /spec/endpoints/0", "port", "grpc", "2 services"),
    (checks.scrapes, "ServiceMonitor/flux-triton /spec/endpoints/0", "port", "8002", "0 services"),
    (checks.stops, SERVER, "lifecycle", None, "no pause in preStop"),
    (checks.stops, POD, "terminationGracePeriodSeconds", None, "grace period 30 s"),
    (checks.stops, POD, "terminationGracePeriodSeconds", 75, "grace period 75 s"),
    (checks.stops, SERVER, "command", COMMAND, "--exit-timeout-secs is not set"),
    (checks.stops, f"{RUNTIME}", "lifecycle", None, "no pause in preStop"),
    (checks.loading, SERVER, "startupProbe", None, "no startupProbe"),
    (checks.loading, f"{SERVER}/startupProbe", "failureThreshold", 60, "less than half an hour"),
    (checks.loading, f"{SERVER}/readinessProbe/httpGet", "path", "/v2/health/ready", "ask for bls"),
    (checks.loading, DEPLOYMENT, "progressDeadlineSeconds", None, "ends before loading"),
    (checks.gpus, f"{SERVER}/resources/limits", checks.GPU, None, "limits have no"),
    (checks.gpus, f"{RUNTIME}/resources/requests", checks.GPU, "2", "requests have no"),
    (checks.gpus, POD, "tolerations", None, "does not tolerate"),
    (checks.gpus, DEPLOYMENT, "strategy", None, "one GPU more"),
    (
        checks.gpus,
        "InferenceService/flux /spec/predictor",
        "deploymentStrategy",
        None,
        "one GPU more",
    ),
    (
        checks.gpus,
        "Job/flux-convert /spec/template/spec/containers/0",
        "command",
        ["flux-triton", "convert", "/checkpoint/flux", "/models/flux", "--device=cpu"],
        "no repository for GPUs",
    ),
    (checks.security, f"{POD}/securityContext", "runAsNonRoot", None, "runAsNonRoot must be True"),
    (checks.security, f"{POD}/securityContext", "runAsUser", 0, "runAsUser must be"),
    (checks.security, f"{SERVER}/securityContext", "readOnlyRootFilesystem", False, "must be True"),
    (checks.security, RUNTIME, "securityContext", None, "capabilities must be"),
    (checks.security, POD, "automountServiceAccountToken", True, "has a token"),
    (checks.volumes, POD, "volumes", [], "are mounted"),
    (checks.volumes, f"{POD}/volumes/2/emptyDir", "medium", None, "/dev/shm is not in memory"),
    (checks.volumes, f"{SERVER}/volumeMounts/2", "mountPath", "/shm", "/dev/shm is not in memory"),
    (checks.volumes, f"{SERVER}/volumeMounts/0", "readOnly", False, "can write"),
    (
        checks.volumes,
        f"{POD}/volumes/0/persistentVolumeClaim",
        "claimName",
        "flux",
        "no claim flux",
    ),
    (
        checks.volumes,
        "PersistentVolumeClaim/flux-models /spec",
        "accessModes",
        ["ReadWriteOnce"],
        "cannot share claim flux-models",
    ),
    (
        checks.repository,
        "Job/flux-convert /spec/template/spec/containers/0",
        "command",
        ["flux-triton", "convert", "/checkpoint/flux", "/models/other"],
        "serves /models/flux",
    ),
]


@pytest.mark.parametrize("check, where, key, value, said", BROKEN)
def test_the_check_can_fail(check, where, key, value, said):
    objects = copy.deepcopy(OBJECTS)
    name, path = where.split(" ")
    [document] = [each for each in objects if name_of(each) == name]
    changed = inside(document, path)
    assert changed.get(key) != value
    if value is None:
        del changed[key]
    else:
        changed[key] = value
    assert any(said in line for line in check(objects)), list(check(objects))


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda hpa, rule: rule["name"].update({"as": "flux_load"}), "nobody makes the metric"),
        (lambda hpa, rule: rule.update(seriesQuery='nv_requests{pod!=""}'), "no server exports"),
        (lambda hpa, rule: rule.update(metricsQuery="nv_pending"), "no server exports"),
        (lambda hpa, rule: rule.update(metricsQuery="up"), "has no <<.GroupBy>>"),
        (lambda hpa, rule: rule["name"].pop("matches"), "renames None"),
        (lambda hpa, rule: hpa["spec"].update(maxReplicas=2), "are (2, 2)"),
    ],
)
def test_the_check_of_autoscaling_can_fail(change, said):
    objects = copy.deepcopy(CLUSTER)
    rules = manifests.adapter_rules()
    [scaler] = manifests.of_kind(objects, "HorizontalPodAutoscaler")
    change(scaler, rules[0])
    assert any(said in line for line in checks.autoscaling(objects, rules))
