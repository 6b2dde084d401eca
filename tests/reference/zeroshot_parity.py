"""Checks that `clip eval` and `clip classify` give what OpenCLIP's own evaluation gives for the same model and files.

    python -m venv venv && venv/bin/pip install -r requirements.txt
    cargo run --release --example random_model -- ViT-S-32 /tmp/model     # or a trained or imported model
    venv/bin/python zeroshot_parity.py /tmp/model ../../target/release/clip

Makes labelled and captioned pictures, then compares the classifier head with `build_zero_shot_classifier`'s, the logits
as log-probabilities, the class found for each picture, and retrieval with `open_clip_train`'s `get_clip_metrics`. Exits
with 1 where head or log-probabilities differ by more than 1e-5, or another class or recall can't be due to that.
"""

import argparse
import io
import json
import pathlib
import subprocess
import sys
import tarfile
import tempfile

import numpy as np
import open_clip
import torch
from open_clip_train.train import get_clip_metrics
from PIL import Image
from safetensors.numpy import load_file

# All compute in float32, in other orders of sums.
LARGEST_DIFFERENCE = 1e-5
PICTURES = 200
DATASETS = pathlib.Path(__file__).resolve().parents[2] / "datasets"


def picture(random, size):
    """Blocks of colour under noise, of the model's own size, so that no resampling is compared."""
    side = int(random.integers(2, 8))
    blocks = Image.fromarray(random.integers(0, 256, (side, side, 3), dtype=np.uint8))
    blocks = np.asarray(blocks.resize((size, size), Image.Resampling.BILINEAR), dtype=np.int16)
    noise = random.normal(0, random.uniform(0, 60), (size, size, 1))
    return Image.fromarray(np.clip(blocks + noise, 0, 255).astype(np.uint8))


def write_set(folder, size, names, templates):
    """Pictures as files and as a shard, each with a class and a caption of its own."""
    random = np.random.default_rng(0)
    paths, labels, captions = [], [], []
    with tarfile.open(folder / "set.tar", "w") as tar:
        for at in range(PICTURES):
            labels.append(int(random.integers(len(names))))
            template = templates[at % len(templates)]
            captions.append(template.replace("{}", names[labels[-1]]) + f" number {at}")
            paths.append(folder / f"{at:06}.png")
            picture(random, size).save(paths[-1])
            for kind, content in (
                ("png", paths[-1].read_bytes()),
                ("cls", str(labels[-1]).encode()),
                ("txt", captions[-1].encode()),
            ):
                member = tarfile.TarInfo(f"{at:06}.{kind}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return paths, labels, captions


def check_recalls(image, text, ours):
    """Compares the recalls; one may be off by the pairs whose rank hangs on the last bits of two scores."""
    theirs = get_clip_metrics(torch.from_numpy(image), torch.from_numpy(text), 1.0)
    scores = image.astype(np.float64) @ text.T.astype(np.float64)
    own = np.diag(scores)
    good = True
    for ours_name, theirs_name, scores in (("i2t", "image_to_text", scores), ("t2i", "text_to_image", scores.T)):
        undecided = np.abs(scores - own[:, None]) < 1e-6
        np.fill_diagonal(undecided, False)
        least = (scores > own[:, None]) & ~undecided
        for k in (1, 5, 10):
            got, expected = ours[f"{ours_name}_r{k}"], theirs[f"{theirs_name}_R@{k}"]
            low = np.mean((least | undecided).sum(axis=1) < k)
            high = np.mean(least.sum(axis=1) < k)
            good = good and low <= got <= high
            print(f"{ours_name} R@{k}: clip {got:.4f}, OpenCLIP {expected:.4f}")
        for what in ("median", "mean"):
            got, expected = ours[f"{ours_name}_{what}_rank"], theirs[f"{theirs_name}_{what}_rank"]
            # The mean may move by every undecided pair.
            good = good and abs(got - expected) <= max(1e-9, undecided.sum() / len(own))
            print(f"{ours_name} {what} rank: clip {got:.3f}, OpenCLIP {expected:.3f}")
        print(f"{ours_name} pairs of scores closer than 1e-6: {int(undecided.sum())}")
    return good


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=pathlib.Path, help="a model directory")
    parser.add_argument("clip", type=pathlib.Path, help="the clip program")
    parser.add_argument("--classes", type=pathlib.Path, default=DATASETS / "cifar10" / "classes.txt")
    parser.add_argument("--templates", type=pathlib.Path, default=DATASETS / "cifar10" / "templates.txt")
    args = parser.parse_args()
    lines = (path.read_text(encoding="utf-8").splitlines() for path in (args.classes, args.templates))
    names, templates = ([line for line in part if line and not line.startswith("#")] for part in lines)

    def clip(*arguments):
        command = [str(args.clip.resolve()), *map(str, arguments)]
        return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout

    name = f"local-dir:{args.model.resolve()}"
    model, _, preprocess = open_clip.create_model_and_transforms(name)
    model.eval()
    tokenizer = open_clip.get_tokenizer(name)
    size = model.visual.image_size
    size = size if isinstance(size, int) else size[0]
    prompts = ["--classes", args.classes, "--templates", args.templates, "--model", args.model]
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        paths, labels, captions = write_set(folder, size, names, templates)
        shard = ["--data", folder / "set.tar", "--json"]
        scored = json.loads(clip("eval", "zeroshot", *prompts, *shard, "--head-cache", folder / "heads"))
        (head_file,) = (folder / "heads").iterdir()
        head = load_file(head_file)["weights"]
        found = clip("classify", *paths, *prompts, "--top", len(names), "--json").splitlines()
        retrieval = json.loads(clip("eval", "retrieval", "--model", args.model, *shard))
        (folder / "captions.txt").write_text("\n".join(captions) + "\n", encoding="utf-8")
        inputs = ["--images", *paths, "--texts", folder / "captions.txt"]
        clip("embed", "--model", args.model, *inputs, "--out", folder / "features.safetensors")
        features = load_file(folder / "features.safetensors")
        with torch.no_grad():
            pixels = torch.stack([preprocess(Image.open(path)) for path in paths])
            images = model.encode_image(pixels, normalize=True)
            # A plain `replace`: as in clip, a template may hold other braces.
            made = [lambda name, template=template: template.replace("{}", name) for template in templates]
            weights = open_clip.build_zero_shot_classifier(model, tokenizer, names, made)
            logits = model.logit_scale.exp() * images @ weights
            expected = logits.log_softmax(dim=1).numpy()

    log_probabilities = np.zeros_like(expected)
    for row, line in zip(log_probabilities, found):
        for candidate in json.loads(line)["labels"]:
            row[names.index(candidate["label"])] = np.log(candidate["probability"])
    differences = {
        "head": float(np.abs(head - weights.numpy()).max()),
        "log-probabilities": float(np.abs(log_probabilities - expected).max()),
    }
    print(f"open_clip_torch {open_clip.__version__}, torch {torch.__version__}")
    print(f"{len(names)} classes, {len(templates)} templates, {len(paths)} pictures")
    for what, difference in differences.items():
        print(f"{what}: largest difference {difference:.1e}")
    ours, theirs = log_probabilities.argmax(axis=1), expected.argmax(axis=1)
    # Another class is right only where OpenCLIP holds both equally likely.
    rows = np.arange(len(ours))
    doubt = expected[rows, theirs] - expected[rows, ours] > LARGEST_DIFFERENCE
    top1 = float(np.mean(theirs == np.array(labels)))
    print(f"another class found: {int((ours != theirs).sum())}; top-1: clip {scored['top1']:.4f}, OpenCLIP {top1:.4f}")
    good = check_recalls(features["image_features"], features["text_features"], retrieval)
    good = good and max(differences.values()) <= LARGEST_DIFFERENCE and not doubt.any()
    good = good and abs(scored["top1"] - top1) <= (ours != theirs).mean() + 1e-9
    if not good:
        sys.exit(1)


if __name__ == "__main__":
    main()
