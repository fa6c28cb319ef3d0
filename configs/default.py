"""Every value of the program, as released for GTA5 → Cityscapes.

Experiments import `get_config` from here and override what differs. Any value can also be set on
the command line: `--config.optimizer.learning_rate=1e-3`.
"""

from collections.abc import Sequence

import ml_collections

# What the publication says where the release does otherwise; docs/paper_and_release.md tells why.
_AS_PUBLISHED = {
  "model.classifier_dilations": (6, 12, 18, 24),
  "method.depth_weight.share_across_batch": False,
  "optimizer.encoder_updates_per_step.stem": 1,
  "optimizer.encoder_updates_per_step.residual": 1,
  "optimizer.encoder_updates_per_step.projection": 1,
}


def apply_preset(
  config: ml_collections.ConfigDict,
  preset: str,
  known: Sequence[str] = ("as_released", "as_published"),
) -> ml_collections.ConfigDict:
  """Sets the switches between publication and release, and a larger batch.

  Args:
    config: as released.
    preset: "as_released" changes nothing; "as_published" follows the publication; either may be
      followed, or replaced, by a batch: "as_published,batch=16", "batch=16"; see `scale_batch`.
    known: those of them that the configuration has.

  Raises:
    ValueError: there is no such preset.
  """
  name, _, batch = preset.partition("batch=")
  if batch:
    name = name.removesuffix(",") or known[0]
  if name not in known:
    wanted = " or ".join(map(repr, known))
    raise ValueError(
      f"preset {preset!r} is unknown, wanted {wanted}, and perhaps a batch, as in "
      f"'{known[0]},batch=16'"
    )
  if name == "as_published":
    config.update_from_flattened_dict(_AS_PUBLISHED)
  return scale_batch(config, batch) if batch else config


def scale_batch(config: ml_collections.ConfigDict, batch: str) -> ml_collections.ConfigDict:
  """The same training with a larger batch: as many pairs in fewer steps (docs/scaling.md).

  With K times the pairs a step, steps of all kinds are divided by K; the learning rate of SGD
  grows by K, that of AdamW stays; the teacher keeps its K-th power; and as many images are
  normalised together as before.

  Args:
    config: changed in place.
    batch: pairs a step, a multiple of those that the configuration has.

  Raises:
    ValueError: it is not.
  """
  old = config.data.batch_size
  if not batch.isdecimal() or not int(batch) or int(batch) % old:
    raise ValueError(f"batch={batch} is wrong, wanted a multiple of {old} pairs")
  factor = int(batch) // old
  config.data.batch_size = int(batch)
  config.model.batch_norm_group = config.model.batch_norm_group or old
  for name in ("num_steps", "evaluate_every", "checkpoint_every"):
    config[name] = -(-config[name] // factor)
  method = config.method
  method.initial_pseudo_label_steps = -(-method.initial_pseudo_label_steps // factor)
  method.teacher_decay = method.teacher_decay**factor
  if config.optimizer.name == "sgd":
    config.optimizer.learning_rate *= factor
  return config


def get_config() -> ml_collections.ConfigDict:
  """The released GTA5 → Cityscapes recipe (ResNet-101, 250,000 steps of 2 + 2 crops)."""
  config = ml_collections.ConfigDict()
  config.task = "adaptation"  # "depth": see depth.py
  config.seed = 0
  config.num_steps = 250_000
  # A .pth file that a fresh run starts from (docs/weights.md); "": random weights.
  config.initial_weights = ""
  # Where depth is learned from video: folder of a run of the depth stage whose pose network a fresh
  # run begins with; "": random weights. method.photometric.metres_per_unit then wants the metres
  # that this network's unit is.
  config.initial_pose = ""

  config.data = get_data_config()
  config.model = get_model_config()
  config.method = get_method_config()
  config.optimizer = get_optimizer_config()
  config.compute = get_compute_config()
  # The student sees source and mixed images as one batch, each normalised by itself, and not one
  # after the other. The numbers are the same; devices exchange gradients once, not twice.
  config.compute.one_student_pass = False

  config.log_every = 50  # steps between console lines and scalars
  config.evaluate_every = 5_000  # steps; also evaluated after the last step
  config.checkpoint_every = 5_000  # steps; also written after the last step
  config.keep_best = 1  # checkpoints kept for their target mIoU, beside the newest
  # Steps between pictures of what training makes of a batch: contact sheets in `pictures/`, and
  # TensorBoard; 0: none. The first of them compiles one more function.
  config.draw_every = 5_000
  add_running(config)
  config.evaluation = ml_collections.ConfigDict(
    {
      # Whose mean is reported as mIoU: "all", one of `class_sets` or, with the 19 classes of
      # Cityscapes, "synthia_16" or "synthia_13".
      "classes": "all",
      # More sets of classes whose means are reported: {"moving": ("car", "person")}.
      "class_sets": {},
      "network": "student",  # or "teacher"
      # "file": labels at the size of their files, as results are reported (Cityscapes: 2048x1024);
      # "input": brought to the size of the network's input, as released for validation in training.
      "label_size": "file",
      "flip": False,  # average with the prediction of the mirrored frame
      # Devices that share a frame, each a strip of its rows; for frames that are too large for one,
      # or where there are more devices than frames.
      "devices_per_frame": 1,
      "scales": (1.0,),  # factors of the input's size whose predictions are averaged
      # Where the target's records hold depth, the depth head is measured by it: metres between
      # which, and to which predictions are clipped; and whether each frame's prediction is first
      # brought to the truth's median: "always", "never" or "video", where that alone tells depth.
      "min_depth": 0.001,
      "max_depth": 80.0,
      "median_scaling": "video",
      "checkpoint": "latest",  # or "best"; for --mode=evaluate
      "max_frames": 0,  # frames, spread over the validation set, that are used; 0: all
      "pictures": 6,  # frames shown in the contact sheet
    }
  )
  config.prediction = ml_collections.ConfigDict(  # --mode=predict
    {
      "input": "",  # an image, a folder of images, or a video
      "output": "",  # folder; "": predictions/NAME in that of the run
      # What is written of each image: the classes' colours over it; its label file; inverse depth Y
      # in 16 bits, 256 (Y - 1), and in colours; difficulty, 0..1, in 8 bits with colours.
      "write": ("overlay", "label", "inverse_depth", "inverse_depth_color", "difficulty"),
      "label_ids": "train",  # in label files: places in the class list; or "cityscapes"
      "overlay_opacity": 0.5,
      # Rows that the network sees, columns in proportion; 0: data.target.height, as it was trained;
      # -1: those of the file. Maps have the file's size in any case.
      "height": 0,
      "image_filter": "bilinear",  # or "bicubic"; resizes images
      # Most pixels that the network sees at once; larger images are cut into tiles, each with a
      # margin that is predicted and not kept. 0: no tiles along that axis.
      "tile_height": 1024,
      "tile_width": 2048,
      "tile_margin": 128,
      "batch_size": 1,  # images of one size predicted together, over all devices
      "bad_files": "stop",  # or "skip" images that cannot be read, and tell of them
    }
  )
  return config


def add_running(config: ml_collections.ConfigDict) -> None:
  """Adds how a run bears faults and is profiled, which touches none of its numbers."""
  config.keep_newest = 2  # checkpoints kept because they are new; a damaged one is passed over
  config.faults = ml_collections.ConfigDict(
    {
      # A step whose loss or gradients are not finite is not applied; so many in a row end the run
      # (told when the curves are next written); 0: never.
      "skipped_steps": 10,
      # Where a checkpoint cannot be written: how often and after how many seconds it is tried
      # again, and what then: "stop" or "continue" until the next is due. The last one always stops.
      "retries": 3,
      "retry_seconds": 10.0,
      "failed_save": "stop",
    }
  )
  # A profile for TensorBoard, of so many steps: from a step on (0: none), and whenever the process
  # gets SIGUSR1.
  config.profile = ml_collections.ConfigDict({"at_step": 0, "steps": 5})


def get_model_config() -> ml_collections.ConfigDict:
  """The released GTA variant of the network."""
  model = ml_collections.ConfigDict()
  model.name = "corda"  # "corda", or "deeplab": encoder and classifier alone (DACS, source only)
  model.dtype = "float32"  # of the computation; parameters, statistics and losses stay wide
  model.param_dtype = "float32"
  # Images of a batch that are normalised together in training, each group by its own statistics; 0:
  # all. 2 is as released whatever the batch, and spares many devices most of their messages; each
  # device then holds whole groups.
  model.batch_norm_group = 0
  # Released: "normal_0.01", then pretrained weights over it. From scratch: "he_normal".
  model.kernel_init = "normal_0.01"
  model.head_init = "normal_0.01"  # of what predicts: logits and depths begin near zero
  model.encoder = ml_collections.ConfigDict(
    {
      "stage_sizes": (3, 4, 23, 3),  # blocks a stage: ResNet-101
      "block": "bottleneck",  # or "basic": two 3x3, as in ResNet-18 and ResNet-34
      "stride_on": "conv1",  # a bottleneck's strided convolution; torchvision: "conv2"
      "width": 64,  # channels of the first stage's 3x3 convolutions
      "expansion": 4,  # channels out of a bottleneck, times its width; 1 with basic blocks
      "stem_kernel": 7,
      "stem_stride": 2,
      "stem_pool": True,
      "stem_pool_ceil": True,  # its size rounded up, as in DeepLab v2; torchvision rounds down
      "strides": (1, 2, 1, 1),  # output stride 8, with stem and pooling
      "dilations": (1, 1, 2, 4),
      "trainable_affine": False,  # scales and biases of the encoder's normalisations
    }
  )
  model.task_width = 64  # bottlenecks of the decoders; their features have 4 times as many channels
  model.initial_semantics_from = "encoder"  # "encoder" (GTA variant), "decoder" (SYNTHIA variant)
  model.depth = True  # depth decoder and depth heads
  # Inverse depth that the depth heads begin with; released: 0. Without files to learn from, set one
  # of the scene (65 is 10 m): from 0, read as 499 m, photometric training has next to no gradient.
  model.initial_inverse_depth = 0.0
  model.correlation = True  # semantic and depth features refine each other
  model.classifier_dilations = (6, 12)  # published: (6, 12, 18, 24)
  # The network that joins the step where depth is learned from video: ResNet-18.
  model.pose_encoder = ml_collections.ConfigDict(
    {
      "stage_sizes": (2, 2, 2, 2),
      "block": "basic",
      "stride_on": "conv1",
      "width": 64,
      "expansion": 1,
      "stem_kernel": 7,
      "stem_stride": 2,
      "stem_pool": True,
      "stem_pool_ceil": False,
      "strides": (1, 2, 2, 2),
      "dilations": (1, 1, 1, 1),
      "trainable_affine": True,
    }
  )
  model.pose_decoder_width = 256
  model.pose_normalization = ml_collections.ConfigDict(  # that of the depth stage
    {
      "mean": (114.75, 114.75, 114.75),  # 0.45 of 255
      "std": (57.375, 57.375, 57.375),  # 0.225
      "bgr": False,
    }
  )
  model.normalization = ml_collections.ConfigDict(
    {
      "mean": (104.00698793, 116.66876762, 122.67891434),  # in the network's channel order
      "std": (1.0, 1.0, 1.0),
      "bgr": True,  # the released weights want blue first
    }
  )
  return model


def get_method_config() -> ml_collections.ConfigDict:
  """Self-training with mixing, mean teacher and depth-discrepancy weights, as released."""
  method = ml_collections.ConfigDict()
  method.adapt = True  # False: supervised training on the source alone
  method.source_depth_loss_weight = 0.01
  method.mixed_depth_loss_weight = 0.001
  # What the depth heads of a domain learn from: "files" (as released), "photometric" (the domain's
  # `views`: right, previous, next), "both" or "none".
  method.depth_supervision = ml_collections.ConfigDict({"source": "files", "target": "files"})
  method.photometric = ml_collections.ConfigDict(
    {
      "source_weight": 1.0,  # of the loss on the source
      "target_weight": 1.0,  # of that on the target, where the mixed image shows it
      "smoothness_weight": 1e-3,
      # Views that may explain a pixel better unwarped, which then does not count (what moves with
      # the camera, what has no texture): "all", those that are "temporal", or "none".
      "automask": "all",
      "ignored_bottom": 0.0,  # share of the rows, from below, that the own car's hood takes
      "over_views": "minimum",  # how the errors of several views are joined; or "mean"
      # Of the pose network's translations, which begin near 0.01: small units learn slowly. Video
      # only; the scale of stereo is that of its baseline.
      "metres_per_unit": 5.0,
      "pose_learning_rate": 1e-4,  # Adam
    }
  )
  # What the cross-entropy of the mixed image is averaged over: "all" pixels (released: ignored
  # ones count as zeros) or the "valid" ones.
  method.mixed_mean_over = "all"
  method.mix_ignored = True  # whether ignored source pixels are a class that can be pasted
  # Pseudo-labels come from initial_S in so many first steps, and from S after them.
  method.initial_pseudo_label_steps = 25_001
  method.confidence_threshold = 0.968  # least teacher probability of a confident pixel
  # Pixels whose confident share weighs the pseudo-labels: of the "batch", of each "image", or each
  # "pixel" by itself, so that those in doubt weigh nothing.
  method.confident_fraction_over = "batch"
  method.teacher_decay = 0.999
  # Statistics that the teacher normalises by: those of the "batch" or its "running" ones.
  method.teacher_normalization = "batch"
  # Its running statistics: its "own" passes', or a moving "average" of the student's.
  method.teacher_statistics = "own"
  method.depth_weight = ml_collections.ConfigDict(
    {
      "enabled": True,  # refine pseudo-labels by the discrepancy of the depth heads
      "judge": "student",  # whose depth heads: on the mixed image; or "teacher", on the target
      "floor": 0.001,
      "divide_by_mean": True,  # over the batch
      "share_across_batch": True,  # released broadcast; published: False
    }
  )
  method.strong_augmentation = ml_collections.ConfigDict(
    {
      "decide_for": "batch",  # whether to jitter, and to blur: once a "batch", or for each "image"
      "jitter_probability": 0.8,
      "jitter_strength": 0.25,
      "brightness": "add",  # how jitter changes it; or "multiply"
      "blur_probability": 0.5,
      "blur_sigma": (0.15, 1.15),  # pixels
    }
  )
  return method


def get_optimizer_config() -> ml_collections.ConfigDict:
  """SGD as released."""
  optimizer = ml_collections.ConfigDict()
  optimizer.name = "sgd"  # or "adamw"
  optimizer.learning_rate = 2.5e-4  # of the encoder, at the start
  optimizer.head_learning_rate_factor = 10.0  # of everything after it
  optimizer.schedule_power = 0.9  # (1 - step / num_steps) ** power
  optimizer.momentum = 0.9  # AdamW: decay of the first moment
  optimizer.weight_decay = 5e-4
  # Momentum updates a step; the release makes several (published: all 1).
  optimizer.encoder_updates_per_step = ml_collections.ConfigDict(
    {"stem": 1, "residual": 3, "projection": 4}
  )
  return optimizer


def get_compute_config() -> ml_collections.ConfigDict:
  """How the numbers are computed, and where they lie."""
  compute = ml_collections.ConfigDict()
  # Of matrix products and convolutions of float32 numbers: "default", what the device does by
  # itself (TF32 on GPUs, bfloat16 on TPUs), "high" or "highest" (float32).
  compute.matmul_precision = "default"
  # Blocks are computed again in the backward pass instead of kept: less memory, more time.
  compute.rematerialize = False
  # The optimiser's state and the teacher are split over the devices instead of held by each.
  compute.shard_state = False
  return compute


def get_folder_config() -> ml_collections.ConfigDict:
  """Your own files; read where `dataset` is "folder". Paths are below `root`.

  In a pattern {name} stands for what is the same in the names of a frame's files, with the folders
  between, if there are any; or {clip} and {frame} do, where every clip has a folder of its own:
  "{clip}/image_2/{frame}.png". "": there are no such files.
  """
  folder = ml_collections.ConfigDict()
  for split in ("train", "validation"):
    folder[split] = ml_collections.ConfigDict(
      {
        "images": "",  # "train/images/{name}.jpg"; "" in validation: the set is not evaluated on
        "labels": "",  # PNG of one channel or of colours; a target needs them in validation only
        "depth": "",  # of the kind that `depth` names, below `depth_root`; validation needs none
        # A text file that names the split's frames, one a line, where the pattern matches more; "":
        # all that match.
        "list": "",
        # Of `views`. previous, next: "" where `images` are the frames of videos, numbered by the
        # end of their names.
        "right": "",
        "previous": "",
        "next": "",
        # Calibration that views and disparities need: JSON as Cityscapes has it, or KITTI's
        # calib.txt or calib_cam_to_cam.txt; one of a clip ("{clip}/calib.txt") or of all frames.
        "camera": "",
      }
    )
  # Whether validation may have images that are also trained on, without their labels.
  folder.shared_images = False
  # ((7, "road"), (26, "car"), (0, "")): label id in the files, class; "" ignores it, and several
  # ids may share a class. Colours: (((128, 64, 128), "road"), …). ("cityscapes",): the ids of
  # Cityscapes. Empty: an id is a place in data.classes. 255 is ignored.
  folder.label_classes = ()
  folder.other_labels = "refuse"  # or "ignore" labels that are not among them
  folder.metres_per_unit = 0.01  # of 16-bit metric depth, "metres_png16"
  folder.image_filter = "bilinear"  # or "bicubic"; resizes the images
  # One camera for all frames, instead of files: intrinsics (fx, fy, cx, cy) in pixels of the files,
  # the first pixel's centre at 0, and the metres between left and right.
  folder.camera = ml_collections.ConfigDict({"intrinsics": (), "baseline": 0.0})
  return folder


def get_data_config() -> ml_collections.ConfigDict:
  """Where the frames are, how they are prepared, how batches are cut."""
  data = ml_collections.ConfigDict()
  data.records_dir = "data/records"  # prepared records, one folder a data set, size and depth kind
  # What the network tells apart. Labels of other classes are ignored; with the known data sets any
  # of the 19 classes of Cityscapes, in any order.
  data.classes = ml_collections.ConfigDict(
    {
      "names": (),  # ("road", "car", …); empty: those 19
      "colors": (),  # ((128, 64, 128), (0, 0, 142), …) RGB in pictures; empty: made from the names
    }
  )
  # dataset: "gta5", "synthia", "cityscapes" or "folder", your own files (docs/your_data.md).
  # height, width: working resolution in pixels.
  # depth: which files hold the inverse depth. gta5: "disparity"; synthia: "simulator" or
  # "disparity"; cityscapes: "stereo", "mono" or "official" (the data set's own disparity); folder:
  # "inverse_png16" (16-bit, Y = x / 256 + 1), "metres_png16", "metres_npy", "metres_mat",
  # "kitti_depth_png16" (metres times 256), or the disparity of stereo pairs in pixels,
  # "disparity_png16" (times 256, as KITTI has it), "disparity_npy" or "disparity_pfm"; "none" for
  # any. Validation needs no depth.
  # depth_root: folder of the depth files, laid out as they would be below `root`; "": `root`.
  # splits: to train on; cityscapes also has "train_extra", without labels.
  # views: images that training's records hold beside the frame's own; cityscapes, folder: "right",
  # "previous", "next".
  # neighbour_offset: frames of the sequence (17 a second) to the previous and to the next one; a
  # snippet has 30 frames, and the labelled one is number 19: 1..10.
  data.source = ml_collections.ConfigDict(
    {
      "dataset": "gta5",
      "root": "data/gta",  # the files, the data set's zip archives, or both
      "height": 720,
      "width": 1280,
      "depth": "disparity",
      "depth_root": "",
      "splits": ("train",),
      "views": (),
      "neighbour_offset": 1,
      "folder": get_folder_config(),
    }
  )
  data.target = ml_collections.ConfigDict(
    {
      "dataset": "cityscapes",
      "root": "data/CityScapes",
      "height": 512,
      "width": 1024,
      "depth": "stereo",
      "depth_root": "",
      "splits": ("train",),
      "views": (),
      "neighbour_offset": 1,
      "folder": get_folder_config(),
    }
  )
  data.crop_height = 512  # pixels, cut at a random place from every frame
  data.crop_width = 512
  data.batch_size = 2  # pairs of a source and a target crop a step, over all devices
  data.evaluation_batch_size = 2  # frames, over all devices
  # "stop" or "skip": what preparation does with a frame that it cannot read.
  data.bad_frames = "stop"
  data.prepare_processes = 0  # processes that decode and resize; 0: one a core
  # Apache Beam prepares instead, on many machines: ("--runner=…", …), its own options.
  data.beam_options = ()
  data.reader_threads = 0  # threads that read, decode and crop in training; 0: one a core
  # The procedural world: set `street_world.enabled` and missing roots are rendered first.
  data.street_world = ml_collections.ConfigDict(
    {
      "enabled": False,
      "seed": 0,
      # How far the target's look is from the source's: 0: it looks alike; 2: at the most.
      "gap": 1.0,
      "source_frames": 600,
      "target_frames": 600,
      "validation_frames": 100,
      "source_height": 64,  # pixels of the files
      "source_width": 128,
      "target_height": 64,
      "target_width": 128,
    }
  )
  return data
