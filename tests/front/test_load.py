"""Many clients: the right images, nothing lost, nothing that grows."""

import base64
import itertools
import json
import random
import urllib.request

import front as fronts
import openai
import pytest
import server as serving
import tritonclient.grpc as grpcclient

KINDS = [
    {"prompt": f"image {i}", "seed": i, "steps": 1 + i % 4, "n": 1 + i % 2,
     "size": f"{16 * (1 + i % 5)}x{16 * (1 + i % 3)}", "output_format": ("png", "jpeg", "webp")[i % 3]}
    for i in range(12)
]  # fmt: skip
BAD = {"prompt": "a", "steps": 0}


def by_urllib(front, kind, expected):
    assert front.files(**kind) == expected


def by_openai(front, kind, expected):
    extra = {name: kind[name] for name in ("seed", "steps")}
    rest = {name: kind[name] for name in kind if name not in extra}
    with openai.OpenAI(base_url=front.url + "/v1", api_key="x", max_retries=0) as client:
        answer = client.images.generate(extra_body=extra, **rest)
    assert [base64.b64decode(image.b64_json) for image in answer.data] == expected


def by_stream(front, kind, expected):
    status, _, text = front.generate(stream=True, partial_images=1, progress=True, **kind)
    assert status == 200, text
    completed = [data for name, data in fronts.events_of(text) if name.endswith("completed")]
    assert [base64.b64decode(data["b64_json"]) for data in completed] == expected


def by_error(front, kind, expected):
    status, _, answer = front.generate(**BAD)
    assert status == 400 and answer["error"]["param"] == "steps"


def by_leaving(front, kind, expected):
    connection = front.start(stream=bool(kind["seed"] % 2), **fronts.LONG)
    fronts.time.sleep(random.random() / 10)
    connection.close()


def by_grpc(front, kind, expected):
    width, height = map(int, kind["size"].split("x"))
    with front.server.grpc_client() as client:
        result = serving.generate(
            client, grpcclient, prompt=kind["prompt"], seed=kind["seed"], width=width,
            height=height, num_inference_steps=kind["steps"], num_images_per_prompt=kind["n"],
            output_format=kind["output_format"],
        )  # fmt: skip
    assert [bytes(file) for file in result.as_numpy("encoded_images").reshape(-1)] == expected


@pytest.fixture(scope="module")
def expected(front):
    return [front.files(**kind) for kind in KINDS]


def test_sixty_four_mixed_clients(front, expected):
    """What is beside a request changes nothing of it."""
    ways = itertools.cycle([by_urllib, by_openai, by_stream, by_error, by_leaving, by_grpc])

    def works(number, way):
        def work():
            for at in range(number, number + 3):
                way(front, KINDS[at % len(KINDS)], expected[at % len(KINDS)])

        return work

    serving.run_threads(*[works(number, way) for number, way in zip(range(64), ways)])
    assert fronts.wait_until(lambda: front.running() == 0 and front.waiting() == 0)


def test_soak(front, expected):
    """Some hundreds of requests, a quarter of them errors and leavers: memory, threads and
    descriptors stay flat. bench/front.py has the long one."""
    ways = [by_urllib, by_stream, by_urllib, by_stream, by_urllib, by_stream, by_error, by_leaving]

    def round_of(count):
        counter = itertools.count()

        def work():
            while (at := next(counter)) < count:
                kind = at % len(KINDS)
                ways[at % len(ways)](front, KINDS[kind], expected[kind])

        serving.run_threads(*[work] * 8)
        assert fronts.wait_until(lambda: front.running() == 0 and front.waiting() == 0)

    round_of(200)  # warm
    assert fronts.wait_until(lambda: front.metric("flux_front_connections") == 1)
    memory, threads, files = front.resident_bytes(), front.threads(), front.open_files()
    round_of(400)
    assert fronts.wait_until(lambda: front.open_files() <= files + 2), (files, front.open_files())
    assert front.threads() <= threads + 2
    assert front.resident_bytes() <= memory + (6 << 20), (memory, front.resident_bytes())


def test_health_under_load(front):
    """A server that is busy is ready still: 32 clients at once, and nobody is turned away."""
    slow = []

    def ask():
        for _ in range(2):
            assert front.generate(prompt="a", steps=4, size="64x64", seed=1)[0] == 200

    def probe():
        for _ in range(20):
            status, health = front.get("/health")
            if status != 200:
                slow.append(health)
            fronts.time.sleep(0.05)

    serving.run_threads(*[ask] * 32 + [probe])
    assert not slow


def test_answers_are_json_throughout(front):
    with urllib.request.urlopen(front.url + "/queue") as answer:
        assert json.loads(answer.read()) == {"running": [], "waiting": []}
