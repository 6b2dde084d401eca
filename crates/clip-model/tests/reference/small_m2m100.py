"""Writes small_m2m100.safetensors: a small M2M100 text encoder as OpenCLIP builds it for NLLB, and its features.

    pip install -r requirements.txt && python small_m2m100.py

Tensors: `model.text.*` the state dict, with `hf_proj_type` "linear" and `hf_pooler_type` "cls_pooler", `tokens`,
`text_features` (not normalised), `grad.text.*` the gradient of `sum(sin(text_features))` by every parameter. All in float32,
but computed in float64.
"""

import open_clip.hf_model
import torch
from open_clip.hf_model import HFTextEncoder
from safetensors.torch import save_file
from transformers import M2M100Config

# What the hub has of facebook/nllb-200-distilled-600M, of a size for a test: pad_token_id is 1.
HUB = M2M100Config(
    vocab_size=20, d_model=8, encoder_layers=2, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
    encoder_ffn_dim=12, decoder_ffn_dim=4, max_position_embeddings=16, scale_embedding=True,
    activation_function="relu", attn_implementation="eager",
)
open_clip.hf_model.AutoConfig.from_pretrained = lambda name: HUB

torch.manual_seed(0)
model = HFTextEncoder("small-m2m100", 6, pooler_type="cls_pooler", proj_type="linear", pretrained=False).eval()
with torch.no_grad():  # move every parameter off its special initial value
    for parameter in model.parameters():
        parameter.add_((0.4 if parameter.ndim == 1 else 0.3) * torch.randn_like(parameter))
positions = model.transformer.embed_positions.weights.clone()
model = model.double()
model.transformer.embed_positions.weights = positions.double()
tokens = torch.tensor([
    [11, 7, 12, 2, 1, 1, 1, 1], [13, 5, 9, 19, 3, 8, 4, 2], [11, 17, 2, 1, 1, 1, 1, 1], [15, 6, 1, 14, 2, 1, 1, 1]])
features = model(tokens)
features.sin().sum().backward()
tensors = {f"model.text.{key}": value.clone() for key, value in model.state_dict().items()}
tensors |= {f"grad.text.{key}": value.grad.clone() for key, value in model.named_parameters()}
tensors |= {"tokens": tokens.to(torch.int32), "text_features": features.detach().clone()}
tensors = {key: value.float() if value.is_floating_point() else value for key, value in tensors.items()}
save_file(tensors, "small_m2m100.safetensors")
