"""Writes small_vit.safetensors: a small OpenCLIP model, inputs, and what OpenCLIP makes of them.

    pip install -r requirements.txt && python small_vit.py

Tensors: `model.*` the state dict, `tokens`, `image_features`, `text_features` (normalised), `loss` (OpenCLIP's
ClipLoss), `grad.*` its gradient by every parameter. Images are those of small_resnet.py.
"""

import torch
from open_clip.loss import ClipLoss
from open_clip.model import CLIP
from safetensors.torch import save_file

VISION = dict(image_size=16, layers=2, width=8, head_width=4, patch_size=8)
TEXT = dict(context_length=8, vocab_size=50, width=8, heads=2, layers=2)


def pixels(batch, side):
    """A formula, so that no file carries them."""
    index = torch.arange(batch * 3 * side * side)
    return ((index * index // 7 * 7919) % 1013 / 506 - 1).float().reshape(batch, 3, side, side)


torch.manual_seed(0)
tensors = {}
for name, quick_gelu in [("gelu", False), ("quick_gelu", True)]:
    model = CLIP(8, VISION, TEXT, quick_gelu=quick_gelu, output_dict=True)
    with torch.no_grad():  # move every parameter off its special initial value
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    images = pixels(4, 16)
    tokens = torch.tensor(
        [[48, 3, 49, 0, 0, 0, 0, 0], [48, 7, 1, 9, 2, 5, 6, 49], [48, 30, 12, 49, 0, 0, 0, 0], [48, 49, 0, 0, 0, 0, 0, 0]]
    )
    out = model(images, tokens)
    loss = ClipLoss()(out["image_features"], out["text_features"], out["logit_scale"])
    loss.backward()
    tensors |= {f"{name}.model.{key}": value.clone() for key, value in model.state_dict().items() if key != "attn_mask"}
    tensors |= {f"{name}.grad.{key}": value.grad.clone() for key, value in model.named_parameters()}
    tensors |= {
        f"{name}.tokens": tokens.to(torch.int32),
        f"{name}.image_features": out["image_features"].detach().clone(),
        f"{name}.text_features": out["text_features"].detach().clone(),
        f"{name}.loss": loss.detach().reshape(1),
    }
save_file(tensors, "small_vit.safetensors")
