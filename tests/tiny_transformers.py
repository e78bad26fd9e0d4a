"""Folders with tiny random models of transformers, as a person has them: config, weights, tokenizer or preprocessor."""

from pathlib import Path
from typing import Any

import torch

SMALL = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 40}
WORDS = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", *"abcdefghijklmnopqrstuvwxyz", "the", "second", "text", "zebra", "else"]


def tokenizer(padded: bool = True) -> Any:
    """Words and letters; a text ends with [SEP], and begins with [CLS] where there is an id for padding."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    if padded:
        core.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
        return PreTrainedTokenizerFast(
            tokenizer_object=core, pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]", unk_token="[UNK]"
        )
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="[SEP]", unk_token="[UNK]")


HEARD = {"feature_size": 32, "sampling_rate": 16000, "hop_length": 160, "fft_window_size": 400, "max_length_s": 1}


def clap(t: Any, words: dict[str, Any], **more: Any) -> Any:
    """Configure a model of sounds and texts: a Swin transformer on a spectrogram, beside a RoBERTa."""
    audio = {"hidden_size": 32, "patch_embeds_hidden_size": 16, "depths": [1, 1], "num_attention_heads": [2, 2]}
    audio |= {"window_size": 4, "num_mel_bins": 32, "spec_size": 64, "num_classes": 5, "projection_dim": 16, **more}
    text = {**words, **SMALL, "max_position_embeddings": 40}
    return t.ClapConfig(text_config=text, audio_config=audio, projection_dim=16)


def make(folder: Path, name: str) -> str:
    """Write the model of this name into a folder of its own; returns the folder."""
    import transformers as t

    t.utils.logging.set_verbosity_error()
    t.utils.logging.disable_progress_bar()
    torch.manual_seed(3)
    where = folder / name
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    vision = {"image_size": 32, "patch_size": 16, **SMALL}
    speech = {"conv_dim": (16,) * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2, "vocab_size": 9}
    size = {"height": 32, "width": 32}
    pixels = t.ViTImageProcessor(size=size)
    whisper = {"d_model": 32, "encoder_layers": 2, "decoder_layers": 1, "encoder_attention_heads": 2}
    whisper |= {"decoder_attention_heads": 2, "encoder_ffn_dim": 40, "decoder_ffn_dim": 40, "decoder_start_token_id": 1}
    mels = {"max_length": 64, "num_mel_bins": 32}
    words = {"vocab_size": len(WORDS), **ids}
    configs: dict[str, tuple[Any, Any]] = {
        "bert": (t.BertConfig(**words, **SMALL, max_position_embeddings=40), tokenizer()),
        "gpt2": (t.GPT2Config(vocab_size=len(WORDS), n_embd=32, n_layer=2, n_head=2, eos_token_id=2), tokenizer(False)),
        "t5": (t.T5Config(**words, d_model=32, d_kv=8, d_ff=40, num_layers=2, num_heads=2), tokenizer()),
        "clip": (t.CLIPConfig(text_config={**words, **SMALL}, vision_config=vision), tokenizer()),
        "vit": (t.ViTConfig(**vision), pixels),
        "dinov2": (t.Dinov2Config(**(vision | {"patch_size": 8})), pixels),
        "convnext": (
            t.ConvNextConfig(hidden_sizes=[8, 16], depths=[1, 1], num_stages=2),
            t.ViTImageProcessor(size=size),
        ),
        "resnet": (
            t.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1]),
            t.ViTImageProcessor(size=size),
        ),
        "wav2vec2": (
            t.Wav2Vec2Config(**speech, **SMALL, feat_extract_norm="layer", do_stable_layer_norm=True),
            t.Wav2Vec2FeatureExtractor(return_attention_mask=True),
        ),
        "hubert": (t.HubertConfig(**speech, **SMALL), t.Wav2Vec2FeatureExtractor()),
        "whisper": (
            t.WhisperConfig(**words, **whisper, max_source_positions=50),
            t.WhisperFeatureExtractor(chunk_length=1),
        ),
        "clap": (clap(t, words), t.ClapFeatureExtractor(**HEARD, truncation="rand_trunc")),
        "clap-fused": (clap(t, words, enable_fusion=True), t.ClapFeatureExtractor(**HEARD, truncation="fusion")),
        "ast": (t.ASTConfig(**SMALL, **mels), t.ASTFeatureExtractor(**mels)),
    }
    config, preparation = configs[name]
    t.AutoModel.from_config(config).save_pretrained(where)
    preparation.save_pretrained(where)
    if name == "clip":
        pixels.save_pretrained(where)
    return str(where)
