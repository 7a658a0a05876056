"""What other people's networks have and ours have not, a handful in each."""

import torch
import torch.nn as nn
import torch.nn.functional as F
from randomness import randomise

device = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def conv(cin, cout, k=3, s=1, act=nn.ReLU):
    return nn.Sequential(nn.Conv2d(cin, cout, k, s, k // 2, bias=False), nn.BatchNorm2d(cout), act())


class SqueezeExcite(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(channels, 4), nn.Linear(4, channels)

    def forward(self, x):
        y = F.adaptive_avg_pool2d(x, (1, 1))
        y = y.view(y.size(0), -1)
        y = F.hardsigmoid(self.fc2(F.relu6(self.fc1(y), inplace=True)))
        return x * y[:, :, None, None]


class InvertedResidual(nn.Module):
    """MobileNetV3's block."""

    def __init__(self, cin, cout, stride):
        super().__init__()
        hidden = 4 * cin
        self.use_res = stride == 1 and cin == cout
        self.conv = nn.Sequential(
            conv(cin, hidden, 1, act=lambda: nn.Hardswish(inplace=True)),
            nn.Conv2d(hidden, hidden, 5, stride, 2, groups=hidden, bias=False),
            nn.BatchNorm2d(hidden),
            SqueezeExcite(hidden),
            nn.Hardswish(inplace=True),
            nn.Conv2d(hidden, cout, 1, bias=False),
            nn.BatchNorm2d(cout),
        )

    def forward(self, x):
        return x + self.conv(x) if self.use_res else self.conv(x)


class MobileHead(nn.Module):
    """MobileNetV3 with the head of lite R-ASPP; several heads in a tuple, the first the finest."""

    def __init__(self, num_classes=5):
        super().__init__()
        self.stem = conv(3, 8, 3, 2, act=nn.Hardswish)
        self.low = nn.Sequential(InvertedResidual(8, 12, 2), InvertedResidual(12, 12, 1))
        self.high = InvertedResidual(12, 16, 2)
        self.cbr, self.scale = (
            conv(16, 12, 1),
            nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(16, 12, 1), nn.Sigmoid()),
        )
        self.low_classifier, self.high_classifier = nn.Conv2d(12, num_classes, 1), nn.Conv2d(12, num_classes, 1)

    def forward(self, x):
        low = self.low(self.stem(x))
        high = self.high(low)
        y = self.cbr(high) * self.scale(high)
        y = F.upsample(y, size=low.shape[2:], mode="bilinear", align_corners=False)
        y = self.low_classifier(low) + self.high_classifier(y)
        fine = F.interpolate(y, scale_factor=4, mode="bilinear", align_corners=False, recompute_scale_factor=True)
        return fine, self.high_classifier(self.cbr(high))


class Pyramid(nn.Module):
    """PSPNet's pooling at sizes that do not divide, Fast-SCNN's fusion, nearest upsampling, functional dropout."""

    def __init__(self, classes=4):
        super().__init__()
        self.stem = nn.Sequential(conv(3, 8, 3, 2), conv(8, 12, 3, 2, act=nn.SiLU))
        self.stages = nn.ModuleList([nn.Sequential(nn.AdaptiveAvgPool2d(n), conv(12, 4, 1)) for n in (1, 2, 3, 6)])
        self.fuse = conv(12 + 4 * 4, 12, act=lambda: nn.LeakyReLU(0.1, inplace=True))
        self.norm = nn.BatchNorm2d(12, affine=False)
        self.out = nn.Conv2d(12, classes, 1)
        self.up = nn.UpsamplingBilinear2d(scale_factor=2)

    def forward(self, x):
        h, w = x.size(2), x.size(3)
        x = self.stem(x)
        feature_w, feature_h = x.shape[3], x.shape[2]
        priors = [F.interpolate(stage(x), size=(feature_h, feature_w), mode="bilinear") for stage in self.stages] + [x]
        x = self.norm(self.fuse(torch.cat(priors, 1)))
        x = F.dropout(x, p=0.2, training=self.training)
        x = self.up(self.out(F.interpolate(x, scale_factor=2, mode="nearest")))
        return x[:, :, :h, :w]


class ResidualGroup(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.pad = nn.ReflectionPad2d(1)
        self.conv, self.norm = nn.Conv2d(channels, channels, 3), nn.GroupNorm(4, channels)

    def forward(self, x):
        return F.elu(self.norm(self.conv(self.pad(x)))) + x


class Shuffled(nn.Module):
    """Chunks, channel shuffle, transposed convolutions (grouped, dilated), pixel shuffle, group and layer norm."""

    def __init__(self, n_class=6):
        super().__init__()
        self.stem = nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(3, 16, 3, 2), nn.GELU())
        self.branch = nn.Sequential(
            conv(8, 8, 1), nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.BatchNorm2d(8), nn.Mish()
        )
        self.down = nn.PixelUnshuffle(2)
        self.squeeze, self.group = nn.Conv2d(64, 16, 1), ResidualGroup(16)
        self.norm = nn.LayerNorm(16)
        self.mlp = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))
        self.up = nn.ConvTranspose2d(16, 16, 4, stride=2, padding=1, groups=4)
        self.head = nn.Sequential(
            nn.Conv2d(16, 4 * n_class, 3, padding=1, padding_mode="replicate"), nn.PixelShuffle(2)
        )

    def shuffle(self, x, groups=2):
        b, c, h, w = x.data.size()
        x = x.view(b, groups, c // groups, h, w)
        return torch.transpose(x, 1, 2).contiguous().view(b, -1, h, w)

    def forward(self, x):
        x = self.stem(x)
        a, b = torch.chunk(x, 2, dim=1)
        x = self.shuffle(torch.cat((a, self.branch(b)), 1))
        y = self.group(self.squeeze(self.down(x)))
        y = y + self.mlp(self.norm(y.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)
        y = self.up(y, output_size=x.shape[2:])
        return {"logits": self.head(y + x), "loss": None}


class Attention(nn.Module):
    """Self-attention over a coarse grid, in the manner of the light transformers; nearest rows and columns gathered."""

    def __init__(self, num_classes=5, dim=16, heads=2):
        super().__init__()
        self.patch = nn.Conv2d(3, dim, 7, 4, 3)
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.q, self.kv, self.proj = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim, bias=False), nn.Linear(dim, dim)
        self.sr = nn.Conv2d(dim, dim, 2, 2)
        self.fc1, self.dw, self.fc2 = nn.Linear(dim, 32), nn.Conv2d(32, 32, 3, 1, 1, groups=32), nn.Linear(32, dim)
        self.heads, self.scale = heads, (dim // heads) ** -0.5
        self.predict = nn.Conv2d(dim, num_classes, 1)

    def attend(self, x, h, w):
        b, n, c = x.shape
        q = self.q(x).reshape(b, n, self.heads, c // self.heads).permute(0, 2, 1, 3)
        y = self.sr(x.permute(0, 2, 1).reshape(b, c, h, w)).reshape(b, c, -1).permute(0, 2, 1)
        kv = self.kv(y).reshape(b, -1, 2, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        k, v = kv[0], kv[1]
        attn = ((q @ k.transpose(-2, -1)) * self.scale).softmax(dim=-1)
        return self.proj((attn @ v).transpose(1, 2).reshape(b, n, c))

    def forward(self, x):
        x = self.patch(x)
        b, c, h, w = x.shape
        x = x.flatten(2).transpose(1, 2)
        x = x + self.attend(self.norm1(x), h, w)
        y = self.fc1(self.norm2(x)).transpose(1, 2).view(b, -1, h, w)
        x = x + self.fc2(F.gelu(self.dw(y).flatten(2).transpose(1, 2)))
        x = x.transpose(1, 2).reshape(b, c, h, w).contiguous()
        return [F.interpolate(self.predict(x), scale_factor=4, mode="bilinear")]


class Scripted(nn.Module):
    """An autocast context, guards for a device, weight norm, instance norm, strip pooling, a learned gate, a max over
    channels and one over the plane (CBAM)."""

    def __init__(self, n_classes=3):
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.45, 0.43, 0.41]).view(1, 3, 1, 1))
        self.stem = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 12, 3, stride=2, padding=1))
        self.instance = nn.InstanceNorm2d(12, affine=True)
        self.strip = nn.Conv2d(12, 12, (1, 3), padding=(0, 1))
        self.mlp = nn.Sequential(nn.Conv2d(12, 4, 1), nn.ReLU(), nn.Conv2d(4, 12, 1))
        self.spatial = nn.Conv2d(2, 1, 7, padding=3)
        self.gamma = nn.Parameter(torch.full((1,), 0.7))
        self.last = nn.Conv2d(12, n_classes, 1)

    def forward(self, x):
        if x.is_cuda:
            torch.cuda.synchronize()
        with torch.autocast("cuda", enabled=torch.cuda.is_available()):
            x = F.softplus(self.instance(self.stem(x.to(device) - self.mean)))
            x = x * torch.sigmoid(self.strip(F.adaptive_avg_pool2d(x, (None, 1)).expand_as(x)))
            x = x * torch.sigmoid(self.mlp(F.adaptive_avg_pool2d(x, 1)) + self.mlp(F.adaptive_max_pool2d(x, 1)))
            both = torch.cat([torch.max(x, dim=1, keepdim=True)[0], torch.mean(x, dim=1, keepdim=True)], dim=1)
            x = x + self.gamma * torch.tanh(self.spatial(both)) * x
            for _ in range(2):
                x = torch.clamp(x, -6, 6) / torch.sqrt(1 + x.pow(2))
        return F.interpolate(self.last(x).float(), scale_factor=2, mode="bilinear", align_corners=False)


def mobile(num_classes=5):
    return randomise(MobileHead(num_classes), 11)


def pyramid():
    return randomise(Pyramid(), 12)


def shuffled():
    return randomise(Shuffled(), 13)


def attention():
    return randomise(Attention(), 14)


def scripted():
    return randomise(Scripted(), 15)
