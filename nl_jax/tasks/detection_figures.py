"""The names of the losses and figures of a detector in logs, in the progress bar, in curves and in results."""

from nl_jax.figures.curves import Curves
from nl_jax.training.task import Results

TRAIN_FIGURES = {
    "class_loss": "names {:.2f}",
    "box_loss": "boxes {:.2f}",
    "mask_loss": "masks {:.2f}",
    "keypoint_loss": "keypoints {:.2f}",
    "objectness_loss": "",
    "rpn_box_loss": "",
    "positive_anchors": "",
    "positive_proposals": "",
    "boxes_without_area": "",
    "keypoints": "",
}
VALIDATION_FIGURES = {
    "box_ap": "box AP {:.1%}",
    "mask_ap": "mask AP {:.1%}",
    **dict.fromkeys(
        (f"{kind}_ap{of}" for kind in ("box", "mask") for of in ("50", "75", "_small", "_medium", "_large")), ""
    ),
    "box_ap_agnostic": "found {:.1%}",
    "mask_ap_agnostic": "",
    "box_ar100": "",
    "mask_ar100": "",
    "keypoint_ap": "keypoint AP {:.1%}",
    **dict.fromkeys((f"keypoint_{of}" for of in ("ap50", "ap75", "ap_medium", "ap_large", "ar")), ""),
    "keypoint_exchanged": "left for right {:.1%}",
}
RESULT_FIGURES = {
    "box_ap": "boxes, AP",
    "box_ap50": "boxes, AP50",
    "box_ap75": "boxes, AP75",
    "mask_ap": "masks, AP",
    "mask_ap50": "masks, AP50",
    "mask_ap75": "masks, AP75",
    "box_ap_agnostic": "boxes whatever their class, AP",
    "mask_ap_agnostic": "masks whatever their class, AP",
    "box_ar100": "boxes, AR of 100 detections",
    "mask_ar100": "masks, AR of 100 detections",
    "keypoint_ap": "keypoints, AP",
    "keypoint_ap50": "keypoints, AP50",
    "keypoint_ap75": "keypoints, AP75",
    "keypoint_ar": "keypoints, AR",
    "keypoint_exchanged": "keypoints found left for right, or right for left",
}
CURVES = (
    Curves(
        "Losses in training",
        "",
        {
            "train_class_loss": "names",
            "train_box_loss": "boxes",
            "train_mask_loss": "masks",
            "train_keypoint_loss": "keypoints",
            "train_objectness_loss": "objectness",
            "train_rpn_box_loss": "boxes of proposals",
        },
    ),
    Curves(
        "Average precision",
        "%",
        {
            "validation_box_ap": "boxes",
            "validation_mask_ap": "masks",
            "validation_keypoint_ap": "keypoints",
            "validation_box_ap_agnostic": "boxes, whatever their class",
        },
        scale=100.0,
        top=100.0,
    ),
)


def sentences(results: Results) -> str:
    """Returns the figures as sentences that name the examples on which they were measured, and all faults."""
    lines = [f"{_words(results)} ({results['images']} images of {results['measured_on']}, list {results['list']})"]
    if results["undecodable"]:
        lines.append(
            f"{results['undecodable']} of these images could not be decoded and count as images without detections"
        )
    if faults := results.get("annotation_faults"):
        counts = ", ".join(f"{count} of kind {kind!r}" for kind, count in faults.items())
        lines.append(f"the annotation file of these images has faults, which can change the figures: {counts}")
    if results.get("bad_training_images"):
        lines.append(f"{results['bad_training_images']} training images could not be decoded: see bad_images.csv")
    return "\n".join(lines)


def _words(results: Results) -> str:
    """Returns a text with the box AP of the results, and with the mask AP or the keypoint AP."""
    kinds = [
        f"{kind} AP {results[f'{kind}_ap']:.1%}, AP50 {results[f'{kind}_ap50']:.1%}, "
        f"AP75 {results[f'{kind}_ap75']:.1%}, whatever the class {results[f'{kind}_ap_agnostic']:.1%}"
        for kind in ("box", "mask")
        if f"{kind}_ap" in results
    ]
    if "keypoint_ap" in results:
        kinds = [f"box AP {results['box_ap']:.1%}", _keypoint_words(results)]
    return "; ".join(kinds) or "no true object, so no AP"


def _keypoint_words(results: Results) -> str:
    found = f"keypoint AP {results['keypoint_ap']:.1%}, AP50 {results['keypoint_ap50']:.1%}, "
    found += f"AP75 {results['keypoint_ap75']:.1%}"
    if "keypoint_exchanged" in results:
        found += f", found left for right or right for left {results['keypoint_exchanged']:.1%}"
    return found
