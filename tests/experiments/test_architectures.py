"""timm's families at three sizes, from scratch and from a file: each passes or is one message. Slow: about 40 minutes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from experiments.config.errors import ConfigError
from experiments.config.schema import ModelConfig
from experiments.training import models

NAMES = [
    "beit_base_patch16_224",
    "botnet26t_256",
    "caformer_s18",
    "cait_xxs24_224",
    "coat_lite_tiny",
    "coatnet_pico_rw_224",
    "convformer_s18",
    "convit_tiny",
    "convmixer_768_32",
    "convnext_atto",
    "convnextv2_atto",
    "crossvit_9_240",
    "csatv2",
    "cspnext_tiny",
    "davit_tiny",
    "deit3_small_patch16_224",
    "deit_tiny_distilled_patch16_224",
    "deit_tiny_patch16_224",
    "densenet121",
    "dla46_c",
    "dpn48b",
    "edgenext_xx_small",
    "efficientformer_l1",
    "efficientformerv2_s0",
    "efficientnet_b0",
    "efficientvit_b0",
    "efficientvit_m0",
    "ese_vovnet19b_slim_dw",
    "eva02_tiny_patch14_224",
    "fasternet_t0",
    "fastvit_t8",
    "focalnet_tiny_srf",
    "gcvit_xxtiny",
    "ghostnetv3_050",
    "gmlp_ti16_224",
    "halonet26t",
    "hgnetv2_b0",
    "hiera_small_abswin_256",
    "hiera_tiny_224",
    "hrnet_w18_small",
    "iformer_m_distilled",
    "inception_next_atto",
    "inception_v3",
    "legacy_seresnet18",
    "legacy_xception",
    "levit_128s",
    "mambaout_femto",
    "maxvit_pico_rw_256",
    "mixer_s16_224",
    "mnasnet_050",
    "mobilenetv2_050",
    "mobilenetv3_small_050",
    "mobilenetv4_conv_small_035",
    "mobilenetv4_hybrid_medium_075",
    "mobileone_s0",
    "mobilevit_xxs",
    "mobilevitv2_050",
    "mvitv2_tiny",
    "nest_tiny",
    "nextvit_small",
    "nfnet_l0",
    "pit_ti_distilled_224",
    "pnasnet5large",
    "poolformer_s12",
    "pvt_v2_b0",
    "rdnet_tiny",
    "regnety_002",
    "repghostnet_050",
    "repvit_m0_9",
    "res2net50_14w_8s",
    "resmlp_12_224",
    "resnest14d",
    "resnet18",
    "resnetv2_50x1_bit",
    "resnext50_32x4d",
    "rexnet_100",
    "selecsls42",
    "sequencer2d_s",
    "shvit_s1",
    "skresnet18",
    "starnet_s050",
    "swiftformer_xs",
    "swin_tiny_patch4_window7_224",
    "swinv2_cr_tiny_224",
    "swinv2_tiny_window8_256",
    "tiny_vit_5m_224",
    "tnt_s_patch16_224",
    "tresnet_m",
    "twins_svt_small",
    "vgg11",
    "visformer_tiny",
    "vit_relpos_small_patch16_224",
    "vit_tiny_r_s16_p8_224",
    "vitamin_small_224",
    "volo_d1_224",
    "xcit_nano_12_p16_224",
]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_an_architecture_passes_or_is_one_message(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(1)
    torch.save(timm.create_model(name).state_dict(), tmp_path / "weights.pt")
    starts: list[dict[str, Any]] = [{}, {"init": "pretrained", "weights": str(tmp_path / "weights.pt")}]
    for size in (32, 64, 96):
        for start in starts:
            monkeypatch.setattr(models, "_checked", {})
            config = ModelConfig(title="t", family="f", source="timm", name=name, **start)
            try:
                models.check("mine", config, image_size=size, in_channels=3)
            except ConfigError as error:
                (fault,) = error.faults
                assert fault.startswith("configs/models/mine.yaml: ") and "\n" not in fault
