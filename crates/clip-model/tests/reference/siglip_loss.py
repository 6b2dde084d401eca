"""Writes siglip_loss.safetensors: features of a small batch, and OpenCLIP's sigmoid loss of them with its gradients.

    pip install -r requirements.txt && python siglip_loss.py

Tensors: `image`, `text` (not normalised), `logit_scale` (the logarithm), `logit_bias`, `loss`, and `grad.*` by each.
"""

import torch
import torch.nn.functional as F
from open_clip.loss import SigLipLoss
from safetensors.torch import save_file

torch.manual_seed(0)
given = {
    "image": torch.randn(5, 6),
    "text": torch.randn(5, 6),
    "logit_scale": torch.tensor([1.7]),
    "logit_bias": torch.tensor([-2.0]),
}
for tensor in given.values():
    tensor.requires_grad_()
image, text = (F.normalize(given[side], dim=-1) for side in ("image", "text"))
loss = SigLipLoss()(image, text, given["logit_scale"].exp(), given["logit_bias"])
loss.backward()
tensors = {name: tensor.detach() for name, tensor in given.items()}
tensors |= {f"grad.{name}": tensor.grad for name, tensor in given.items()}
tensors["loss"] = loss.detach().reshape(1)
save_file(tensors, "siglip_loss.safetensors")
