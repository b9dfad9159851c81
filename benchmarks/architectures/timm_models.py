"""timm: the smallest network of every family, with random weights, in order of size."""

from functools import partial
from typing import Any

from torch import nn

from zeropoint.models.vision import torchvision

from .spec import Architecture, image

SIDE = 64  # pixels
FREE = """
starnet_s050 dla46x_c edgenext_xx_small mobilenetv3_small_050 lcnet_035 ese_vovnet19b_slim_dw
mobilenetv4_conv_small_035 mobilenetv2_050 mnasnet_small tinynet_e convnext_zepto_rms
repghostnet_050 ghostnet_050 regnetx_002 cspnext_tiny iformer_t regnety_002 cs3darknet_s
ghostnetv3_050 efficientvit_b0 pvt_v2_b0 convnext_atto convnextv2_atto fasternet_t0 fastvit_t8
lcnetv2_small mixnet_s inception_next_atto mobilenetv1_100 spnasnet_100 mobilenet_edgetpu_v2_xs
efficientnet_lite0 rexnet_100 hardcorenas_a efficientnet_b0 resnet10t efficientnet_es fbnetc_100
hgnetv2_b0 ghostnetv2_100 shvit_s1 cpubone_nano efficientvim_m1 crossvit_tiny_240 regnetz_005
mambaout_femto mobilenetv4_hybrid_medium_075 densenet121 crossvit_9_240 fbnetv3_b nf_regnet_b0
dpn48b resnest14d csatv2 resnetv2_18 resnet18 resnetblur18 legacy_seresnet18 seresnet18
poolformer_s12 skresnet18 tiny_vit_5m_224 hrnet_w18_small efficientnet_cc_b0_4e efficientnetv2_rw_t
lowformer_b0 darknet17 hgnet_tiny dla34 nf_resnet26 ecaresnet26t resnet26d regnetv_040
convmixer_768_32 cspresnet50 resnetaa34d vovnet39a legacy_xception rdnet_tiny eca_nfnet_l0
res2next50 resnext50_32x4d res2net50_48w_2s resnet50_gn resnetv2_50d_evos caformer_s18
convformer_s18 sam2_hiera_tiny xception41 davit_tiny focalnet_tiny_srf selecsls42 tresnet_m
nextvit_small resnetrs50
"""  # they take images of any size
SIZED = """
mobilevit_xxs mobilevitv2_050 efficientvit_m0 xcit_nano_12_p16_224 swiftformer_xs
efficientformerv2_s0 gmlp_ti16_224 pit_ti_224 mobileone_s0 eva02_tiny_patch14_224 repvit_m0_9
coat_tiny convit_tiny deit_tiny_patch16_224 vit_tiny_patch16_224 coat_lite_tiny
deit_tiny_distilled_patch16_224 vit_pe_core_tiny_patch16_384 vit_tiny_r_s16_p8_224
maxvit_pico_rw_256 levit_128s levit_conv_128s gernet_s repvgg_a0 regnetz_b16 visformer_tiny
gcresnext26ts eca_botnext26ts_256 coatnet_pico_rw_224 lambda_resnet26t gmixer_12_224 cait_xxs24_224
gcvit_xxtiny botnet26t_256 resmlp_12_224 nest_tiny maxxvit_rmlp_nano_rw_256 mixer_s32_224
vit_small_patch14_dinov2 vit_srelpos_small_patch16_224 flexivit_small vit_relpos_small_patch16_224
deit3_small_patch16_224 vitamin_small_224 tnt_s_patch16_224 twins_svt_small twins_pcpvt_small
mvitv2_tiny volo_d1_224 hiera_tiny_224 sequencer2d_s swin_tiny_patch4_window7_224 swinv2_cr_tiny_224
swinv2_tiny_window8_256 resnet51q
"""  # they are built for a size
FULL = {
    "bat_resnext26ts": 256,
    "efficientformer_l1": 224,
    "halonet26t": 256,
    "inception_v3": 299,
    "inception_v4": 299,
}  # they take no small images


def _make(name: str, **chosen: Any) -> nn.Module:
    torchvision()  # timm imports it; this way it works with any build of torch
    import timm

    return timm.create_model(name, **chosen)


def networks() -> list[Architecture]:
    made = [
        *((name, partial(_make, name), SIDE) for name in FREE.split()),
        *((name, partial(_make, name, img_size=SIDE), SIDE) for name in SIZED.split()),
        *((name, partial(_make, name), side) for name, side in FULL.items()),
    ]
    return [Architecture(f"timm/{name}", build, image(3, side)) for name, build, side in made]
