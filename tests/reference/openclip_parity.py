"""Checks that OpenCLIP loads a model directory of ours and computes the features that `clip embed` writes.

    python -m venv venv && venv/bin/pip install -r requirements.txt
    cargo run --release --example random_model -- ViT-Nano-6-36 /tmp/model     # or a trained model
    venv/bin/python openclip_parity.py /tmp/model ../../target/release/clip

Prints the smallest cosine and exits with 1 when one is below 0.9999, or when the two disagree on what a model is.
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

# Both compute in float32, in another order of sums; a wrong layer or pixel changes the second digit.
SMALLEST_COSINE = 0.9999

TEXTS = [
    "a photo of a cat.",
    "A Photo  of two DOGS, running!",
    "it's a naïve café — déjà vu?",
    "日本の写真 and an emoji \U0001f600",
    "1234 numbers & <b>tags</b> &amp; entities",
    "x",
    " ".join(["a very long caption that does not fit"] * 20),
]


def images(folder):
    """Pictures that differ in what a reader may get wrong: proportions, noise, grey and palettes."""
    random = np.random.default_rng(0)
    noise = random.integers(0, 256, (150, 100, 3), dtype=np.uint8)
    ramp = np.add.outer(np.arange(90), np.arange(300))
    waves = np.stack([127 + 127 * np.sin(ramp / speed) for speed in (7, 11, 31)], axis=-1).astype(np.uint8)
    pictures = {
        "noise.png": Image.fromarray(noise),
        "wide.png": Image.fromarray(waves),
        "photo.jpg": Image.fromarray(waves).resize((480, 320)),
        "small.webp": Image.fromarray(waves[:40, :50]),
        "grey.png": Image.fromarray(waves[..., 0]),
        "palette.png": Image.fromarray(waves).quantize(32),
    }
    paths = []
    for name, picture in pictures.items():
        paths.append(folder / name)
        picture.save(paths[-1], **({"lossless": True} if name.endswith("webp") else {}))
    return paths


def cosines(ours, theirs, rows, what):
    if ours.shape != theirs.shape:
        sys.exit(f"{what}: clip wrote {ours.shape}, OpenCLIP computes {theirs.shape}")
    found = (ours * theirs).sum(axis=1) / np.linalg.norm(ours, axis=1) / np.linalg.norm(theirs, axis=1)
    for row, cosine in zip(rows, found):
        if not cosine >= SMALLEST_COSINE:
            print(f"{what} `{str(row)[:60]}`: cosine {cosine:.6f}")
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=pathlib.Path, help="a model directory")
    parser.add_argument("clip", type=pathlib.Path, help="the clip program")
    parser.add_argument("--images", type=pathlib.Path, nargs="+", help="instead of the six made here")
    args = parser.parse_args()
    name = f"local-dir:{args.model.resolve()}"
    model, _, preprocess = open_clip.create_model_and_transforms(name)
    model.eval()
    tokenizer = open_clip.get_tokenizer(name)
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        paths = args.images or images(folder)
        texts, out = folder / "texts.txt", folder / "features.safetensors"
        texts.write_text("\n".join(TEXTS) + "\n", encoding="utf-8")
        command = [args.clip.resolve(), "embed", "--model", args.model.resolve(), "--images", *paths]
        subprocess.run([*map(str, command), "--texts", str(texts), "--out", str(out)], check=True)
        ours = load_file(out)
        with torch.no_grad():
            # To RGB first, as OpenCLIP's shard loader does (`pilrgb`): the bare transform resizes a picture with a
            # palette before it has colours, by the nearest pixel.
            pixels = torch.stack([preprocess(Image.open(path).convert("RGB")) for path in paths])
            image_features = model.encode_image(pixels).numpy()
            text_features = model.encode_text(tokenizer(TEXTS)).numpy()
    found = np.concatenate([
        cosines(ours["image_features"], image_features, [path.name for path in paths], "image"),
        cosines(ours["text_features"], text_features, TEXTS, "text"),
    ])
    median = np.median(found[: len(paths)])
    print(f"{len(paths)} images (median {median:.7f}), {len(TEXTS)} texts: smallest cosine {found.min():.7f}")
    if not (found >= SMALLEST_COSINE).all():
        sys.exit(1)


if __name__ == "__main__":
    main()
