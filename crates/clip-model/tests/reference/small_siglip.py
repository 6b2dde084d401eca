"""Writes small_siglip.safetensors: a small SigLIP as OpenCLIP builds it, inputs, and what OpenCLIP makes of them.

    pip install -r requirements.txt && python small_siglip.py

Tensors: `model.*` the state dict, `images`, `tokens`, `image_features`, `text_features` (normalised), `loss`
(OpenCLIP's ClipLoss, for gradients of the encoders alone), `grad.*` its gradient by every parameter of theirs.
"""

import timm
import torch
from open_clip.loss import ClipLoss
from open_clip.model import CustomTextCLIP
from safetensors.torch import save_file

VISION = dict(image_size=224, timm_model_name="vit_base_patch16_siglip_224", timm_pool="map", timm_proj="none")
TEXT = dict(
    context_length=6,
    vocab_size=20,
    width=8,
    heads=2,
    layers=1,
    no_causal_mask=True,
    proj_bias=True,
    pool_type="last",
    norm_kwargs=dict(eps=1e-6),
    act_kwargs=dict(approximate="tanh"),
)
# The same code of timm's at a size for a test.
SMALL = dict(img_size=16, patch_size=4, embed_dim=8, depth=2, num_heads=2, mlp_ratio=3.5, num_classes=0)

torch.manual_seed(0)
model = CustomTextCLIP(8, VISION, TEXT, init_logit_bias=-10, output_dict=True)
model.visual.trunk = timm.create_model(VISION["timm_model_name"], global_pool="map", **SMALL)
with torch.no_grad():  # move every parameter off its special initial value
    for parameter in model.parameters():
        parameter.add_(0.05 * torch.randn_like(parameter))
images = torch.randn(3, 3, 16, 16)
tokens = torch.tensor([[3, 12, 1, 0, 0, 0], [7, 1, 9, 2, 5, 1], [15, 4, 4, 1, 0, 0]])
out = model(images, tokens)
loss = ClipLoss()(out["image_features"], out["text_features"], out["logit_scale"])
loss.backward()
tensors = {f"model.{key}": value.clone() for key, value in model.state_dict().items()}
tensors |= {f"grad.{key}": value.grad.clone() for key, value in model.named_parameters() if value.grad is not None}
tensors |= {
    "images": images,
    "tokens": tokens.to(torch.int32),
    "image_features": out["image_features"].detach().clone(),
    "text_features": out["text_features"].detach().clone(),
    "loss": loss.detach().reshape(1),
}
save_file(tensors, "small_siglip.safetensors")
