"""Writes vision_variants.json: OpenCLIP's features of a small vision transformer with the keys that the paper's has not.

    pip install -r requirements.txt && python vision_variants.py

Weights and the image are a formula of their names and places, which the test computes too.
"""

import json
import math

import open_clip
import torch

VISION = {"image_size": 12, "layers": 2, "width": 8, "head_width": 4, "patch_size": 4}
TEXT = {"context_length": 4, "vocab_size": 6, "width": 4, "heads": 1, "layers": 1}
VARIANTS = [
    {},
    {"pool_type": "avg"},
    {"pool_type": "avg", "final_ln_after_pool": True},
    {"no_ln_pre": True, "pool_type": "avg", "final_ln_after_pool": True},
    {"ls_init_value": 0.1},
]


def values(name, shape):
    phase = sum(name.encode()) % 100
    count = math.prod(shape)
    return torch.tensor([math.sin(0.37 * i * i + phase) for i in range(count)]).reshape(shape)


found = []
for variant in VARIANTS:
    model = open_clip.CLIP(6, VISION | variant, TEXT).eval()
    state = {name: values(name, tensor.shape) for name, tensor in model.state_dict().items()}
    model.load_state_dict(state)
    with torch.no_grad():
        features = model.encode_image(values("image", (1, 3, 12, 12)))
    found.append({"vision_cfg": VISION | variant, "features": [round(x, 6) for x in features[0].tolist()]})
with open("vision_variants.json", "w", encoding="utf-8") as file:
    json.dump({"embed_dim": 6, "text_cfg": TEXT, "variants": found}, file, indent=1)
    file.write("\n")
