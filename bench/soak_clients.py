"""Sends the requests of a soak over gRPC and HTTP, and says what came back.

The clients of tritonclient cost more than the small images that a soak asks for, so the messages
are made here.
"""

import dataclasses
import hashlib
import http.client
import json
import socket
import struct
import time

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from soak_requests import CANCELLED, GONE, INVALID, MISSING, OK, Call

HANG = "no answer"
LEFT = "left"  # the client closed the connection: nobody reads the answer
PACKED = {"FP32": "f", "INT32": "i", "INT64": "q"}
HTTP_CODES = {200: OK, 400: INVALID, 404: MISSING, 499: CANCELLED, 503: GONE}
# gRPC itself says UNAVAILABLE where there is no connection.
WITHOUT_CONNECTION = ("failed to connect", "Socket closed", "Connection reset", "Stream removed")
LARGEST_ANSWER = 64 << 20


@dataclasses.dataclass
class Answer:
    code: str
    message: str = ""
    data: bytes = b""  # of the first output but "seed"


class Broken(Exception):
    """The connection ended without an answer."""


def raw_bytes(datatype: str, values: list) -> bytes:
    if datatype != "BYTES":
        return struct.pack(f"<{len(values)}{PACKED[datatype]}", *values)
    encoded = [value if isinstance(value, bytes) else value.encode() for value in values]
    return b"".join(struct.pack("<I", len(each)) + each for each in encoded)


def grpc_message(call: Call) -> service_pb2.ModelInferRequest:
    request = service_pb2.ModelInferRequest(model_name=call.model)
    for name, datatype, shape, values in call.inputs:
        request.inputs.add(name=name, datatype=datatype, shape=shape)
        request.raw_input_contents.append(raw_bytes(datatype, values))
    for name in call.outputs:
        request.outputs.add(name=name)
    for name, value in call.parameters.items():
        if isinstance(value, str):
            request.parameters[name].string_param = value
        else:
            request.parameters[name].int64_param = value
    return request


class GrpcClient:
    """One connection; `answer_seconds` bounds every call."""

    def __init__(self, address: str, answer_seconds: float):
        self._address = address
        self._seconds = answer_seconds
        self._open()

    def _open(self):
        # A pool of its own: otherwise all channels of this process share one connection.
        self._channel = grpc.insecure_channel(
            self._address,
            options=[
                ("grpc.use_local_subchannel_pool", 1),
                ("grpc.max_receive_message_length", LARGEST_ANSWER),
            ],
        )
        self.stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)

    def close(self):
        self._channel.close()

    def reopen(self):
        self.close()
        self._open()

    def ask(self, call: Call) -> Answer:
        message = grpc_message(call)
        try:
            if not call.leave_after:
                return self._answer(self.stub.ModelInfer(message, timeout=self._seconds))
            begun = self.stub.ModelInfer.future(message, timeout=self._seconds)
            time.sleep(call.leave_after)
            if call.leave_by == "close":
                self.reopen()  # cancels what the old channel has begun
            else:
                begun.cancel()
            return self._answer(begun.result())
        except grpc.FutureCancelledError:
            return Answer(CANCELLED)
        except grpc.RpcError as error:
            return self._failure(error)

    @staticmethod
    def _answer(response) -> Answer:
        for output, data in zip(response.outputs, response.raw_output_contents, strict=False):
            if output.name != "seed":
                return Answer(OK, data=data)
        return Answer(OK)

    @staticmethod
    def _failure(error) -> Answer:
        code, message = error.code().name, error.details() or ""
        if code == "DEADLINE_EXCEEDED":
            return Answer(HANG, message)
        if code == GONE and any(each in message for each in WITHOUT_CONNECTION):
            raise Broken(message)
        return Answer(code, message)


class HttpClient:
    """One connection, which is kept from request to request."""

    def __init__(self, address: str, answer_seconds: float):
        host, port = address.split(":")
        self._connection = http.client.HTTPConnection(host, int(port), timeout=answer_seconds)

    def close(self):
        self._connection.close()

    def ask(self, call: Call) -> Answer:
        generate = call.protocol == "generate"
        body = json.dumps(self._generate_body(call) if generate else self._infer_body(call))
        path = f"/v2/models/{call.model}/{call.protocol}"
        try:
            if call.leave_after:
                return self._leave(path, body, call.leave_after)
            status, headers, data = self.post(path, body.encode())
        except socket.timeout:
            self.close()
            return Answer(HANG)
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise Broken(str(error) or repr(error)) from None
        if status == 200:
            return self._generated(data) if generate else self._answer(headers, data)
        return Answer(HTTP_CODES.get(status, f"HTTP {status}"), self._message(data))

    def post(self, path: str, body: bytes) -> tuple:
        """(status, headers, body)"""
        self._connection.request("POST", path, body, {"Content-Type": "application/json"})
        response = self._connection.getresponse()
        return response.status, response.headers, response.read()

    def _leave(self, path: str, body: str, seconds: float) -> Answer:
        self._connection.request("POST", path, body.encode())
        time.sleep(seconds)
        self.close()
        return Answer(LEFT)

    @staticmethod
    def _infer_body(call: Call) -> dict:
        inputs = [
            {"name": name, "datatype": datatype, "shape": shape, "data": values}
            for name, datatype, shape, values in call.inputs
        ]
        body = {"inputs": inputs, "parameters": {"binary_data_output": True} | call.parameters}
        if call.outputs:
            body["outputs"] = [{"name": name} for name in call.outputs]
        return body

    @staticmethod
    def _generate_body(call: Call) -> dict:
        return {name: values[0] for name, _, _, values in call.inputs} | call.parameters

    @staticmethod
    def _message(data: bytes) -> str:
        try:
            return json.loads(data)["error"]
        except (ValueError, KeyError, TypeError):
            return data[:200].decode(errors="replace")

    @staticmethod
    def _answer(headers, data: bytes) -> Answer:
        """The outputs' bytes follow the JSON, in its order."""
        length = int(headers.get("Inference-Header-Content-Length", len(data)))
        at = length
        for output in json.loads(data[:length])["outputs"]:
            size = output["parameters"]["binary_data_size"]
            if output["name"] != "seed":
                return Answer(OK, data=data[at : at + size])
            at += size
        return Answer(OK)

    @staticmethod
    def _generated(data: bytes) -> Answer:
        images = json.loads(data)["encoded_images"]
        return Answer(OK, data=(images if isinstance(images, str) else "".join(images)).encode())


class Client:
    """A worker's connections, one of each protocol."""

    def __init__(self, served, answer_seconds: float):
        self.grpc = GrpcClient(served.grpc, answer_seconds)
        self.http = HttpClient(served.http, answer_seconds)

    def ask(self, call: Call) -> Answer:
        return (self.grpc if call.protocol == "grpc" else self.http).ask(call)

    def renew(self):
        """Closes the connections; the next requests make new ones."""
        self.grpc.reopen()
        self.http.close()

    def close(self):
        self.grpc.close()
        self.http.close()


def probe_hash(call: Call, data: bytes) -> str:
    """Of the pixels of the probe's row."""
    rows = call.inputs[0][2][0]
    size = len(data) // rows
    return hashlib.sha256(data[call.probe_row * size : (call.probe_row + 1) * size]).hexdigest()


def fault_of(call: Call, answer: Answer, beside_reload: bool) -> str:
    """Why the answer is wrong; nothing where it is right."""
    what = f"{call.kind}{f' ({call.name})' if call.name else ''} over {call.protocol}"
    said = f": {answer.message[:200]}" if answer.message else ""
    expected = call.expected
    if call.protocol == "generate" and OK not in expected:
        expected = (INVALID,)  # the server has this one code for every failed /generate
    if answer.code == HANG:
        return f"{what}: no answer in time"
    if answer.code in expected:
        if answer.code == OK and not answer.data:
            return f"{what}: an answer without an image"
        if answer.code == OK and call.size not in (0, len(answer.data)):
            return f"{what}: {len(answer.data)} bytes instead of {call.size}"
        if call.says.lower() in answer.message.lower():
            return ""
    # A request that is done before the client goes, or whose client no longer reads.
    if call.leave_after and answer.code in (OK, LEFT):
        return ""
    if beside_reload and is_of_reload(call, answer):
        return ""
    if answer.code in expected:
        return f"{what}: the error does not say '{call.says}'{said}"
    return f"{what}: {answer.code} instead of {' or '.join(expected)}{said}"


def is_of_reload(call: Call, answer: Answer) -> bool:
    """Whether an error is one that a model gives rise to while it is away."""
    if answer.code in (GONE, MISSING):
        return True
    said = answer.message.lower()
    away = ("not loaded", "unknown model", "not ready", "no version is available")
    return call.protocol == "generate" and any(each in said for each in away)
