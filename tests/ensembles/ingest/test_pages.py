"""Pages as one text: what is printed around it is left out, and nothing else is."""

from __future__ import annotations

from ensembles.ingest.pages import joined

TEXTS = ("Rotors turn.", "Stators stand.", "Blades bend.", "Towers last.")


def text(*pages: str) -> str:
    return joined(list(enumerate(pages, 1))).text


def around(form: str) -> str:
    """The texts on pages of this form, of which none is left."""
    return text(*(form.format(number=number, text=each) for number, each in enumerate(TEXTS, 1)))


def test_each_page_begins_where_its_text_does():
    document = joined([(3, "Rotors turn."), (4, ""), (5, "Stators stand.")])
    assert document.text == "Rotors turn.\n\nStators stand."
    assert document.pages == [(0, 3), (document.text.index("Stators"), 5)]


def test_a_sentence_goes_over_the_end_of_a_page():
    assert text("The rotor turns", "while it blows.") == "The rotor turns while it blows."
    assert text("The rotor,", "which turns") == "The rotor, which turns"
    assert text("It turns.", "rotors turn.") == "It turns.\n\nrotors turn."


def test_a_word_goes_over_the_end_of_a_page():
    document = joined([(1, "The tur-"), (2, "bine turns."), (3, "It stops.")])
    assert document.text == "The turbine turns.\n\nIt stops."
    assert [document.text[start:][:4] for start, _ in document.pages] == ["The ", "bine", "It s"]


def test_a_hyphen_stays_where_either_part_is_a_word():
    pages = ("It is wind-", "driven. What is driven by the wind turns up-", "wards. Look up and upwards.")
    assert text(*pages) == "It is wind-driven. What is driven by the wind turns upwards. Look up and upwards."


def test_lines_with_the_pages_own_numbers_are_left_out():
    whole = "\n\n".join(TEXTS)
    for form in (
        "{text}\n\n{number}",
        "{text}\n\nPage {number}",
        "- {number} -\n\n{text}",
        "Wind, 1{number}\n\n{text}",
    ):
        assert around(form) == whole


def test_a_number_that_stands_in_the_last_line_goes_alone():
    pages = [f"{each} It is written down here at some length" for each in TEXTS]
    assert text(*(f"{each} {number}\n" for number, each in enumerate(pages, 7))) == "\n\n".join(pages)


def test_numbers_that_are_no_pages_stay():
    pages = ("Built in 1990", "Painted in 1997", "Sold in 2004")
    assert text(*pages) == "\n\n".join(pages)


def test_what_several_pages_begin_with_is_left_out():
    whole = "\n\n".join(TEXTS)
    assert around("Wind Turbines 2nd ed.\n\n{text}") == whole
    assert text("# Wind Turbines", *(f"Wind Turbines {each}" for each in TEXTS)) == f"# Wind Turbines\n\n{whole}"


def test_heads_in_italics_are_left_out_whatever_they_say():
    heads = ("*1. ROTORS*", "*1. ROTORS* …", "*1. ROTORS* … *1.2. BLADES*", "*2. TOWERS*")
    assert text(*(f"{head} {each}" for head, each in zip(heads, TEXTS, strict=True))) == "\n\n".join(TEXTS)


def test_what_two_pages_begin_with_stays():
    pages = ("Note well.\n\nRotors turn.", "Note well.\n\nStators stand.", "*Blades* bend.", "Towers last.")
    assert text(*pages) == "\n\n".join(pages)


def test_headings_and_rows_that_pages_begin_with_stay():
    pages = ("# Summary\n\nOne.", "# Summary\n\nTwo.", "# Summary\n\nThree.")
    assert text(*pages) == "\n\n".join(pages)
    rows = tuple(f"| {number} | {each} |" for number, each in enumerate(TEXTS, 1))
    assert text(*rows) == "\n\n".join(rows)


def test_a_table_of_contents_is_left_out():
    contents = "# Contents\n\n1 Rotors . . . . 3\n\n1.1 Blades . 4\n\n| 2 Towers ..... | 9 |"
    assert text(contents, "Rotors turn.") == "Rotors turn."
    mixed = f"{contents}\n\nThis book is about wind.\n\nIt is short.\n\nIt has figures."
    assert text(mixed) == "# Contents\n\nThis book is about wind.\n\nIt is short.\n\nIt has figures."


def test_a_list_of_prices_is_none():
    menu = "Soup .... 9\n\nFish .... 21\n\nTea .... 4"
    assert text(menu) == menu


def test_a_heading_of_several_lines_is_one():
    assert text("## 1.1 Why do rotors\n\n**turn so fast?**\n\nWind.") == "## 1.1 Why do rotors turn so fast?\n\nWind."
    assert text("# How wind tur-\n\n### bines work\n\nWell.") == "# How wind turbines work\n\nWell."
    assert text("# Rotors\n\n**Blades**\n\nBend.") == "# Rotors\n\n**Blades**\n\nBend."


def test_accents_that_lost_their_letters_are_left_out():
    assert text("\u0300\n\nthe \u0300 rotor a\u0300") == "the rotor a\u0300"
