"""Writes docs/fleet.schema.json, the JSON Schema of a fleet as a file."""

from __future__ import annotations

import json
from pathlib import Path

from streamfleet_api.v2.fleet_file.schema import schema

TARGET = Path(__file__).parents[2] / "docs/fleet.schema.json"

if __name__ == "__main__":
    TARGET.write_text(json.dumps(schema(), indent=2) + "\n")
