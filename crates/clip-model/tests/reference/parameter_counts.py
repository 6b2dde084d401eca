"""Writes parameter_counts.json: for each preset of OpenCLIP's that is here too, `sum(p.numel())` of the model.

    pip install -r requirements.txt && python parameter_counts.py
"""

import json
import pathlib

import open_clip
import torch

presets = sorted(path.stem for path in pathlib.Path("../../presets").glob("*.json"))
counts = {}
for name in presets:
    if name in open_clip.list_models():
        with torch.device("meta"):
            model = open_clip.create_model(name, load_weights=False, device="meta")
        counts[name] = sum(parameter.numel() for parameter in model.parameters())
        print(name, counts[name], flush=True)
with open("parameter_counts.json", "w", encoding="utf-8") as file:
    json.dump(counts, file, indent=1)
    file.write("\n")
