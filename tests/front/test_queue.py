"""The queue: order, bounds, what clients and operators see of it."""

import threading

import front as fronts


def begin(front):
    connection = front.start(**fronts.LONG)
    assert fronts.wait_until(lambda: front.running() == 1)
    return connection


def wait_for(front, count):
    assert fronts.wait_until(lambda: front.waiting() == count), front.waiting()


def test_order(single):
    """By priority, then by arrival."""
    first = begin(single)
    order = []
    lock = threading.Lock()

    def ask(name, priority):
        assert single.generate(priority=priority, **fronts.SHORT)[0] == 200
        with lock:
            order.append(name)

    threads = []
    for count, (name, priority) in enumerate([("low", 9), ("usual", None), ("urgent", 1)]):
        threads.append(threading.Thread(target=ask, args=(name, priority)))
        threads[-1].start()
        wait_for(single, count + 1)
    waiting = single.get("/queue")[1]["waiting"]
    assert [(each["position"], each["priority"]) for each in waiting] == [(1, 1), (2, 5), (3, 9)]
    assert not any("prompt" in each for each in waiting)
    first.close()
    for thread in threads:
        thread.join(30)
    assert order == ["urgent", "usual", "low"]


def test_overload(single):
    """One more than may wait gets 429 at once; those that wait get their images."""
    single.generate(**fronts.SHORT)
    first = begin(single)
    answers = []
    threads = [
        threading.Thread(target=lambda: answers.append(single.generate(**fronts.SHORT)[0]))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    wait_for(single, 3)
    status, headers, answer = single.generate(**fronts.SHORT)
    assert status == 429 and int(headers["Retry-After"]) >= 1
    assert answer["error"]["type"] == "rate_limit_error"
    assert answer["error"]["message"].startswith("3 requests wait already")
    status, health = single.get("/health")
    assert status == 503 and health == {"status": "all places are taken"}
    first.close()
    for thread in threads:
        thread.join(30)
    assert answers == [200] * 3
    assert single.get("/health")[0] == 200
    assert single.metric("flux_front_answers_total", status="429") == 1


def test_outlook(single):
    """Position and seconds are in the head of a stream, and in /queue and the gauges."""
    for _ in range(3):
        assert single.generate(**fronts.SHORT)[1]["X-Queue-Position"] == "0"
    first = begin(single)
    assert fronts.wait_until(lambda: single.get("/queue")[1]["running"][0]["step"] > 5)
    [running] = single.get("/queue")[1]["running"]
    assert running["total_steps"] == 1000 and running["estimated_seconds"] > 0.5
    waits = single.start(stream=True, **fronts.SHORT)
    wait_for(single, 1)
    [waiting] = single.get("/queue")[1]["waiting"]
    assert waiting["estimated_seconds"] >= running["estimated_seconds"] * 0.5
    assert single.metric("flux_front_estimated_work_seconds", model="bls") > 0.5
    waits.settimeout(20)
    head = waits.recv(4096).decode()
    assert head.startswith("HTTP/1.1 200 ")
    assert "X-Queue-Position: 1\r\n" in head and "X-Estimated-Seconds: " in head
    waits.close()
    first.close()


def test_metrics_are_good(front):
    """Each name is described once, Triton's are there, and a pipeline that nobody asked has zeros."""
    assert front.metric("flux_front_requests_waiting", model="bls") == 0
    text = front.get("/metrics")[1]
    described = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")]
    assert len(described) == len(set(described))
    assert "flux_steps_total" in described and "flux_front_connections" in described
