"""The tables of the docs say what goes over the wire."""

from __future__ import annotations

import pytest

pytest.importorskip("anthropic")
pytest.importorskip("google.genai")

from tests.integrations.hosted_table import DOCS, PAGES, Page


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_table_in_the_docs_is_what_goes_over_the_wire(page: Page):
    written = (DOCS / page.name).read_text(encoding="utf-8")
    assert written == page.text(), "python -m tests.integrations.hosted_table"
