"""Writes ../../published.json: where OpenCLIP finds the published weights of each preset that is here too, by its tag, and
what is other than CLIP's in how it makes images ready for them; and the file there, where OpenCLIP names one.

    pip install -r requirements.txt && python published.py
"""

import json
import pathlib

from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from open_clip.pretrained import _PRETRAINED

CLIP = {"mean": OPENAI_DATASET_MEAN, "std": OPENAI_DATASET_STD, "interpolation": "bicubic", "resize_mode": "shortest"}


def entry(about):
    organisation, name, file = about["hf_hub"].split("/")
    preprocess = {key: about[key] for key, value in CLIP.items() if about.get(key, value) != value}
    details = {"file": file} if file else {}
    details |= {"preprocess": preprocess} if preprocess else {}
    hub = f"{organisation}/{name}"
    return {"hub": hub} | details if details else hub


presets = pathlib.Path("../../presets")
names = sorted(path.stem for path in presets.glob("*.json"))
found = {}
for name in names:
    tags = _PRETRAINED.get(name, {})
    # One without a hub's model is found elsewhere.
    hub = {tag: entry(about) for tag, about in tags.items() if about["hf_hub"]}
    if hub:
        found[name] = hub
text = json.dumps({name: {tag: None for tag in tags} for name, tags in found.items()}, indent=1)
for tags in found.values():
    for weights in tags.values():
        text = text.replace("null", json.dumps(weights), 1)  # a line each
pathlib.Path("../../published.json").write_text(text + "\n", encoding="utf-8")
