"""Writes small_resnet.safetensors: a small OpenCLIP ResNet, and what OpenCLIP makes of it in training and after.

    pip install -r requirements.txt && python small_resnet.py

Tensors: `tokens`, `image_features`, `text_features` (normalised, in training mode), `loss` (OpenCLIP's ClipLoss), `grad.*`
its gradient by every parameter, `after.*` the batch norms' buffers after that pass, `eval_image_features` (normalised, in
evaluation mode with those buffers). Weights are `values` below, and images `pixels`. All in float32, but computed in
float64: what a batch norm feeds into the next one has small gradients by cancellation, and the reference's own rounding
should not count.
"""

import math

import numpy as np
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


def values(name, shape):
    """Numbers that only the name decides, of which none is what a model begins with."""
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


model = CLIP(8, VISION, TEXT, output_dict=True).train()
model.load_state_dict({key: values(key, value.shape) for key, value in model.state_dict().items()})
model = model.double()
images = pixels(4, 64).double()
tokens = torch.tensor([[8, 3, 9, 0], [8, 7, 1, 9], [8, 5, 2, 9], [8, 9, 0, 0]])
out = model(images, tokens)
loss = ClipLoss()(out["image_features"], out["text_features"], out["logit_scale"])
loss.backward()
tensors = {f"grad.{key}": value.grad.clone() for key, value in model.named_parameters()}
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
