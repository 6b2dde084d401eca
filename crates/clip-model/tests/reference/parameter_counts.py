"""Writes parameter_counts.json: for each preset of OpenCLIP's that is here too, `sum(p.numel())` of the model.

    pip install -r requirements.txt && python parameter_counts.py

Hugging Face's text encoders are built of the numbers below, which the hub's configurations have, not of its weights.
"""

import json
import pathlib

import open_clip
import torch
from transformers import AutoConfig, M2M100Config, RobertaConfig, XLMRobertaConfig

BASE = dict(max_position_embeddings=514, type_vocab_size=1, layer_norm_eps=1e-5)
LARGE = BASE | dict(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096)
NLLB = dict(vocab_size=256206, d_model=1024, encoder_attention_heads=16)
HUB = {
    "roberta-base": RobertaConfig(vocab_size=50265, **BASE),
    "xlm-roberta-base": XLMRobertaConfig(vocab_size=250002, **BASE),
    "xlm-roberta-large": XLMRobertaConfig(vocab_size=250002, **LARGE),
    "facebook/nllb-200-distilled-600M": M2M100Config(encoder_layers=12, encoder_ffn_dim=4096, **NLLB),
    "facebook/nllb-200-distilled-1.3B": M2M100Config(encoder_layers=24, encoder_ffn_dim=8192, **NLLB),
}
AutoConfig.from_pretrained = HUB.__getitem__

presets = sorted(path.stem for path in pathlib.Path("../../presets").glob("*.json"))
counts = {}
for name in presets:
    if name in open_clip.list_models():
        with torch.device("meta"):
            model = open_clip.create_model(name, load_weights=False, device="meta", pretrained_text=False)
        counts[name] = sum(parameter.numel() for parameter in model.parameters())
        print(name, counts[name], flush=True)
with open("parameter_counts.json", "w", encoding="utf-8") as file:
    json.dump(counts, file, indent=1)
    file.write("\n")
