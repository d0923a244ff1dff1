"""Annotated images of which figures can be checked by hand."""

import json

from db import AnnotationIndex, load_index

BOX = [10, 10, 40, 40]  # x, y, width, height


def index_of(tmp_path, *annotations, images=1, size=(100, 200)) -> AnnotationIndex:
    """An index of images (height, width) with annotations (image, category, [x, y, width, height], crowd)."""
    entries = [
        {"id": n, "image_id": image, "category_id": category, "bbox": box, "iscrowd": crowd, "area": box[2] * box[3]}
        for n, (image, category, box, crowd) in enumerate(annotations, 1)
    ]
    names = [{"id": i, "file_name": f"{i}.jpg", "height": size[0], "width": size[1]} for i in range(1, images + 1)]
    categories = [{"id": 3, "name": "ring"}, {"id": 7, "name": "cross"}]
    path = tmp_path / "truth.json"
    path.write_text(json.dumps({"images": names, "annotations": entries, "categories": categories}))
    for name in names:
        (tmp_path / name["file_name"]).touch()
    return load_index(path, tmp_path)
