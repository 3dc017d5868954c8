"""Every field of a run with its meaning. Each other config starts from these fields and changes a few.

The values are the paper's recipe for short Kinetics clips. Rows and flags follow a colon:
`--config=configs/kinetics.py:nl5_i3d_r50`. A flag overrides a single field: `--config.optimizer.learning_rate=0.02`.
"""

from ml_collections import ConfigDict


def base() -> ConfigDict:
    """Returns the fields that every run has. A config adds `data`, which says where the data are.

    It may add `task`, a name in `nl_jax/tasks/__init__.py`. Without it the task is classification.
    """
    config = ConfigDict()
    config.seed = 0
    config.steps = 400_000
    config.batch_size = 64  # clips a step, over all devices
    config.recipe_batch_size = 0  # the batch size of rate and steps, which scale to batch_size; 0: no scaling
    config.eval_batch_size = 8  # videos, over all devices; one view of each video at a time
    config.num_classes = 0  # checked against the data; 0 takes the number of the data

    config.model = ConfigDict()
    config.model.depth = 50  # 50, 101 or 152
    config.model.blocks_per_stage = ()  # set by hand, res2 first; overrides depth
    config.model.width = 64
    config.model.inflate = ""  # "" is C2D; 3x1x1 or 3x3x3 is I3D
    config.model.geometry = "paper"
    config.model.nonlocal_blocks = ConfigDict(dict(res2=(), res3=(), res4=(), res5=()))  # residual blocks before them
    config.model.nonlocal_preset = 0  # or 1, 5 or 10 blocks in the paper's places
    # Blocks of a stage sum over groups of this many frames, as in released code at res3 of long clips; 0: all frames.
    config.model.nonlocal_time_group = ConfigDict(dict(res2=0, res3=0, res4=0, res5=0))
    config.model.nonlocal_options = ConfigDict()  # "default" is the value of the geometry, or else of the paper
    config.model.nonlocal_options.pairwise = "default"  # gaussian, embedded_gaussian, dot_product, concatenation
    config.model.nonlocal_options.axes = "default"  # spacetime, space, time
    config.model.nonlocal_options.subsample = "default"  # none, before, after
    config.model.nonlocal_options.scale = "default"  # a number or rsqrt_d
    config.model.nonlocal_options.norm = "default"  # batch, global, affine, frozen, none
    config.model.nonlocal_options.variant = "default"  # a block that is not in the paper: nl_jax/models/variants.py
    config.model.norm = "batch"
    config.model.group_size = 8  # clips per batch norm group
    config.model.dropout = 0.5
    config.model.head_window = 0  # 7 slides the head over crops larger than training crops
    config.model.dtype = "float32"  # or bfloat16, for the computation
    config.model.remat = ()  # stages that the backward pass computes again, to save memory

    # For a classifier on a small dataset.
    config.loss = ConfigDict()
    config.loss.label_smoothing = 0.0  # the share of a label that is spread evenly over all classes
    config.loss.mixup = 0.0  # alpha: each clip is mixed with another of its batch, by a share from Beta(alpha, alpha)

    config.input = ConfigDict()  # the network sees (x / 255 - mean) / std, by channel of RGB
    config.input.mean = (0.45, 0.45, 0.45)
    config.input.std = (0.225, 0.225, 0.225)

    config.optimizer = ConfigDict()
    config.optimizer.name = "sgd"  # or adamw
    config.optimizer.learning_rate = 0.01
    config.optimizer.momentum = 0.9
    config.optimizer.nesterov = True
    config.optimizer.weight_decay = 1e-4  # not on norms
    config.optimizer.clip_norm = 0.0  # the largest norm of the whole gradient; 0: no limit
    config.optimizer.classifier_rate = 1.0  # times the learning rate; a new head on a trained network learns faster
    config.optimizer.schedule = "step"  # step, steps, cosine, constant
    config.optimizer.decay_every = 150_000
    config.optimizer.decay_at = ()  # for the schedule "steps": the steps at which the rate decays
    config.optimizer.decay_rate = 0.1
    config.optimizer.warmup_steps = 0
    config.optimizer.warmup_start = 0.1  # as a share of the learning rate
    config.optimizer.cosine_from_start = False  # True: it begins at step 0; the warm-up ends on it, below the rate
    # Decay of an exponential moving average of the weights, such as 0.9999. A run tests the average. 0: no average.
    config.optimizer.ema = 0.0

    config.start = ConfigDict()  # where the parameters come from
    config.start.stage = ""  # FILE.py:ROW of the config to start from; runs first if it has not run
    config.start.workdir = ""  # the workdir of a finished run, in place of the stage
    config.start.model = ""  # or the name of a published network (nl_jax.zoo)
    config.start.planes = "mean"  # of an inflated kernel: mean (each plane a t-th) or center

    config.images = ConfigDict(dict(train="", validation=""))  # data of the image stage, the first of a chain

    config.precise_bn_batches = 200  # before every evaluation
    config.max_bad_videos = 0.2  # the run stops at this share of undecodable training videos
    config.eval_every = 10_000  # steps; 0: only at the end
    config.paper = ()  # the paper's top-1 and top-5 for this row, in percent
    config.expect = ""  # the known result of this config; printed at the end of a run

    # How the run is executed. These fields may change when a run is resumed.
    # Devices that split the batch (data; -1: all the rest), the batch and the state (fsdp), the frames (time).
    config.mesh = ConfigDict(dict(data=-1, fsdp=1, time=1))
    config.accumulate_steps = 1  # parts of a batch, computed one after another, for fewer devices
    config.num_workers = 0  # processes that decode; 0 decodes in threads
    config.log_every = 50
    config.checkpoint_every = 1000
    config.keep_checkpoints = 2  # the newest; the best by validation is kept too
    config.keep_every = 0  # steps, a multiple of checkpoint_every: checkpoints at every multiple stay; 0: none
    config.skip_nonfinite = 0  # steps with a non-finite loss or gradient that a run skips before it stops
    config.input_warning = 60.0  # a run warns after waiting this many seconds for a batch
    config.input_timeout = 1800.0  # and ends after this many seconds; 0: never
    return config


def video_data() -> ConfigDict:
    """Returns the fields of videos: a folder with one sub-folder per class, a CSV of path,label, or DIR:SPLIT.

    DIR is a folder that prepare_data wrote. Clips and views are those of section 4.1.
    """
    return ConfigDict(
        dict(
            name="video_folder",
            train="",
            validation="",
            test="",
            frames=32,
            stride=2,  # every other frame
            short_side=(256, 320),  # drawn uniformly
            crop=224,
            flip=True,  # set False if classes tell left from right
            clips_per_decode=1,  # training clips of one decoded video: same frames, own scale, crop and flip
            num_clips=10,
            num_crops=3,
            starts="paper",  # where test clips start; or caffe2, slowfast, mmaction2
            test_short_side=256,
            test_crop=256,  # 0 tests on whole frames, with num_crops=1
            validation_clips=1,  # in training; the final test has num_clips x num_crops views
            validation_crops=1,
        )
    )


def long_range_data() -> ConfigDict:
    """Returns the fields of the embedded task of video, `nl_jax.data.embedded.long_range`."""
    return ConfigDict(
        dict(
            name="long_range",
            seed=0,
            images=False,
            frames=16,
            side=24,
            kinds=5,
            digits=4,
            drift=1,
            noise=24,
            train_size=1_000_000,  # more than a run draws: no clip is seen twice
            validation_size=512,
            test_size=2000,
        )
    )


def detection() -> ConfigDict:
    """Returns `base` for detection, with the recipe of table 5; see `nl_jax.models.DetectorConfig`."""
    config = base()
    config.task = "detection"
    del config.loss
    config.steps = 90_000
    config.batch_size = 16  # images a step, over all devices
    config.eval_batch_size = 8
    config.input.mean = (0.485, 0.456, 0.406)  # the values of torchvision's and timm's networks
    config.input.std = (0.229, 0.224, 0.225)
    config.model.norm = "frozen"
    config.model.nonlocal_options.init = "default"  # he or normal
    config.model.nonlocal_options.norm_scale = "default"  # the initial scale of the blocks' norm, a number
    config.model.groups = 1  # ResNeXt-152 32x8d: 32
    config.model.width_per_group = 64  # and 8
    config.model.stride_on_1x1 = False  # True for weights of the first ResNets
    config.model.freeze_at = 2  # conv1 and res2 are frozen
    config.model.norm_epsilon = 1e-5

    config.detector = ConfigDict()
    config.detector.masks = True
    config.detector.keypoints = 0  # the number in the data: a keypoint head replaces the mask head; 0: no head
    config.detector.keypoint_blocks = ()  # convolutions that a block follows; table 6: (2, 4, 6, 8)
    config.detector.keypoint_options = ConfigDict()  # for these blocks, like model.nonlocal_options
    for option in ("pairwise", "axes", "subsample", "scale", "norm", "init", "norm_scale"):
        config.detector.keypoint_options[option] = "default"
    config.detector.keypoint_channels = 512
    config.detector.keypoint_convolutions = 8
    config.detector.fpn_channels = 256
    config.detector.box_channels = 1024
    config.detector.mask_channels = 256
    config.detector.anchor_sides = (32, 64, 128, 256, 512)
    config.detector.anchor_ratios = (0.5, 1.0, 2.0)
    config.detector.round_anchors = True
    config.detector.floor_strides = False
    config.detector.pre_nms = 1000
    config.detector.proposals = 1000
    config.detector.train_pre_nms = 2000
    config.detector.train_proposals = 1000
    config.detector.rpn_samples = 256
    config.detector.roi_samples = 512
    config.detector.roi_positive_fraction = 0.25  # of roi_samples, at most
    config.detector.score_threshold = 0.05
    config.detector.nms = 0.5
    config.detector.detections = 100
    config.detector.samples = 2
    config.detector.aligned = False
    config.detector.mask_padding = True  # False for weights that were trained without it

    config.optimizer.learning_rate = 0.02
    config.optimizer.nesterov = False
    config.optimizer.bias_rate = 2.0  # times the learning rate
    config.optimizer.schedule = "steps"
    config.optimizer.decay_at = (60_000, 80_000)
    config.optimizer.warmup_steps = 500
    config.optimizer.warmup_start = 1 / 3
    return config


def coco_data() -> ConfigDict:
    """Returns the fields of COCO's format: FILE.json beside its images, IMAGES:FILE.json, or DIR:SPLIT.

    DIR has COCO's layout, or prepare_data wrote it.
    """
    return ConfigDict(
        dict(
            name="coco",
            train="",
            validation="",
            test="",
            short_sides=(800,),  # one is drawn for each image
            long_side=1333,
            test_short_side=800,
            max_boxes=100,
            flip=True,
        )
    )


def scenes_data() -> ConfigDict:
    """Returns the fields of the embedded task of detection, `nl_jax.data.embedded.scenes`."""
    return ConfigDict(
        dict(
            name="scenes",
            seed=0,
            width=192,
            gap=104,
            cues=4,
            digits=(2, 4),
            noise=24,
            train_size=1_000_000,  # more than a run draws: no scene is seen twice
            validation_size=200,
            test_size=500,
        )
    )


def poses_data() -> ConfigDict:
    """Returns the fields of the embedded task of keypoints, `nl_jax.data.embedded.poses`."""
    return ConfigDict(
        dict(
            name="poses",
            seed=0,
            noise=24,
            train_size=1_000_000,  # more than a run draws: no picture is seen twice
            validation_size=200,
            test_size=500,
        )
    )


def parse_row(argument: str, rows: dict[str, dict], flags: tuple[str, ...] = ()) -> tuple[dict, set[str]]:
    """Returns the changes of the row and the flags of `FILE.py:row,flag,..`; the first row is the default.

    Raises ValueError for an unknown name, and lists the valid names.
    """
    row, given = next(iter(rows)), set()
    for name in filter(None, argument.split(",")):
        if name in rows:
            row = name
        elif name in flags:
            given.add(name)
        else:
            valid = f"rows: {', '.join(rows)}" + (f"; flags: {', '.join(flags)}" if flags else "")
            raise ValueError(f"no row or flag {name!r} after the colon of --config; {valid}")
    return rows[row], given


def update(config: ConfigDict, changes: dict) -> ConfigDict:
    """Returns `config`, locked, with `changes`, {"model.inflate": "3x1x1", ..}; an unknown field is an error.

    The batch size of the result is that of its recipe.
    """
    config.lock()
    config.update_from_flattened_dict(changes)
    config.recipe_batch_size = config.batch_size
    return config
