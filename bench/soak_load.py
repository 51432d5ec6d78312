"""The load of a soak: workers that ask and check, and a thread that reloads models under them."""

import collections
import itertools
import random
import threading
import time

from tritonclient.grpc import service_pb2

from soak_clients import Broken, Client, fault_of, probe_hash
from soak_requests import OK, Requests

MODELS = ("clip_encoder", "t5_encoder", "dit_transformer", "vae_decoder", "bls")
RENEW_EVERY = 400  # requests of a worker, after which it connects anew
CONNECTION = "connection"
MOST_FAULTS = 20  # kept as texts; a soak with more of them ends


class Tally:
    """What has been asked and answered; for all threads."""

    def __init__(self):
        self.lock = threading.Lock()
        self.done = 0
        self.images = 0
        self.reloads = 0
        self.kinds = collections.Counter()
        self.codes = collections.Counter()  # (kind, code)
        self.seconds = collections.defaultdict(list)  # of each kind
        self.faults = collections.Counter()
        self.hashes = {}
        self.last_answer = time.monotonic()

    def add(self, call, code: str, seconds: float, fault: str) -> None:
        with self.lock:
            self.done += 1
            self.images += call.images if code == OK else 0
            self.kinds[call.kind] += 1
            self.codes[call.kind, code] += 1
            self.seconds[call.kind].append(seconds)
            self.last_answer = time.monotonic()
            if fault:
                self.faults[fault] += 1

    def blame(self, fault: str) -> None:
        with self.lock:
            self.faults[fault] += 1

    def faults_before_end(self) -> collections.Counter:
        """Those that are not of connections, which break when the server ends."""
        return collections.Counter(
            {text: n for text, n in self.faults.items() if not text.startswith(CONNECTION)}
        )

    def probe_fault(self, call, data: bytes) -> str:
        """Compares the bytes with the first ones of the same probe."""
        found = probe_hash(call, data)
        with self.lock:
            first = self.hashes.setdefault(call.probe, found)
        if found == first:
            return ""
        return f"{call.probe} ({call.kind} over {call.protocol}): other bytes than at first"


class Reloads:
    """Unloads and loads one model after another, one for each `every` requests."""

    def __init__(self, served, tally: Tally, every: int, seed: int, answer_seconds: float):
        self._tally = tally
        self._every = every
        self._numbers = random.Random(seed)
        self._seconds = answer_seconds
        self._client = Client(served, answer_seconds)
        self._lock = threading.Lock()
        self._under_way = False
        self._count = 0
        self.seconds = []

    def mark(self) -> tuple:
        """What a request compares at its begin and end: whether a reload was beside it."""
        with self._lock:
            return self._count, self._under_way

    @staticmethod
    def beside(begin: tuple, end: tuple) -> bool:
        return begin[1] or end[1] or begin[0] != end[0]

    def run(self, stopped: threading.Event) -> None:
        next_at = self._every
        while not stopped.wait(0.01):
            if self._tally.done < next_at:
                continue
            next_at += self._every
            try:
                self._reload(self._numbers.choice(MODELS), stopped)
            except Exception as error:  # noqa: BLE001: whatever it is, the soak must say so
                if not stopped.is_set():
                    self._tally.blame(f"reload: {str(error) or repr(error)}"[:300])
        self._client.close()

    def _reload(self, model: str, stopped: threading.Event) -> None:
        begin = time.monotonic()
        with self._lock:
            self._under_way = True
        # A stage is away after its last request, so some time after the call; the same before it
        # is back.
        try:
            if self._numbers.random() < 0.7:
                self._control(model, "unload")
                stopped.wait(self._numbers.uniform(0, 0.03))
            self._control(model, "load")
        finally:
            with self._lock:
                self._count += 1
                self._under_way = False
            with self._tally.lock:
                self._tally.reloads += 1
                self.seconds.append(time.monotonic() - begin)

    def _control(self, model: str, what: str) -> None:
        if self._numbers.random() < 0.5:
            status, _, data = self._client.http.post(f"/v2/repository/models/{model}/{what}", b"{}")
            if status != 200:
                raise RuntimeError(f"{what} of {model}: {status} {data[:200]!r}")
            return
        if what == "load":
            request = service_pb2.RepositoryModelLoadRequest(model_name=model)
            self._client.grpc.stub.RepositoryModelLoad(request, timeout=self._seconds)
        else:
            request = service_pb2.RepositoryModelUnloadRequest(model_name=model)
            self._client.grpc.stub.RepositoryModelUnload(request, timeout=self._seconds)


class Load:
    """Workers that ask for the next request of the soak as soon as they have an answer."""

    def __init__(self, served, requests: Requests, args):
        self._served = served
        self._requests = requests
        self._args = args
        self._numbers = itertools.count()
        self.tally = Tally()
        self.stopped = threading.Event()
        self.abandoned = False  # nobody waits for the workers any more
        self.reloads = Reloads(
            served, self.tally, args.reload_every, args.seed, args.answer_seconds
        )
        self._threads = []

    def start(self) -> None:
        """Asks every probe once and starts the threads."""
        client = Client(self._served, self._args.answer_seconds)
        for call in self._requests.probes():
            self._ask(client, call)
        client.close()
        works = [self._work] * self._args.concurrency
        if self._args.reload_every:
            works.append(lambda: self.reloads.run(self.stopped))
        self._threads = [threading.Thread(target=work, daemon=True) for work in works]
        for thread in self._threads:
            thread.start()

    def stop(self, seconds: float) -> bool:
        """Lets the workers end what they have begun; returns whether they did."""
        self.stopped.set()
        end = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0, end - time.monotonic()))
        self.abandoned = any(thread.is_alive() for thread in self._threads)
        return not self.abandoned

    def working(self) -> bool:
        return any(thread.is_alive() for thread in self._threads[: self._args.concurrency])

    def _work(self) -> None:
        client = Client(self._served, self._args.answer_seconds)
        asked = 0
        while not self.stopped.is_set():
            number = next(self._numbers)
            if number >= self._args.requests:
                break
            try:
                self._ask(client, self._requests.call(number))
            except Exception as error:  # noqa: BLE001: whatever it is, the soak must say so
                if self.abandoned:
                    return
                self.tally.blame(f"{CONNECTION}: {type(error).__name__} {error}"[:300])
                self.stopped.wait(0.2)  # the server may be gone; the soak then ends
            asked += 1
            if asked % RENEW_EVERY == 0:
                client.renew()
        client.close()

    def _ask(self, client: Client, call) -> None:
        before = self.reloads.mark()
        begin = time.monotonic()
        try:
            answer = client.ask(call)
        except Broken:
            if call.leave_after:  # the connection that it closes
                return self.tally.add(call, "left", time.monotonic() - begin, "")
            raise
        seconds = time.monotonic() - begin
        beside = self.reloads.beside(before, self.reloads.mark())
        if self.abandoned:
            return None
        fault = fault_of(call, answer, beside)
        if not fault and call.probe and answer.code == OK:
            fault = self.tally.probe_fault(call, answer.data)
        return self.tally.add(call, answer.code, seconds, fault)
