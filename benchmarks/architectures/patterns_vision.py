"""Plain patterns of networks for images and volumes, each as small as shows the pattern."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from .spec import Architecture, Inputs, Noise, image


def conv(inputs: int, outputs: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """A convolution, batch norm and ReLU."""
    layer = nn.Conv2d(inputs, outputs, 3, stride, 1, groups=groups, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList([conv(3, 16), conv(16, 32), conv(32, 64)])
        self.up = nn.ModuleList([nn.ConvTranspose2d(64, 32, 2, 2), nn.ConvTranspose2d(32, 16, 2, 2)])
        self.merge = nn.ModuleList([conv(64, 32), conv(32, 16)])
        self.head = nn.Conv2d(16, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        kept = []
        for block in self.down:
            x = block(F.max_pool2d(x, 2) if kept else x)
            kept.append(x)
        for up, merge, skip in zip(self.up, self.merge, kept[-2::-1], strict=True):
            x = merge(torch.cat([up(x), skip], 1))
        return self.head(x)


class SuperResolution(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 32, 5, padding=2)
        self.body = nn.Sequential(
            nn.Conv2d(32, 32, 3, padding=1), nn.PReLU(), nn.Conv2d(32, 32, 3, padding=1)
        )
        self.last = nn.Sequential(nn.Conv2d(32, 27, 3, padding=1), nn.PixelShuffle(3))

    def forward(self, x: Tensor) -> Tensor:
        features = F.relu(self.first(x))
        up = F.interpolate(x, scale_factor=3, mode="bicubic", align_corners=False)
        return self.last(features + self.body(features)) + up


class Generator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(32, 64 * 16)
        layers = [nn.ConvTranspose2d(64, 32, 4, 2, 1), nn.BatchNorm2d(32), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.ConvTranspose2d(32, 3, 4, 2, 1), nn.Tanh())

    def forward(self, z: Tensor) -> Tensor:
        return self.layers(self.project(z).view(-1, 64, 4, 4))


class Discriminator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            [spectral_norm(nn.Conv2d(a, b, 4, 2, 1)) for a, b in ((3, 16), (16, 32), (32, 64))]
        )
        self.head = spectral_norm(nn.Linear(64, 1))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.2)
        return self.head(x.sum((2, 3)))


class Siamese(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(conv(3, 16, 2), conv(16, 32, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(32, 16)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        left, right = (F.normalize(self.head(self.body(x)), dim=1) for x in (left, right))
        return (left - right).abs()


class DiffusionBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.time = nn.Sequential(nn.Linear(32, 64), nn.SiLU(), nn.Linear(64, 64))
        self.first, self.last = nn.Conv2d(3, 32, 3, padding=1), nn.Conv2d(32, 3, 3, padding=1)
        self.norm, self.inner = nn.GroupNorm(8, 32), nn.Conv2d(32, 32, 3, padding=1)
        self.attention, self.before = nn.MultiheadAttention(32, 4, batch_first=True), nn.GroupNorm(8, 32)

    def forward(self, x: Tensor, step: Tensor) -> Tensor:
        frequencies = torch.exp(torch.arange(16) * -0.5)
        angles = step.float()[:, None] * frequencies
        scale, shift = self.time(torch.cat([angles.sin(), angles.cos()], 1))[:, :, None, None].chunk(2, 1)
        x = self.first(x)
        x = x + self.inner(F.silu(self.norm(x) * (1 + scale) + shift))
        flat = self.before(x).flatten(2).transpose(1, 2)
        x = x + self.attention(flat, flat, flat, need_weights=False)[0].transpose(1, 2).reshape(x.shape)
        return self.last(F.silu(x))


class Volume(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv3d(1, 8, 3, padding=1), nn.BatchNorm3d(8), nn.ReLU())
        self.inner = nn.Sequential(nn.Conv3d(8, 16, 3, 2, 1), nn.InstanceNorm3d(16), nn.LeakyReLU(0.01))
        self.up, self.head = nn.ConvTranspose3d(16, 8, 2, 2), nn.Conv3d(16, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        skip = self.down(x)
        return self.head(torch.cat([self.up(self.inner(skip)), skip], 1))


class DeformableGather(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.offsets, self.head = conv(3, 16), nn.Conv2d(16, 2, 3, padding=1), nn.Conv2d(16, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        identity = torch.eye(2, 3).expand(x.shape[0], 2, 3)
        grid = F.affine_grid(identity, list(x.shape), align_corners=False)
        grid = grid + 0.1 * torch.tanh(self.offsets(x)).permute(0, 2, 3, 1)
        return self.head(F.grid_sample(x, grid, align_corners=False))


class Spectrum(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Sequential(conv(1, 16), nn.AdaptiveAvgPool2d(4)), nn.Linear(256, 10)

    def forward(self, sound: Tensor) -> Tensor:
        frames = sound.unfold(1, 64, 32) * torch.hann_window(64)
        power = torch.fft.rfft(frames).abs().square()
        return self.head(self.body(torch.log(power + 1e-3).unsqueeze(1)).flatten(1))


class Pyramid(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.levels = nn.ModuleList([conv(3, 16, 2), conv(16, 32, 2), conv(32, 64, 2)])
        self.side = nn.ModuleList([nn.Conv2d(c, 16, 1) for c in (16, 32, 64)])
        self.scores, self.boxes = nn.Conv2d(16, 5, 3, padding=1), nn.Conv2d(16, 4, 3, padding=1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        levels = [x := level(x) for level in self.levels]
        top = self.side[2](levels[2])
        out = [top]
        for side, level in zip(self.side[1::-1], levels[1::-1], strict=True):
            top = side(level) + F.interpolate(top, size=level.shape[-2:], mode="nearest")
            out.append(top)
        scores = torch.cat([self.scores(level).flatten(2) for level in out], 2)
        boxes = torch.cat([self.boxes(level).exp().flatten(2) for level in out], 2)
        return {"scores": scores.transpose(1, 2), "boxes": boxes.transpose(1, 2)}


class Inception(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 16, 2)
        self.branches = nn.ModuleList(
            [nn.Conv2d(16, 8, 1), conv(16, 16), nn.Sequential(conv(16, 8), conv(8, 8))]
        )
        self.pool, self.head = nn.AvgPool2d(3, 1, 1), nn.Linear(48, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.cat([*(branch(x) for branch in self.branches), self.pool(x)], 1)
        return self.head(torch.cat([x.mean((2, 3))], 1))


class StyleTransfer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for a, b in ((3, 16), (16, 16)):
            layers += [
                nn.ReflectionPad2d(1),
                nn.Conv2d(a, b, 3),
                nn.InstanceNorm2d(b, affine=True),
                nn.ReLU(),
            ]
        self.layers = nn.Sequential(
            *layers, nn.Upsample(scale_factor=2), nn.ReplicationPad2d(4), nn.Conv2d(16, 3, 9)
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.layers(x)) * 255


class Patches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head = nn.Linear(48, 48), nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        patches = F.unfold(x, 4, stride=4).transpose(1, 2)
        patches = patches + F.gelu(self.inner(patches))
        return self.head(F.fold(patches.transpose(1, 2), x.shape[-2:], 4, stride=4))


class MeanOfAll(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.score = conv(3, 16), nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        scores = self.score(self.body(x) - self.body(x).mean())
        return scores, scores.mean(dim=None, keepdim=True)


class CoordinateAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.shared = (
            conv(3, 16),
            nn.Sequential(nn.Conv2d(16, 8, 1), nn.BatchNorm2d(8), nn.Hardswish()),
        )
        self.rows, self.columns, self.head = nn.Conv2d(8, 16, 1), nn.Conv2d(8, 16, 1), nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        height = x.shape[2]
        both = torch.cat([x.mean(3, keepdim=True), x.mean(2, keepdim=True).transpose(2, 3)], 2)
        rows, columns = self.shared(both).split([height, both.shape[2] - height], 2)
        return self.head(x * self.rows(rows).sigmoid() * self.columns(columns.transpose(2, 3)).sigmoid())


class Quantizer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encode, self.decode = (
            nn.Sequential(conv(3, 16, 2), nn.Conv2d(16, 8, 1)),
            nn.ConvTranspose2d(8, 3, 2, 2),
        )
        self.codes = nn.Embedding(32, 8)

    def forward(self, x: Tensor) -> Tensor:
        z = self.encode(x).permute(0, 2, 3, 1)
        nearest = torch.cdist(z.flatten(1, 2), self.codes.weight.expand(z.shape[0], 32, 8)).argmin(-1)
        return self.decode(z.permute(0, 3, 1, 2) + self.codes(nearest).view(z.shape).permute(0, 3, 1, 2))


class Aspp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 16, 2)
        self.rates = nn.ModuleList([nn.Conv2d(16, 16, 3, padding=r, dilation=r) for r in (1, 3, 6)])
        self.whole, self.head = nn.Conv2d(16, 16, 1), nn.Conv2d(64, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        size, x = x.shape[-2:], self.stem(x)
        whole = self.whole(F.adaptive_avg_pool2d(x, 1)).expand(-1, -1, *x.shape[-2:])
        out = self.head(F.relu(torch.cat([*(rate(x) for rate in self.rates), whole], 1)))
        return F.interpolate(out, size, mode="bilinear", align_corners=True)


class DynamicFilter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.filters, self.head = conv(3, 8), nn.Linear(8, 8 * 9), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        batch, channels, height, width = x.shape
        kernels = self.filters(x.amax((2, 3))).view(batch * channels, 1, 3, 3)
        out = F.conv2d(x.reshape(1, -1, height, width), kernels, padding=1, groups=batch * channels)
        return self.head(out.view(batch, channels, height, width))


class Variational(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encode, self.decode = nn.Sequential(conv(3, 16, 2), conv(16, 16, 2)), nn.Linear(16, 3 * 256)
        self.mean, self.spread = nn.Linear(16, 16), nn.Linear(16, 16)

    def forward(self, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = self.encode(x).mean((-1, -2))
        mean, spread = self.mean(x), self.spread(x)
        return self.decode(mean + noise * torch.exp(0.5 * spread)).view(-1, 3, 16, 16), mean, spread


class Normalized(nn.Module):
    """The pre-processing of uint8-like images in the network, and unusual pools and norms."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.4, 0.5, 0.6]).view(1, 3, 1, 1))
        self.body = nn.Sequential(
            nn.Conv2d(3, 16, 3), nn.LocalResponseNorm(4), nn.LPPool2d(2, 2), nn.Conv2d(16, 8, 3)
        )
        self.head = nn.Linear(16, 10)

    def forward(self, pixels: Tensor) -> Tensor:
        x = (pixels.float() / 255 - self.mean) / 0.25
        x = F.softplus(self.body(x))
        return self.head(torch.cat([F.adaptive_max_pool2d(x, 1), F.adaptive_avg_pool2d(x, 1)], 1).flatten(1))


class MixedPools(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.weights, self.head = conv(3, 16, 2), nn.Conv2d(16, 1, 1), nn.Linear(48, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x)
        weights = self.weights(x).flatten(2).softmax(-1)
        attended = (x.flatten(2) * weights).sum(-1)
        return self.head(torch.cat([attended, x.flatten(2).amax(-1), x.flatten(2).std(-1)], 1))


def _activations() -> nn.Module:
    kinds = [nn.ELU(), nn.SELU(), nn.CELU(), nn.Mish(), nn.Hardtanh(-2, 3), nn.Softsign(), nn.ReLU6()]
    kinds += [
        nn.Hardsigmoid(),
        nn.LogSigmoid(),
        nn.GELU("tanh"),
        nn.Softshrink(0.1),
        nn.Tanhshrink(),
        nn.RReLU(),
    ]
    layers = [part for kind in kinds for part in (nn.Conv2d(8, 8, 3, padding=1), nn.GroupNorm(2, 8), kind)]
    return nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), *layers, nn.Conv2d(8, 4, 1))


def _glu() -> nn.Module:
    gate = nn.GLU(dim=1)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3), gate, nn.Conv2d(8, 16, 3), gate, nn.Dropout2d(0.2), nn.Conv2d(8, 4, 1)
    )


def _shuffled() -> nn.Module:
    layers = [
        conv(3, 16),
        nn.ChannelShuffle(4),
        conv(16, 16, groups=4),
        nn.PixelUnshuffle(2),
        nn.Conv2d(64, 8, 1),
    ]
    return nn.Sequential(
        *layers, nn.ZeroPad2d(1), nn.MaxPool2d(3, 2, ceil_mode=True), nn.Flatten(), nn.Linear(8 * 9 * 9, 10)
    )


class Unpooled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down, self.up, self.head = conv(3, 8), conv(8, 8), nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x, places = F.max_pool2d(self.down(x), 2, return_indices=True)
        return self.head(F.max_unpool2d(self.up(x), places, 2))


def patterns() -> list[Architecture]:
    table: dict[str, tuple[type[nn.Module] | object, Inputs]] = {
        "unet": (UNet, image()),
        "super-resolution": (SuperResolution, image(3, 32)),
        "gan-generator": (Generator, (Noise((32,)),)),
        "discriminator-spectral-norm": (Discriminator, image(3, 32)),
        "siamese": (Siamese, (Noise((3, 32, 32)), Noise((3, 32, 32)))),
        "diffusion-block": (DiffusionBlock, (Noise((3, 16, 16)), Noise((), 1000))),
        "volume-unet": (Volume, (Noise((1, 16, 16, 16)),)),
        "deformable-gather": (DeformableGather, image(3, 32)),
        "spectrum": (Spectrum, (Noise((1024,)),)),
        "feature-pyramid": (Pyramid, image()),
        "inception-branches": (Inception, image(3, 32)),
        "style-transfer": (StyleTransfer, image(3, 32)),
        "unfold-fold": (Patches, image(3, 32)),
        "mean-of-all": (MeanOfAll, image(3, 32)),
        "coordinate-attention": (CoordinateAttention, image(3, 32)),
        "vector-quantizer": (Quantizer, image(3, 32)),
        "aspp": (Aspp, image()),
        "dynamic-filter": (DynamicFilter, image(3, 32)),
        "variational": (Variational, (Noise((3, 32, 32)), Noise((16,)))),
        "preprocessing-inside": (Normalized, (Noise((3, 32, 32), 256),)),
        "mixed-pools": (MixedPools, image(3, 32)),
        "activations": (_activations, image(3, 32)),
        "gated-convolutions": (_glu, image(3, 32)),
        "shuffles": (_shuffled, image(3, 32)),
        "max-unpool": (Unpooled, image(3, 32)),
    }
    return [Architecture(f"pattern/{name}", build, inputs) for name, (build, inputs) in table.items()]
