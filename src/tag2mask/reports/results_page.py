"""The table of results as one self-contained HTML page."""

from __future__ import annotations

import base64
from collections.abc import Sequence

from tag2mask import __version__
from tag2mask.reports.html import page_environment
from tag2mask.reports.results import Result, to_csv, to_json


def results_page(rows: Sequence[Result], notes: Sequence[str] = ()) -> str:
    """Render the page: sortable by every column, filterable, readable without scripts, self-contained.

    `notes` say which runs were left out.
    """
    environment = page_environment()
    own = [row for row in rows if row.own]
    context = {
        "rows": rows,
        "own": own,
        "notes": notes,
        "datasets": list(dict.fromkeys(row.dataset for row in rows)),
        "tasks": list(dict.fromkeys(row.task for row in rows)),
        "kinds": sorted({row.kind for row in rows if row.kind}),
        "splits": list(dict.fromkeys(row.split for row in rows)),
        "json_uri": _uri(to_json(rows), "application/json"),
        "csv_uri": _uri(to_csv(rows), "text/csv"),
        "version": __version__,
    }
    return environment.get_template("results.html.j2").render(context)


def _uri(text: str, kind: str) -> str:
    return f"data:{kind};charset=utf-8;base64,{base64.b64encode(text.encode('utf-8')).decode('ascii')}"
