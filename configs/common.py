"""Lists and explains every field of a config. The other configs start from these fields and change a few of them.

The values here are the paper's recipe for short Kinetics clips. A row of a config follows a colon, and then its flags:
`--config=configs/kinetics.py:nl5_i3d_r50,laptop`. On the command line, `--config.optimizer.learning_rate=0.02` changes
one field.
"""

from ml_collections import ConfigDict


def base() -> ConfigDict:
    """Returns the fields that every run has. A config adds `data`, the fields of its dataset.

    A config may add `task`, a name in `nl_jax/tasks/__init__.py`. Without this field the task is classification.
    """
    config = ConfigDict()
    config.seed = 0  # of all random numbers of the run: weights, order of the data, crops, flips, dropout
    config.steps = 400_000  # training steps of the whole run
    config.batch_size = 64  # clips in a step, over all devices
    config.recipe_batch_size = 0  # rate and steps are given for this batch size, and scale to batch_size; 0: no scaling
    config.eval_batch_size = 8  # videos in a batch of a test, over all devices; each video gives one view at a time
    config.num_classes = 0  # must be the number in the data; 0 takes the number in the data

    config.model = ConfigDict()
    config.model.depth = 50  # layers of the ResNet: 50, 101 or 152
    config.model.blocks_per_stage = ()  # residual blocks of res2, res3, ..; () takes the numbers of the depth
    config.model.width = 64  # channels after conv1
    config.model.inflate = ""  # kernels in time: "" is C2D; "3x1x1" or "3x3x3" is I3D
    config.model.geometry = "paper"  # strides, pools and paddings; see nl_jax/models/geometry.py for the others
    # For each stage the residual blocks, counted from 0, that a non-local block follows, such as res4=(1, 3, 5).
    config.model.nonlocal_blocks = ConfigDict(dict(res2=(), res3=(), res4=(), res5=()))
    config.model.nonlocal_preset = 0  # 1, 5 or 10: this many non-local blocks in the paper's places; 0: nonlocal_blocks
    # For each stage the number of frames in a group. A block sums inside a group, as in the released code at res3 of
    # long clips. 0: over all frames.
    config.model.nonlocal_time_group = ConfigDict(dict(res2=0, res3=0, res4=0, res5=0))
    config.model.nonlocal_options = ConfigDict()  # "default": the value of the geometry, or else of the paper
    config.model.nonlocal_options.pairwise = "default"  # gaussian, embedded_gaussian, dot_product, concatenation
    config.model.nonlocal_options.axes = "default"  # spacetime, space, time
    config.model.nonlocal_options.subsample = "default"  # max pool of the keys: none, or before or after phi and g
    config.model.nonlocal_options.scale = "default"  # factor of the scores in the softmax: a number, or rsqrt_d
    config.model.nonlocal_options.norm = "default"  # after W_z: batch, global, affine, frozen, none
    config.model.nonlocal_options.variant = "default"  # a later block, by its name in nl_jax/models/variants.py
    config.model.norm = "batch"  # batch, global, frozen, affine; nl_jax/models/norm.py explains them
    config.model.group_size = 8  # clips that share statistics in batch norm
    config.model.dropout = 0.5  # probability, before the classifier
    config.model.head_window = 0  # side of the window of the head, which slides over larger test crops: 7; 0: no window
    config.model.dtype = "float32"  # of the computation: float32 or bfloat16
    config.model.remat = ()  # stages that the backward pass computes again, to save memory, such as ("res2", "res3")

    config.loss = ConfigDict()  # both fields are for classifiers on small datasets
    config.loss.label_smoothing = 0.0  # fraction of each label that is spread evenly over all classes
    config.loss.mixup = 0.0  # alpha; each clip is mixed with a clip of its batch, by a share from Beta(alpha, alpha)

    config.input = ConfigDict()  # the input of the network is (x / 255 - mean) / std, for each channel of RGB
    config.input.mean = (0.45, 0.45, 0.45)
    config.input.std = (0.225, 0.225, 0.225)

    config.optimizer = ConfigDict()
    config.optimizer.name = "sgd"  # sgd or adamw
    config.optimizer.learning_rate = 0.01  # after the warm-up
    config.optimizer.momentum = 0.9  # of sgd
    config.optimizer.nesterov = True  # of sgd
    config.optimizer.weight_decay = 1e-4  # of all parameters except the parameters of norms
    config.optimizer.clip_norm = 0.0  # maximum norm of the whole gradient; 0: no maximum
    config.optimizer.classifier_rate = 1.0  # factor of the learning rate of the classifier, for a new classifier
    config.optimizer.schedule = "step"  # step, steps, cosine, constant
    config.optimizer.decay_every = 150_000  # of the schedule "step": steps between two decays of the rate
    config.optimizer.decay_at = ()  # of the schedule "steps": the steps at which the rate decays
    config.optimizer.decay_rate = 0.1  # factor of the rate at a decay
    config.optimizer.warmup_steps = 0  # steps in which the rate grows linearly to its value
    config.optimizer.warmup_start = 0.1  # rate at step 0, over learning_rate
    config.optimizer.cosine_from_start = False  # True: the cosine begins at step 0, and the warm-up ends on its curve
    # Decay of an exponential moving average of the weights, such as 0.9999. The run tests the average. 0: no average.
    config.optimizer.ema = 0.0

    config.start = ConfigDict()  # the network that gives the first weights; without it they are random
    config.start.stage = ""  # FILE.py:ROW of a config; the program trains this network first
    config.start.workdir = ""  # workdir of a finished run, in place of the stage
    config.start.model = ""  # name of a published network (nl_jax.zoo), in place of the stage
    config.start.planes = "mean"  # weights of an inflated kernel of t planes: mean (all planes, over t) or center

    config.images = ConfigDict(dict(train="", validation=""))  # data of the image network, if a run starts from one

    config.precise_bn_batches = 200  # batches for new statistics of batch norm, before every validation and test
    config.max_bad_videos = 0.2  # fraction of undecodable training videos at which the run stops
    config.eval_every = 10_000  # steps between two validations; 0: only the test at the end
    config.paper = ()  # the paper's figures for this row, in percent: top-1 and top-5
    config.expect = ""  # the known result of this config, which is printed at the end of the run

    # The fields below say how a run is carried out. They may change when the run continues.
    # The number of devices along each axis of the device mesh. The axis data splits the batch, fsdp the batch and the
    # state, and time the frames. -1: all remaining devices.
    config.mesh = ConfigDict(dict(data=-1, fsdp=1, time=1))
    config.accumulate_steps = 1  # parts of a batch that a step computes one after another, to need fewer devices
    config.num_workers = 0  # processes that decode; 0 decodes in threads
    config.log_every = 50  # steps between two lines of the log
    config.checkpoint_every = 1000  # steps between two checkpoints
    config.keep_checkpoints = 2  # number of newest checkpoints to keep; the best on the validation split stays too
    config.keep_every = 0  # steps, a multiple of checkpoint_every; checkpoints at its multiples stay too; 0: none
    config.skip_nonfinite = 0  # number of steps with a non-finite loss or gradient to skip before the run stops
    config.input_warning = 60.0  # seconds of waiting for a batch after which the run warns
    config.input_timeout = 1800.0  # seconds of waiting for a batch after which the run ends; 0: it never ends
    return config


def video_data() -> ConfigDict:
    """Returns the fields of a dataset of videos, with the clips and views of section 4.1.

    A split is a folder with one sub-folder per class, a CSV file of `path,label` lines, or DIR:SPLIT with a folder DIR
    that `experiments.prepare_data` wrote.
    """
    return ConfigDict(
        dict(
            name="video_folder",
            train="",
            validation="",
            test="",
            frames=32,  # of a clip
            stride=2,  # a clip takes every stride-th frame of the video
            short_side=(256, 320),  # in pixels, of training frames; drawn uniformly between the two
            crop=224,  # side of a training crop in pixels
            flip=True,  # mirror half of the training clips; False if classes tell left from right
            clips_per_decode=1,  # training clips from one decoding: the same frames, other scales, crops and flips
            num_clips=10,  # test clips of a video
            num_crops=3,  # crops of a test clip, 1 or 3
            starts="paper",  # rule for the first frames of the test clips: paper, caffe2, slowfast, mmaction2
            test_short_side=256,  # in pixels
            test_crop=256,  # side of a test crop in pixels; 0 tests on whole frames, with num_crops=1
            validation_clips=1,  # clips of a video in a validation during training
            validation_crops=1,  # crops of a clip in a validation
        )
    )


def long_range_data() -> ConfigDict:
    """Returns the fields of the embedded task of video; `nl_jax.data.embedded.long_range` explains them."""
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
            train_size=1_000_000,  # clips; no run draws as many, so it sees no clip twice
            validation_size=512,
            test_size=2000,
        )
    )


def detection() -> ConfigDict:
    """Returns the fields of a run of detection, with the recipe of table 5.

    `nl_jax.models.DetectorConfig` explains the fields of `detector`.
    """
    config = base()
    config.task = "detection"
    del config.loss
    config.steps = 90_000
    config.batch_size = 16  # images in a step, over all devices
    config.eval_batch_size = 8  # images in a batch of a test, over all devices
    config.input.mean = (0.485, 0.456, 0.406)  # as for the networks of torchvision and timm
    config.input.std = (0.229, 0.224, 0.225)
    config.model.norm = "frozen"
    config.model.nonlocal_options.init = "default"  # initialization of the weights of a block: he or normal
    config.model.nonlocal_options.norm_scale = "default"  # initial scale of the norm of a block, a number
    config.model.groups = 1  # of the 3x3 convolutions; 32 for ResNeXt-152 32x8d
    config.model.width_per_group = 64  # channels of a group in res2; 8 for ResNeXt-152 32x8d
    config.model.stride_on_1x1 = False  # True for weights of the first ResNets, whose first 1x1 has the stride
    config.model.freeze_at = 2  # number of frozen parts, from conv1: 2 freezes conv1 and res2; 0 freezes none
    config.model.norm_epsilon = 1e-5  # added to the variances

    config.detector = ConfigDict()
    config.detector.masks = True  # whether the network has a mask head; a keypoint head replaces it
    config.detector.keypoints = 0  # number of keypoints in the data, for a keypoint head; 0: no keypoint head
    config.detector.keypoint_blocks = ()  # convolutions of this head that a block follows; table 6: (2, 4, 6, 8)
    config.detector.keypoint_options = ConfigDict()  # options of these blocks, as in model.nonlocal_options
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
    config.detector.roi_positive_fraction = 0.25  # maximum fraction of roi_samples
    config.detector.score_threshold = 0.05
    config.detector.nms = 0.5
    config.detector.detections = 100
    config.detector.samples = 2
    config.detector.aligned = False
    config.detector.mask_padding = True  # False for weights that were trained without it

    config.optimizer.learning_rate = 0.02
    config.optimizer.nesterov = False
    config.optimizer.bias_rate = 2.0  # factor of the learning rate of biases
    config.optimizer.schedule = "steps"
    config.optimizer.decay_at = (60_000, 80_000)
    config.optimizer.warmup_steps = 500
    config.optimizer.warmup_start = 1 / 3
    return config


def coco_data() -> ConfigDict:
    """Returns the fields of a dataset in COCO's format.

    A split is FILE.json in the folder of its images, IMAGES:FILE.json, or DIR:SPLIT. DIR is a folder with COCO's
    layout, or a folder that `experiments.prepare_data` wrote.
    """
    return ConfigDict(
        dict(
            name="coco",
            train="",
            validation="",
            test="",
            short_sides=(800,),  # in pixels, of training images; one of them is drawn for each image
            long_side=1333,  # maximum long side in pixels, in training and in tests
            test_short_side=800,  # in pixels
            max_boxes=100,  # maximum number of objects of a training image; of more, this number is drawn each time
            flip=True,  # mirror half of the training images
        )
    )


def scenes_data() -> ConfigDict:
    """Returns the fields of the embedded task of detection; `nl_jax.data.embedded.scenes` explains them."""
    return ConfigDict(
        dict(
            name="scenes",
            seed=0,
            width=192,
            gap=104,
            cues=4,
            digits=(2, 4),
            noise=24,
            train_size=1_000_000,  # scenes; no run draws as many, so it sees no scene twice
            validation_size=200,
            test_size=500,
        )
    )


def poses_data() -> ConfigDict:
    """Returns the fields of the embedded task of keypoints; `nl_jax.data.embedded.poses` explains them."""
    return ConfigDict(
        dict(
            name="poses",
            seed=0,
            noise=24,
            train_size=1_000_000,  # pictures; no run draws as many, so it sees no picture twice
            validation_size=200,
            test_size=500,
        )
    )


DATA = (video_data, long_range_data, coco_data, scenes_data, poses_data)


def parse_row(argument: str, rows: dict[str, dict], flags: tuple[str, ...] = ()) -> tuple[dict, set[str]]:
    """Returns (changes of the row, flags) for the text after the colon in `FILE.py:row,flag,..`.

    Without a row it takes the first row. Raises ValueError for an unknown name. The message lists the valid names.
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
    """Returns `config`, locked, with `changes` such as {"model.inflate": "3x1x1"}, for the batch size that it has then.

    Raises KeyError for an unknown field.
    """
    config.lock()
    config.update_from_flattened_dict(changes)
    config.recipe_batch_size = config.batch_size
    return config
