"""Which typeface writes a text: whatever script a person's name is written in.

The files in ``fonts/`` are tried in the order below (fonts/README.md says where they are from).
"""

import functools
import unicodedata
from pathlib import Path

from fontTools.ttLib import TTFont

FOLDER = Path(__file__).parent / "fonts"
PLAIN, BOLD = "NotoSans-Regular", "NotoSans-Bold"
_CHINESE_AND_KANA, _HANGUL = "DroidSansFallbackFull", "NanumSquareR"
_MORE_CHINESE_AND_KANA = "NotoSansCJKjp-Additions"
_SCRIPTS = (
    "Arabic", "Armenian", "Bengali", "Devanagari", "Ethiopic", "Georgian", "Gujarati", "Gurmukhi",
    "Hebrew", "Kannada", "Khmer", "Lao", "Malayalam", "Myanmar", "Oriya", "Sinhala", "Tamil",
    "Telugu", "Thai",
)  # fmt: skip
_SCRIPTS_OF_FEWER = (
    "Adlam", "Balinese", "Bamum", "BassaVah", "Batak", "Buginese", "Buhid", "CanadianAboriginal",
    "Chakma", "Cham", "Cherokee", "GunjalaGondi", "HanifiRohingya", "Hanunoo", "Javanese",
    "KayahLi", "Lepcha", "Limbu", "Lisu", "Mandaic", "MasaramGondi", "Medefaidrin", "MeeteiMayek",
    "MendeKikakui", "Miao", "Mongolian", "Mro", "NKo", "NewTaiLue", "Newa", "OlChiki", "Osage",
    "Osmanya", "PahawhHmong", "PauCinHau", "Rejang", "Samaritan", "Saurashtra", "SoraSompeng",
    "Sundanese", "SylotiNagri", "Syriac", "Tagalog", "Tagbanwa", "TaiLe", "TaiTham", "TaiViet",
    "Thaana", "Tifinagh", "Tirhuta", "Vai", "Wancho", "WarangCiti", "Yi",
)  # fmt: skip
"""After those of many: a tatweel or a digit that both can write is then that of the latter."""

_SCRIPTS_WITH_SERIFS_ONLY = ("NyiakengPuachueHmong", "Tibetan", "Yezidi")
OTHERS = (
    *(f"NotoSans{script}-Regular" for script in _SCRIPTS),
    _CHINESE_AND_KANA,
    _MORE_CHINESE_AND_KANA,
    _HANGUL,
    *(f"NotoSans{script}-Regular" for script in _SCRIPTS_OF_FEWER),
    *(f"NotoSerif{script}-Regular" for script in _SCRIPTS_WITH_SERIFS_ONLY),
)
_JOINERS = (0x200C, 0x200D)
_VARIANTS = (*range(0x180B, 0x1810), *range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0))
_CHOOSE_A_FORM = frozenset(map(chr, (*_JOINERS, *_VARIANTS)))
"""Not seen themselves, they say how a letter beside them looks, where its typeface knows that."""


def path_of(typeface: str) -> Path:
    return FOLDER / f"{typeface}.ttf"


@functools.cache
def letters_of(typeface: str) -> frozenset[int]:
    """The characters that a typeface can write."""
    with TTFont(path_of(typeface), lazy=True) as font:
        return frozenset(font.getBestCmap())


def writable(text: str) -> str:
    """The text as it is drawn: composed, and what no typeface can write by its number.

    So is what is invisible and could change the order of what stands beside it.
    """
    return "".join(
        letter if letter in _CHOOSE_A_FORM or _is_written(letter) else f"[U+{ord(letter):04X}]"
        for letter in unicodedata.normalize("NFC", text)
    )


def typefaces_for(text: str) -> list[str]:
    """Those that a :func:`writable` text needs: the one to set it in, then those that help out.

    One that has all of it is best: letters that join each other are then in one typeface.
    """
    letters = {ord(letter) for letter in text if letter not in _CHOOSE_A_FORM}
    whole = next((face for face in (PLAIN, *OTHERS) if letters <= letters_of(face)), None)
    if whole is not None:
        return [whole]
    missing = letters - letters_of(PLAIN)
    helpers = []
    for face in OTHERS:
        if missing & letters_of(face):
            helpers.append(face)
            missing -= letters_of(face)
    return [PLAIN, *helpers]


def _is_written(letter: str) -> bool:
    is_visible = unicodedata.category(letter) not in ("Cc", "Cf", "Co", "Cn")
    return is_visible and any(ord(letter) in letters_of(face) for face in (PLAIN, *OTHERS))
