"""Writes small_roberta.safetensors: a small RoBERTa text encoder as OpenCLIP builds it, and what OpenCLIP makes of it.

    pip install -r requirements.txt && python small_roberta.py

Tensors: `model.*` the state dict, with `hf_proj_type` "mlp" and `hf_pooler_type` "mean_pooler", `tokens`, `image_features`,
`text_features` (normalised), `loss` (OpenCLIP's ClipLoss), `grad.*` its gradient by every parameter;
`cls_pooler.text.*` what a model with `cls_pooler` and `hf_proj_type` "linear" has beside the same layers, and its
`cls_pooler.text_features`. Images are those of small_resnet.py. All in float32, but computed in float64, so that the
reference's own rounding doesn't count.
"""

import open_clip.hf_model
import torch
from open_clip.loss import ClipLoss
from open_clip.model import CustomTextCLIP
from safetensors.torch import save_file
from torch.nn.functional import normalize
from transformers import RobertaConfig

SIDE = 8
VISION = dict(image_size=SIDE, layers=1, width=8, head_width=8, patch_size=SIDE)
# What the hub has of roberta-base, of a size for a test: pad_token_id is 1.
HUB = RobertaConfig(
    vocab_size=20, hidden_size=12, num_hidden_layers=2, num_attention_heads=2, intermediate_size=20,
    max_position_embeddings=10, type_vocab_size=1, layer_norm_eps=1e-5, attn_implementation="eager",
)
TEXT = dict(context_length=8, hf_model_name="small-roberta", hf_model_pretrained=False)
open_clip.hf_model.AutoConfig.from_pretrained = lambda name: HUB


def pixels(batch, side):
    """A formula, so that no file carries them."""
    index = torch.arange(batch * 3 * side * side)
    return ((index * index // 7 * 7919) % 1013 / 506 - 1).float().reshape(batch, 3, side, side)


def build(pooler, projection):
    torch.manual_seed(0)
    text = TEXT | dict(hf_pooler_type=pooler, hf_proj_type=projection)
    model = CustomTextCLIP(6, VISION, text, output_dict=True).eval()  # no dropout
    with torch.no_grad():  # move every parameter off its special initial value
        for parameter in model.parameters():
            parameter.add_((0.4 if parameter.ndim == 1 else 0.1) * torch.randn_like(parameter))
    return model.double()


model = build("mean_pooler", "mlp")
images = pixels(4, SIDE).double()
tokens = torch.tensor([
    [0, 7, 12, 2, 1, 1, 1, 1], [0, 5, 9, 19, 3, 8, 4, 2], [0, 17, 2, 1, 1, 1, 1, 1], [0, 6, 1, 14, 2, 1, 1, 1]])
tensors = {f"model.{key}": value.clone() for key, value in model.state_dict().items()}
out = model(images, tokens)
loss = ClipLoss()(out["image_features"], out["text_features"], out["logit_scale"])
loss.backward()
tensors |= {f"grad.{key}": value.grad.clone() for key, value in model.named_parameters()}
other = build("cls_pooler", "linear")
for part in ["embeddings", "encoder"]:
    setattr(other.text.transformer, part, getattr(model.text.transformer, part))
with torch.no_grad():
    tensors["cls_pooler.text_features"] = normalize(other.encode_text(tokens), dim=-1)
own = ["transformer.pooler.dense.weight", "transformer.pooler.dense.bias", "proj.weight"]
tensors |= {f"cls_pooler.text.{key}": other.text.state_dict()[key].clone() for key in own}
tensors |= {
    "tokens": tokens.to(torch.int32),
    "image_features": out["image_features"].detach().clone(),
    "text_features": out["text_features"].detach().clone(),
    "loss": loss.detach().reshape(1),
}
tensors = {key: value.float() if value.is_floating_point() else value for key, value in tensors.items()}
save_file(tensors, "small_roberta.safetensors")
