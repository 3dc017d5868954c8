"""The names of the figures of a classifier in logs, in the progress bar, in curves and in results."""

import dataclasses

from ml_collections import ConfigDict

from nl_jax.figures.curves import Curves
from nl_jax.training.task import Results

TRAIN_FIGURES = {"top1": "top-1 {:.1%}"}
VALIDATION_FIGURES = {
    "video_top1": "top-1 {:.1%}",
    "video_top5": "",
    "clip_top1": "",
    "clip_top5": "",
    "video_map": "mAP {:.1%}",
}
RESULT_FIGURES = {
    "video_top1": "videos, top-1",
    "video_top5": "videos, top-5",
    "clip_top1": "clips, top-1",
    "clip_top5": "clips, top-5",
    "video_map": "videos, mean average precision",
    "chance": "chance",
}
CURVES = (
    Curves("Loss in training", "cross-entropy, nats", {"train_loss": "training"}),
    Curves(
        "Accuracy",
        "%",
        {
            "train_top1": "training clips, top-1",
            "validation_video_top1": "validation videos, top-1",
            "validation_video_map": "validation videos, mean average precision",
        },
        scale=100.0,
        top=100.0,
    ),
)


def sentences(results: Results) -> str:
    """Returns the figures as sentences that name the examples on which they were measured."""
    if "video_map" in results:
        figure, chance = f"video mean average precision {results['video_map']:.1%}", ""
    else:
        clips, videos = (
            ", ".join(f"top-{k} {results[name]:.1%}" for k in (1, 5) if (name := f"{what}_top{k}") in results)
            for what in ("clip", "video")
        )
        figure, chance = f"video {videos}; clip {clips}", f"; chance {results['chance']:.1%}"
    lines = [
        f"{figure} ({results['videos']} videos x {results['views']} views of {results['measured_on']}, "
        f"list {results['list']}{chance})"
    ]
    if results["undecodable"]:
        lines.append(f"{results['undecodable']} of these videos could not be decoded and count as wrong")
    if results.get("nonfinite"):  # results of an older run have no such number
        lines.append(
            f"the scores of {results['nonfinite']} of these videos are not finite and count as wrong: the network "
            "has diverged"
        )
    if results.get("bad_training_videos"):
        lines.append(f"{results['bad_training_videos']} training videos could not be decoded: see bad_videos.csv")
    return "\n".join(lines)


def named_curve(drawing: Curves, config: ConfigDict, validated_on: str) -> Curves:
    """Returns a plot of `CURVES` with labels that name the examples on which the figures of this run are measured."""
    lines = dict(drawing.lines)
    if validated_on != "validation":
        lines |= {
            column: label.replace("validation videos", validated_on)
            for column, label in lines.items()
            if column.startswith("validation_")
        }
    # In training the statistics of batch norm depend on the other clips of the batch. In a test they do not.
    if "train_top1" in lines and config.model.norm in ("batch", "global"):
        lines["train_top1"] += ", by statistics of the batch"
    if "train_top1" in lines and config.get("loss", {}).get("mixup"):
        lines["train_top1"] += ", mixed"
    return dataclasses.replace(drawing, lines=lines)
