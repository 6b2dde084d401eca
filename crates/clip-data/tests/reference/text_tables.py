"""Writes src/tokenizer/data/text_tables.json: the tables behind text cleaning.

From ftfy 6.3.1 (Apache-2.0, Robyn Speer) and Python's html.entities, so that the Rust port holds no table typed by hand:

    python -m venv venv && venv/bin/pip install ftfy==6.3.1
    venv/bin/python crates/clip-data/tests/reference/text_tables.py
"""
import html.entities
import json
import pathlib
import re

import ftfy
from ftfy import badness, chardata

assert ftfy.__version__ == "6.3.1", ftfy.__version__


def plain(pattern):
    """A verbose regular expression without its white space and comments."""
    out, in_class, i = [], False, 0
    while i < len(pattern):
        c = pattern[i]
        if c == "\\":
            out.append(pattern[i : i + 2])
            i += 2
            continue
        if c == "[":
            in_class = True
        elif c == "]":
            in_class = False
        if in_class or not (c.isspace() and c.isascii() or c == "#"):
            out.append(c)
        elif c == "#":
            i = pattern.index("\n", i)
        i += 1
    text = "".join(out)
    re.compile(text)
    return text


LOOKBEHIND = re.compile(r"\(\?<!(\[[^\]]*\])\)")
detector = plain(chardata.UTF8_DETECTOR_RE.pattern)
tables = {
    "badness": plain(badness.BADNESS_RE.pattern),
    "utf8_detector": LOOKBEHIND.sub("", detector),
    "utf8_continuation_strict": LOOKBEHIND.search(detector).group(1),
    "charmaps": {
        name: bytes(range(128, 256)).decode(name) for name in chardata.CHARMAP_ENCODINGS
    },
    "width": {chr(code): text for code, text in chardata.WIDTH_MAP.items()},
    "ligatures": {chr(code): text for code, text in chardata.LIGATURES.items()},
    "html5": html.entities.html5,
    "html5_upper": {
        name[1:]: text
        for name, text in chardata.HTML_ENTITIES.items()
        if name[1:] not in html.entities.html5
    },
    # What a number in an HTML character reference means where it isn't that code point; "" drops it.
    "charrefs": {
        **{str(n): text for n, text in html._invalid_charrefs.items()},
        **{str(n): "" for n in html._invalid_codepoints if n not in html._invalid_charrefs},
    },
}
target = pathlib.Path(__file__).parents[2] / "src/tokenizer/data/text_tables.json"
target.write_text(json.dumps(tables, ensure_ascii=True, indent=0) + "\n")
print(target, target.stat().st_size, "bytes")
