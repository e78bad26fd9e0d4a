"""Sound: its spectrogram against transformers' own, its crop, rate and augmentation, and trunks that may be used."""

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from pydantic import ValidationError
from safetensors.torch import save_file

from workbench.encoders.audio import Audio, LogMel, apply_masks, heard_frames
from workbench.errors import RecipeError
from workbench.first_law import refuse_mixing_encoder
from workbench.loading.augment_audio import AudioAugment, Listen, draw_masks, resample
from workbench.recipe.component import validate
from workbench.types import Modality

SOUND = Modality("audio", (16_000,), rate=16_000)


def small(model: str = "test_vit", **settings: object) -> Audio:
    torch.manual_seed(0)
    return validate("encoder", {"name": "audio", "model": model, "mels": 32, **settings}).build(SOUND, 6)


def sine(hertz: float, rate: int, seconds: float = 1.0) -> torch.Tensor:
    return torch.sin(2 * math.pi * hertz * torch.arange(int(rate * seconds)) / rate)


def test_the_spectrogram_is_whispers() -> None:
    from transformers import WhisperFeatureExtractor

    waveform = 0.3 * torch.randn(41_277) + sine(440, 16_000, 41_277 / 16_000)
    theirs = WhisperFeatureExtractor(feature_size=80, chunk_length=3)
    frames = np.asarray(theirs(waveform.numpy(), sampling_rate=16_000)["input_features"][0])
    ours = LogMel(48_000, 16_000, 80, 25, 10)(waveform[None])[0]
    # where the sound begins and ends, theirs mirrors it at the border of 3 s, ours adds silence
    torch.testing.assert_close(ours[:, 2:250], torch.from_numpy(frames)[:, 2:250], rtol=1e-4, atol=1e-4)
    assert ours.shape == (80, 320)


@pytest.mark.parametrize(("rate", "mels"), [(16_000, 64), (8_000, 64), (16_000, 128), (44_100, 96), (22_050, 32)])
def test_no_band_is_empty_and_a_sine_is_loudest_in_its_own(rate: int, mels: int) -> None:
    spectrogram = LogMel(rate, rate, mels, 25, 10)
    assert (spectrogram.bands.amax(0) > 0).all()
    picture = spectrogram(sine(1_000, rate)[None])[0]
    assert picture.isfinite().all()
    nearest = (spectrogram.bands[round(1_000 * spectrogram.transformed / rate)]).argmax()
    assert abs(int(picture[:, 50].argmax()) - int(nearest)) <= 1


def test_a_spectrogram_is_fp32_under_autocast() -> None:
    spectrogram, waveform = LogMel(8_000, 16_000, 32, 25, 10), torch.randn(2, 8_000)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(spectrogram(waveform), spectrogram.eval()(waveform))
        inside = spectrogram(waveform)
    assert torch.equal(inside, spectrogram(waveform))
    assert not spectrogram.state_dict()


@pytest.mark.parametrize("rate", [8_000, 11_025, 16_000, 22_050, 44_100, 44_099, 47_999, 192_000, 3_199_999])
def test_a_pitch_stays_at_any_rate(rate: int) -> None:
    heard = resample(sine(440, rate, 0.5), rate, 16_000)
    assert len(heard) == pytest.approx(8_000, abs=2)
    middle = heard[1_000:7_000]
    peak = torch.fft.rfft(middle * torch.hann_window(len(middle)), 96_000).abs().argmax() * 16_000 / 96_000
    assert peak.item() == pytest.approx(440, abs=0.5)


def test_resampling_is_torchaudios() -> None:
    from torchaudio.functional import resample as theirs

    waveform = torch.randn(4_101)
    torch.testing.assert_close(resample(waveform, 44_100, 16_000), theirs(waveform, 44_100, 16_000), rtol=0, atol=1e-4)
    assert torch.equal(resample(waveform, 16_000, 16_000), waveform)


@pytest.mark.slow
def test_a_longer_sound_is_cropped_a_shorter_one_padded() -> None:
    ramp = torch.arange(1.0, 101)
    middle = Listen(10, 8, None)
    assert middle((ramp, 8)).tolist() == list(range(46, 56))
    assert middle((ramp[:3], 8)).tolist() == [1, 2, 3] + [0] * 7
    assert middle((ramp[:1], 44_100)).shape == (10,)
    begins = set()
    for seed in range(400):
        torch.manual_seed(seed)
        crop = Listen(10, 8, AudioAugment(gain=0, time_masks=0, mel_masks=0))((ramp, 8))
        assert crop.diff().tolist() == [1] * 9
        begins.add(int(crop[0]))
    assert begins == set(range(1, 92))


@pytest.mark.slow
def test_gain_and_masks_are_drawn_within_their_limits() -> None:
    augment = AudioAugment(gain=12, time_masks=2, time_share=0.2, mel_masks=1, mel_share=0.5)
    heard = Listen(4, 8, augment)
    rows = torch.stack([heard((torch.ones(4), 8)) for _ in range(2_000)])
    assert rows.shape == (2_000, 4 + 6)
    decibels = 20 * rows[:, 0].log10()
    assert decibels.abs().max() <= 12.001
    assert decibels.std().item() == pytest.approx(24 / math.sqrt(12), rel=0.05)
    begin, end = rows[:, 4::2], rows[:, 5::2]
    assert (begin >= 0).all()
    assert (end <= 1.0001).all()
    widths = (end - begin).amax(0)
    assert widths.tolist() == pytest.approx([0.2, 0.2, 0.5], rel=0.02)
    assert draw_masks(AudioAugment(time_masks=0, mel_masks=0)).shape == (0,)


def test_a_mask_hides_its_stretch_and_nothing_else() -> None:
    pictures = torch.randn(2, 10, 20)
    bounds = torch.tensor([[[0.25, 0.5], [0.0, 0.0], [0.9, 1.0]], [[0.0, 0.0]] * 3])
    masked = apply_masks(pictures, bounds, time_masks=2)
    assert torch.equal(masked[1], pictures[1])
    hidden = torch.zeros(10, 20, dtype=torch.bool)
    hidden[:, 5:10] = True
    hidden[9] = True
    assert torch.equal(masked[0][~hidden], pictures[0][~hidden])
    torch.testing.assert_close(masked[0][hidden], pictures[0].mean().expand(int(hidden.sum())))


def test_training_masks_change_what_a_trunk_sees_and_none_leaves_it() -> None:
    waveform = (torch.randn(16_000), 16_000)
    encoder, plain = small().eval(), small(augment="none").eval()
    masked = encoder.transform(True)(waveform)[None]
    assert masked.shape[1] == 16_000 + 8
    assert not torch.equal(encoder(masked).z, encoder(masked[:, :16_000]).z)
    assert torch.equal(plain.transform(True)(waveform), plain.transform(False)(waveform))


@pytest.mark.parametrize(("model", "stride", "prefix"), [("test_vit", 16, 1), ("test_convnext3", 32, 0)])
def test_tokens_of_what_was_not_heard_are_masked(model: str, stride: int, prefix: int) -> None:
    encoder = small(model).eval()
    rows = torch.zeros(4, 16_000)
    for i, frames in enumerate((1, 20, 33)):
        rows[i, : frames * 160] = torch.randn(frames * 160)
    assert heard_frames(rows, 160).tolist() == [1, 20, 33, 1]
    out = encoder(rows, tokens=True)
    columns = 128 // stride
    grid = out.mask[:, prefix:].unflatten(1, (-1, columns))
    assert out.mask[:, :prefix].all()
    for i, frames in enumerate((1, 20, 33, 1)):
        assert (grid[i] == (torch.arange(columns) * stride < frames)).all()
    assert out.cls == (0 if prefix else None)


def test_batchnorm_is_refused_unless_locked() -> None:
    with pytest.raises(RecipeError, match=r"mixes the samples of a batch \(BatchNorm"):
        refuse_mixing_encoder("speech", small("test_resnet"), SOUND)
    locked = small("test_resnet", lock=0)
    refuse_mixing_encoder("speech", locked, SOUND)
    assert {n for n, p in locked.named_parameters() if p.requires_grad} == {"project.weight", "project.bias"}
    assert not locked.train().trunk.training
    assert locked.project.training


def test_lock_leaves_the_last_groups_free() -> None:
    free = {n for n, p in small(lock=1).named_parameters() if p.requires_grad}
    depths = small().depths()
    assert free
    assert min(depths[n] for n in free) >= max(depths[n] for n in depths.keys() - free)
    assert all(p.requires_grad for p in small().parameters())


def test_pretrained_weights_of_pictures_become_those_of_sounds(tmp_path: Path) -> None:
    picture = timm.create_model("test_vit", num_classes=0)
    save_file(picture.state_dict(), tmp_path / "weights.safetensors")
    encoder = small(pretrained=str(tmp_path / "weights.safetensors"))
    drawn = encoder.trunk.blocks[0].mlp.fc1.weight.clone()
    encoder.load_pretrained()
    assert not torch.equal(encoder.trunk.blocks[0].mlp.fc1.weight, drawn)
    assert torch.equal(encoder.trunk.blocks[0].mlp.fc1.weight, picture.blocks[0].mlp.fc1.weight)
    summed = picture.patch_embed.proj.weight.sum(1, keepdim=True)
    torch.testing.assert_close(encoder.trunk.patch_embed.proj.weight, summed)
    with pytest.raises(ValueError, match=r"there is no file nowhere\.pt"):
        small(pretrained="nowhere.pt").load_pretrained()


def test_what_cannot_be_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RecipeError, match="timm has no model 'convnext_ato'; did you mean 'convnext_atto'"):
        small("convnext_ato")
    with pytest.raises(RecipeError, match=r"mels \(40\) must be a multiple of 32: set mels=64"):
        small(mels=40)
    with pytest.raises(ValueError, match=r"has to declare how long its sounds are"):
        Audio(Modality("audio"), 4)
    with pytest.raises(ValidationError, match=r"no augmentation 'ito'.*known: none, spec"):
        small(augment="ito")
    monkeypatch.setitem(sys.modules, "torchaudio", None)
    with pytest.raises(RecipeError, match=r"needs the package torchaudio.*pip install 'multimodal-workbench\[audio\]'"):
        small()
