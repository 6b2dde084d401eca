"""Writes ../../published.json: where OpenCLIP finds the published weights of each preset that is here too, by its tag.

    pip install -r requirements.txt && python published.py
"""

import json
import pathlib

from open_clip.pretrained import _PRETRAINED

presets = pathlib.Path("../../presets")
names = sorted(path.stem for path in presets.glob("*.json"))
found = {}
for name in names:
    tags = _PRETRAINED.get(name, {})
    # One without a hub's model, or with a file of its own there, is found elsewhere.
    hub = {tag: about["hf_hub"] for tag, about in tags.items() if about["hf_hub"].endswith("/")}
    if hub:
        found[name] = {tag: model.rstrip("/") for tag, model in hub.items()}
with open("../../published.json", "w", encoding="utf-8") as file:
    json.dump(found, file, indent=1)
    file.write("\n")
