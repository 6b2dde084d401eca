"""Writes goldens.json: what Pillow and TorchVision make of small images.

    pip install pillow==13.0.0 torch torchvision==0.29.2
    python make_goldens.py

The source picture is a formula that `tests/reference.rs` repeats, so only results are stored.
"""

import io
import json
import struct
import zlib
from pathlib import Path

import PIL
import torch
import torchvision
from PIL import Image
from torchvision import transforms
from torchvision.transforms import functional as F


def smooth(width, height):
    """A picture with the slopes of a photograph."""
    return bytes(
        (x * 3 + y * 5 + c * 40 + (x * y) // 7) % 511 if (x * 3 + y * 5 + c * 40 + (x * y) // 7) % 511 < 256
        else 510 - (x * 3 + y * 5 + c * 40 + (x * y) // 7) % 511
        for y in range(height) for x in range(width) for c in range(3)
    )


def harsh(width, height):
    """Edges from 0 to 255 everywhere, where rounding and the order of passes show."""
    return bytes(
        255 if (x // 3 + y // 2 + c) % 2 else (x * 7 + y * 13 + c * 29) % 256
        for y in range(height) for x in range(width) for c in range(3)
    )


PICTURES = {"smooth": smooth, "harsh": harsh}


def picture(name, width, height):
    return Image.frombytes("RGB", (width, height), PICTURES[name](width, height))


def resizes():
    cases = []
    boxes = [  # picture, width, height, crop (left, top, width, height), size
        ("smooth", 60, 45, (0, 0, 60, 45), 16),
        ("smooth", 60, 45, (7, 3, 50, 41), 16),
        ("harsh", 60, 45, (0, 0, 60, 45), 16),
        ("harsh", 61, 47, (5, 2, 53, 44), 17),
        ("harsh", 12, 9, (1, 0, 10, 9), 16),
        ("harsh", 16, 40, (0, 3, 16, 30), 16),
    ]
    for name, width, height, (left, top, w, h), size in boxes:
        image = picture(name, width, height)
        out = F.resized_crop(image, top, left, h, w, [size, size], transforms.InterpolationMode.BICUBIC)
        cases.append(dict(picture=name, width=width, height=height, crop=[left, top, w, h], size=size, pixels=out.tobytes().hex()))
    return cases


def evaluations():
    cases = []
    for name, width, height, size in [
        ("smooth", 60, 45, 16), ("harsh", 45, 60, 16), ("harsh", 61, 40, 17), ("smooth", 16, 16, 16),
        ("harsh", 10, 31, 16), ("smooth", 90, 3, 8), ("harsh", 33, 16, 16),
    ]:
        out = transforms.Compose([
            transforms.Resize(size, interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(size),
        ])(picture(name, width, height))
        cases.append(dict(picture=name, width=width, height=height, size=size, pixels=out.tobytes().hex()))
    return cases


def adjustments():
    image = picture("harsh", 12, 9)
    cases = []
    for name, change, factors in [
        ("brightness", F.adjust_brightness, (0.6, 1.0, 1.4)), ("contrast", F.adjust_contrast, (0.0, 0.7, 1.5)),
        ("saturation", F.adjust_saturation, (0.0, 0.6, 1.7)), ("hue", F.adjust_hue, (-0.3, -0.08, 0.0, 0.05, 0.5)),
    ]:
        for factor in factors:
            cases.append(dict(change=name, factor=factor, pixels=change(image, factor).tobytes().hex()))
    return cases


def crops():
    """The boxes that RandomResizedCrop draws, with the numbers it drew them from."""
    cases = []
    uniform, randint = torch.Tensor.uniform_, torch.randint
    for seed, (width, height, scale) in enumerate([
        (500, 375, (0.9, 1.0)), (375, 500, (0.9, 1.0)), (112, 112, (0.9, 1.0)), (640, 200, (0.9, 1.0)),
        (200, 640, (0.9, 1.0)), (333, 250, (0.08, 1.0)), (1, 1, (0.9, 1.0)), (97, 89, (0.5, 0.6)),
    ]):
        torch.manual_seed(seed)
        numbers, offsets = [], []

        def record(self, low, high):
            out = uniform(self, low, high)
            numbers.append(out.item())
            return out

        def record_int(*args, **kwargs):
            out = randint(*args, **kwargs)
            offsets.append(out.item())
            return out

        torch.Tensor.uniform_, torch.randint = record, record_int
        try:
            top, left, h, w = transforms.RandomResizedCrop.get_params(
                torch.empty(3, height, width), list(scale), [3 / 4, 4 / 3])
        finally:
            torch.Tensor.uniform_, torch.randint = uniform, randint
        cases.append(dict(width=width, height=height, scale=scale, uniforms=numbers, offsets=offsets, crop=[left, top, w, h]))
    return cases


def deep_png(image):
    """The image with 16 bits a channel, which Pillow reads and doesn't write; the low bytes are noise."""
    width, height = image.size
    low = ((x * 37 + 11) % 256 for x in range(width * height * 3))
    deep = bytes(byte for high in image.tobytes() for byte in (high, next(low)))
    rows = b"".join(b"\0" + deep[y * width * 6:(y + 1) * width * 6] for y in range(height))

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def files():
    """Encoded images and the RGB that Pillow reads, transparency on white."""
    rgb = picture("smooth", 16, 12)
    alpha = Image.frombytes("L", (16, 12), bytes((x * 17 + y * 3) % 256 for y in range(12) for x in range(16)))
    rgba = rgb.copy()
    rgba.putalpha(alpha)
    grey = rgb.convert("L")
    grey_alpha = grey.copy()
    grey_alpha.putalpha(alpha)
    palette = rgb.quantize(16)
    see_through = rgb.quantize(16)
    turned = Image.Exif()
    turned[0x0112] = 6
    cases, encoded = [], []
    for name, image, kind, options in [
        ("rgb.png", rgb, "PNG", {}), ("rgba.png", rgba, "PNG", {}), ("grey.png", grey, "PNG", {}),
        ("grey_alpha.png", grey_alpha, "PNG", {}), ("palette.png", palette, "PNG", {}),
        ("palette_alpha.png", see_through, "PNG", {"transparency": 3}), ("bilevel.png", grey.convert("1"), "PNG", {}),
        ("rgb.webp", rgb, "WEBP", {"lossless": True}), ("rgba.webp", rgba, "WEBP", {"lossless": True, "exact": True}),
        ("lossy.webp", rgb, "WEBP", {"quality": 90}),
        ("444.jpg", rgb, "JPEG", {"quality": 90, "subsampling": 0}), ("420.jpg", rgb, "JPEG", {"quality": 90, "subsampling": 2}),
        ("progressive.jpg", rgb, "JPEG", {"quality": 90, "subsampling": 0, "progressive": True}),
        ("grey.jpg", grey, "JPEG", {"quality": 90}), ("cmyk.jpg", rgb.convert("CMYK"), "JPEG", {"quality": 95}),
        ("turned.jpg", rgb, "JPEG", {"quality": 90, "subsampling": 0, "exif": turned}),
    ]:
        data = io.BytesIO()
        image.save(data, kind, **options)
        encoded.append((name, data.getvalue()))
    cmyk = dict(encoded)["cmyk.jpg"]
    adobe = cmyk.index(b"\xff\xee")
    length = int.from_bytes(cmyk[adobe + 2:adobe + 4], "big")
    encoded.append(("cmyk_unmarked.jpg", cmyk[:adobe] + cmyk[adobe + 2 + length:]))
    # The marker's last byte says how the first three planes are coded: 2 is as luma and chroma.
    encoded.append(("ycck.jpg", cmyk[:adobe + 1 + length] + b"\x02" + cmyk[adobe + 2 + length:]))
    encoded.append(("rgb16.png", deep_png(rgb)))
    for name, data in encoded:
        read = Image.open(io.BytesIO(data))
        if read.has_transparency_data:
            read = read.convert("RGBA")
            white = Image.new("RGBA", read.size, (255, 255, 255, 255))
            read = Image.alpha_composite(white, read)
        cases.append(dict(name=name, file=data.hex(), pixels=read.convert("RGB").tobytes().hex()))
    return cases


goldens = dict(
    versions=dict(pillow=PIL.__version__, torch=torch.__version__, torchvision=torchvision.__version__),
    resizes=resizes(), evaluations=evaluations(), crops=crops(), adjustments=adjustments(), files=files(),
)
Path(__file__).with_name("goldens.json").write_text(json.dumps(goldens, separators=(",", ":")) + "\n")
