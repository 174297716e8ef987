"""Papers: any name can be read on them and out of them, on as many pages as it takes."""

import functools
import unicodedata
from datetime import UTC, datetime

import pytest

from chassis.papers.drawing import pdf
from chassis.papers.paper import Amount, Paper, contained_tax_micros, percent
from chassis.papers.seller import SellerSettings
from chassis.papers.typefaces import FOLDER, OTHERS, PLAIN, path_of, typefaces_for, writable
from tests.papers import extracted, pages_of, texts_of

LEFT_TO_RIGHT = [
    "Ærøskøbing Łódź Nguyễn Thị Ánh",
    "Ἀθηνᾶ Παπαδοπούλου",
    "Щербакова Ґанна Ђорђевић",
    "თამარ Անահիտ",
    "王小明 山田太郎さん 髙橋 김민준",
    "𠮷田 𡈽屋 𣘺本 𩸽 ㄧㆠ ㇰ",
    "ไพลิน สุขใจ",
    "ሰላም",
    "ᏍᏏᏉᏯ ᏣᎳᎩ",
    "ⴷⵉⵀⵢⴰ ⵎⴰⵙⵉⵏⵉⵙⴰ",
    "ᓄᓇᕗᑦ ᐃᓄᒃᑎᑐᑦ",
    "ᱨᱚᱜᱷᱩᱱᱟᱛᱷ ᱢᱩᱨᱢᱩ",
    "ꕙꔤ ꖨꕌ",
    "ꆈꌠ ꉙ",
    "ꓡꓲ ꓢꓴ",
    "ꚠ ꛀꛣꛠ",
    "ᥖᥭᥰ ᥘᥫᥴ",
    "𐓏𐓘𐓻𐓘𐓻𐓟",
    "𑢡𑣈𑣜𑣊 𖩃𖩓 𖫐𖫡 𑃐𑃢 𐒖𐒐𐒘 𑫀𑫈",
]
"""Scripts whose letters stay themselves, one beside the other."""

SHAPED = [
    "श्रीकान्त क्षत्रिय ज़ोया",
    "অনির্বাণ",
    "தமிழ்ச்செல்வன்",
    "తెలుగు ಕನ್ನಡ മലയാളം ગુજરાતી ਪੰਜਾਬੀ සිංහල",
    "မြန်မာ ភាសាខ្មែរ ລາວ",
    "محمد عبد الله الأحمد",
    "דָּוִד בֶּן־גּוּרְיוֹן",
    "ଜଗନ୍ନାଥ ପଟ୍ଟନାୟକ",
    "བསྟན་འཛིན་རྒྱ་མཚོ",
    "އަޙްމަދު ޢަލީ",
    "ܐܦܪܝܡ ܣܘܪܝܝܐ",
    "𞤀𞤦𞤣𞤵𞤤𞤢𞥄𞤴𞤫 𞤄𞤢𞤪𞤪𞤭",
    "ߛߎߟߋߡߊ߬ߣߊ߫ ߞߊ߲ߕߍ߫",
    "ᠴᠢᠩᠭᠢᠰ ᠰᠠᠷᠠᠨ",
    "ꦱꦸꦏꦂꦤ ꦲꦂꦗꦺꦴ",
    "ᬯᬬᬦ᭄ ᬫᬤᬾ",
    "ᮞᮥᮔ᮪ᮓ ᯅᯖᯂ᯲ ᨒᨚᨈᨑ ꤰꥍꥇ",
    "ᨣᩤᩴᨾᩮᩬᩥᨦ ᦟᦹᧉ ꪎꪱꪣ ꨌꩌ",
    "ᜃᜅ᜔ ᜱᜨᜳ ᝀᝄ ᝠᝦ",
    "𑄌𑄋𑄴𑄟𑄳𑄦 𑐣𑐾𑐥𑐵𑐮 ꠍꠤꠟꠐꠤ ꢱꣃꢬꢵꢰ꣄ꢜ꣄ꢬ",
    "ꯃꯩꯇꯩ ᰛᰩᰵ ᤕᤠᤰᤌᤢᤱ 𞋒𞋀𞋉 𑒧𑒻𑒟𑒱𑒪𑒲",
    "𑵶𑶍 𑴎𑴽",
    "𐴌𐴟𐴇𐴥𐴝𐴚𐴒𐴙𐴝 ࡌࡀࡍࡃࡀ ࠔࠌࠓ 𐺀𐺁 𞠀𞠁",
    "𖼀𖽑 ꤊꤢꤛ 𞄐𞄦𞄲 𖬀𖬰 𖹀𖹠",
    "Müller & محمد GmbH 12",
    "শ্রী Anna Ωμέγα 王",
]


def paper(*buyer: str, lines: int = 1) -> Paper:
    return Paper(
        title="Receipt 2026-000123",
        made_at=datetime(2026, 3, 2, 12, 0, tzinfo=UTC),
        seller=("Mycelium Ltd", "Hauptstraße 1"),
        buyer=buyer or ("Ada",),
        facts=(("Paid on", "2026-03-02"),),
        lines=tuple(Amount(f"Thing {n}", n * 1_000_000, "each $1.00") for n in range(lines)),
        totals=(Amount("Tax (0%), included", 0), Amount("Total", 5_000_000)),
        foot="All amounts in US dollars.",
    )


@functools.cache
def drawn_for(name: str) -> bytes:
    """The paper, once for all that is held of it: some typefaces take a second to read."""
    return pdf(paper(name))


@pytest.mark.parametrize("name", LEFT_TO_RIGHT + SHAPED)
def test_a_name_in_any_script_comes_back_from_the_document(name: str) -> None:
    assert unicodedata.normalize("NFC", name) in texts_of(drawn_for(name))


@pytest.mark.parametrize("name", LEFT_TO_RIGHT)
def test_a_name_whose_letters_stand_alone_comes_back_from_its_glyphs(name: str) -> None:
    assert name in extracted(drawn_for(name))


def test_what_no_typeface_has_is_written_by_its_number() -> None:
    assert writable("Ada 😀") == "Ada [U+1F600]"
    assert "Ada [U+1F600]" in texts_of(pdf(paper("Ada 😀")))


def test_what_would_turn_the_text_beside_it_around_is_shown() -> None:
    assert writable("a\u202eb") == "a[U+202E]b"


def test_letters_are_drawn_composed() -> None:
    assert writable("A\u030a") == "Å"


def test_one_typeface_writes_a_whole_text_where_one_can() -> None:
    assert typefaces_for("Ada") == [PLAIN]
    assert typefaces_for("שלום") == ["NotoSansHebrew-Regular"]
    assert typefaces_for("Łada 髙 김") == [PLAIN, "DroidSansFallbackFull", "NanumSquareR"]


@pytest.mark.parametrize(
    ("text", "helper"),
    [
        ("Müller محمـد", "NotoSansArabic-Regular"),
        ("Ada မြ၁", "NotoSansMyanmar-Regular"),
        ("Ánh Thị ジョン・スミス", "DroidSansFallbackFull"),
    ],
)
def test_what_scripts_share_stays_in_the_typeface_of_the_letters_beside_it(
    text: str, helper: str
) -> None:
    assert typefaces_for(text) == [PLAIN, helper]


def test_every_typeface_is_there_and_none_besides() -> None:
    there = {file.stem for file in FOLDER.glob("*.ttf")}

    assert there == {PLAIN, "NotoSans-Bold", *OTHERS}
    assert path_of(PLAIN).is_file()


def test_every_typeface_writes_one_of_these_names() -> None:
    words = [word for name in LEFT_TO_RIGHT + SHAPED for word in name.split()]

    assert {face for word in words for face in typefaces_for(writable(word))} == {PLAIN, *OTHERS}


@pytest.mark.parametrize("name", ["葛\U000e0100城", "Ada 葛\U000e0100城", "ᠰᠠᠷ\u180eᠠ", "क्\u200dष"])
def test_what_chooses_the_form_of_a_letter_is_not_written_by_its_number(name: str) -> None:
    assert name in texts_of(pdf(paper(name)))


@pytest.mark.parametrize("lines", [0, 1, 14, 15, 16, 17, 50, 200])
def test_a_paper_of_any_length_has_all_its_lines_and_one_total(lines: int) -> None:
    pages = pages_of(pdf(paper(lines=lines)))

    texts = [text for page in pages for text in page]
    assert [text for text in texts if text.startswith("Thing ")] == [
        f"Thing {n}" for n in range(lines)
    ]
    assert texts.count("Total") == 1
    assert pages[-1].index("Total") > pages[-1].index("Tax (0%), included")


def test_each_page_says_what_it_is_of_and_how_many_there_are() -> None:
    document = pdf(paper(lines=50))

    pages = pages_of(document)
    assert len(pages) == 3
    assert all(page[0] == "Receipt 2026-000123" for page in pages)
    feet = [line.strip() for line in extracted(document) if "Page " in line]
    assert feet == [f"All amounts in US dollars. Page {number} of 3" for number in (1, 2, 3)]


def test_a_long_text_is_broken_and_not_cut() -> None:
    name = " ".join(f"word{n}" for n in range(60))

    assert name in " ".join(texts_of(pdf(paper("Ada", name))))


def test_a_word_that_is_longer_than_the_line_is_broken() -> None:
    assert "x" * 200 in "".join(texts_of(pdf(paper("x" * 200))))


def test_the_same_paper_is_the_same_document() -> None:
    assert pdf(paper("محمد")) == pdf(paper("محمد"))


@pytest.mark.parametrize(
    ("total", "bps", "tax"), [(119, 1_900, 19), (100, 0, 0), (3, 10_000, 2), (5, 10_000, 2)]
)
def test_the_tax_is_a_part_of_the_price(total: int, bps: int, tax: int) -> None:
    assert contained_tax_micros(total, bps) == tax


@pytest.mark.parametrize(
    ("bps", "written"), [(0, "0%"), (1_900, "19%"), (770, "7.7%"), (5, "0.05%")]
)
def test_a_rate_is_written_without_needless_noughts(bps: int, written: str) -> None:
    assert percent(bps) == written


def test_the_seller_is_what_the_settings_say() -> None:
    seller = SellerSettings(
        seller_name="Mycelium Ltd", seller_address="Hauptstraße 1; 1010 Wien", seller_tax_id="ATU1"
    )

    assert seller.seller_lines == ("Mycelium Ltd", "Hauptstraße 1", "1010 Wien", "Tax ID ATU1")
    assert SellerSettings().seller_lines == ("Mycelium",)
