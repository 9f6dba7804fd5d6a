"""An encoder that is solved for, not trained: a hierarchical PCA written into `AutoencoderKLWan`'s own weights.

On plain films most of what an autoencoder has to learn is linear. So each stage of the encoder gets the
projection that keeps most of the picture: 2x2 pixels to 12 numbers, 2x2 of those to 16, two frames to their
mean (16) and difference (8), once more space and time, then 16 principal components. Residual branches are
zero. The head's norm and SiLU stay out of the way: a large constant channel makes the norm a mere scale, and
silu(y) - silu(-y) = y makes the activation linear for channels kept with both signs.

The latents are final from the first minute: the transformer can be trained beside the decoder, which is
trained on them by gradient descent (`train_decoder.py`).

A first frame stands alone in the stream and passes the temporal stages unmerged. Since those make (mean,
difference), its latent is exactly that of a picture that does not move.
"""

import argparse
import random
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import WanResample, WanResidualBlock

import films
import vae as autoencoder

BASE, MULTIPLIERS, DECODER_BASE = 12, [1, 2, 4, 8], 8
SPACE_1, TIME_1, SPACE_2, TIME_2 = 16, 8, 32, 16
# Size of the constant channel beside 32 channels of about one: the head's norm then varies by about a percent.
CONSTANT = 48.0
LATENTS = autoencoder.LATENT_CHANNELS


def components(samples: torch.Tensor, count: int) -> torch.Tensor:
    """The `count` leading directions [count, n] of samples [m, n] about zero."""
    covariance = samples.double().T @ samples.double() / len(samples)
    vectors = torch.linalg.eigh(covariance).eigenvectors.flip(1)[:, :count].T
    # A fixed sign makes runs comparable.
    return (vectors * vectors.sum(1, keepdim=True).sign()).float()


def blocks_of_four(x: torch.Tensor) -> torch.Tensor:
    """[B, C, T, H, W] -> [B, 4C, T, H/2, W/2], ordered (channel, row, column)."""
    b, c, t, h, w = x.shape
    x = x.view(b, c, t, h // 2, 2, w // 2, 2).permute(0, 1, 4, 6, 2, 3, 5)
    return x.reshape(b, 4 * c, t, h // 2, w // 2)


def rows(x: torch.Tensor) -> torch.Tensor:
    return x.transpose(0, 1).flatten(1).T


def project(matrix: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return torch.einsum("oc,bcthw->bothw", matrix, x)


def merge(x: torch.Tensor):
    """First frame and (mean, half difference) of the pairs after it."""
    first, a, b = x[:, :, :1], x[:, :, 1::2], x[:, :, 2::2]
    return first, (a + b) / 2, (a - b) / 2


@torch.no_grad()
def build(size: int, clips: int, seed: int) -> AutoencoderKLWan:
    torch.manual_seed(seed)
    rng = random.Random(seed)
    model = AutoencoderKLWan(
        base_dim=BASE, decoder_base_dim=DECODER_BASE, dim_mult=MULTIPLIERS, num_res_blocks=1, z_dim=LATENTS,
        latents_mean=[0.0] * LATENTS, latents_std=[1.0] * LATENTS,
    )
    autoencoder.initialise(model)
    pictures = []
    for _ in range(clips):
        frames, _ = films.render(films.draw_scene(rng), rng.randrange(0, 90), 17, size)
        pictures.append(frames.transpose(0, 1))
    x = torch.stack(pictures)

    encoder = model.encoder
    for module in encoder.modules():
        if isinstance(module, (torch.nn.Conv2d, torch.nn.Conv3d)):
            module.weight.zero_()
            module.bias.zero_()
    for module in encoder.modules():
        if isinstance(module, WanResidualBlock) and module.conv_shortcut.__class__ is not torch.nn.Identity:
            for channel in range(module.in_dim):
                module.conv_shortcut.weight[channel, channel] = 1.0
    for channel in range(3):
        encoder.conv_in.weight[channel, channel, 2, 1, 1] = 1.0
    downs = [layer for layer in encoder.down_blocks if isinstance(layer, WanResample)]

    def fill_space(layer, matrix):
        count, columns = matrix.shape
        layer.resample[1].weight[:count, : columns // 4, :2, :2] = matrix.view(count, columns // 4, 2, 2)

    def fill_time(layer, space, matrix):
        weight = layer.time_conv.weight[:, :, :, 0, 0]
        for channel in range(space):
            weight[channel, channel, 1:] = 0.5
        weight[space : space + len(matrix), :space, 1] = 0.5 * matrix
        weight[space : space + len(matrix), :space, 2] = -0.5 * matrix

    x = blocks_of_four(x)
    matrix = components(rows(x), 12)
    fill_space(downs[0], matrix)
    x = project(matrix, x)
    for layer, space, time in ((downs[1], SPACE_1, TIME_1), (downs[2], SPACE_2, TIME_2)):
        x = blocks_of_four(x)
        matrix = components(rows(x), space)
        fill_space(layer, matrix)
        x = project(matrix, x)
        first, mean, difference = merge(x)
        matrix = components(rows(difference), time)
        fill_time(layer, space, matrix)
        later = torch.cat([mean, project(matrix, difference)], 1)
        first = torch.cat([first, torch.zeros_like(first[:, :1]).expand(-1, time, -1, -1, -1)], 1)
        x = torch.cat([first, later], 2)
    samples = rows(x)
    centre = samples.mean(0)
    matrix = components(samples - centre, LATENTS)
    deviation = ((samples - centre) @ matrix.T).std(0)
    kept = deviation.square().sum() / (samples - centre).var(0).sum()
    matrix = matrix / deviation[:, None]

    last = [layer for layer in encoder.down_blocks if isinstance(layer, WanResidualBlock)][-1]
    shortcut = last.conv_shortcut
    shortcut.weight.zero_()
    inputs = matrix.shape[1]
    for sign, start in ((1.0, 0), (-1.0, LATENTS)):
        shortcut.weight[start : start + LATENTS, :inputs, 0, 0, 0] = sign * matrix
        shortcut.bias[start : start + LATENTS] = -sign * matrix @ centre
    shortcut.bias[2 * LATENTS] = CONSTANT
    width = last.out_dim
    encoder.norm_out.gamma.fill_(CONSTANT / width**0.5)
    for channel in range(LATENTS):
        encoder.conv_out.weight[channel, channel, 2, 1, 1] = 1.0
        encoder.conv_out.weight[channel, LATENTS + channel, 2, 1, 1] = -1.0
        model.quant_conv.weight[channel].zero_()
        model.quant_conv.weight[channel, channel] = 1.0
    print(f"16 components keep {100 * kept:.2f}% of the variance; deviations {deviation.tolist()}")
    for parameter in [*encoder.parameters(), *model.quant_conv.parameters()]:
        # What ships is bf16; the decoder must learn on the latents that the shipped encoder makes.
        parameter.copy_(parameter.bfloat16().float())
    latents = []
    for _ in range(clips // 4):
        frames, _ = films.render(films.draw_scene(rng), 0, 49, size)
        latents.append(autoencoder.encode(model, frames.transpose(0, 1)[None]))
    latents = rows(torch.cat(latents))
    model.register_to_config(latents_mean=latents.mean(0).tolist(), latents_std=latents.std(0).tolist())
    print("mean", latents.mean(0).tolist(), "std", latents.std(0).tolist(), "largest", latents.abs().max().item())
    return model


class FastEncoder:
    """The same numbers as the built encoder, as a few matrix products (a hundred times cheaper on a CPU)."""

    @torch.no_grad()
    def __init__(self, model: AutoencoderKLWan):
        encoder = model.encoder
        downs = [layer for layer in encoder.down_blocks if isinstance(layer, WanResample)]
        last = [layer for layer in encoder.down_blocks if isinstance(layer, WanResidualBlock)][-1]

        def space(layer, inputs, count):
            return layer.resample[1].weight[:count, :inputs, :2, :2].reshape(count, 4 * inputs)

        def time(layer, inputs, count):
            return layer.time_conv.weight[inputs : inputs + count, :inputs, 1, 0, 0] * 2

        self.first = space(downs[0], 3, 12)
        self.stages = [
            (space(downs[1], 12, SPACE_1), time(downs[1], SPACE_1, TIME_1)),
            (space(downs[2], SPACE_1 + TIME_1, SPACE_2), time(downs[2], SPACE_2, TIME_2)),
        ]
        inputs = SPACE_2 + TIME_2
        self.head = last.conv_shortcut.weight[:LATENTS, :inputs, 0, 0, 0].clone()
        self.offset = last.conv_shortcut.bias[:LATENTS].clone()
        self.gamma = float(encoder.norm_out.gamma[0]) * last.out_dim**0.5

    @torch.no_grad()
    def __call__(self, frames: torch.Tensor) -> torch.Tensor:
        """Latents [B, 16, T, h, w] of whole clips [B, 3, 4T-3, H, W], first frames alone."""
        x = project(self.first, blocks_of_four(frames))
        for space, time in self.stages:
            x = project(space, blocks_of_four(x))
            first, mean, difference = merge(x)
            first = torch.cat([first, first.new_zeros(len(first), len(time), *first.shape[2:])], 1)
            x = torch.cat([first, torch.cat([mean, project(time, difference)], 1)], 2)
        x = project(self.head, x) + self.offset.view(-1, 1, 1, 1)
        return x * self.gamma / (CONSTANT**2 + 2 * x.square().sum(1, keepdim=True)).sqrt()


def load(folder: Path):
    """(autoencoder, fast encoder, mean and deviation of the latents as [1, 16, 1, 1, 1])."""
    model = AutoencoderKLWan.from_pretrained(folder, torch_dtype=torch.float32)
    mean, deviation = (torch.tensor(v).view(1, -1, 1, 1, 1) for v in (model.config.latents_mean, model.config.latents_std))
    return model, FastEncoder(model), mean, deviation


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--clips", type=int, default=160)
    args = parser.parse_args()
    torch.set_num_threads(2)
    model = build(args.size, args.clips, seed=0)
    frames, _ = films.render(films.draw_scene(random.Random(3)), 0, 17, args.size)
    print("whole clip against stream:", autoencoder.check_whole_clip(model, frames.transpose(0, 1)[None]))
    model.save_pretrained(args.out / "vae")
