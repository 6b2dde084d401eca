"""Writes hugging_face_goldens.json: small tokenizers built as those of SigLIP, BERT, XLM-RoBERTa, RoBERTa and NLLB are,
and what OpenCLIP's HFTokenizer makes of captions with them.

    python -m venv venv && venv/bin/pip install -r tests/reference/requirements.txt
    venv/bin/python crates/clip-data/tests/reference/hugging_face_goldens.py
"""
import json
import pathlib
import tempfile

import open_clip
from open_clip.tokenizer import HFTokenizer
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import NllbTokenizer, PreTrainedTokenizerFast, RobertaTokenizer, XLMRobertaTokenizer

assert open_clip.__version__ == "3.3.0", open_clip.__version__

TEXTS = [
    "a photo of a Dog",
    "  Two RED_dogs, on -- grass!! ",
    "caf&amp;eacute; \u201cdog\u201d",
    "dogs dogs dogs dogs dogs dogs",
    "\u65e5\u672c [SEP] dog </s>",
    "?!",
    "\u0421\u043e\u0431\u0430\u043a\u0430, \u72d7\u3068\u72ac  \u0915\u0941\u0924\u094d\u0924\u093e",
    "a <mask> dog<pad> of \ud55c",
    "",
]
PIECES = ["\u2581a", "\u2581photo", "\u2581of", "\u2581dog", "s", "\u2581two", "\u2581red", "\u2581on", "\u2581grass",
          "\u2581caf", "\u00e9", "\u2581", *"abcdefghijklmnopqrstuvwxyz"]
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "photo", "of", "dog", "##s", "two", "red", "_", "-", "!", ",", "on",
         "grass", "cafe", "\"", "?"]


def siglip():
    scores = [(piece, -1.0 - index / 10) for index, piece in enumerate(PIECES)]
    unigram = models.Unigram([("<unk>", 0.0), ("</s>", 0.0), *scores], unk_id=0)
    tokenizer = Tokenizer(unigram)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="</s>", eos_token="</s>", unk_token="<unk>")


def bert():
    tokenizer = Tokenizer(models.WordPiece({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    names = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]"}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, **{f"{kind}_token": name for kind, name in names.items()})


def xlm_roberta():
    pieces = [*PIECES, "\u2581\u0421\u043e\u0431", "\u0430\u043a", "\u0430", "\u72d7", "\u2581\u0915\u0941", ","]
    scores = [(piece, -1.0 - index / 10) for index, piece in enumerate(pieces)]
    special = [(token, 0.0) for token in ["<s>", "<pad>", "</s>", "<unk>"]]
    return XLMRobertaTokenizer(vocab=[*special, *scores, ("<mask>", 0.0)])


def roberta():
    merges = [("d", "o"), ("do", "g"), ("\u0120", "dog"), ("\u0120", "a"), ("\u0120", "o"), ("\u0120o", "f")]
    words = ["<s>", "<pad>", "</s>", "<unk>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    words += [first + second for first, second in merges] + ["<mask>"]
    return RobertaTokenizer(vocab={word: index for index, word in enumerate(words)}, merges=merges)


def nllb(**names):
    merges = [("d", "o"), ("do", "g"), ("\u2581", "dog"), ("\u2581", "a"), ("\u2581", "o"), ("\u2581o", "f")]
    letters = sorted({*"abcdefghijklmnopqrstuvwxyz,!\u2581\u0430\u043a\u043e\u0431\u72d7"})
    words = ["<s>", "<pad>", "</s>", "<unk>", *letters, *(first + second for first, second in merges)]
    vocabulary = {word: index for index, word in enumerate(words)}
    languages = ["eng_Latn", "rus_Cyrl"]
    tokenizer = NllbTokenizer(vocab=vocabulary, merges=merges, extra_special_tokens=languages, **names)
    # As the hub's file has it, from before the class put the language in front.
    special = [(token, tokenizer.convert_tokens_to_ids(token)) for token in ["</s>", "eng_Latn"]]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s> eng_Latn", special_tokens=special)
    return tokenizer


goldens = []
for name, tokenizer, context, kwargs in [
    ("siglip", siglip(), 8, {"clean": "canonicalize"}),
    ("bert", bert(), 7, {"strip_sep_token": True}),
    ("xlm-roberta", xlm_roberta(), 8, {}),
    ("roberta", roberta(), 13, {}),
    ("nllb", nllb(), 13, {}),
    ("nllb of Russian", nllb(src_lang="rus_Cyrl"), 13, {}),
    ("nllb of before", nllb(legacy_behaviour=True), 13, {}),
]:
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        read = lambda file: json.loads((pathlib.Path(folder) / file).read_text())
        files = {file: read(file) for file in ["tokenizer.json", "tokenizer_config.json"]}
        theirs = HFTokenizer(folder, context_length=context, **kwargs)
        ids = [theirs([text])[0].tolist() for text in TEXTS]
    goldens.append({"name": name, "context": context, "kwargs": kwargs, "files": files,
                    "texts": [{"text": text, "ids": row} for text, row in zip(TEXTS, ids)]})
target = pathlib.Path(__file__).with_name("hugging_face_goldens.json")
target.write_text(json.dumps(goldens, ensure_ascii=True) + "\n")
print(target, target.stat().st_size, "bytes")
