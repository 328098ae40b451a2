"""The numbers that estimates rest on, each with its source."""

from __future__ import annotations

GB = 1e9
"""Bytes in a gigabyte, as in the names of GPUs and in price lists."""

# --- Memory

CUDA_CONTEXT_GB = 0.8
"""CUDA context, cuBLAS workspace and loaded kernels of a PyTorch process on an A100."""

NCCL_GB = 1.0
"""Buffers of NCCL's channels and of its kernels, once there is more than one GPU."""

FRAGMENTATION = 0.05
"""Share of activations and buffers that PyTorch's caching allocator holds and cannot use."""

LOGITS_BYTES = 12
"""Per token and vocabulary entry: bf16 logits (2), their float32 copy (4), its log-softmax, which
becomes the gradient (4), and the gradient in bf16 (2). Agrees with what Qwen's README measures
from 256 to 8,192 tokens (docs/estimate.md)."""

FUSED_LOSS_CHUNKS = 16
"""A fused linear cross entropy (Liger, cut cross entropy) holds logits of a part of the tokens."""

LOGITS_HELD = 2**26
"""Logits of supervised tokens of a micro batch, in elements, up to which they are made in place of
a fused loss, for the losses of tasks: 0.8 GB."""

NF4_BITS = 4.127
"""Bits per weight of NF4 with double quantisation (QLoRA, Dettmers et al. 2023, section 3)."""

DEEPSPEED_BUCKETS_GB = 2.0
"""Reduce and all-gather buckets of ZeRO at DeepSpeed's default of 5e8 elements, in bf16."""

# --- Time

UTILISATION = 0.52
"""Share of the peak that matrix products reach: a fit to Qwen's README (LoRA on one A100, 1.8B
and 7B, 256 to 8,192 tokens). PyTorch's blog of March 2024 has 0.57 for Llama 2 7B with FSDP."""

LAUNCH_SECONDS = 0.8e-3
"""Per decoder layer and pass, whatever the size of the batch: kernel launches and small kernels.
From the same fit. A forward pass counts once, a backward pass twice."""

GROUP_SECONDS = 0.1e-3
"""Per collective of an FSDP group: Python hooks, and the latency of a small NCCL collective, of
which nccl-tests shows 20 to 50 microseconds inside a node and more between nodes. Not measured."""

ADAPTER_FREE_LAUNCH = 0.7
"""The same without LoRA's small matrices beside every linear layer."""

BITS_SLOWDOWN = {32: 2.0, 16: 1.0, 8: 1.5, 4: 1.2}
"""Time of a matrix product relative to bf16, by the bits of the base's weights. 4: unpacking, 1.05
to 1.35 in Qwen's README. 8: LLM.int8's split into outliers and the rest, set so that FLAN-T5-XXL on
one A10G takes the 10 h that were reported. 32: TF32 has half the rate."""

OVERLAP = 0.9
"""Share of the shorter of compute and communication that runs behind the other (FSDP prefetch)."""

LINK_EFFICIENCY = 0.8
"""Share of a link's nominal bandwidth that NCCL's collectives of large messages reach."""

PCIE_GB_S = 20.0
"""Between GPU and main memory, PCIe 4.0 x16 in practice."""

CPU_ADAM_PARAMETERS_PER_SECOND = 4e9
"""DeepSpeed's CPU Adam on the cores of one node (ZeRO-Offload, Ren et al. 2021, table 4)."""

PACKING_FILL = 0.95
"""How full packed sequences are (Axolotl's multipack sampler reports 0.93 to 0.99)."""

PADDING_FACTOR = 1.4
"""Tokens fed per real token where rows are padded to the longest of a batch."""

CPU_TFLOPS = 0.1
"""Two cores of a server; a rehearsal's time, not a training's."""

# --- Checkpoints and cost

WRITE_GB_S = 0.3
"""RunPod's network volumes: 200 to 400 MB/s."""

SAVE_SECONDS = 5.0
"""What a save costs besides writing: gathering metadata, the trainer's state, a barrier."""

MTBF_HOURS = 24.0
"""Mean time between failures of a rented cluster; pessimistic. Meta saw 466 interruptions in 54
days on 16,384 GPUs (Llama 3), which is one in 1,900 days per 12."""

LONGEST_INTERVAL_MINUTES = 30.0
"""A checkpoint at least this often."""

STARTUP_MINUTES = 10.0
"""Image, model download and first compilation, billed like the rest."""
