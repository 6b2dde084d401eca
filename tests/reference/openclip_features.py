"""Checks at full size that OpenCLIP computes the features that this project does, from the same random weights.

    python -m venv venv && venv/bin/pip install -r requirements.txt
    cargo xtask parity --python venv/bin/python [PRESET...]

For each preset, `parity` (an example of clip-model) writes a model directory, images, tokens and their features; OpenCLIP
loads the directory strictly and encodes the same. Prints a table and exits with 1 when a feature vector, or a token's
caption logits where there are any, is off by more than 1e-4 of its length.
"""

import argparse
import gc
import pathlib
import subprocess
import sys
import tempfile

import open_clip
import torch
from safetensors.torch import load_file

# Both compute in float32, in another order of sums; a wrong layer changes the first digits.
TOLERANCE = 1e-4


def largest_error(ours, theirs):
    return ((ours - theirs).norm(dim=-1) / theirs.norm(dim=-1)).max().item()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program", type=pathlib.Path, help="the built example `parity`")
    parser.add_argument("presets", nargs="+")
    args = parser.parse_args()
    print(f"open_clip_torch {open_clip.__version__}, torch {torch.__version__}: largest relative error of a feature vector\n")
    print("| preset | parameters | image features | text features | caption logits |\n|---|---|---|---|---|", flush=True)
    good = True
    for preset in args.presets:
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run([str(args.program.resolve()), preset, folder], check=True)
            ours = load_file(pathlib.Path(folder) / "parity.safetensors")
            model = open_clip.create_model(f"local-dir:{folder}").eval()
        with torch.no_grad():
            # CoCa normalises unless told not to.
            images, tokens = ours["images"], ours["tokens"].long()
            image = largest_error(ours["image_features"], model.encode_image(images, normalize=False))
            text = largest_error(ours["text_features"], model.encode_text(tokens, normalize=False))
            caption = None
            if "caption_logits" in ours:
                caption = largest_error(ours["caption_logits"], model(images, tokens, output_labels=False)["logits"])
        params = sum(parameter.numel() for parameter in model.parameters())
        told = "" if caption is None else f"{caption:.1e}"
        print(f"| {preset} | {params:,} | {image:.1e} | {text:.1e} | {told} |", flush=True)
        good = good and max(image, text, caption or 0) <= TOLERANCE
        del model
        gc.collect()
    if not good:
        sys.exit(1)


if __name__ == "__main__":
    main()
