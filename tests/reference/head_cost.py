"""OpenCLIP's side of a classifier head of ImageNet's 1,000 classes and 80 templates, both its own.

    venv/bin/python head_cost.py FOLDER CLASSES

Writes `classes.txt` and `templates.txt`, as `clip eval zeroshot` reads them, to FOLDER; then times
`build_zero_shot_classifier` of ViT-B-32 with random weights for the first CLASSES, on the CPU in float32.
"""

import argparse
import pathlib
import resource
import time

import open_clip
import torch


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("classes", type=int)
    args = parser.parse_args()
    names, templates = open_clip.IMAGENET_CLASSNAMES, open_clip.OPENAI_IMAGENET_TEMPLATES
    (args.folder / "classes.txt").write_text("".join(f"{name}\n" for name in names))
    (args.folder / "templates.txt").write_text("".join(template("{}") + "\n" for template in templates))
    model = open_clip.create_model("ViT-B-32").eval()
    tokenizer = open_clip.get_tokenizer("ViT-B-32")
    with torch.no_grad():
        start = time.perf_counter()
        open_clip.build_zero_shot_classifier(model, tokenizer, names[: args.classes], templates)
        seconds = time.perf_counter() - start
    prompts = args.classes * len(templates)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{prompts} prompts: {seconds:.1f} s, {prompts / seconds:.1f} a second; peak {peak:.0f} MiB")


if __name__ == "__main__":
    main()
