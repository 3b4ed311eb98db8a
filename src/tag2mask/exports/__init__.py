"""Results in the form that others expect: `EXPORTS` has a line for each, in the order of --help.

A new export is one module and one line here. The module has `add_options(command)`, which adds what its command
takes, and `export(options)`, which does the work and returns the exit status (0 or 1). It is loaded when its command
is chosen, so it may import what it likes. Masks of a run come from `tag2mask.exports.source`.
"""

from __future__ import annotations

EXPORTS = {  # command: module, help
    "coco": ("tag2mask.exports.coco", "COCO's JSON: instances as polygons or run-length codes, and panoptic masks"),
    "cvat": ("tag2mask.exports.cvat", "a zip that CVAT imports as 'Segmentation mask 1.1'"),
    "labelstudio": ("tag2mask.exports.labelstudio", "pre-annotations for Label Studio: brush masks with scores"),
    "yolo": ("tag2mask.exports.yolo", "YOLO's segmentation polygons beside the photos, with data.yaml"),
    "ultralytics": ("tag2mask.exports.ultralytics", "grey masks beside the photos as Ultralytics' semantic layout"),
    "masks": ("tag2mask.exports.masks", "plain folders of masks: grey, palette, or in colour over the photo"),
    "onnx": (
        "tag2mask.exports.onnx",
        "the segmentation network as an ONNX file for any runtime, checked against torch",
    ),
    "voc-server": (
        "tag2mask.exports.voc_server",
        "the archive for the PASCAL VOC 2012 test server, checked; predicts the test images where needed",
    ),
}
