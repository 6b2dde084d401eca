"""PyTorch's side of `retrieval_cost`, an example of clip-zeroshot: recall by products in chunks and `topk`.

    venv/bin/python retrieval_cost.py IMAGES CAPTIONS [PART]

Time and peak memory of ranking random features of 512 numbers against each other, on the CPU in float32. With PART, the
queries of both directions are those of the first 1/PART, and the time is multiplied.
"""

import argparse
import resource
import time

import torch

WIDTH, CHUNK, TOP = 512, 512, 10


def recall(queries, candidates, is_right):
    hits = 0
    for start in range(0, len(queries), CHUNK):
        found = (queries[start : start + CHUNK] @ candidates.T).topk(TOP, dim=1).indices
        rows = torch.arange(start, start + len(found))[:, None]
        hits += is_right(rows, found).any(dim=1).sum().item()
    return hits / len(queries)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", type=int)
    parser.add_argument("captions", type=int)
    parser.add_argument("part", type=int, nargs="?", default=1)
    args = parser.parse_args()
    torch.manual_seed(0)
    images, captions = (
        torch.nn.functional.normalize(torch.rand(rows, WIDTH) * 2 - 1, dim=1) for rows in (args.images, args.captions)
    )
    image_of = torch.arange(args.captions) * args.images // args.captions
    start = time.perf_counter()
    i2t = recall(images[: args.images // args.part], captions, lambda rows, found: image_of[found] == rows)
    t2i = recall(captions[: args.captions // args.part], images, lambda rows, found: found == image_of[rows])
    seconds = (time.perf_counter() - start) * args.part
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{args.images} x {args.captions}: {seconds:.1f} s, R@10 {i2t:.5f}, {t2i:.5f}; peak {peak:.0f} MiB")


if __name__ == "__main__":
    main()
