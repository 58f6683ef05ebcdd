"""Web pages as text: what breaks, images and links say."""

from __future__ import annotations

import pytest

from ensembles.ingest import markup


def test_a_break_is_a_space_but_where_it_is_set_as_it_stands():
    page = "<p>a\n   b\n<b>c</b></p><PRE>x\n  y</PRE><textarea>\n1</textarea>"
    assert markup.unbroken(page) == "<p>a b <b>c</b></p><PRE>x\n  y</PRE><textarea>\n1</textarea>"


@pytest.mark.parametrize(
    ("written", "text"),
    [
        ("see [Oil](oil.html) and [Fuel](#fuel).", "see Oil and Fuel."),
        ('[Oil](oil.html "On oil, (new)")', "Oil"),
        ("[Oil](https://example.org/oil_(crude))", "[Oil](https://example.org/oil_(crude))"),
        ('[Oil](http://example.org "On oil")', "[Oil](http://example.org)"),
        ("[https://example.org](https://example.org)", "https://example.org"),
        ("[me@example.org](mailto:me@example.org)", "mailto:me@example.org"),
        ("[![Next](next.png)](b.html)![](dot.gif)", "Next"),
        ("a[1] (b)", "a[1] (b)"),
        ("1\xa0km", "1 km"),
    ],
)
def test_links_and_images_are_what_they_say(written, text):
    assert markup.plain(written) == text
