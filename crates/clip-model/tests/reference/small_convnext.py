"""Writes small_convnext.safetensors: a small ConvNeXt as OpenCLIP builds it, and what OpenCLIP makes of it.

    pip install -r requirements.txt && python small_convnext.py

Tensors: `model.*` the state dict, with `timm_proj` "mlp", `tokens`, `image_features`, `text_features` (normalised), `loss`
(OpenCLIP's ClipLoss), `grad.*` its gradient by every parameter; `linear.proj` the projection of a model with `timm_proj`
"linear" and the same trunk, and its `linear.image_features`. Images are those of small_resnet.py, of a side that strides
leave a rest of. All in float32, but computed in float64, so that the reference's own rounding doesn't count.
"""

import torch
from open_clip.loss import ClipLoss
from open_clip.model import CLIP
from safetensors.torch import save_file
from timm.models import register_model
from timm.models.convnext import ConvNeXt
from torch.nn.functional import normalize

SIDE = 70
VISION = dict(image_size=SIDE, timm_model_name="convnext_small_test", timm_pool="", timm_drop_path=0.1)
TEXT = dict(context_length=4, vocab_size=10, width=4, heads=1, layers=1)


@register_model
def convnext_small_test(pretrained=False, pretrained_cfg=None, pretrained_cfg_overlay=None, cache_dir=None, **kwargs):
    model = ConvNeXt(depths=(1, 2, 1, 1), dims=(4, 6, 8, 10), **kwargs)
    model.default_cfg = {"pool_size": (7, 7)}  # as every ConvNeXt's; it only has to be there
    return model


def pixels(batch, side):
    """A formula, so that no file carries them."""
    index = torch.arange(batch * 3 * side * side)
    return ((index * index // 7 * 7919) % 1013 / 506 - 1).float().reshape(batch, 3, side, side)


def build(proj):
    torch.manual_seed(0)
    model = CLIP(6, VISION | dict(timm_proj=proj), TEXT, output_dict=True).eval()  # no block is skipped
    with torch.no_grad():  # move every parameter off its special initial value
        for parameter in model.parameters():
            parameter.add_((0.4 if parameter.ndim == 1 else 0.1) * torch.randn_like(parameter))
    return model.double()


model = build("mlp")
images = pixels(3, SIDE).double()
tokens = torch.tensor([[8, 3, 9, 0], [8, 7, 1, 9], [8, 9, 0, 0]])
tensors = {f"model.{key}": value.clone() for key, value in model.state_dict().items()}
out = model(images, tokens)
loss = ClipLoss()(out["image_features"], out["text_features"], out["logit_scale"])
loss.backward()
tensors |= {f"grad.{key}": value.grad.clone() for key, value in model.named_parameters()}
linear = build("linear")
linear.visual.trunk = model.visual.trunk
with torch.no_grad():
    tensors["linear.image_features"] = normalize(linear.encode_image(images), dim=-1)
tensors |= {
    "linear.proj": linear.visual.head.proj.weight.detach().clone(),
    "tokens": tokens.to(torch.int32),
    "image_features": out["image_features"].detach().clone(),
    "text_features": out["text_features"].detach().clone(),
    "loss": loss.detach().reshape(1),
}
tensors = {key: value.float() if value.is_floating_point() else value for key, value in tensors.items()}
save_file(tensors, "small_convnext.safetensors")
