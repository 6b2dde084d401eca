"""Writes small_mobileclip.safetensors: small models of MobileCLIP's kinds as OpenCLIP builds them, and what OpenCLIP makes
of them in training and after.

    pip install -r requirements.txt && python small_mobileclip.py

For each of `fastvit`, `layer_norm` (a FastViT as MobileCLIP2-S3's), `conv_stem` (MobileCLIP-B's kind) and `patches`
(MobileCLIP2-L-14's): `image_features` (normalised, in training mode), `loss` (OpenCLIP's ClipLoss), `grads` its gradients by
the image encoder's parameters, one after the other by name, `after` the batch norms' statistics after that pass, likewise,
`eval.image_features` and `eval.grads` the same in evaluation mode with those statistics; of `layer_norm` no gradients but
those by that norm. `tokens` and `text_features` (normalised) are all models'. Weights and images
are those of small_resnet.py. All in float32, but computed in float64, so that the reference's own rounding doesn't count.
"""

import math
from functools import partial

import numpy as np
import timm.models.fastvit as fastvit
import torch
from open_clip.loss import ClipLoss
from open_clip.model import CLIP
from safetensors.torch import save_file
from timm.layers import HybridEmbed, LayerNorm, LayerNorm2d
from timm.models import register_model
from timm.models.vision_transformer import VisionTransformer
from timm.models.vision_transformer_hybrid import ConvStem
from torch.nn.functional import normalize

TEXT = dict(context_length=4, vocab_size=10, width=4, heads=1, layers=1, no_causal_mask=True)
# What is left of timm's numbers at a size for a test.
FASTVIT = dict(
    layers=(1, 1),
    embed_dims=(4, 8),
    mlp_ratios=(2, 2),
    se_downsamples=(False, True),
    downsamples=(False, True),
    pos_embs=(None, partial(fastvit.RepConditionalPosEnc, spatial_shape=(7, 7))),
    token_mixers=("repmixer", "attention"),
    lkc_use_act=True,
)
SMALL_NORM = dict(norm_layer=partial(LayerNorm2d, eps=1e-5), se_downsamples=(False, False), stem_use_scale_branch=False)
VIT = dict(embed_dim=4, depth=1, num_heads=2)
fastvit.Attention = partial(fastvit.Attention, head_dim=4)


def conv_stem():
    stem = ConvStem(channels=(1, 1, 4), stride=(4, 2, 2), kernel_size=(4, 2, 2), padding=0, act_layer=torch.nn.GELU)
    return partial(HybridEmbed, backbone=stem, proj=False)


# Side of the images, timm's pooling, and the image encoder.
KINDS = dict(
    fastvit=(26, "avg", lambda **kwargs: fastvit.FastVit(**FASTVIT, **kwargs)),
    layer_norm=(26, "avg", lambda **kwargs: fastvit.FastVit(**FASTVIT | SMALL_NORM, **kwargs)),
    conv_stem=(
        32,
        "token",
        lambda **kwargs: VisionTransformer(
            img_size=32, patch_size=1, embed_layer=conv_stem(), no_embed_class=True, **VIT, **kwargs
        ),
    ),
    patches=(
        12,
        "token",
        lambda **kwargs: VisionTransformer(
            img_size=12, patch_size=4, pre_norm=True, norm_layer=partial(LayerNorm, eps=1e-5), **VIT, **kwargs
        ),
    ),
)


@register_model
def mobileclip_small_test(pretrained=False, pretrained_cfg=None, pretrained_cfg_overlay=None, cache_dir=None, **kwargs):
    return KINDS[building][2](**kwargs)


def pixels(batch, side):
    index = torch.arange(batch * 3 * side * side)
    return ((index * index // 7 * 7919) % 1013 / 506 - 1).float().reshape(batch, 3, side, side)


def values(name, shape):
    if name.endswith("num_batches_tracked"):
        return torch.tensor(3)
    state = 0
    for byte in name.encode():
        state = (31 * state + byte) % 2**32
    state = (747796405 * state + 1) % 2**32
    noise = []
    for _ in range(math.prod(shape)):
        state = (1664525 * state + 1013904223) % 2**32
        noise.append((state >> 8) / 2**23 - 1)
    is_factor = name.endswith(("weight", "running_var"))
    spread = 0.3 if len(shape) < 2 else 1.7 / math.sqrt(math.prod(shape[1:]))
    middle = 1.0 if len(shape) < 2 and is_factor else 0.0
    return torch.tensor(np.float32(middle) + np.float32(spread) * np.array(noise, np.float32)).reshape(shape)


def build(name):
    global building
    building = name
    side, pool, _ = KINDS[name]
    vision = dict(image_size=side, timm_model_name="mobileclip_small_test", timm_pool=pool, timm_proj=None)
    model = CLIP(6, vision, TEXT, output_dict=True)
    model.load_state_dict({key: values(key, value.shape) for key, value in model.state_dict().items()})
    return model.double(), pixels(4, side).double()


def evaluate(model, images):
    out = model(images, tokens)
    loss = ClipLoss()(out["image_features"], out["text_features"], out["logit_scale"])
    model.zero_grad()
    loss.backward()
    grads = {key: value.grad.clone() for key, value in model.visual.named_parameters(prefix="visual")}
    return out["image_features"].detach(), out["text_features"].detach(), loss.detach().reshape(1), grads


tokens = torch.tensor([[8, 3, 9, 0], [8, 7, 1, 9], [8, 5, 2, 9], [8, 9, 0, 0]])
tensors = {"tokens": tokens.to(torch.int32)}
for name in KINDS:
    model, images = build(name)
    image, tensors["text_features"], loss, grads = evaluate(model.train(), images)
    after = {key: value.clone() for key, value in model.state_dict().items() if ".running_" in key}
    eval_image, _, _, eval_grads = evaluate(model.eval(), images)
    if name == "layer_norm":
        grads, eval_grads = [{key: found[key] for key in found if "blocks.0.norm." in key} for found in (grads, eval_grads)]
    found = {"image_features": image, "loss": loss, "eval.image_features": eval_image}
    for key, parts in {"grads": grads, "after": after, "eval.grads": eval_grads}.items():
        if parts:
            found[key] = torch.cat([parts[part].flatten() for part in sorted(parts)])
    tensors |= {f"{name}.{key}": value for key, value in found.items()}
tensors = {key: value.float().contiguous() if value.is_floating_point() else value for key, value in tensors.items()}
save_file(tensors, "small_mobileclip.safetensors")
