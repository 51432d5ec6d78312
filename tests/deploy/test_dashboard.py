"""The dashboard: it asks for metrics that exist, and Grafana can lay it out."""

import copy
import json
import re

import checks
import manifests
import promql_parser
import pytest

# Labels that Triton's and the backend's metrics have, and those that a scrape adds.
LABELS = {"model", "version", "reason", "gpu_uuid", "job", "instance"}


def mistakes(board):
    known = checks.TRITON_METRICS | manifests.backend_metrics()
    named = set()
    for title, expression in manifests.expressions(board):
        promql_parser.parse(expression)
        used = set(re.findall(r"\b(?:nv|flux)_\w+", expression))
        if not used <= known:
            yield f"{title}: there is no {sorted(used - known)}"
        by = {
            name
            for group in re.findall(r"by \(([^)]*)\)", expression)
            for name in group.split(", ")
        }
        labels = by | set(re.findall(r'(\w+)=~?"', expression))
        if not labels <= LABELS:
            yield f"{title}: no metric has {sorted(labels - LABELS)}"
        named |= used
    if not manifests.backend_metrics() <= named:
        yield f"not shown: {sorted(manifests.backend_metrics() - named)}"
    panels = board["panels"]
    if len({panel["id"] for panel in panels}) < len(panels):
        yield "two panels have one id"
    variables = {variable["name"] for variable in board["templating"]["list"]}
    unknown = set(re.findall(r"\$\{?([a-z]+)\b", json.dumps(board))) - variables
    if unknown:
        yield f"no variable {sorted(unknown)}"
    yield from overlaps(panels)


def overlaps(panels):
    taken = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        if place["x"] + place["w"] > 24 or cells & taken:
            yield f"{panel['title']}: its place is taken, or beside the dashboard"
        taken |= cells
        if len({target["refId"] for target in panel["targets"]}) < len(panel["targets"]):
            yield f"{panel['title']}: two targets have one refId"


def test_dashboard():
    assert manifests.backend_metrics()
    assert list(mistakes(manifests.dashboard())) == []


def test_gpus_are_shown():
    asked = " ".join(expression for _, expression in manifests.expressions(manifests.dashboard()))
    for name in ("nv_gpu_utilization", "nv_gpu_memory_used_bytes", "nv_gpu_power_usage"):
        assert name in asked


@pytest.mark.parametrize(
    "old, new, said",
    [
        ("nv_gpu_utilization{", "nv_gpu_utilisation{", "there is no ['nv_gpu_utilisation']"),
        ("flux_images_total{", "flux_image_total{", "not shown: ['flux_images_total']"),
        ("sum by (model)", "sum by (stage)", "no metric has ['stage']"),
        ("$__rate_interval", "$range", "no variable ['range']"),
    ],
)
def test_the_check_can_fail(old, new, said):
    text = manifests.DASHBOARD.read_text()
    assert old in text
    board = json.loads(text.replace(old, new))
    if new == "$range":  # what is left of it is no PromQL
        board["title"] = "$range"
        board["panels"] = manifests.dashboard()["panels"]
    assert any(said in line for line in mistakes(board)), list(mistakes(board))


def test_the_check_of_places_can_fail():
    board = copy.deepcopy(manifests.dashboard())
    board["panels"][3]["gridPos"]["y"] = 0
    assert any("its place is taken" in line for line in mistakes(board))
    board["panels"][3]["id"] = board["panels"][2]["id"]
    assert "two panels have one id" in list(mistakes(board))
    first = board["panels"][0]["targets"]
    first.append(first[0])
    assert any("one refId" in line for line in mistakes(board))


def test_wrong_promql_is_refused():
    board = copy.deepcopy(manifests.dashboard())
    board["panels"][0]["targets"][0]["expr"] = "sum(rate(flux_images_total[5m])"
    with pytest.raises(ValueError):
        list(mistakes(board))
