"""The training passes against the library classes, in float32: pytest training/test_fast.py"""

import torch

from . import fast, models, train


def randomized(m):
    for name, p in m.named_parameters():
        if name.endswith("norm.weight") or "norm_" in name or "layer_norm" in name:
            torch.nn.init.normal_(p, 1.0, 0.1)
        elif p.abs().max() == 0:
            torch.nn.init.normal_(p, 0, 0.05)
    return m.eval()


@torch.no_grad()
def test_text_encoders():
    torch.manual_seed(1)
    clip, t5 = models.build_text(200, 300)
    for m in (clip, t5):
        randomized(m).config._attn_implementation = "eager"
    passes = fast.Passes()
    b = torch.randint(0, 300, (3, 140))
    want = t5(input_ids=b).last_hidden_state
    got = passes.t5(fast.group(dict(t5.named_parameters())), b)
    torch.testing.assert_close(got, want, atol=2e-5, rtol=1e-4)
    a = torch.randint(2, 190, (3, 77))
    a[0, 9:], a[1, 30:], a[2, 76] = 199, 199, 199
    want = clip(input_ids=a).pooler_output
    got = passes.clip(fast.group(dict(clip.named_parameters())), a)
    torch.testing.assert_close(got, want, atol=2e-5, rtol=1e-4)
    got = passes.clip(fast.group(dict(clip.named_parameters())), a[:2, :44])
    torch.testing.assert_close(got, want[:2], atol=2e-5, rtol=1e-4)


@torch.no_grad()
def test_transformer():
    torch.manual_seed(2)
    dit = models.build_dit()
    zero = [
        m.weight == 0
        for m in (
            dit.time_text_embed.timestep_embedder.linear_1,
            dit.time_text_embed.guidance_embedder.linear_1,
        )
    ]
    assert [int(z.any(0).sum()) for z in zero] == [2 * models.TIME_FROM, 2 * models.GUIDANCE_FROM]
    randomized(dit)
    grid, n = (3, 5), 20
    x, states, pooled = torch.randn(2, 15, 64), torch.randn(2, n, 128), torch.randn(2, 128)
    t, g = torch.tensor([0.93, 0.2]), torch.tensor([3.5, 1.0])
    ids = torch.zeros(*grid, 3)
    ids[..., 1] += torch.arange(3)[:, None]
    ids[..., 2] += torch.arange(5)
    want = dit(
        hidden_states=x,
        timestep=t,
        guidance=g,
        encoder_hidden_states=states,
        pooled_projections=pooled,
        img_ids=ids.view(-1, 3),
        txt_ids=torch.zeros(n, 3),
        return_dict=False,
    )[0]
    got = fast.Passes().dit(fast.group(dict(dit.named_parameters())), x, t, g, states, pooled, grid)
    assert want.std() > 0.05
    torch.testing.assert_close(got, want, atol=5e-5, rtol=1e-3)


@torch.no_grad()
def test_a_deeper_vae_starts_as_it_was(tmp_path):
    deep = models.build_vae()
    shallow = type(deep).from_config({**deep.config, "layers_per_block": 1, "shift_factor": 0.5})
    shallow.save_pretrained(tmp_path / models.FOLDER["vae"])
    x = torch.randn(1, 3, 32, 32)
    assert not torch.allclose(deep(x).sample, shallow(x).sample, atol=1e-3)
    train.start_from(tmp_path, {"vae": deep})
    torch.testing.assert_close(deep(x).sample, shallow(x).sample, atol=1e-5, rtol=1e-4)
    assert deep.config.shift_factor == 0.5
