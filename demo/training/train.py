"""Trains the shapes checkpoint from nothing: a small, real FLUX.1-style text-to-image model.

    python -m training.train --out shapes --state state --stage vae --seconds 240
    python -m training.train --out shapes --state state --stage flow --seconds 1500
    python -m training.train --out shapes --state state --stage distil --seconds 200

Everything is made here: images, prompts, both tokenizers, all five models. Each call runs one stage or more,
goes on from what --state holds, writes the state back, and exports the checkpoint to --out. `flow` may
be given in several calls: --rate-start and --rate-end say how the learning rate goes within each.
Under torchrun the VAE's batches are spread over several GPUs.
"""

import argparse
import io
import json
import multiprocessing
import os
import random
import time
from pathlib import Path

import torch
import torch.distributed as dist

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from . import flow, models, sample, vae  # noqa: E402
from .judge import mean  # noqa: E402
from .evaluate import one, through  # noqa: E402
from .pool import Pool, Stream, loader  # noqa: E402
from .scenes import test_scenes  # noqa: E402
from .sheet import sheet  # noqa: E402
from .vocab import make_tokenizers  # noqa: E402

PART = 15 << 20  # a state is written in files of at most so many bytes


def save(folder, name, state):
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob(name + ".0*"):
        old.unlink()
    out = io.BytesIO()
    torch.save(state, out)
    data = out.getvalue()
    for i in range(0, len(data), PART):
        (folder / f"{name}.{i // PART:03d}").write_bytes(data[i : i + PART])


def restore(folder, name):
    files = sorted(folder.glob(name + ".0*")) if folder else []
    if not files:
        return None
    return torch.load(io.BytesIO(b"".join(f.read_bytes() for f in files)), map_location="cpu")


def save_vae(folder, m):
    keys = ("shift_factor", "scaling_factor")
    weights = {k: v.detach().float().cpu() for k, v in m.state_dict().items()}
    save(folder, "vae", {"weights": weights, "latents": {k: m.config[k] for k in keys}})


def restore_vae(folder, m, needed=True):
    saved = restore(folder, "vae")
    if saved:
        m.load_state_dict(saved["weights"])
        m.register_to_config(**saved["latents"])
    elif needed:
        raise SystemExit(f"{folder} holds no VAE: run --stage vae first, or give --start")


def start_from(folder, m):
    """Puts an exported checkpoint's weights into the models (bfloat16's precision). Residual layers
    it does not have start as the identity: a VAE can be made deeper without losing what it knows."""
    for key, old in m.items():
        new = type(old).from_pretrained(folder / models.FOLDER[key], torch_dtype=torch.float32)
        missing = old.load_state_dict(new.state_dict(), strict=False).missing_keys
        for name in missing:
            if ".conv2." in name:
                torch.nn.init.zeros_(old.get_parameter(name))
            elif ".resnets." not in name:
                raise SystemExit(f"{folder / models.FOLDER[key]} has no {name}")
        if key == "vae":
            names = ("shift_factor", "scaling_factor")
            old.register_to_config(**{k: new.config[k] for k in names})


@torch.no_grad()
def check(o, workers, weights, m, tokens, empty, steps=12):
    """The undistilled model's shares of matching images with several two-pass guidances."""
    scenes = test_scenes(o.check)
    flat = weights.average.to(weights.work.dtype)
    p = flow.split(weights.views(flat))
    tokenized = tokens([s["prompt"] for s in scenes])
    images = through(m, scenes, 128, 128)
    results = workers.map(one, list(zip(images, scenes)), chunksize=2)
    print(f"through the VAE alone: {json.dumps(mean(results))}", flush=True)
    for w in o.weights:
        images = sample.generate(p, m, tokenized, empty, range(o.check), steps, w)
        results = workers.map(one, list(zip(images, scenes)), chunksize=2)
        print(f"two-pass guidance {w}: {json.dumps(mean(results))}", flush=True)
        if o.sheet and w == o.weights[-1]:
            sheet(list(images[:32]), o.sheet)


def options():
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ap.add_argument("--out", type=Path, required=True, help="the checkpoint's folder")
    ap.add_argument("--state", type=Path, required=True, help="float32 weights and momenta")
    ap.add_argument(
        "--start", type=Path, help="a checkpoint to go on from where --state has nothing"
    )
    ap.add_argument(
        "--vae-alone",
        type=float,
        default=0.5,
        help="share of the VAE's time for its decoder alone; 1: all",
    )
    ap.add_argument("--compact", type=Path, help="also write the weights alone here")
    ap.add_argument("--stage", choices=["vae", "flow", "distil"], nargs="+", required=True)
    ap.add_argument(
        "--seconds", type=float, nargs="+", required=True, help="of training, for each stage"
    )
    ap.add_argument(
        "--until", type=float, help="stop so many seconds after the start, all included"
    )
    ap.add_argument("--batch", type=int, default=512)
    ap.add_argument("--lr", type=float, default=1.5e-3)
    ap.add_argument("--vae-lr", type=float, default=1.5e-3)
    ap.add_argument("--distil-lr", type=float, default=6e-4)
    ap.add_argument("--compile", choices=["main", "all"], default="main", help="all shapes or one")
    ap.add_argument("--rate-start", type=float, default=1.0)
    ap.add_argument("--rate-end", type=float, default=0.0)
    ap.add_argument(
        "--hint", type=float, nargs=2, default=(0.05, 0.05), help="weight, start and end"
    )
    ap.add_argument("--high", type=float, default=0.4, help="share of noise levels above 0.55")
    ap.add_argument(
        "--strength", type=float, default=0.5, help="two-pass guidance per unit of guidance"
    )
    ap.add_argument("--pool", type=int, default=98304, help="images of 128x128 kept encoded")
    ap.add_argument("--every", type=int, default=16, help="steps between refreshes of the pool")
    ap.add_argument("--chunk", type=int, default=512)
    ap.add_argument("--workers", type=int, default=max(0, min(14, (os.cpu_count() or 1) - 2)))
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument(
        "--check", type=int, default=0, help="held-out prompts to generate and judge at the end"
    )
    ap.add_argument("--weights", type=float, nargs="*", default=(1.0, 2.0, 3.0))
    ap.add_argument("--sheet", type=Path)
    return ap.parse_args()


def make_pool(o, m, data, device):
    counts = {}
    for height, width, *_ in flow.SHAPES:
        area = height * width / 128 / 128
        counts[height, width] = o.pool if area == 1 else max(1, int(o.pool / 16 / max(1, area)))
    begin = time.time()
    pool = Pool(m["vae"], data, counts, device)
    print(f"pools of {counts} made in {time.time() - begin:.0f} s", flush=True)
    return pool


def run(o, name, trainer, seconds, lr, rates, hint):
    begin = time.time()
    for shape in trainer.shapes:
        trainer.capture(shape)
    print(f"{len(trainer.shapes)} shapes captured in {time.time() - begin:.0f} s", flush=True)
    trainer.run(name, seconds(), lr, *rates, hint, every=o.every, seed=o.seed)


def train_flow(o, m, device, data, empty, workers, stream, left):
    """The stages flow and distil, on one pool."""
    m["vae"].to(device, torch.bfloat16 if device.type == "cuda" else torch.float32)
    m["vae"].requires_grad_(False)
    pool = make_pool(o, m, data, device)
    gpu = device.type == "cuda"
    other = flow.Passes(gpu and o.compile == "all")
    passes = (flow.Passes(gpu, dynamic=None if o.compile == "all" else False), other)
    weights = flow.make_weights(m, device)
    saved = restore(o.state, "flow")
    if saved:
        weights.load(saved)
    if "flow" in o.stage:
        trainer = flow.Trainer(weights, pool, empty, o.batch, passes, high=o.high)
        rates = (o.rate_start, o.rate_end)
        run(o, "flow", trainer, lambda: left("flow"), o.lr, rates, o.hint)
        save(o.state, "flow", weights.state())
        if o.compact:
            save(o.compact, "flow", weights.state(compact=True))
            save_vae(o.compact, m["vae"])
        if o.check:
            check(o, workers, weights, m["vae"], stream.tokens, empty)
        del trainer
        torch.cuda.empty_cache()
    flow.put_back(weights, weights.average, m)
    if "distil" in o.stage:
        teacher = flow.split(weights.views(weights.average.to(weights.work.dtype)))
        student = flow.make_weights(m, device, keys=("dit",), hints=False)
        saved = restore(o.state, "distil")
        if saved:
            student.load(saved)
        trainer = flow.Distiller(
            student, teacher, pool, empty, o.batch, passes, o.strength, high=o.high
        )
        run(o, "distil", trainer, lambda: left("distil"), o.distil_lr, (1.0, 0.0), (0.0, 0.0))
        save(o.state, "distil", student.state())
        flow.put_back(student, student.average, m)


def join(stages):
    """This process's number among those that torchrun started."""
    if "WORLD_SIZE" not in os.environ:
        return 0
    if stages != ["vae"]:
        raise SystemExit("only --stage vae can use several GPUs")
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    return dist.get_rank()


def main():
    o, begin = options(), time.time()
    if len(o.seconds) != len(o.stage):
        raise SystemExit("--seconds needs one number for each stage")
    rank = join(o.stage)
    # Judges run in processes made before the GPU is touched.
    workers = multiprocessing.get_context("fork").Pool(max(1, o.workers)) if o.check else None
    torch.manual_seed(o.seed)
    random.seed(o.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cuda":
        # cuDNN's attention fails in backward passes of these shapes (torch 2.11).
        torch.backends.cuda.enable_cudnn_sdp(False)
        torch.set_float32_matmul_precision("high")
        torch._dynamo.config.cache_size_limit = 64
    if not (o.out / "tokenizer_2" / "tokenizer.json").exists():
        make_tokenizers(o.out)
    c, t, m = models.build(o.out)
    torch.manual_seed(o.seed + 1000 * rank)
    stream = Stream(c, t, o.chunk, o.seed + 1000 * rank)
    data = loader(stream, o.workers)
    empty = [x.to(device) for x in stream.tokens([""])]

    def left(stage):
        seconds = o.seconds[o.stage.index(stage)]
        spare = o.until - (time.time() - begin) if o.until else seconds
        return max(1.0, min(seconds, spare))

    if o.start:
        start_from(o.start, m)
    if "vae" in o.stage:
        restore_vae(o.state, m["vae"], needed=False)
        share, time_left = min(1.0, o.vae_alone), lambda: left("vae")
        batch = max(2, o.batch // 4)
        vae.train(m["vae"], data, time_left, batch, device, alone=share, lr=o.vae_lr)
        if rank:
            os._exit(0)
        save_vae(o.state, m["vae"])
        if o.compact:
            save_vae(o.compact, m["vae"])
    if o.stage != ["vae"]:
        restore_vae(o.state, m["vae"], needed=not o.start)
        m["vae"].to(device)
        for k in ("dit", "clip", "t5"):
            print(
                k, f"{sum(p.numel() for p in m[k].parameters()) / 1e6:.2f} M parameters", flush=True
            )
        train_flow(o, m, device, data, empty, workers, stream, left)
    if o.stage != ["vae"] or o.start:
        models.export(o.out, m)
    print(f"{' '.join(o.stage)} done after {time.time() - begin:.0f} s", flush=True)
    os._exit(0)  # the loader's workers have nothing left to do


if __name__ == "__main__":
    main()
