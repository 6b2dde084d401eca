"""Writes small_resnet.safetensors: a small OpenCLIP ResNet, and what OpenCLIP makes of it in training and after.

    pip install -r requirements.txt && python small_resnet.py

Tensors: `model.*` the state dict before the step, `tokens`, `image_features`, `text_features` (normalised, in training
mode), `loss` (OpenCLIP's ClipLoss), `grad.*` its gradient by every parameter, `after.*` the batch norms' buffers after
that pass, `eval_image_features` (normalised, in evaluation mode with those buffers). Images are `pixels` below. All in
float32, but computed in float64: what a batch norm feeds into the next one has small gradients by cancellation, and the
reference's own rounding should not count.
"""

import torch
from open_clip.loss import ClipLoss
from open_clip.model import CLIP
from safetensors.torch import save_file
from torch.nn.functional import normalize

VISION = dict(image_size=64, layers=[1, 2, 1, 1], width=2, head_width=16)
TEXT = dict(context_length=4, vocab_size=10, width=8, heads=2, layers=1)


def pixels(batch, side):
    """A formula, so that no file carries them."""
    index = torch.arange(batch * 3 * side * side)
    return ((index * index // 7 * 7919) % 1013 / 506 - 1).float().reshape(batch, 3, side, side)


torch.manual_seed(0)
model = CLIP(8, VISION, TEXT, output_dict=True).train()
with torch.no_grad():  # move every parameter and buffer off its special initial value
    for parameter in model.parameters():
        parameter.add_((0.4 if parameter.ndim == 1 else 0.1) * torch.randn_like(parameter))
    for name, buffer in model.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            buffer.add_(0.2 * torch.rand_like(buffer))
        if name.endswith("num_batches_tracked"):
            buffer.add_(3)
model = model.double()
images = pixels(4, 64).double()
tokens = torch.tensor([[8, 3, 9, 0], [8, 7, 1, 9], [8, 5, 2, 9], [8, 9, 0, 0]])
tensors = {f"model.{key}": value.clone() for key, value in model.state_dict().items()}
out = model(images, tokens)
loss = ClipLoss()(out["image_features"], out["text_features"], out["logit_scale"])
loss.backward()
tensors |= {f"grad.{key}": value.grad.clone() for key, value in model.named_parameters()}
buffers = {key: value for key, value in model.state_dict().items() if ".running_" in key or key.endswith("tracked")}
tensors |= {f"after.{key}": value.clone() for key, value in buffers.items()}
with torch.no_grad():
    tensors["eval_image_features"] = normalize(model.eval().encode_image(images), dim=-1)
tensors |= {
    "tokens": tokens.to(torch.int32),
    "image_features": out["image_features"].detach().clone(),
    "text_features": out["text_features"].detach().clone(),
    "loss": loss.detach().reshape(1),
}
tensors = {key: value.float() if value.is_floating_point() else value for key, value in tensors.items()}
save_file(tensors, "small_resnet.safetensors")
