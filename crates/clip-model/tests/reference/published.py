"""Writes ../../published.json: where OpenCLIP finds the published weights of each preset that is here too, by its tag, and
what is other than CLIP's in how it makes images ready for them.

    pip install -r requirements.txt && python published.py
"""

import json
import pathlib

from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from open_clip.pretrained import _PRETRAINED

CLIP = {"mean": OPENAI_DATASET_MEAN, "std": OPENAI_DATASET_STD, "interpolation": "bicubic", "resize_mode": "shortest"}


def entry(about):
    hub = about["hf_hub"].rstrip("/")
    preprocess = {key: about[key] for key, value in CLIP.items() if about.get(key, value) != value}
    return {"hub": hub, "preprocess": preprocess} if preprocess else hub


presets = pathlib.Path("../../presets")
names = sorted(path.stem for path in presets.glob("*.json"))
found = {}
for name in names:
    tags = _PRETRAINED.get(name, {})
    # One without a hub's model, or with a file of its own there, is found elsewhere.
    hub = {tag: entry(about) for tag, about in tags.items() if about["hf_hub"].endswith("/")}
    if hub:
        found[name] = hub
text = json.dumps({name: {tag: None for tag in tags} for name, tags in found.items()}, indent=1)
for tags in found.values():
    for weights in tags.values():
        text = text.replace("null", json.dumps(weights), 1)  # a line each
pathlib.Path("../../published.json").write_text(text + "\n", encoding="utf-8")
