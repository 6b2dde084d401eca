"""Writes small_coca.safetensors: what OpenCLIP makes of a small CoCa model and some inputs, all given by formulas.

    pip install -r requirements.txt "transformers==4.55.4" && python small_coca.py

OpenCLIP's `generate` needs a version of transformers that has BeamSearchScorer: 5 has not.

The metadata `parameters` has the state dict's names and shapes, sorted, a line each. Tensors: `tokens`, `image_features`,
`text_features` (normalised), `logits` (of the labels that aren't padding), `loss` and `caption_loss` (OpenCLIP's CoCaLoss
with its weights of 1 and 2), `gradients` of their sum by every parameter, one after the other; `greedy` and `beams` captions
of its `generate`. All in float32, but computed in float64, so that the reference's own rounding doesn't count.
"""

import torch
from open_clip.coca_model import CoCa
from open_clip.loss import CoCaLoss
from safetensors.torch import save_file

VISION = dict(
    image_size=8,
    layers=1,
    width=6,
    head_width=3,
    patch_size=4,
    mlp_ratio=1.0,
    attentional_pool=True,
    attn_pooler_queries=3,
    attn_pooler_heads=2,
    output_tokens=True,
)
TEXT = dict(
    context_length=7, vocab_size=12, width=4, heads=2, layers=1, mlp_ratio=1.0, embed_cls=True, output_tokens=True
)
DECODER = dict(context_length=7, vocab_size=12, width=4, heads=2, layers=1)
START, END = 10, 11


def noise(*shape, start=0):
    """Numbers from -1 to 1 by a hash of their places."""
    low = 0xFFFFFFFF
    found = torch.arange(start, start + torch.Size(shape).numel()) * 2654435761 & low
    found = (found ^ found >> 15) * 2246822519 & low
    found = found ^ found >> 13
    return (found.double() / 2**31 - 1).reshape(shape)


model = CoCa(4, DECODER, TEXT, VISION).double().eval()
parameters = sorted(model.named_parameters())
start = 200000  # whose captions differ from image to image, some of which end early
with torch.no_grad():
    for name, parameter in parameters:
        parameter.copy_((1.6 * noise(*parameter.shape, start=start)).float())
        start += parameter.numel()
images = (2 * noise(4, 3, 8, 8)).float().double()
# A token of the padding's id within a caption, one that fills the context, and one without words.
tokens = torch.tensor(
    [[START, 3, 0, 5, END, 0, 0], [START, 7, 1, 9, 2, 5, END], [START, 8, 4, END, 0, 0, 0], [START, END, 0, 0, 0, 0, 0]]
)
out = model(images, tokens)
logits, labels = out["logits"], out["labels"]
losses = CoCaLoss(caption_loss_weight=2.0, clip_loss_weight=1.0)(
    out["image_features"], out["text_features"], logits, labels, out["logit_scale"]
)
sum(losses).backward()
writer, views = model.float(), images.float()  # OpenCLIP's beams are in float32
ids = dict(sot_token_id=START, eos_token_id=END, seq_len=7, min_seq_len=3)
tensors = {
    "tokens": tokens,
    "image_features": out["image_features"],
    "text_features": out["text_features"],
    "logits": logits[labels != 0],
    "loss": losses[0].reshape(1),
    "caption_loss": losses[1].reshape(1),
    "gradients": torch.cat([parameter.grad.flatten() for _, parameter in parameters]),
    "greedy": writer.generate(views, generation_type="top_k", top_k=1, **ids),
    "beams": writer.generate(views, generation_type="beam_search", **ids),
}
kinds = {True: torch.float32, False: torch.int32}
tensors = {name: value.detach().to(kinds[value.is_floating_point()]).contiguous() for name, value in tensors.items()}
lines = [f"{name} {' '.join(map(str, parameter.shape))}" for name, parameter in parameters]
save_file(tensors, "small_coca.safetensors", {"parameters": "\n".join(lines)})
