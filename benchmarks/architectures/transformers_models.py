"""transformers: model types, each from a small config: two layers of width 64 and random weights."""

from functools import partial
from typing import Any

from torch import nn

from zeropoint.models.vision import torchvision

from .spec import Architecture, Inputs, Noise, tokens

WORDS = 100
TEXT = {
    "vocab_size": WORDS,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
DECODER = TEXT | {"num_key_value_heads": 2, "head_dim": 16, "bos_token_id": 1, "eos_token_id": 2}
BOTH = {
    "vocab_size": WORDS,
    "d_model": 64,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 128,
    "decoder_ffn_dim": 128,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
    "forced_eos_token_id": 2,
}
VISION = {
    "image_size": 32,
    "patch_size": 8,
    "num_channels": 3,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
}
STAGES = {"image_size": 64, "num_channels": 3, "depths": [1, 1, 1, 1], "hidden_sizes": [16, 32, 64, 64]}
SOUND = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "conv_dim": [32, 32],
    "conv_stride": [5, 4],
    "conv_kernel": [10, 8],
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "apply_spec_augment": False,
}
WINDOWS = {
    "image_size": 64,
    "patch_size": 4,
    "embed_dim": 32,
    "depths": [1, 1],
    "num_heads": [2, 4],
    "window_size": 4,
}
ONE_TEXT = {"input_ids": tokens(16, WORDS), "attention_mask": Noise((16,), 1)}
TWO_TEXTS = ONE_TEXT | {"decoder_input_ids": tokens(12, WORDS)}
IMAGE = {"pixel_values": Noise((3, 32, 32))}
IMAGE64 = {"pixel_values": Noise((3, 64, 64))}
SAMPLES = {"input_values": Noise((800,))}
SPECTRUM = {"input_features": Noise((16, 64)), "decoder_input_ids": tokens(8, WORDS)}

# What differs from the base of the config; None takes a setting out.
ENCODERS: dict[str, dict[str, Any]] = {
    "bert": {},
    "roberta": {},
    "xlm-roberta": {},
    "camembert": {},
    "albert": {"embedding_size": 32},
    "electra": {"embedding_size": 32},
    "distilbert": {"dim": 64, "n_layers": 2, "n_heads": 4, "hidden_dim": 128},
    "mobilebert": {"embedding_size": 32, "intra_bottleneck_size": 32, "true_hidden_size": 32},
    "mpnet": {},
    "deberta": {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "max_relative_positions": 32},
    "deberta-v2": {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "max_relative_positions": 32},
    "roformer": {"embedding_size": 64},
    "convbert": {"embedding_size": 64},
    "squeezebert": {"embedding_size": 64},
    "funnel": {
        "d_model": 64,
        "block_sizes": [1, 1],
        "n_head": 4,
        "d_head": 16,
        "d_inner": 128,
        "num_hidden_layers": None,
        "architectures": ["FunnelModel"],
    },
    "fnet": {},
    "big_bird": {"attention_type": "original_full"},
    "nystromformer": {"num_landmarks": 8, "segment_means_seq_len": 16},
    "layoutlm": {},
    "ernie": {},
    "megatron-bert": {},
    "rembert": {"input_embedding_size": 32},
    "ibert": {},
    "xlm": {"emb_dim": 64, "n_layers": 2, "n_heads": 4},
    "xlnet": {"d_model": 64, "n_layer": 2, "n_head": 4, "d_inner": 128, "max_position_embeddings": None},
    "modernbert": {"cls_token_id": 1, "sep_token_id": 2, "bos_token_id": 1, "eos_token_id": 2},
    "splinter": {},
    "data2vec-text": {},
    "esm": {"position_embedding_type": "rotary"},
    "roc_bert": {},
    "canine": {},
    "yoso": {},
}
DECODERS: dict[str, dict[str, Any]] = {
    "gpt2": {},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "num_layers": 2, "num_heads": 4},
    "gpt_neox": {},
    "gptj": {"rotary_dim": 8},
    "opt": {"ffn_dim": 128, "word_embed_proj_dim": 64},
    "bloom": {},
    "llama": {},
    "mistral": {},
    "qwen2": {},
    "qwen3": {},
    "gemma": {},
    "gemma2": {},
    "gemma3_text": {},
    "phi": {},
    "phi3": {},
    "falcon": {"head_dim": None},
    "mpt": {"d_model": 64, "n_heads": 4, "n_layers": 2},
    "stablelm": {},
    "starcoder2": {},
    "cohere": {},
    "olmo": {},
    "olmo2": {},
    "granite": {},
    "mixtral": {"num_local_experts": 4},
    "qwen2_moe": {"num_experts": 4, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 64},
    "codegen": {"rotary_dim": 8},
    "biogpt": {},
    "xglm": {"d_model": 64, "num_layers": 2, "attention_heads": 4, "ffn_dim": 128},
    "mamba": {},
    "rwkv": {"attention_hidden_size": 64},
    "glm": {},
    "persimmon": {},
    "nemotron": {},
    "smollm3": {},
}
PAIRS: dict[str, dict[str, Any]] = {
    "t5": {"d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4},
    "bart": {},
    "mbart": {},
    "pegasus": {},
    "marian": {},
    "blenderbot": {},
    "m2m_100": {},
    "switch_transformers": {
        "d_kv": 16,
        "d_ff": 128,
        "num_layers": 2,
        "num_heads": 4,
        "num_experts": 4,
        "num_sparse_encoder_layers": 1,
        "num_sparse_decoder_layers": 1,
        "num_decoder_layers": 2,
    },
}
IMAGES: dict[str, tuple[dict[str, Any], dict[str, Noise]]] = {
    "vit": (VISION, IMAGE),
    "deit": (VISION, IMAGE),
    "beit": (VISION, IMAGE),
    "dinov2": (VISION, IMAGE),
    "data2vec-vision": (VISION, IMAGE),
    "vit_msn": (VISION, IMAGE),
    "yolos": (VISION | {"image_size": [32, 32]}, IMAGE),
    "clip_vision_model": (VISION, IMAGE),
    "siglip_vision_model": (VISION, IMAGE),
    "dpt": (VISION, IMAGE),
    "swin": (WINDOWS, IMAGE64),
    "swinv2": (WINDOWS, IMAGE64),
    "convnext": (STAGES, IMAGE64),
    "convnextv2": (STAGES, IMAGE64),
    "resnet": (STAGES | {"embedding_size": 16, "layer_type": "basic"}, IMAGE64),
    "regnet": (STAGES | {"embedding_size": 16, "groups_width": 16}, IMAGE64),
    "bit": (STAGES | {"embedding_size": 32, "num_groups": 8, "hidden_sizes": [32, 64, 64, 64]}, IMAGE64),
    "segformer": (STAGES | {"num_attention_heads": [1, 2, 4, 4]}, IMAGE64),
    "poolformer": (STAGES, IMAGE64),
    "mobilevit": (
        {"image_size": 64, "hidden_sizes": [32, 48, 64], "neck_hidden_sizes": [8, 16, 24, 32, 48, 64, 96]},
        IMAGE64,
    ),
    "levit": (
        {
            "image_size": 64,
            "hidden_sizes": [32, 48, 64],
            "num_attention_heads": [2, 3, 4],
            "depths": [1, 1, 1],
            "key_dim": [16, 16, 16],
        },
        IMAGE64,
    ),
    "cvt": ({"embed_dim": [16, 32, 64], "num_heads": [1, 2, 4], "depth": [1, 2, 3]}, IMAGE64),
    "pvt": (STAGES | {"num_attention_heads": [1, 2, 4, 4]}, IMAGE64),
    "mobilenet_v1": ({"depth_multiplier": 0.25}, IMAGE64),
    "focalnet": (
        {
            "image_size": 64,
            "embed_dim": 32,
            "depths": [1, 1],
            "focal_levels": [2, 2],
            "focal_windows": [3, 3],
        },
        IMAGE64,
    ),
    "mobilenet_v2": ({"depth_multiplier": 0.35}, IMAGE64),
    "swiftformer": ({"depths": [1, 1, 1, 1], "embed_dims": [16, 32, 48, 64]}, IMAGE64),
    "hiera": (
        {
            "image_size": [64, 64],
            "embed_dim": 32,
            "num_heads": [1, 2],
            "depths": [1, 1],
            "embed_dim_multiplier": 2.0,
            "num_query_pool": 1,
        },
        IMAGE64,
    ),
    "videomae": (VISION | {"num_frames": 4, "tubelet_size": 2}, {"pixel_values": Noise((4, 3, 32, 32))}),
    "timesformer": (VISION | {"num_frames": 4}, {"pixel_values": Noise((4, 3, 32, 32))}),
    "vivit": (VISION | {"num_frames": 4, "tubelet_size": [2, 8, 8]}, {"pixel_values": Noise((4, 3, 32, 32))}),
}
OTHERS: dict[str, tuple[dict[str, Any], Inputs]] = {
    "wav2vec2": (SOUND, SAMPLES),
    "hubert": (SOUND, SAMPLES),
    "wavlm": (SOUND, SAMPLES),
    "unispeech": (SOUND, SAMPLES),
    "sew": (SOUND, SAMPLES),
    "data2vec-audio": (SOUND, SAMPLES),
    "audio-spectrogram-transformer": (
        VISION | {"max_length": 64, "num_mel_bins": 32, "patch_size": 16},
        {"input_values": Noise((64, 32))},
    ),
    "whisper": (
        BOTH | {"num_mel_bins": 16, "max_source_positions": 32, "max_target_positions": 32},
        SPECTRUM,
    ),
    "speech_to_text": (
        BOTH
        | {
            "input_feat_per_channel": 16,
            "conv_channels": 32,
            "max_source_positions": 64,
            "max_target_positions": 32,
        },
        {"input_features": Noise((64, 16)), "decoder_input_ids": tokens(8, WORDS)},
    ),
    "clip": ({"text_config": TEXT, "vision_config": VISION, "projection_dim": 32}, ONE_TEXT | IMAGE),
    "siglip": ({"text_config": TEXT, "vision_config": VISION}, {"input_ids": tokens(16, WORDS)} | IMAGE),
    "vilt": (TEXT | VISION, ONE_TEXT | IMAGE),
    "patchtst": (
        {
            "num_input_channels": 3,
            "context_length": 32,
            "patch_length": 4,
            "d_model": 64,
            "num_hidden_layers": 2,
            "ffn_dim": 128,
        },
        {"past_values": Noise((32, 3))},
    ),
    "patchtsmixer": (
        {"num_input_channels": 3, "context_length": 32, "patch_length": 4, "d_model": 16, "num_layers": 2},
        {"past_values": Noise((32, 3))},
    ),
}


def _make(kind: str, settings: dict[str, Any]) -> nn.Module:
    torchvision()  # transformers imports it; this way it works with any build of torch
    from transformers import AutoConfig, AutoModel

    chosen = {name: value for name, value in settings.items() if value is not None}
    return AutoModel.from_config(AutoConfig.for_model(kind, **chosen))


def networks() -> list[Architecture]:
    table: dict[str, tuple[dict[str, Any], Inputs]] = {
        **{kind: (TEXT | chosen, ONE_TEXT) for kind, chosen in ENCODERS.items()},
        **{kind: (DECODER | chosen, ONE_TEXT) for kind, chosen in DECODERS.items()},
        **{kind: (BOTH | chosen, TWO_TEXTS) for kind, chosen in PAIRS.items()},
        **IMAGES,
        **OTHERS,
    }
    return [
        Architecture(f"transformers/{kind}", partial(_make, kind, settings), inputs)
        for kind, (settings, inputs) in table.items()
    ]
