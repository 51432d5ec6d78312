"""Validates one object against the schema of its kind: Kubernetes' own (kubernetes-validate carries
them), KServe's generated classes, and for the Prometheus Operator a schema of what is used here."""

import importlib
import importlib.util
import re
import sys
import types

import jsonschema
import kubernetes.client
import kubernetes_validate

# The oldest that has every field, what many clusters run, and the newest.
KUBERNETES_VERSIONS = ("1.28", "1.32", "1.37")
PLAIN = {"str": str, "int": int, "bool": bool, "float": (int, float), "object": object}

LABELS = {"type": "object", "additionalProperties": {"type": "string"}}
DURATION = {"type": "string", "pattern": "^([0-9]+(ms|[smhdwy]))+$"}
# monitoring.coreos.com/v1, the fields of it that a monitor of pods without passwords needs.
SERVICE_MONITOR = {
    "type": "object",
    "additionalProperties": False,
    "required": ["apiVersion", "kind", "metadata", "spec"],
    "properties": {
        "apiVersion": {"const": "monitoring.coreos.com/v1"},
        "kind": {"const": "ServiceMonitor"},
        "metadata": {
            "type": "object",
            "additionalProperties": False,
            "required": ["name"],
            "properties": {"name": {"type": "string"}, "labels": LABELS, "annotations": LABELS},
        },
        "spec": {
            "type": "object",
            "additionalProperties": False,
            "required": ["selector", "endpoints"],
            "properties": {
                "jobLabel": {"type": "string"},
                "selector": {
                    "type": "object",
                    "additionalProperties": False,
                    "required": ["matchLabels"],
                    "properties": {"matchLabels": LABELS},
                },
                "endpoints": {
                    "type": "array",
                    "minItems": 1,
                    "items": {
                        "type": "object",
                        "additionalProperties": False,
                        "required": ["port"],
                        "properties": {
                            "port": {"type": "string"},
                            "path": {"type": "string", "pattern": "^/"},
                            "interval": DURATION,
                            "scrapeTimeout": DURATION,
                            "metricRelabelings": {
                                "type": "array",
                                "items": {
                                    "type": "object",
                                    "additionalProperties": False,
                                    "required": ["action"],
                                    "properties": {
                                        "sourceLabels": {
                                            "type": "array",
                                            "items": {"type": "string"},
                                        },
                                        "regex": {"type": "string"},
                                        "action": {"enum": ["keep", "drop"]},
                                    },
                                },
                            },
                        },
                    },
                },
            },
        },
    },
}
# Rules of prometheus-adapter's Helm chart.
ADAPTER_VALUES = {
    "type": "object",
    "additionalProperties": False,
    "required": ["rules"],
    "properties": {
        "rules": {
            "type": "object",
            "additionalProperties": False,
            "required": ["custom"],
            "properties": {
                "default": {"type": "boolean"},
                "custom": {
                    "type": "array",
                    "minItems": 1,
                    "items": {
                        "type": "object",
                        "additionalProperties": False,
                        "required": ["seriesQuery", "resources", "name", "metricsQuery"],
                        "properties": {
                            "seriesQuery": {"type": "string"},
                            "resources": {
                                "type": "object",
                                "additionalProperties": False,
                                "required": ["overrides"],
                                "properties": {"overrides": {"type": "object"}},
                            },
                            "name": {
                                "type": "object",
                                "additionalProperties": False,
                                "required": ["as"],
                                "properties": {
                                    "matches": {"type": "string"},
                                    "as": {"type": "string"},
                                },
                            },
                            "metricsQuery": {"type": "string"},
                        },
                    },
                },
            },
        }
    },
}


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
        # KServe's classes call Kubernetes' own by a longer name: K8sIoApiAppsV1DeploymentStrategy.
        short = re.sub(r"^K8sIoApi[A-Z][a-z]+(?=V\d)", "", kind)
        known = getattr(kserve_models(), kind, None) or getattr(kubernetes.client, short)
        fields = {wire: name for name, wire in known.attribute_map.items()}
        assert isinstance(value, dict), f"{where} must be a {kind}"
        for key, item in value.items():
            assert key in fields, f"{where}: {kind} has no {key}"
            check_object(item, known.openapi_types[fields[key]], f"{where}.{key}")
        # The class itself checks what must be there.
        known(**{fields[key]: item for key, item in value.items()})


def validate(document, version=KUBERNETES_VERSIONS[-1]):
    """Raises when an object has an unknown field, lacks one, or has a value of another type."""
    group, _, kind_version = document["apiVersion"].rpartition("/")
    if group == "serving.kserve.io":
        check_object(document, kind_version.capitalize() + document["kind"], document["kind"])
    elif group == "monitoring.coreos.com":
        jsonschema.validate(document, SERVICE_MONITOR)
    else:
        kubernetes_validate.validate(document, version, strict=True)
