"""Requests to `bls_stream`, over gRPC's streams and over /generate_stream."""

import contextlib
import dataclasses
import http.client
import io
import json
import queue

import numpy as np
import server as serving
import tritonclient.grpc as grpcclient
from PIL import Image
from tritonclient.utils import InferenceServerException

MODEL = "bls_stream"
TYPES = serving.TYPES | {"preview_every": "INT32", "preview_size": "INT32"}
SECONDS = 60


@dataclasses.dataclass
class Answer:
    """One response."""

    outputs: dict  # arrays by name
    parameters: dict

    @property
    def step(self):
        return int(self.outputs["step"].max())

    @property
    def final(self):
        return self.parameters["triton_final_response"]

    def previews(self):
        """Pictures [row][image], or None."""
        files = self.outputs.get("preview")
        if files is None:
            return None
        return [[np.array(Image.open(io.BytesIO(file))) for file in row] for row in files]


def value_of(parameter):
    return getattr(parameter, parameter.WhichOneof("parameter_choice"))


class Stream:
    """A request on a gRPC stream of its own."""

    def __init__(self, server, options=None, **values):
        self.answers = queue.Queue()
        self.over = False  # all is answered
        self.client = server.grpc_client()
        self.client.start_stream(lambda result, error: self.answers.put((result, error)))
        made = serving.inputs(grpcclient, types=TYPES, **values)
        self.client.async_stream_infer(MODEL, made, **(options or {}))

    def next(self):
        """The next answer. Raises the error that the server answered."""
        result, error = self.answers.get(timeout=SECONDS)
        if error is not None:
            self.over = True
            raise error
        response = result.get_response()
        answer = Answer(
            {output.name: result.as_numpy(output.name) for output in response.outputs},
            {name: value_of(each) for name, each in response.parameters.items()},
        )
        self.over = answer.final
        return answer

    def rest(self):
        """All further answers."""
        found = [self.next()]
        while not found[-1].final:
            found.append(self.next())
        return found

    def close(self):
        """Cancels what is not answered. (Server 2.51 may keep the socket of a stream that is cancelled
        while it sends the last answer.)"""
        self.client.stop_stream(cancel_requests=not self.over)
        self.client.close()


@contextlib.contextmanager
def stream(server, options=None, **values):
    opened = Stream(server, options, **values)
    try:
        yield opened
    finally:
        opened.close()


def answers(server, options=None, **values):
    """All answers to a request."""
    with stream(server, options, **values) as opened:
        return opened.rest()


def error_of(server, options=None, **values):
    """The answers before an error, and the error."""
    found = []
    with stream(server, options, **values) as opened:
        try:
            while not (found and found[-1].final):
                found.append(opened.next())
        except InferenceServerException as error:
            return found, error
    raise AssertionError(f"no error after {len(found)} answers")


class Events:
    """A request to /generate_stream: an iterator over the JSON of its events."""

    def __init__(self, server, body, path="generate_stream"):
        self.connection = http.client.HTTPConnection("127.0.0.1", server.http, timeout=SECONDS)
        self.connection.request("POST", f"/v2/models/{MODEL}/{path}", json.dumps(body))
        self.response = self.connection.getresponse()

    def __iter__(self):
        for line in self.response:
            if line.startswith(b"data: "):
                yield json.loads(line[len(b"data: ") :])

    def close(self):
        self.response.close()
        self.connection.close()
