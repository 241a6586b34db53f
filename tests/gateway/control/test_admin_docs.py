"""The page of an API's description."""

from __future__ import annotations

from gateway.control.admin_docs import page

DOCUMENT = {
    "info": {"title": "A <b>", "version": "1"},
    "paths": {
        "/x/{id}": {
            "post": {
                "description": "Do & be.",
                "parameters": [{"name": "id"}, {"name": "c", "description": "which"}],
                "requestBody": {
                    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/B"}}}
                },
                "responses": {"200": {"description": "Fine"}},
            }
        },
        "/y": {"get": {}},
    },
    "components": {"schemas": {"B": {"properties": {"url": {"description": "where <it> is"}}}}},
}


def test_everything_is_shown_and_nothing_is_markup() -> None:
    """Titles, texts, parameters, the body's fields and the statuses, each escaped."""
    html = page(DOCUMENT)
    for text in ("A &lt;b&gt; 1", "POST /x/{id}", "Do &amp; be.", "which", "where &lt;it&gt; is"):
        assert text in html
    assert "200: Fine" in html
    assert "GET /y" in html


def test_an_empty_description() -> None:
    """No routes, no schemas."""
    assert "<h1>T 2</h1>" in page({"info": {"title": "T", "version": "2"}, "paths": {}})
