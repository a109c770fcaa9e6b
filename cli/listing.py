"""The table of data sets."""

import json

from pyro_skipvae.data import DATASETS, locate

from .terminal import table


def dataset_table(root, as_json):
    """What there is, and for each set the path found, or the places looked at."""
    rows = [(name, info, *locate(name, root)) for name, info in DATASETS.items()]
    if as_json:
        return json.dumps({"schema": 1, "datasets": [_record(*row) for row in rows]}, indent=2) + "\n"
    lines = [
        (name, info.title, " / ".join(f"{size:,}" for size in info.sizes), str(found) if found else "not here: " + info.source)
        for name, info, found, _ in rows
    ]
    looked = sorted({str(place) for *_, places in rows for place in places})
    text = table(("name", "what", "train / valid / test", "where"), lines)
    return text + "\nLooked at:\n" + "".join(f"  {place}\n" for place in looked)


def _record(name, info, found, places):
    return {
        "name": name,
        "title": info.title,
        "event_shape": info.event_shape,
        "sizes": info.sizes,
        "binarisation": info.binarisation,
        "source": info.source,
        "licence": info.licence,
        "found": str(found) if found else None,
        "looked_at": [str(place) for place in places],
    }
