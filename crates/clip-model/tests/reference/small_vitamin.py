"""Writes small_vitamin.safetensors: small ViTamins as OpenCLIP builds them, and what OpenCLIP makes of them.

    pip install -r requirements.txt && python small_vitamin.py

For `positions` (with `timm_proj` "linear") and `unplaced` (ViTamin-XL's kind, without positions, with "mlp"):
`image_features` (normalised), `loss` (OpenCLIP's ClipLoss), `grads` its gradients by the image encoder's parameters, one
after the other by name; of `unplaced` those of the last convolution and of what OpenCLIP adds alone. `tokens` and `text_features` (normalised)
are both models'. Weights and images are those of small_mobileclip.py, images of sides that strides leave a rest of. All in
float32, but computed in float64, so that the reference's own rounding doesn't count.
"""

import math
from functools import partial

import numpy as np
import torch
from open_clip.loss import ClipLoss
from open_clip.model import CLIP
from safetensors.torch import save_file
from timm.layers import HybridEmbed
from timm.models import register_model
from timm.models.vision_transformer import VisionTransformer
from timm.models.vitamin import GeGluMlp, MbConvStages, VitCfg

TEXT = dict(context_length=4, vocab_size=10, width=4, heads=1, layers=1, no_causal_mask=True)
# What is left of timm's numbers at a size for a test.
STAGES = VitCfg(embed_dim=(4, 6, 8), depths=(2, 4, 1), stem_width=4, head_type="1d")
VIT = dict(embed_dim=8, depth=2, num_heads=2, mlp_layer=GeGluMlp, mlp_ratio=2.0, class_token=False, global_pool="avg")
# Side of the images, what OpenCLIP adds, and timm's positions.
KINDS = dict(positions=(26, "linear", "learn"), unplaced=(20, "mlp", "none"))


@register_model
def vitamin_small_test(pretrained=False, pretrained_cfg=None, pretrained_cfg_overlay=None, cache_dir=None, **kwargs):
    side, _, positions = KINDS[building]
    stem = partial(HybridEmbed, backbone=MbConvStages(STAGES), proj=False)
    model = VisionTransformer(img_size=side, patch_size=1, embed_layer=stem, pos_embed=positions, **VIT, **kwargs)
    model.default_cfg = {}
    return model


def pixels(batch, side):
    index = torch.arange(batch * 3 * side * side)
    return ((index * index // 7 * 7919) % 1013 / 506 - 1).float().reshape(batch, 3, side, side)


def values(name, shape):
    state = 0
    for byte in name.encode():
        state = (31 * state + byte) % 2**32
    state = (747796405 * state + 1) % 2**32
    noise = []
    for _ in range(math.prod(shape)):
        state = (1664525 * state + 1013904223) % 2**32
        noise.append((state >> 8) / 2**23 - 1)
    spread = 0.3 if len(shape) < 2 else 1.7 / math.sqrt(math.prod(shape[1:]))
    middle = 1.0 if len(shape) < 2 and name.endswith("weight") else 0.0
    return torch.tensor(np.float32(middle) + np.float32(spread) * np.array(noise, np.float32)).reshape(shape)


def build(name):
    global building
    building = name
    side, projection, _ = KINDS[name]
    vision = dict(image_size=side, timm_model_name="vitamin_small_test", timm_pool="", timm_proj=projection)
    model = CLIP(6, vision, TEXT, output_dict=True).eval()
    model.load_state_dict({key: values(key, value.shape) for key, value in model.state_dict().items()})
    return model.double(), pixels(4, side).double()


tokens = torch.tensor([[8, 3, 9, 0], [8, 7, 1, 9], [8, 5, 2, 9], [8, 9, 0, 0]])
tensors = {"tokens": tokens.to(torch.int32)}
for name in KINDS:
    model, images = build(name)
    out = model(images, tokens)
    loss = ClipLoss()(out["image_features"], out["text_features"], out["logit_scale"])
    loss.backward()
    grads = {key: value.grad for key, value in model.visual.named_parameters(prefix="visual")}
    kept = [grads[key] for key in sorted(grads) if name == "positions" or ".pool." in key or ".head." in key]
    tensors["text_features"] = out["text_features"].detach()
    tensors |= {
        f"{name}.image_features": out["image_features"].detach(),
        f"{name}.loss": loss.detach().reshape(1),
        f"{name}.grads": torch.cat([grad.flatten() for grad in kept]),
    }
tensors = {key: value.float().contiguous() if value.is_floating_point() else value for key, value in tensors.items()}
save_file(tensors, "small_vitamin.safetensors")
