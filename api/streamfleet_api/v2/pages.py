"""Long lists: in pages, and rendered page by page, so that other requests wait for no more than one."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from pydantic import BaseModel
from starlette.responses import Response

from streamfleet_api.web.endpoint import JSON
from streamfleet_api.web.validation import Invalid


@dataclass(slots=True)
class Page:
    """A list as it is rendered: all, or a page of `limit` entries."""

    name: str  # of the list
    limit: int | None
    fields: frozenset[str] | None  # None: all
    following: str | None = None  # the mark of the last entry, if the page is full
    _entries: list[str] = field(default_factory=list)

    def add(self, entry: BaseModel, mark: str) -> None:
        """Add an entry. `mark` is what the next page continues after."""
        self._entries.append(entry.model_dump_json(include=None if self.fields is None else {*self.fields}))
        if len(self._entries) == self.limit:
            self.following = mark

    @property
    def is_full(self) -> bool:
        """Whether it has all entries that were asked for."""
        return self.following is not None

    def response(self) -> Response:
        """The list as JSON. Only a page says what follows."""
        more = "" if self.limit is None else f',"next":{json.dumps(self.following)}'
        return Response(f'{{"{self.name}":[{",".join(self._entries)}]{more}}}'.encode(), media_type=JSON)


def fields_of(text: str | None, of: type[BaseModel]) -> frozenset[str] | None:
    """The fields of a model that a query names; None: all. Raises: Invalid."""
    if text is None:
        return None
    names = frozenset(text.split(","))
    for name in sorted(names - of.model_fields.keys()):
        known = ", ".join(of.model_fields)
        error = {
            "type": "fields",
            "loc": ["query", "fields"],
            "msg": f"Input should be some of {known}, separated by commas",
            "input": name[:64],
        }
        raise Invalid([error])
    return names
