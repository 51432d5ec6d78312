"""Edits of config.pbtxt with which a model would load and then refuse every request are refused when
it is loaded, by name. The models that were loaded go on."""

import re

import pytest
import server as serving
from tritonclient.utils import InferenceServerException

WARM_UP = """
model_warmup [ { name: "w" batch_size: 1 inputs { key: "prompt" value: {
  data_type: TYPE_STRING dims: [ 1 ] zero_data: true } } } ]
"""
DYNAMIC = re.compile(r"dynamic_batching \{.*?\n\}\n", re.DOTALL)


def replaced(old, new):
    def change(text):
        assert old in text
        return text.replace(old, new, 1)

    return change


def all_replaced(*pairs):
    def change(text):
        for old, new in pairs:
            assert old in text
            text = text.replace(old, new)
        return text

    return change


# (model, how config.pbtxt is changed, what the error says)
EDITS = {
    "batch_size": (
        "clip_encoder",
        all_replaced(("max_batch_size: 8", "max_batch_size: 0")),
        r"max_batch_size is 0: must be 1 or more",
    ),
    "input_name": (
        "clip_encoder",
        replaced('name: "prompt"', 'name: "text"'),
        r"input 'text' is not known: must be prompt",
    ),
    "input_missing": (
        "dit_transformer",
        lambda text: re.sub(r'  \{\n    name: "timestep"  #.*?\n  \},\n', "", text, count=1, flags=re.S),
        r"input 'timestep' is missing",
    ),
    "input_type": (
        "t5_encoder",
        replaced("data_type: TYPE_INT32", "data_type: TYPE_INT64"),
        r"input 'max_sequence_length' has data_type TYPE_INT64: must be TYPE_INT32",
    ),
    "input_dims": (
        "dit_transformer",
        replaced("dims: [ -1, 24 ]", "dims: [ -1, 64 ]"),
        r"input 'hidden_states' has dims \[ -1, 64 \]: must be \[ -1, 24 \]",
    ),
    "prompt_dims": (
        "t5_encoder",
        replaced("dims: [ 1 ]", "dims: [ 2 ]"),
        r"input 'prompt' has dims \[ 2 \]: must be \[ 1 \]",
    ),
    "input_reshape": (
        "bls",
        replaced("dims: [ 1 ]", "dims: [ 1 ]\n    reshape { shape: [ ] }"),
        r"input 'prompt' has a reshape",
    ),
    "input_required": (
        "bls",
        all_replaced(("optional: true", "optional: false")),
        r"input 'prompt_2' is not optional",
    ),
    "stage_input_required": (
        "t5_encoder",
        all_replaced(("optional: true", "optional: false")),
        r"input 'max_sequence_length' is not optional: must be optional: true",
    ),
    "output_name": (
        "vae_decoder",
        replaced('name: "image"', 'name: "pixels"'),
        r"output 'pixels' is not known: must be image",
    ),
    "parameter_dtype": (
        "t5_encoder",
        replaced('string_value: "f32"', 'string_value: "bf16"'),
        r"output 'prompt_embeds' has data_type TYPE_FP32: must be TYPE_BF16, as parameter 'dtype' is "
        r"bf16",
    ),
    "dtype_of_one": (
        "t5_encoder",
        all_replaced(('string_value: "f32"', 'string_value: "bf16"'), ("TYPE_FP32", "TYPE_BF16")),
        r"model 't5_encoder': parameter 'dtype' of config.pbtxt is bf16, and model '\w+' is loaded "
        r"with f32",
    ),
    "sequences": (
        "clip_encoder",
        lambda text: DYNAMIC.sub("sequence_batching { }\n", text),
        r"sequence_batching is set",
    ),
    "warm_up": ("bls", lambda text: text + WARM_UP, r"model_warmup is set: this model calls others"),
    "decoupled": (
        "bls",
        lambda text: text + "model_transaction_policy { decoupled: true }\n",
        r"model_transaction_policy is decoupled: this model gives one answer a request",
    ),
    "coupled": (
        "bls_stream",
        replaced("decoupled: true", "decoupled: false"),
        r"model_transaction_policy is not decoupled: this model answers a request many times",
    ),
    "preview_type": (
        "bls_stream",
        replaced("data_type: TYPE_INT32", "data_type: TYPE_INT64"),
        r"input 'preview_every' has data_type TYPE_INT64: must be TYPE_INT32",
    ),
    "cache": (
        "bls",
        lambda text: text + "response_cache { enable: true }\n",
        r"response_cache is enabled",
    ),
}


@pytest.mark.skipif(bool(serving.IN_PYTHON), reason="the native backend's checks")
@pytest.mark.parametrize("edit", EDITS)
def test_is_refused_at_load(own_server, edit):
    model, change, says = EDITS[edit]
    file = own_server.repository / model / "config.pbtxt"
    before = file.read_text()
    with own_server.grpc_client() as client:
        try:
            file.write_text(change(before))
            assert file.read_text() != before
            with pytest.raises(InferenceServerException) as refused:
                client.load_model(model)
            # Server 2.51 refuses some of them itself, or names the reason in its log alone.
            known = f"{refused.value}\n{own_server.log()[-6000:]}"
            assert re.search(says, known), known
            # What was loaded before still answers.
            serving.generate(client, prompt="a", num_inference_steps=1)
        finally:
            file.write_text(before)
            client.load_model(model)
        serving.generate(client, prompt="a", num_inference_steps=1)


@pytest.mark.skipif(bool(serving.IN_PYTHON), reason="the native backend's checks")
def test_a_parameter_without_a_meaning_is_named(own_server):
    file = own_server.repository / "bls/config.pbtxt"
    before = file.read_text()
    with own_server.grpc_client() as client:
        try:
            file.write_text(before + 'parameters { key: "max_pixels" value { string_value: "1" } }\n')
            client.load_model("bls")
        finally:
            file.write_text(before)
            client.load_model("bls")
    says = "model 'bls': parameter 'max_pixels' of config.pbtxt has no meaning: use default_height"
    assert says in own_server.log()
