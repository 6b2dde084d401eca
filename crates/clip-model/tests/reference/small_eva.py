"""Writes small_eva.safetensors: small models of timm's eva.py as OpenCLIP builds them, and what OpenCLIP makes of them.

    pip install -r requirements.txt && python small_eva.py

For each of `eva01`, `eva02`, `post_norm` and `pe`: `model.*` the state dict, `tokens`, `image_features`, `text_features`
(normalised), `loss` (OpenCLIP's ClipLoss), `grad.*` its gradient by every parameter. `bare.image_features` are those of
`pe` without its class token and that token's position, as the largest Perception Encoder is. Images are those of
small_resnet.py. All in float32, but computed in float64, so that the reference's own rounding doesn't count.
"""

from functools import partial

import torch
from open_clip.loss import ClipLoss
from open_clip.model import CLIP
from safetensors.torch import save_file
from timm.layers import LayerNorm
from timm.models import register_model
from timm.models.eva import Eva
from torch.nn.functional import normalize

SIDE = 12
TEXT = dict(context_length=4, vocab_size=10, width=4, heads=1, layers=1)
# What is left of timm's numbers at a size for a test.
EVA01 = dict(embed_dim=4, depth=2, num_heads=2, mlp_ratio=1.5)
EVA02 = dict(
    embed_dim=16,
    depth=1,
    num_heads=2,
    mlp_ratio=0.75,
    qkv_fused=False,
    swiglu_mlp=True,
    scale_mlp=True,
    scale_attn_inner=True,
    use_rot_pos_emb=True,
    ref_feat_shape=(16, 16),
)
POST_NORM = EVA01 | dict(use_post_norm=True)
PE = dict(
    embed_dim=8,
    depth=1,
    num_heads=1,
    mlp_ratio=1.5,
    attn_type="rope",
    use_pre_transformer_norm=True,
    use_rot_pos_emb=True,
    ref_feat_shape=(3, 3),
    rope_grid_offset=1.0,
    rope_grid_indexing="xy",
    attn_pool_num_heads=8,
    attn_pool_mlp_ratio=4.0,
    norm_layer=partial(LayerNorm, eps=1e-5),
)
BARE = PE | dict(class_token=False, rope_grid_offset=0.0)
SMALL = dict(eva01=EVA01, eva02=EVA02, post_norm=POST_NORM, pe=PE, bare=BARE)


@register_model
def eva_small_test(pretrained=False, pretrained_cfg=None, pretrained_cfg_overlay=None, cache_dir=None, **kwargs):
    return Eva(img_size=SIDE, patch_size=4, **SMALL[building], **kwargs)


def pixels(batch, side):
    """A formula, so that no file carries them."""
    index = torch.arange(batch * 3 * side * side)
    return ((index * index // 7 * 7919) % 1013 / 506 - 1).float().reshape(batch, 3, side, side)


def build(name):
    global building
    building = name
    pool = "map" if name in ("pe", "bare") else "token"
    vision = dict(image_size=SIDE, timm_model_name="eva_small_test", timm_pool=pool, timm_proj=None)
    torch.manual_seed(0)
    model = CLIP(6, vision, TEXT, output_dict=True).eval()
    with torch.no_grad():  # move every parameter off its special initial value
        for parameter in model.parameters():
            parameter.add_(0.4 * torch.randn_like(parameter))
    return model.double()


images = pixels(3, SIDE).double()
tokens = torch.tensor([[8, 3, 9, 0], [8, 7, 1, 9], [8, 9, 0, 0]])
tensors = {}
for name in ("eva01", "eva02", "post_norm", "pe"):
    model = build(name)
    found = {f"model.{key}": value.clone() for key, value in model.state_dict().items()}
    out = model(images, tokens)
    loss = ClipLoss()(out["image_features"], out["text_features"], out["logit_scale"])
    loss.backward()
    found |= {f"grad.{key}": value.grad.clone() for key, value in model.named_parameters()}
    found |= {
        "tokens": tokens.to(torch.int32),
        "image_features": out["image_features"].detach().clone(),
        "text_features": out["text_features"].detach().clone(),
        "loss": loss.detach().reshape(1),
    }
    tensors |= {f"{name}.{key}": value for key, value in found.items()}

bare = build("bare")
weights = model.visual.state_dict()
del weights["trunk.cls_token"]
weights["trunk.pos_embed"] = weights["trunk.pos_embed"][:, 1:]
bare.visual.load_state_dict(weights)
with torch.no_grad():
    tensors["bare.image_features"] = normalize(bare.encode_image(images), dim=-1)
tensors = {key: value.float() if value.is_floating_point() else value for key, value in tensors.items()}
save_file(tensors, "small_eva.safetensors")
