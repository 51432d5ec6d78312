"""Each model.py by itself, without Triton: in a repository and on a checkpoint."""

import shutil
import subprocess

import pytest
import server as serving

KINDS = {"f32": "float32", "bf16": "bfloat16", "f16": "float16"}


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    """A repository whose models are all in Python."""
    repository = tmp_path_factory.mktemp("programs") / "models"
    checkpoint = serving.CHECKPOINTS / "tiny-schnell"
    serving.program("convert", checkpoint, repository, "--backend", "python")
    return repository


def run(python, program, *arguments):
    return subprocess.run(
        [python, program, *arguments], capture_output=True, text=True, timeout=300
    )


@pytest.mark.parametrize(
    "checkpoint, dtype",
    [("tiny-dev", "f32"), ("tiny-dev", "bf16"), ("tiny-schnell", "bf16"), ("tiny-f16", "f16")],
)
def test_in_a_repository(python, tmp_path, checkpoint, dtype):
    repository = tmp_path / "models"
    serving.convert(serving.CHECKPOINTS / checkpoint, repository, "--dtype", dtype)
    for model in serving.MODELS:
        done = run(python, repository / model / "1/model.py")
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1] == f"{model}: ok"
        if model not in ("bls", "vae_decoder"):
            assert f" {KINDS[dtype]} [2, " in done.stdout


def test_on_a_checkpoint(python, programs):
    """One that is not the repository's."""
    for model in serving.MODELS:
        done = run(python, programs / model / "1/model.py", serving.ROOT / "demo/shapes")
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "model, file",
    [
        ("clip_encoder", "text_encoder/model.safetensors"),
        ("t5_encoder", "text_encoder_2/config.json"),
        ("dit_transformer", "transformer/diffusion_pytorch_model.safetensors"),
        ("vae_decoder", "vae/diffusion_pytorch_model.safetensors"),
        ("bls", "scheduler/scheduler_config.json"),
    ],
)
def test_says_what_is_off(python, programs, tmp_path, model, file):
    checkpoint = tmp_path / "checkpoint"
    shutil.copytree(serving.CHECKPOINTS / "tiny-dev", checkpoint)
    whole = (checkpoint / file).read_bytes()
    (checkpoint / file).write_bytes(whole[: len(whole) // 2])
    done = run(python, programs / model / "1/model.py", checkpoint)
    assert done.returncode == 1
    failures = [line for line in done.stderr.splitlines() if line.startswith(f"{model}: failed: ")]
    assert len(failures) == 1 and "Traceback" not in done.stderr, done.stderr
