"""Fixtures of the learned upscaler: tiny networks of the compact kind of Real-ESRGAN, with random
weights, in the forms that are published, and what torch makes of a picture.

    python parity/upscaler.py
"""

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

OUT = Path(__file__).parent / "fixtures" / "upscaler"


class Compact(nn.Module):
    """SRVGGNetCompact as its paper and code describe it (Real-ESRGAN, `srvgg_arch.py`)."""

    def __init__(self, features, layers, factor):
        super().__init__()
        self.factor = factor
        body = [nn.Conv2d(3, features, 3, 1, 1), nn.PReLU(features)]
        for _ in range(layers):
            body += [nn.Conv2d(features, features, 3, 1, 1), nn.PReLU(features)]
        body += [nn.Conv2d(features, 3 * factor * factor, 3, 1, 1)]
        self.body = nn.ModuleList(body)

    def forward(self, x):
        hidden = x
        for layer in self.body:
            hidden = layer(hidden)
        return F.pixel_shuffle(hidden, self.factor) + F.interpolate(x, scale_factor=self.factor, mode="nearest")


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(11)
    for name, features, layers, factor, height, width in (("x2", 8, 2, 2, 13, 10), ("x4", 6, 3, 4, 7, 9)):
        network = Compact(features, layers, factor).eval()
        for parameter in network.parameters():
            nn.init.normal_(parameter, std=0.3)
        picture = torch.rand(1, 3, height, width)
        with torch.no_grad():
            enlarged = network(picture)
        if name == "x2":
            torch.save({"params": network.state_dict()}, OUT / f"{name}.pth")
        else:
            save_file(network.state_dict(), OUT / f"{name}.safetensors")
        pixels = {"picture": picture, "enlarged": enlarged}
        pixels = {key: value.permute(0, 2, 3, 1).contiguous() for key, value in pixels.items()}
        save_file(pixels, OUT / f"{name}.expected.safetensors")


if __name__ == "__main__":
    main()
