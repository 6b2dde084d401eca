"""Checks that onnxruntime computes OpenCLIP's features from what `clip weights export --format onnx` writes.

    python -m venv venv && venv/bin/pip install -r requirements.txt
    cargo run --release --example random_model -- ViT-B-32 /tmp/model     # or a trained or imported model
    venv/bin/python onnx_parity.py /tmp/model ../../target/release/clip [--dtype f16]

Exports the model, has ONNX's own checker read both files, computes features of noise and of random tokens by both
programs, and exits with 1 if those of an f32 export differ by more than 1e-5.
"""

import argparse
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy as np
import onnx
import onnxruntime
import open_clip
import torch

# Of normalised features' numbers: computed in float32 in other orders of sums, from weights of 24, 11 and 8 bits.
LARGEST_DIFFERENCE = {"f32": 1e-5, "f16": 1e-2, "bf16": 1e-1}
IMAGES = 3
CAPTIONS = 4


def run(path, name, value):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (expected,) = session.get_inputs()
    assert expected.name == name, expected.name
    start = time.perf_counter()
    (features,) = session.run(None, {name: value})
    return features, time.perf_counter() - start, expected.shape


def token_ids(context, vocabulary):
    """Texts of several lengths that end with the highest id; the last one is padded with it, as transformers does."""
    random = np.random.default_rng(0)
    ids = np.zeros((CAPTIONS, context), dtype=np.int64)
    for row, length in enumerate(np.linspace(2, context - 1, CAPTIONS, dtype=int)[::-1]):
        ids[row, :length] = random.integers(1, vocabulary - 1, length)
        ids[row, length] = vocabulary - 1
    ids[-1, ids[-1].argmax() :] = vocabulary - 1
    return ids


def normalised(features):
    return torch.nn.functional.normalize(features, dim=-1).numpy()


def compare(what, path, ours, theirs, seconds):
    data = path.with_name(path.name + ".data")
    megabytes = sum(file.stat().st_size for file in (path, data) if file.exists()) / 1e6
    difference = float(np.abs(ours - theirs).max())
    cosine = float((ours * theirs).sum(axis=1).min())
    beside = ", with weights beside it" if data.exists() else ""
    print(f"{what}: difference {difference:.1e}, cosine {cosine:.7f}, {megabytes:.1f} MB{beside}, {seconds:.2f} s")
    return difference


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=pathlib.Path, help="a model directory")
    parser.add_argument("clip", type=pathlib.Path, help="the clip program")
    parser.add_argument("--dtype", choices=list(LARGEST_DIFFERENCE), default="f32")
    args = parser.parse_args()
    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{args.model.resolve()}")
    model.eval()
    size = model.visual.image_size
    size = size if isinstance(size, int) else size[0]
    text = model if hasattr(model, "vocab_size") else model.text
    pixels = np.random.default_rng(1).standard_normal((IMAGES, 3, size, size), dtype=np.float32)
    ids = token_ids(text.context_length, text.vocab_size)
    with torch.no_grad():
        expected_images = normalised(model.encode_image(torch.from_numpy(pixels)))
        expected_texts = normalised(model.encode_text(torch.from_numpy(ids)))
    del model
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder) / "onnx"
        export = ["weights", "export", args.model, "--format", "onnx", "--dtype", args.dtype, "--out", out]
        subprocess.run([str(args.clip.resolve()), *map(str, export)], check=True, stdout=subprocess.DEVNULL)
        image_file, text_file = out / "image_encoder.onnx", out / "text_encoder.onnx"
        for path in (image_file, text_file):
            onnx.checker.check_model(str(path), full_check=True)
            print(path.name, {entry.key: entry.value for entry in onnx.load(path, load_external_data=False).metadata_props})
        images, seconds, _ = run(image_file, "pixel_values", pixels)
        worst = compare("images", image_file, images, expected_images, seconds)
        texts, seconds, shape = run(text_file, "input_ids", ids)
        worst = np.maximum(worst, compare("texts", text_file, texts, expected_texts, seconds))
        if isinstance(shape[1], str):
            length = int(ids[-2].argmax()) + 1
            short, seconds, _ = run(text_file, "input_ids", ids[-2:-1, :length])
            worst = np.maximum(worst, compare("a short text", text_file, short, expected_texts[-2:-1], seconds))
    if not worst <= LARGEST_DIFFERENCE[args.dtype]:
        sys.exit(1)


if __name__ == "__main__":
    main()
