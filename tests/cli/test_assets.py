"""`monkeylib assets`."""

import json


def test_assets_are_listed_and_fetched(call):
    code, output, _ = call("assets", "list")

    assert code == 0 and "licence" in output
    assert "is AGPL-3.0; it is neither installed nor imported" in output

    lines = call("assets", "list", "--json")[1].splitlines()
    rows = {row["name"]: row for row in map(json.loads, lines)}
    assert "AGPL-3.0" in rows["yolox-nano"]["note"]
    assert rows["scikit-image-images"]["available"] == "yes"

    code, output, _ = call("assets", "fetch", "scikit-image-images")

    assert code == 0 and output.startswith("scikit-image-images: ")
