"""Checks of what is in deploy/ that no schema makes. Each yields one line for each mistake."""

import re

import manifests
from manifests import name_of, of_kind

# Metrics that Triton documents (docs/user_guide/metrics.md of its server). Those of GPUs are
# exported only where there is one, so a test on a CPU cannot ask the server for them.
TRITON_METRICS = {
    "nv_inference_request_success",
    "nv_inference_request_failure",
    "nv_inference_count",
    "nv_inference_exec_count",
    "nv_inference_pending_request_count",
    "nv_inference_request_duration_us",
    "nv_inference_queue_duration_us",
    "nv_inference_compute_input_duration_us",
    "nv_inference_compute_infer_duration_us",
    "nv_inference_compute_output_duration_us",
    "nv_gpu_utilization",
    "nv_gpu_memory_total_bytes",
    "nv_gpu_memory_used_bytes",
    "nv_gpu_power_usage",
    "nv_gpu_power_limit",
    "nv_energy_consumption",
    "nv_cpu_utilization",
    "nv_cpu_memory_total_bytes",
    "nv_cpu_memory_used_bytes",
}
GPU = "nvidia.com/gpu"
GIBIBYTES = re.compile(r"(\d+)Gi$")


def images(objects):
    """Which program runs must not depend on when its image was pulled."""
    used = set()
    for name, _, spec, _ in manifests.pods(objects):
        for container in spec["containers"]:
            image = container["image"]
            used.add(image)
            tag = image.rsplit("/", 1)[-1].partition(":")[2]
            if tag in ("", "latest"):
                yield f"{name}: image {image} has no fixed tag"
    if len(used) > 1:
        yield f"several images: {sorted(used)}"


def starts(objects):
    """One way of starting the server, which is the image's own."""
    for name, _, container, _ in manifests.servers(objects):
        words = manifests.command_line(container)
        if words[:2] != ["flux-triton", "serve"]:
            yield f"{name}: starts {words[0]}, not flux-triton serve"
        if manifests.option(container, "address") != "0.0.0.0":
            yield f"{name}: nobody outside the pod reaches it without --address=0.0.0.0"
        if "--" not in words or words.index("--") < 3:
            yield f"{name}: needs -- before tritonserver's options"


def ports(objects):
    """What is probed and what a service sends to must be where the server listens."""
    for name, spec, container, _ in manifests.servers(objects):
        listed = {port["containerPort"] for port in container["ports"]}
        for kind, default in (("http", 8000), ("grpc", 8001), ("metrics", 8002), ("front", 8080)):
            number = int(manifests.option(container, f"{kind}-port") or default)
            if number != 0 and number not in listed:
                yield f"{name}: the server's {kind} port {number} is not listed"
        names = {port["name"] for port in container["ports"]}
        for probe_name, probe in manifests.probes(container):
            if probe["httpGet"]["port"] not in names | listed:
                yield f"{name}: {probe_name} asks port {probe['httpGet']['port']}, not listed"
    for service in of_kind(objects, "Service"):
        reached = list(selected(objects, service["spec"]["selector"]))
        if not reached:
            yield f"{name_of(service)}: selects no pod"
        for spec in reached:
            listed = {port["name"] for each in spec["containers"] for port in each["ports"]}
            for port in service["spec"]["ports"]:
                if port.get("targetPort", port["port"]) not in listed:
                    yield f"{name_of(service)}: port {port['name']} leads nowhere"


def selected(objects, labels):
    for _, own, spec, _ in manifests.pods(objects):
        if labels.items() <= own.items():
            yield spec


def selectors(objects):
    """Labels by which objects find one another."""
    for document in of_kind(objects, "Deployment"):
        wanted = document["spec"]["selector"]["matchLabels"]
        own = document["spec"]["template"]["metadata"]["labels"]
        if not wanted.items() <= own.items():
            yield f"{name_of(document)}: its selector does not match its pods"
        for rule in document["spec"]["template"]["spec"].get("topologySpreadConstraints", []):
            if not rule["labelSelector"]["matchLabels"].items() <= own.items():
                yield f"{name_of(document)}: its topology spread does not match its pods"
    for document in of_kind(objects, "PodDisruptionBudget"):
        if not list(selected(objects, document["spec"]["selector"]["matchLabels"])):
            yield f"{name_of(document)}: selects no pod"
    targets = {(each["kind"], each["metadata"]["name"]): each for each in objects}
    for document in of_kind(objects, "HorizontalPodAutoscaler"):
        wanted = document["spec"]["scaleTargetRef"]
        target = targets.get((wanted["kind"], wanted["name"]))
        if target is None or target["apiVersion"] != wanted["apiVersion"]:
            yield f"{name_of(document)}: there is no {wanted['kind']} {wanted['name']}"


def scrapes(objects):
    """A monitor reads each pod once: by one service, whose port has that name."""
    services = of_kind(objects, "Service")
    for monitor in of_kind(objects, "ServiceMonitor"):
        wanted = monitor["spec"]["selector"]["matchLabels"]
        for endpoint in monitor["spec"]["endpoints"]:
            found = [
                service
                for service in services
                if wanted.items() <= service["metadata"].get("labels", {}).items()
                and endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}
            ]
            if len(found) != 1:
                yield f"{name_of(monitor)}: port {endpoint['port']} is in {len(found)} services"


def stops(objects):
    """A pod that is told to stop answers what it has begun."""
    for name, spec, container, _ in manifests.servers(objects):
        pause = manifests.pre_stop_seconds(container)
        if pause < 5:
            yield f"{name}: no pause in preStop; requests still come when the server ends"
        wait = int(manifests.option(container, "exit-timeout-secs") or 0)
        if wait == 0:
            yield f"{name}: --exit-timeout-secs is not set"
        grace = spec.get("terminationGracePeriodSeconds", 30)
        if grace < pause + wait + 5:
            yield f"{name}: grace period {grace} s, but a stop takes {pause} + {wait} s"


def loading(objects):
    """Half an hour to load; an update waits as long."""
    for name, _, container, _ in manifests.servers(objects):
        probes = dict(manifests.probes(container))
        for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
            if kind not in probes:
                yield f"{name}: no {kind}"
        if manifests.probe_seconds(probes.get("startupProbe", {})) < 1800:
            yield f"{name}: startupProbe gives less than half an hour"
        if (
            probes.get("readinessProbe", {}).get("httpGet", {}).get("path")
            != "/v2/models/bls/ready"
        ):
            yield f"{name}: readinessProbe does not ask for bls"
        for document in of_kind(objects, "Deployment"):
            deadline = document["spec"].get("progressDeadlineSeconds", 600)
            if deadline <= manifests.probe_seconds(probes.get("startupProbe", {})):
                yield f"{name_of(document)}: progressDeadlineSeconds ends before loading"


def gpus(objects):
    """Every server has a GPU, can be placed on a node with one, and is replaced without another."""
    for name, spec, container, _ in manifests.servers(objects):
        for kind in ("requests", "limits"):
            if container.get("resources", {}).get(kind, {}).get(GPU) != "1":
                yield f'{name}: {kind} have no {GPU}: "1"'
        if not any(each.get("key") == GPU for each in spec.get("tolerations", [])):
            yield f"{name}: does not tolerate nodes with GPUs"
    for document in of_kind(objects, "Deployment", "InferenceService"):
        spec = document["spec"]
        update = spec.get("predictor", {}).get("deploymentStrategy") or spec.get("strategy") or {}
        limits = update.get("rollingUpdate", {})
        if (limits.get("maxSurge"), limits.get("maxUnavailable")) != (0, 1):
            yield f"{name_of(document)}: an update needs one GPU more: set maxSurge 0"
    for job in of_kind(objects, "Job"):
        for container in job["spec"]["template"]["spec"]["containers"]:
            if manifests.option(container, "device") != "cuda":
                yield f"{name_of(job)}: makes no repository for GPUs"
            if GPU in container["resources"].get("limits", {}):
                yield f"{name_of(job)}: takes a GPU that it does not use"


def security(objects):
    """No root, no writing outside volumes, no rights."""
    for name, _, spec, _ in manifests.pods(objects):
        for container in spec["containers"]:
            settings = {**spec.get("securityContext", {}), **container.get("securityContext", {})}
            wanted = {
                "runAsNonRoot": True,
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
                "seccompProfile": {"type": "RuntimeDefault"},
            }
            for key, value in wanted.items():
                if settings.get(key) != value:
                    yield f"{name}: securityContext: {key} must be {value}"
            if not settings.get("runAsUser"):
                yield f"{name}: securityContext: runAsUser must be a number that is not 0"
        if spec.get("automountServiceAccountToken") is not False:
            yield f"{name}: has a token for the cluster, which it does not need"


def volumes(objects):
    """Shared memory, and claims that exist and can be mounted on the nodes of all pods."""
    claims = {each["metadata"]["name"]: each for each in of_kind(objects, "PersistentVolumeClaim")}
    for name, _, spec, replicas in manifests.pods(objects):
        declared = {volume["name"]: volume for volume in spec.get("volumes", [])}
        mounted = {
            mount["name"] for each in spec["containers"] for mount in each.get("volumeMounts", [])
        }
        if mounted != set(declared):
            yield f"{name}: volumes {sorted(declared)}, but {sorted(mounted)} are mounted"
        for volume in declared.values():
            claim = volume.get("persistentVolumeClaim", {}).get("claimName")
            if claim is not None and claim not in claims:
                yield f"{name}: there is no claim {claim}"
            elif claim is not None and replicas > 1:
                modes = claims[claim]["spec"]["accessModes"]
                if not {"ReadWriteMany", "ReadOnlyMany"} & set(modes):
                    yield f"{name}: {replicas} pods cannot share claim {claim} on several nodes"
    for name, spec, container, _ in manifests.servers(objects):
        declared = {volume["name"]: volume for volume in spec.get("volumes", [])}
        mounts = {each["mountPath"]: each for each in container["volumeMounts"]}
        shared = declared.get(mounts.get("/dev/shm", {}).get("name"), {}).get("emptyDir", {})
        if shared.get("medium") != "Memory" or not GIBIBYTES.match(shared.get("sizeLimit", "")):
            yield f"{name}: /dev/shm is not in memory, or has no size"
        if "/models" in mounts and not mounts["/models"].get("readOnly"):
            yield f"{name}: can write to the repository"


def repository(objects):
    """The job writes where the servers read."""
    written = {
        word
        for job in of_kind(objects, "Job")
        for container in job["spec"]["template"]["spec"]["containers"]
        for word in manifests.command_line(container)
        if word.startswith("/models/")
    }
    for name, _, container, _ in manifests.servers(objects):
        served = manifests.command_line(container)[2]
        if written and served not in written:
            yield f"{name}: serves {served}, the job writes {sorted(written)}"


def autoscaling(objects, rules):
    """The autoscaler's metric is one that the adapter makes of what the server exports."""
    made = {rule["name"]["as"]: rule for rule in rules}
    known = TRITON_METRICS | manifests.backend_metrics() | manifests.front_metrics()
    for document in of_kind(objects, "HorizontalPodAutoscaler"):
        for metric in document["spec"]["metrics"]:
            name = metric["pods"]["metric"]["name"]
            if name not in made and name not in known:
                yield f"{name_of(document)}: nobody makes the metric {name}"
        replicas = (document["spec"]["minReplicas"], document["spec"]["maxReplicas"])
        if not 1 <= replicas[0] < replicas[1]:
            yield f"{name_of(document)}: minReplicas, maxReplicas are {replicas}"
    for name, rule in made.items():
        series = re.match(r"\w+", rule["seriesQuery"])[0]
        used = {series} | set(re.findall(r"\b(?:nv|flux)_\w+", rule["metricsQuery"]))
        if not used <= known:
            yield f"adapter: {name} is made of {sorted(used - known)}, which no server exports"
        if rule["name"].get("matches") != f"^{series}$":
            yield f"adapter: {name} renames {rule['name'].get('matches')}, not {series}"
        for place in ("<<.Series>>", "<<.LabelMatchers>>", "<<.GroupBy>>"):
            if place not in rule["metricsQuery"]:
                yield f"adapter: {name} has no {place} in its query"


CHECKS = (
    images, starts, ports, selectors, scrapes, stops, loading, gpus, security, volumes, repository
)  # fmt: skip
