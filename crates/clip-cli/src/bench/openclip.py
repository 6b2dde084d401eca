"""OpenCLIP's side of `clip bench`: does one work whenever it is asked to, one JSON value a line on stdin and stdout.

    clip bench --peer venv/bin/python       # of tests/reference/requirements.txt; `cargo xtask bench` makes one

The lines are those of `crates/clip-cli/src/bench/protocol.rs`. Each work is done as a user of OpenCLIP would do it: with
its own modules and tokenizer, torch's own kernels, captions padded to the context as its tokenizer does. In f32, a GPU
multiplies in tf32; in bf16 and f16, torch's autocast chooses what is computed in it, all as `open_clip_train` does.
"""

import io
import itertools
import json
import os
import pathlib
import platform
import resource
import sys
import tarfile
import time

import open_clip
import torch
from PIL import Image

LEARNING_RATE = 1e-6
COPIED_BYTES = 256 << 20


class Place:
    """What works are made of."""

    def __init__(self, setup):
        self.work = setup["work"]
        self.folder = pathlib.Path(setup["folder"])
        self.shards = setup["shards"]
        self.device = torch.device(setup["peer_device"])
        self.dtype = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}[setup["precision"]]
        torch.set_num_threads(setup["threads"])
        # main.py of open_clip_train.
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.benchmark = True
        torch.backends.cudnn.deterministic = False

    def autocast(self):
        """As open_clip_train's get_autocast."""
        return torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32)

    def sync(self):
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def lines(self, name):
        return (self.folder / name).read_text(encoding="utf-8").splitlines()

    def captions(self, count):
        return list(itertools.islice(itertools.cycle(self.lines("captions.txt")), count))

    def load(self):
        """The model that clip wrote, and its tokenizer."""
        name = f"local-dir:{self.folder / 'models' / self.work['preset']}"
        model = open_clip.create_model(name, device=self.device)
        return model, open_clip.get_tokenizer(name)

    def images(self, model, batch):
        size = model.visual.image_size
        side = size if isinstance(size, int) else size[0]
        images = torch.randn(batch, 3, side, side)
        # As open_clip_train's loader leaves them.
        return images.pin_memory() if self.device.type == "cuda" else images


def optimizer_of(model):
    """AdamW as `open_clip_train` makes it: no decay of gains, biases and the temperature."""
    plain = [value for value in model.parameters() if value.ndim < 2]
    decayed = [value for value in model.parameters() if value.ndim >= 2]
    groups = [{"params": plain, "weight_decay": 0.0}, {"params": decayed, "weight_decay": 0.2}]
    return torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=(0.9, 0.98), eps=1e-6)


def train_step(place):
    batch = place.work["batch"]
    model, tokenizer = place.load()
    model.train()
    optimizer = optimizer_of(model)
    loss_of = open_clip.ClipLoss()
    images, tokens = place.images(model, batch), tokenizer(place.captions(batch))
    scaler = torch.amp.GradScaler(place.device.type, enabled=place.dtype == torch.float16)

    def run():
        optimizer.zero_grad(set_to_none=True)
        with place.autocast():
            image, text, scale = model(images.to(place.device, non_blocking=True), tokens.to(place.device))[:3]
            found = loss_of(image, text, scale)
        scaler.scale(found).backward()
        scaler.step(optimizer)
        scaler.update()
        with torch.no_grad():
            model.logit_scale.clamp_(0, 4.6052)
        # open_clip_train reads its loss once in a hundred steps.
        return batch

    return run


def encode_images(place):
    batch = place.work["batch"]
    model, _ = place.load()
    model.eval()
    images = place.images(model, batch)

    @torch.inference_mode()
    def run():
        with place.autocast():
            model.encode_image(images.to(place.device, non_blocking=True))
        place.sync()
        return batch

    return run


def encode_texts(place):
    model, tokenizer = place.load()
    model.eval()
    texts = place.captions(place.work["batch"])

    @torch.inference_mode()
    def run():
        with place.autocast():
            model.encode_text(tokenizer(texts).to(place.device))
        place.sync()
        return len(texts)

    return run


def head(place):
    model, tokenizer = place.load()
    model.eval()
    classes, templates = place.lines("classes.txt"), place.lines("templates.txt")

    def run():
        with place.autocast():
            open_clip.build_zero_shot_classifier(model, tokenizer, classes, templates, device=place.device)
        place.sync()
        return len(classes) * len(templates)

    return run


def loss(place):
    batch, embed_dim = place.work["batch"], place.work["embed_dim"]
    values = [torch.randn(batch, embed_dim, device=place.device, requires_grad=True) for _ in range(2)]
    logit_scale = torch.tensor(2.65926, device=place.device, requires_grad=True)
    loss_of = open_clip.ClipLoss()

    def run():
        for value in [*values, logit_scale]:
            value.grad = None
        image, text = (torch.nn.functional.normalize(value, dim=-1) for value in values)
        loss_of(image, text, logit_scale.exp()).backward()
        place.sync()
        return batch

    return run


def samples(paths):
    """Image and caption of each sample of some shards, which stand one after the other."""
    for path in paths:
        with tarfile.open(path) as tar:
            for _, members in itertools.groupby(tar, lambda member: member.name.split(".", 1)[0]):
                parts = {member.name.rsplit(".", 1)[1]: tar.extractfile(member).read() for member in members}
                image = next((parts[kind] for kind in ("jpg", "jpeg", "png", "webp") if kind in parts), None)
                if "txt" in parts:
                    caption = parts["txt"].decode()
                else:
                    found = json.loads(parts["json"])
                    caption = found["caption"] if "caption" in found else found["captions"][0]
                yield image, caption


def loader(place):
    torch.set_num_threads(1)
    batch = place.work["batch"]
    # Training's transform, with the crop that open_clip_train uses by default.
    transform = open_clip.transform.image_transform(place.work["image_size"], is_train=True)
    tokenizer = open_clip.get_tokenizer("ViT-B-32")

    def run():
        images, tokens, count = [], [], 0
        for image, caption in itertools.islice(samples(place.shards), 512):
            images.append(transform(Image.open(io.BytesIO(image)).convert("RGB")))
            tokens.append(tokenizer(caption)[0])
            count += 1
            if len(images) == batch:
                torch.stack(images), torch.stack(tokens)
                images, tokens = [], []
        return count

    return run


def tokenize(place):
    tokenizer = open_clip.get_tokenizer("ViT-B-32")
    texts = place.captions(1000)

    def run():
        tokenizer(texts)
        return len(texts)

    return run


def saver(place):
    """A model and an optimizer that has taken a step, and how they are saved; returns the file too."""
    model, _ = place.load()
    optimizer = optimizer_of(model)
    images = place.images(model, 2).to(place.device)
    tokens = torch.zeros(2, model.context_length, dtype=torch.long, device=place.device)
    image, text, scale = model(images, tokens)[:3]
    open_clip.ClipLoss()(image, text, scale).backward()
    optimizer.step()
    path = place.folder / "saved.pt"

    def save():
        # Not half written if it is interrupted, and on the disk, as ours: `open_clip_train` does the first alone.
        partial = path.with_suffix(".partial")
        with open(partial, "wb") as file:
            torch.save({"state_dict": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
        return path.stat().st_size

    return model, optimizer, path, save


def save_checkpoint(place):
    return saver(place)[3]


def load_checkpoint(place):
    model, optimizer, path, save = saver(place)
    size = save()

    def run():
        found = torch.load(path, map_location="cpu", weights_only=True)
        model.load_state_dict(found["state_dict"])
        optimizer.load_state_dict(found["optimizer"])
        place.sync()
        return size

    return run


def mat_mul(place):
    sizes = (512, 1024, 2048) if place.device.type == "cpu" else (2048, 4096, 8192)
    pairs = [[torch.rand(size, size, device=place.device).to(place.dtype) for _ in range(2)] for size in sizes]

    def multiply(pair):
        start = time.perf_counter()
        torch.matmul(*pair)
        place.sync()
        return 2 * len(pair[0]) ** 3 / (time.perf_counter() - start)

    best = max(pairs, key=lambda pair: max(multiply(pair) for _ in range(3)))

    def run():
        multiply(best)
        return 2 * len(best[0]) ** 3

    return run


def copy(place):
    source = torch.ones(COPIED_BYTES // 4, device=place.device)
    target = torch.empty_like(source)

    def run():
        target.copy_(source)
        place.sync()
        return 2 * COPIED_BYTES

    return run


WORKS = {
    "train_step": train_step,
    "encode_images": encode_images,
    "encode_texts": encode_texts,
    "head": head,
    "loss": loss,
    "loader": loader,
    "tokenize": tokenize,
    "save_checkpoint": save_checkpoint,
    "load_checkpoint": load_checkpoint,
    "mat_mul": mat_mul,
    "copy": copy,
}


def versions():
    return {"python": platform.python_version(), "torch": torch.__version__, "open_clip": open_clip.__version__}


def peak_bytes():
    # Kibibytes, but bytes on macOS.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def main():
    # Whatever a library prints is not an answer.
    answers, sys.stdout = sys.stdout, sys.stderr
    run = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if request == "end":
                reply = {"ended": {"peak_bytes": peak_bytes()}}
            elif "setup" in request:
                place = Place(request["setup"])
                run = WORKS[place.work["kind"]](place)
                reply = {"ready": {"versions": versions()}}
            else:
                start = time.perf_counter()
                count = sum(run() for _ in range(request["run"]))
                place.sync()
                reply = {"ran": {"seconds": time.perf_counter() - start, "count": count}}
        except Exception as error:
            reply = {"failed": f"{type(error).__name__}: {error}"}
        print(json.dumps(reply), file=answers, flush=True)
        if request == "end":
            break


if __name__ == "__main__":
    main()
