"""A bls for the server's Python backend that reads requests as the Python bls does, and answers what
it read instead of images: no torch is needed."""

import json
import pathlib

import numpy as np
import triton_python_backend_utils as pb_utils
from bls_request import Job, Refused, Sizes, read_request


class TritonPythonModel:
    def initialize(self, args):
        given = json.loads(args["model_config"])["parameters"]
        directory = pathlib.Path(args["model_repository"]) / args["model_version"]
        self.sizes = Sizes(directory, {name: value["string_value"] for name, value in given.items()})

    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        try:
            rows, output_format = read_request(request, self.sizes)
            job = Job(request, rows)
            job.check()
        except Refused as refusal:
            code = getattr(pb_utils.TritonError, refusal.code)
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(refusal), code))
        read = {"steps": job.steps, "microseconds": job.remaining_microseconds()}
        texts = [
            [json.dumps(vars(row) | read | {"format": output_format})] for row in rows
        ]
        seeds = np.array([[row.seed] for row in rows], np.int64)
        return pb_utils.InferenceResponse(
            [
                pb_utils.Tensor("encoded_images", np.array(texts, object)),
                pb_utils.Tensor("seed", seeds),
            ]
        )
