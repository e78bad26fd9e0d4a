"""What the tests of open_clip's towers share: small towers of every kind, and open_clip's own model of them."""

import open_clip
import torch
from torch import Tensor

from workbench.encoders.open_clip import OpenCLIP
from workbench.types import Modality

IMAGE, TEXT, DIM = Modality("image"), Modality("text"), 24
VIT = {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8}
TOWER = {"context_length": 10, "width": 32, "heads": 2, "layers": 2}
TRUNKS = {
    "resnet": {"timm_model_name": "test_resnet", "image_size": 64},
    "convnext": {"timm_model_name": "test_convnext", "image_size": 64},
    "edgenext": {"timm_model_name": "edgenext_xx_small", "image_size": 64},
    "vit": {"timm_model_name": "test_vit", "timm_pool": "token", "image_size": 64},
    "vit_average": {"timm_model_name": "test_vit", "timm_pool": "avg", "timm_proj": "", "image_size": 64},
    "registers": {"timm_model_name": "test_vit4", "timm_pool": "avg", "image_size": 64},
    "classifier": {"timm_model_name": "test_convnext2", "timm_proj": "", "image_size": 64},
    "mlp": {"timm_model_name": "test_vit", "timm_pool": "token", "timm_proj": "mlp", "image_size": 64},
    "siglip": {"timm_model_name": "test_vit3", "timm_pool": "map", "timm_proj": "none", "image_size": 64},
}


def make(modality: Modality, dim: int = DIM, **settings: object) -> OpenCLIP:
    encoder = OpenCLIP(modality, dim, **settings)
    encoder.load_pretrained()
    return encoder


def trunk(name: str) -> OpenCLIP:
    return make(IMAGE, 96 if name == "siglip" else DIM, config=TRUNKS[name]).eval()


def ids(n: int = 7, length: int = 10) -> Tensor:
    """Start, 0 to length - 2 ids, end, padding: as the tokenizer makes them."""
    rows = torch.zeros(n, length, dtype=torch.int64)
    for row, end in zip(rows, torch.randint(1, length, (n,)), strict=True):
        row[:end] = torch.randint(1, 49405, (int(end),))
        row[0], row[end] = 49406, 49407
    return rows


def clip(dim: int = DIM, vision: dict | None = None, text: dict | None = None) -> open_clip.CustomTextCLIP:
    return open_clip.CustomTextCLIP(dim, vision or VIT, text or TOWER).eval()
