"""Writes weights/: one tiny model in every form that `ImportedWeights::read` knows, and resized positional embeddings.

    pip install -r requirements.txt && python weights.py

Every number fits half precision, so that all forms hold the same: `reference.safetensors` (OpenCLIP's names, f32).
"""

import collections
import io
import pathlib
import types
import zipfile

import torch
from open_clip.model import CLIP, convert_weights_to_lp, resize_pos_embed, resize_text_pos_embed
from safetensors.torch import save_file
from transformers import CLIPConfig, CLIPModel

OUT = pathlib.Path(__file__).parent / "weights"
VISION = dict(image_size=8, layers=2, width=8, head_width=4, patch_size=4)
TEXT = dict(context_length=6, vocab_size=20, width=8, heads=2, layers=1)

torch.manual_seed(0)
model = CLIP(4, VISION, TEXT, quick_gelu=True)
with torch.no_grad():
    for parameter in model.parameters():
        parameter.add_(0.05 * torch.randn_like(parameter))
        parameter.copy_(parameter.half())
model.eval()
state = {name: value.clone() for name, value in model.state_dict().items()}
images = torch.randn(2, 3, 8, 8)
tokens = torch.tensor([[18, 3, 19, 0, 0, 0], [18, 7, 1, 9, 2, 19]])
with torch.no_grad():
    image_features, text_features = model.encode_image(images), model.encode_text(tokens)
save_file(state, OUT / "reference.safetensors")

# A state dict, and a checkpoint of OpenCLIP's distributed training.
torch.save(collections.OrderedDict(state), OUT / "state_dict.pt")
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
wrapped = {f"module.{name}": value for name, value in state.items()}
checkpoint = {"epoch": 3, "name": "tiny", "state_dict": wrapped, "optimizer": optimizer.state_dict()}
torch.save(checkpoint, OUT / "checkpoint.pt")

# As OpenAI's: traced, half precision where it converted, and the numbers of the architecture as buffers.
for name, value in [("input_resolution", 8), ("context_length", 6), ("vocab_size", 20)]:
    model.__dict__.pop(name, None)
    model.register_buffer(name, torch.tensor(value))
inputs = dict(encode_image=(images,), encode_text=(tokens,))
traced = torch.jit.trace_module(model, inputs, check_trace=False)
convert_weights_to_lp(model)
for name, value in model.state_dict().items():
    module = traced
    *path, last = name.split(".")
    for part in path:
        module = getattr(module, part)
    getattr(module, last).data = value
buffer = io.BytesIO()
torch.jit.save(traced, buffer)
# The traced code takes most of the archive; one file of it is left, as no reader of weights looks at it.
with zipfile.ZipFile(buffer) as full, zipfile.ZipFile(OUT / "torchscript.pt", "w") as kept:
    for entry in full.infolist():
        if "debug_pkl" in entry.filename or "traced_inputs" in entry.filename:
            continue
        if "/code/" in entry.filename and not entry.filename.endswith("/linear.py"):
            continue
        kept.writestr(entry.filename, full.read(entry), zipfile.ZIP_STORED)

# transformers' CLIPModel in several files. Its features are compared, so the names below are proven.
tower = dict(hidden_size=8, intermediate_size=32, num_attention_heads=2, hidden_act="quick_gelu", projection_dim=4)
text = dict(num_hidden_layers=1, vocab_size=20, max_position_embeddings=6, bos_token_id=18, eos_token_id=19)
vision = dict(num_hidden_layers=2, image_size=8, patch_size=4)
theirs = CLIPModel(CLIPConfig(text_config=tower | text, vision_config=tower | vision, projection_dim=4)).eval()
RENAMED = [
    ("transformer.resblocks.", "encoder.layers."), ("ln_1", "layer_norm1"), ("ln_2", "layer_norm2"),
    ("attn.", "self_attn."), ("mlp.c_fc", "mlp.fc1"), ("mlp.c_proj", "mlp.fc2"), ("ln_final", "final_layer_norm"),
    ("ln_pre", "pre_layrnorm"), ("ln_post", "post_layernorm"), ("conv1", "embeddings.patch_embedding"),
    ("class_embedding", "embeddings.class_embedding"), ("token_embedding", "embeddings.token_embedding"),
    ("positional_embedding", "embeddings.position_embedding.weight"),
]  # fmt: skip
converted = {}
for name, value in state.items():
    if name in ("visual.proj", "text_projection"):
        converted["visual_projection.weight" if name == "visual.proj" else "text_projection.weight"] = value.T
        continue
    if name == "logit_scale":
        converted[name] = value
        continue
    new = "vision_model." + name.removeprefix("visual.") if name.startswith("visual.") else "text_model." + name
    for old, other in RENAMED:
        new = new.replace(old, other)
    if "in_proj_" in new:
        for part, third in zip("qkv", value.chunk(3)):
            converted[new.replace("in_proj_", f"{part}_proj.")] = third
    else:
        converted[new] = value
theirs.load_state_dict({name: value.contiguous() for name, value in converted.items()})
with torch.no_grad():
    out = theirs(input_ids=tokens, pixel_values=images)
for got, want in [(out.image_embeds, image_features), (out.text_embeds, text_features)]:
    assert torch.allclose(got, torch.nn.functional.normalize(want, dim=-1), atol=1e-6)
theirs.save_pretrained(OUT / "hugging_face", max_shard_size="8KB")
(OUT / "hugging_face" / "generation_config.json").unlink(missing_ok=True)

# Positional embeddings for other sizes.
resized = {"image": torch.randn(1 + 5 * 5, 3), "text": torch.randn(6, 3)}
for side in (2, 3, 7):
    target = types.SimpleNamespace(visual=types.SimpleNamespace(grid_size=(side, side)))
    found = {"visual.positional_embedding": resized["image"]}
    resize_pos_embed(found, target)
    resized[f"image_{side}"] = found["visual.positional_embedding"].contiguous()
for length in (4, 9):
    found = {"positional_embedding": resized["text"]}
    resize_text_pos_embed(found, types.SimpleNamespace(positional_embedding=torch.empty(length, 3)))
    resized[f"text_{length}"] = found["positional_embedding"].contiguous()
save_file(resized, OUT / "resized.safetensors")
