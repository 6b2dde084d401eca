#!/usr/bin/env python3
"""Makes goldens.json: what OpenCLIP, NumPy and scikit-learn say about a few small features.

    python -m venv venv
    venv/bin/pip install open_clip_torch==3.3.0 torch==2.15.0 numpy==2.4.6 scikit-learn==1.9.1
    venv/bin/python make_goldens.py > goldens.json
"""

import json

import numpy as np
import torch
from open_clip.zero_shot_classifier import build_zero_shot_classifier
from open_clip_train.train import get_clip_metrics
from sklearn.linear_model import LogisticRegression

torch.set_num_threads(1)
rng = np.random.default_rng(20210226)


def numbers(array, digits=9):
    """As nested lists, short enough to read, exact enough for f32."""
    return json.loads(json.dumps(np.asarray(array, np.float64).tolist()), parse_float=lambda x: float(f"{float(x):.{digits}g}"))


def features(*shape):
    """Random features of few digits, so that the file holds them exactly."""
    return np.round(rng.standard_normal(shape), 3)


class Encoder:
    """Stands for a model: looks its features up."""

    def __init__(self, table):
        self.table = table

    def encode_text(self, texts, normalize):
        out = torch.stack([torch.tensor(self.table[text], dtype=torch.float64) for text in texts.texts])
        return torch.nn.functional.normalize(out, dim=-1) if normalize else out


class Tokens:
    """Stands for token ids: keeps the texts."""

    def __init__(self, texts):
        self.texts = texts

    def to(self, device):
        return self


def head():
    names, templates = ["cat", "tabby cat", "dog"], ["a photo of a {}.", "itap of my {}.", "{}", "the {} again"]
    table = {t.format(n): numbers(features(8)) for n in names for t in templates}
    images = torch.tensor(features(5, 8))
    weights = build_zero_shot_classifier(Encoder(table), Tokens, names, templates)
    scale = 14.285714
    logits = scale * torch.nn.functional.normalize(images, dim=-1) @ weights
    return {
        "names": names,
        "templates": templates,
        "prompts": table,
        "weights": numbers(weights),
        "temperature_factor": scale,
        "images": numbers(images),
        "logits": numbers(logits),
        "probabilities": numbers(logits.softmax(-1)),
    }


def pairs():
    """OpenCLIP's own metrics, which know one caption an image."""
    images = torch.tensor(features(24, 6))
    texts = images + 1.2 * torch.tensor(features(24, 6))
    unit = torch.nn.functional.normalize
    metrics = get_clip_metrics(unit(images, dim=-1), unit(texts, dim=-1), torch.tensor(10.0))
    return {"images": numbers(images), "texts": numbers(texts, 12), "metrics": {k: float(v) for k, v in metrics.items()}}


def captions():
    """Several captions an image, by sorting the whole similarity matrix."""
    owner = rng.permutation(np.repeat(np.arange(15), [1, 2, 3, 5, 4] * 3))
    images = features(15, 6)
    texts = np.round(images[owner] + 1.2 * features(len(owner), 6), 3)
    scores = (texts / np.linalg.norm(texts, axis=1, keepdims=True)) @ (images / np.linalg.norm(images, axis=1, keepdims=True)).T
    t2i = np.array([np.where(np.argsort(-row) == own)[0][0] for row, own in zip(scores, owner)])
    i2t = np.array([np.where(owner[np.argsort(-column)] == image)[0][0] for image, column in enumerate(scores.T)])
    expected = {}
    for name, ranks in (("i2t", i2t), ("t2i", t2i)):
        for k in (1, 5, 10):
            expected[f"{name}_r{k}"] = float((ranks < k).mean())
        expected[f"{name}_median_rank"] = float(np.floor(np.median(ranks)) + 1)
        expected[f"{name}_mean_rank"] = float(ranks.mean() + 1)
    return {"images": numbers(images), "texts": numbers(texts), "owner": owner.tolist(), "expected": expected}


def probe(classes):
    """Logistic regression to its optimum, and with the default tolerance, at several strengths; the strength is the paper's lambda, 1 / C."""
    labels = np.arange(60) % classes
    centres = features(classes, 5)
    train = np.round(centres[labels] + 1.5 * features(60, 5), 3)
    test = np.round(centres[labels] + 1.5 * features(60, 5), 3)
    fits = []
    for strength in (1e-2, 1.0, 1e2):
        model = LogisticRegression(C=1 / strength, max_iter=10000, tol=1e-10).fit(train, labels)
        early = LogisticRegression(C=1 / strength, max_iter=1000).fit(train, labels)
        fits.append({
            "strength": strength,
            "weights": numbers(model.coef_.T),
            "bias": numbers(model.intercept_),
            "accuracy": float(model.score(test, labels)),
            "early_iterations": int(early.n_iter_[0]),
            "early_weights": numbers(early.coef_.T),
        })
    return {"train": numbers(train), "test": numbers(test), "labels": labels.tolist(), "fits": fits}


def compact(value):
    """JSON with one line for each row of numbers."""
    if isinstance(value, dict):
        return "{\n" + ",\n".join(f"{json.dumps(k)}: {compact(v)}" for k, v in value.items()) + "\n}"
    if isinstance(value, list) and value and isinstance(value[0], (list, dict)):
        return "[\n" + ",\n".join(compact(v) for v in value) + "\n]"
    return json.dumps(value)


print(compact({"head": head(), "pairs": pairs(), "captions": captions(), "probe": probe(3), "binary_probe": probe(2)}))
