"""Writes tokenizer_goldens.json: what OpenCLIP's SimpleTokenizer makes of captions that are hard to get right.

    python -m venv venv && venv/bin/pip install open_clip_torch==3.3.0 ftfy==6.3.1 regex
    venv/bin/python crates/clip-data/tests/reference/tokenizer_goldens.py
"""
import json
import pathlib

import ftfy
import open_clip
from open_clip.tokenizer import SimpleTokenizer, _clean_lower

assert open_clip.__version__ == "3.3.0", open_clip.__version__
assert ftfy.__version__ == "6.3.1", ftfy.__version__


def mojibake(text, encoding="windows-1252", times=1):
    for _ in range(times):
        text = text.encode("utf-8").decode(encoding)
    return text


TEXTS = [
    "",
    " ",
    "\t\r\n",
    "a",
    "A person riding a motorcycle",
    "A black dog is running after a white dog in the snow .",
    "don't we'll they've I'm she'd you're it's 'tis 'SS 'LL o'clock rock'n'roll",
    "it''s ''' 's's's",
    "3.14 + 1,000 = 1003.14 (approx.) #hashtag @user 50% $5 ~^`|\\",
    "year 2024: 1st, 2nd, 3rd; 4x4 b2b",
    "e-mail: someone@example.com https://example.com/?q=a&b=c&amp;d=e",
    "snake_case camelCase SCREAMING_CASE kebab-case",
    "hello<start_of_text>world <end_of_text> <END_OF_TEXT>!",
    "!<end_of_text> wow!<start_of_text>",
    "<|startoftext|> <|endoftext|> <pad>",
    "\U0001F600 \U0001F469\u200D\U0001F469\u200D\U0001F467\u200D\U0001F466 \U0001F44D\U0001F3FD \u2764\uFE0F \U0001F1E9\U0001F1EA",
    "\U0001F3F4\U000E0067\U000E0062\U000E0077\U000E006C\U000E0073\U000E007F",
    "I \u2764 NY \u2728sparkles\u2728 \U0001F436dog",
    "\u65e5\u672c\u8a9e\u306e\u30ad\u30e3\u30d7\u30b7\u30e7\u30f3",
    "\u4e00\u53ea\u9ed1\u72d7\u5728\u96ea\u5730\u91cc\u5954\u8dd1\u3002",
    "\ud55c\uad6d\uc5b4 \ubb38\uc7a5",
    "\uff26\uff35\uff2c\uff2c\u3000\uff57\uff49\uff44\uff54\uff48 \uff8a\uff9d\uff76\uff78",
    "\u041a\u043e\u0442 \u0441\u0438\u0434\u0438\u0442 \u043d\u0430 \u043e\u043a\u043d\u0435",
    "\u039f\u0394\u039f\u03a3 \u03a3\u03af\u03c3\u03c5\u03c6\u03bf\u03a3 \u03a3",
    "\u05db\u05dc\u05d1 \u0634\u0627\u062d\u0646\u0629 \u0915\u0941\u0924\u094d\u0924\u093e \u0e2b\u0e21\u0e32",
    "\u0130stanbul \u0131\u015f\u0131k \u1e9e stra\u00dfe \u01c5 \ufb01sh \ufb03 \u0149 \u0133",
    "na\u00efve caf\u00e9 cafe\u0301 A\u030a \u212b",
    "\u2018single\u2019 \u201cdouble\u201d \u2026 \u2013 \u2014 \u2032 \u00ab\u00bb \u02bc",
    "\u00bd \u00b2 \u2460 \u2167 \u0663 \u096a x\u00b2+y\u2082",
    "&lt;b&gt;bold&lt;/b&gt; &amp;amp; &amp;lt; &nbsp;x&nbsp;",
    "fish &amp chips &copy2024 &notit; &hellip &frac12;",
    "&#39;quoted&#39; &#8217; &#x2019; &#128512; &#x1F600;",
    "&#0; &#128; &#x80; &#xD800; &#99999999999; &#1; &#x; &#; &",
    "P&EACUTE;REZ &NTILDE; &nTILDE; Ma&ntilde;ana",
    "<b>&eacute;</b> &eacute;",
    "first &eacute;\n<i>second</i> &eacute;\nthird &Eacute;",
    "&amp;#x27;s a test&amp;quot;",
    mojibake("d\u00e9j\u00e0 vu na\u00efve"),
    mojibake("caf\u00e9 \u201cquoted\u201d it\u2019s"[:6]),
    "the dog\u00e2\u20ac\u2122s bone \u00e2\u20ac\u0153quoted\u00e2\u20ac\ufffd",
    "voil\u00c3 le travail, \u00c3 la mode, \u00c3\u00a0 Paris",
    mojibake("\U0001F600 smile", "latin-1"),
    mojibake("\u65e5\u672c\u8a9e", "latin-1"),
    mojibake("\u00fcber", "latin-1", 2),
    mojibake("\u041f\u0440\u0438\u0432\u0435\u0442", "latin-1"),
    mojibake("\u043f\u0440", "windows-1251"),
    mojibake("\u00e9t\u00e9 \u2019", "macroman"),
    mojibake("\u2014 dash", "cp437"),
    mojibake("\u0159e\u017e", "latin-1"),
    "10\u00c2\u00b0C and \u00c2\u00a35 and \u00e2\u201a\u00ac7",
    "fa\u00c3\u00a7ade \u65e5\u672c mixed \u00e2\u20ac\u201c inconsistent",
    "voil\u00c3\u00a0",
    "voil\u00c3\u00a0 \n",
    "voil\u00c3 ",
    " \u00c3\u00a0 la mode\u00c2\u00a0",
    "\u0085wait\u0085",
    "\u00e2\u20ac\u0153quoted\u00e2\u20ac\u009d",
    "wait\u00e2\u20ac\u00a6 \u00c2\u0085",
    "C1 \u0085\u0091quoted\u0092 \u0096 \u0080",
    "\u00c5\u00c4\u00d6 S\u00c3O PAULO \u00c1RVORE \u00d1O\u00d1O",
    "\u00e0\u00b2 \u00d0\u00d0\u00d0 \u00f1 \u00c3 \u00c2",
    "null\x00byte bell\x07 esc\x1b[31mred\x1b[0m del\x7f vt\x0bff\x0c",
    "sep\x1c\x1d\x1e\x1funits nel\x85 ls\u2028ps\u2029 end",
    "zero\u200bwidth \u200djoin \ufeffbom \u2060wj \u00adshy \u202ertl\u202c",
    "spaces\u00a0nbsp\u2003em\u3000ideo\u1680ogham",
    "\ufffd \ufff9\ufffa\ufffb\ufffc \ue000 \U0010ffff",
    "z\u0351\u036b\u0343a\u0363\u0363l\u0308\u0352g\u0321\u0327o\u0322",
    "\u0391\u0301 e\u0301&#x301;",
    "'\u017fx \u017f \u212a",
    "a" * 300,
    "dog " * 2000,
    "\U0001F600" * 500,
    "\u65e5\u672c" * 800,
    "!?." * 1700,
    "1234567890" * 500,
    "x&amp;" * 1000,
    "donaudampfschifffahrtsgesellschaftskapit\u00e4nsm\u00fctze",
    "antidisestablishmentarianism supercalifragilisticexpialidocious",
]
CONTEXT = 77

tokenizer = SimpleTokenizer()
goldens = []
for text in TEXTS:
    full = tokenizer.encode(text)
    padded = tokenizer([text], context_length=CONTEXT)[0].tolist()
    goldens.append({
        "text": text,
        "clean": _clean_lower(text),
        "tokens": len(full),
        "ids": padded[: min(len(full) + 2, CONTEXT)],
    })
target = pathlib.Path(__file__).with_name("tokenizer_goldens.json")
lines = ",\n".join(json.dumps(golden, ensure_ascii=True) for golden in goldens)
target.write_text(f"[\n{lines}\n]\n")
print(target, len(goldens), "texts")
