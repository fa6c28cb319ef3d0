"""What is measured of each kind of file, but for the released runs, which are processes."""

from tests.golden import (
  daformer_parts,
  daformer_steps,
  decoders,
  depth_anything,
  depth_networks,
  depth_parts,
  encoders,
  hrda,
  parts,
)

KINDS = {
  "losses": (parts.losses_file,),
  "augment": (parts.augment_file,),
  "monodepth": (depth_parts.monodepth_file, depth_networks.decoders_file),
  "daformer/mit_": (encoders.mit_file,),
  "daformer/heads": (decoders.heads_file,),
  "daformer/daformer_": (decoders.daformer_file,),
  "daformer/functions": (daformer_parts.functions_file,),
  "daformer/augment": (daformer_parts.augment_file,),
  "daformer/inference": (hrda.inference_file,),
  "daformer/hrda": (hrda.hrda_file,),
  "daformer/step_": (daformer_steps.steps_file,),
  "foundation/dinov2_": (encoders.dinov2_file,),
  "foundation/dinov3_": (encoders.dinov3_file,),
  "foundation/segformer_": (decoders.segformer_file,),
  "foundation/lightweight_head": (decoders.lightweight_file,),
  "foundation/resampling": (encoders.resampling_file,),
  "foundation/depth_anything": (depth_anything.depth_anything_file,),
  "foundation/depth_filter": (depth_anything.depth_filter_file,),
  "foundation/input_sizes": (depth_anything.input_sizes_file,),
}
