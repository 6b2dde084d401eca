"""Writes distill_loss.safetensors: features of a small batch and of a teacher, and OpenCLIP's losses of them with their gradients.

    pip install -r requirements.txt && python distill_loss.py

Tensors: `image`, `text` (not normalised), `logit_scale` (the logarithm), the same of the teacher as `teacher.*`, `loss`,
`distill`, and `grad.*` of their sum by each of the student's.
"""

import torch
import torch.nn.functional as F
from open_clip.loss import DistillClipLoss
from safetensors.torch import save_file

torch.manual_seed(0)
student = {
    "image": torch.randn(5, 6),
    "text": torch.randn(5, 6),
    "logit_scale": torch.tensor([1.7]),
}
teacher = {
    "image": torch.randn(5, 8),
    "text": torch.randn(5, 8),
    "logit_scale": torch.tensor([2.3]),
}
for tensor in student.values():
    tensor.requires_grad_()


def seen(model):
    image, text = (F.normalize(model[side], dim=-1) for side in ("image", "text"))
    return image, text, model["logit_scale"].exp()


loss, distill = DistillClipLoss()(*seen(student), *seen(teacher))
(loss + distill).backward()
tensors = {name: tensor.detach() for name, tensor in student.items()}
tensors |= {f"teacher.{name}": tensor for name, tensor in teacher.items()}
tensors |= {f"grad.{name}": tensor.grad for name, tensor in student.items()}
tensors |= {"loss": loss.detach().reshape(1), "distill": distill.detach().reshape(1)}
save_file(tensors, "distill_loss.safetensors")
