"""Writes the presets that are OpenCLIP's, and presets.json: `sum(p.numel())` of each model and the SHA-256 of its file.

    pip install -r requirements.txt && python presets.py

Which presets there are is the list in src/presets.rs. Each file is the package's own. Hugging Face's text encoders are
built of the numbers below, which the hub's configurations have, not of its weights.
"""

import hashlib
import json
import pathlib
import re

import open_clip
import torch
from transformers import AutoConfig, M2M100Config, RobertaConfig, XLMRobertaConfig

CRATE = pathlib.Path(__file__).resolve().parents[2]
CONFIGS = pathlib.Path(open_clip.__file__).parent / "model_configs"

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


def count(name):
    """Parameters of the model, without the memory that they would take."""
    with torch.device("meta"):
        model = open_clip.create_model(name, load_weights=False, device="meta", pretrained_text=False)
    return sum(parameter.numel() for parameter in model.parameters())


listed = (CRATE / "src" / "presets.rs").read_text("utf-8")
names = re.findall(r'^    "([^"]+)",$', re.search(r"presets!\[\n(.*?)\n\];", listed, re.S)[1], re.M)
presets = {}
for name in sorted(set(names) & set(open_clip.list_models())):
    config = (CONFIGS / f"{name}.json").read_bytes()
    (CRATE / "presets" / f"{name}.json").write_bytes(config)
    presets[name] = {"parameters": count(name), "sha256": hashlib.sha256(config).hexdigest()}
    print(name, presets[name]["parameters"], flush=True)
with open(CRATE / "tests" / "reference" / "presets.json", "w", encoding="utf-8") as file:
    json.dump(presets, file, indent=1)
    file.write("\n")
