"""Checks that OpenCLIP and transformers load what `clip weights export` writes, and agree with `clip embed`.

    python -m venv venv && venv/bin/pip install -r requirements.txt
    cargo run --release --example random_model -- ViT-S-32 /tmp/model     # or a trained or imported model
    venv/bin/python export_parity.py /tmp/model ../../target/release/clip

Exports the model in both layouts, computes normalised features of pictures and captions by three programs, and exits
with 1 if any two differ by more than 1e-5.
"""

import argparse
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import open_clip
import torch
from PIL import Image
from safetensors.numpy import load_file
from transformers import CLIPModel, CLIPProcessor

# All compute in float32, in other orders of sums.
LARGEST_DIFFERENCE = 1e-5
TEXTS = ["a photo of a cat.", "A Photo of two DOGS, running!", "it's a naïve café", "1234 numbers", "x"]


def pictures(folder, size):
    """Pictures of the model's own size, so that no resampling is compared."""
    random = np.random.default_rng(0)
    ramp = np.add.outer(np.arange(size), np.arange(size))
    waves = np.stack([127 + 127 * np.sin(ramp / speed) for speed in (7, 11, 31)], axis=-1).astype(np.uint8)
    paths = [folder / "noise.png", folder / "waves.png"]
    Image.fromarray(random.integers(0, 256, (size, size, 3), dtype=np.uint8)).save(paths[0])
    Image.fromarray(waves).save(paths[1])
    return paths


def normalised(features):
    return torch.nn.functional.normalize(features, dim=-1).numpy()


def by_open_clip(folder, paths):
    name = f"local-dir:{folder}"
    model, _, preprocess = open_clip.create_model_and_transforms(name)
    pixels = torch.stack([preprocess(Image.open(path)) for path in paths])
    tokens = open_clip.get_tokenizer(name)(TEXTS)
    with torch.no_grad():
        return normalised(model.eval().encode_image(pixels)), normalised(model.encode_text(tokens))


def by_transformers(folder, paths):
    model, processor = CLIPModel.from_pretrained(folder).eval(), CLIPProcessor.from_pretrained(folder)
    inputs = processor(text=TEXTS, images=[Image.open(path) for path in paths], return_tensors="pt", padding=True)
    with torch.no_grad():
        out = model(**inputs)
    return normalised(out.image_embeds), normalised(out.text_embeds)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=pathlib.Path, help="a model directory")
    parser.add_argument("clip", type=pathlib.Path, help="the clip program")
    args = parser.parse_args()

    def clip(*arguments):
        subprocess.run([str(args.clip.resolve()), *map(str, arguments)], check=True)

    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        for layout in ("openclip", "hf"):
            clip("weights", "export", args.model, "--format", layout, "--out", folder / layout)
        size = CLIPModel.from_pretrained(folder / "hf").config.vision_config.image_size
        paths = pictures(folder, size)
        (folder / "texts.txt").write_text("\n".join(TEXTS) + "\n", encoding="utf-8")
        inputs = ["--images", *paths, "--texts", folder / "texts.txt"]
        clip("embed", "--model", args.model, *inputs, "--out", folder / "features.safetensors")
        ours = load_file(folder / "features.safetensors")
        found = {
            "clip": (ours["image_features"], ours["text_features"]),
            "open_clip": by_open_clip(folder / "openclip", paths),
            "transformers": by_transformers(folder / "hf", paths),
        }
    worst = 0.0
    for first, second in (("clip", "open_clip"), ("clip", "transformers"), ("open_clip", "transformers")):
        for what, one, other in zip(("images", "texts"), found[first], found[second]):
            difference = float(np.abs(one - other).max())
            print(f"{first} and {second}, {what}: {difference:.1e}")
            worst = max(worst, difference)
    if not worst <= LARGEST_DIFFERENCE:
        sys.exit(1)


if __name__ == "__main__":
    main()
