"""Draws new films nobody has seen, runs them in diffusers and in `longreel`, and compares.

    python parity/random_cases.py PATH/TO/longreel [--seed N] [--count N] [--only KIND] [--keep FOLDER]

Every case has its own model: number and width of heads, layers, feed-forward, VAE widths and multipliers, text and
image encoder, means and deviations are drawn, the scheduler, how weights are stored, and so are size, length, steps,
guidance, shift, timetable, segments and conditions, all within what the reference does without a defect (README.md lists those). Case K of seed N is the
same on every run, whatever else is run. Ends with 1 when any case differs by more than 5e-5 relative L2.
"""

import argparse
import os
import random
import shutil
import sys
import tempfile

import torch

import compare
import films
import pipelines
from pipelines import Film

WORDS = (
    "a red green yellow circle square star moves falls turns slowly quickly right left over under the sea sky rain "
    "night snow light of and with &amp; 圆形 移动 蓝色 caf\u00e9 na\u00efve \U0001f3ac \u201cquoted\u201d 35mm , . ; \u2014"
).split()
KINDS = ["df"] * 5 + ["df_image"] * 4 + ["df_video"] * 4 + ["t2v", "i2v", "i2v", "wan_t2v", "wan_i2v", "wan_i2v"]
LIMIT = 5e-5


def prompt(draw, low, high):
    return " ".join(draw.choice(WORDS) for _ in range(draw.randint(low, high)))


def seldom(draw, usual, other):
    """One draw in five is of what nobody would ask for."""
    return draw.choice([usual, usual, usual, usual, other])()


def draw_parts(draw, kind):
    """The changes to the builders' defaults: shapes no published model has."""
    heads, width = draw.randint(1, 4), 2 * draw.randint(4, 14)
    text_heads, text_dim = draw.randint(1, 4), draw.randint(9, 50)
    image_heads, image_patch, image_side = draw.randint(1, 3), draw.randint(3, 8), draw.randint(2, 4)
    image_dim = image_heads * draw.randint(4, 13)
    transformer = dict(
        num_attention_heads=heads,
        attention_head_dim=width,
        num_layers=draw.randint(1, 3),
        ffn_dim=draw.randint(15, 140),
        freq_dim=2 * draw.randint(4, 40),
        text_dim=text_dim,
        eps=draw.choice([1e-6, 1e-6, 1e-5]),
        cross_attn_norm=draw.random() < 0.8,
    )
    two_images = False
    if kind.startswith("df"):
        transformer["inject_sample_info"] = draw.random() < 0.6
        if kind != "df_image" and draw.random() < 0.3:
            transformer["num_frame_per_block"] = 2
    if kind in ("i2v", "wan_i2v"):
        two_images = draw.random() < 0.5
        transformer |= dict(in_channels=36, image_dim=image_dim, added_kv_proj_dim=heads * width)
        if two_images:
            transformer["pos_embed_seq_len"] = 2 * (image_side**2 + 1)
    parts = dict(
        transformer=transformer,
        vae=dict(
            # Upsampling halves the channels, and the norm of a single one is its sign, which rounding decides.
            base_dim=draw.randint(4, 8),
            dim_mult=[draw.randint(1, 3) for _ in range(4)],
            num_res_blocks=draw.randint(1, 2),
            temperal_downsample=draw.choice([[False, True, True]] * 4 + [[True, True, False], [True, False, True]]),
            latents_mean=[round(draw.uniform(-1, 1), 3) for _ in range(16)],
            latents_std=[round(draw.uniform(0.5, 2.5), 3) for _ in range(16)],
        ),
        text=dict(
            d_model=text_dim,
            num_heads=text_heads,
            d_kv=draw.randint(3, 17),
            d_ff=draw.randint(11, 70),
            num_layers=draw.randint(1, 3),
            relative_attention_num_buckets=2 * draw.randint(4, 16),
            relative_attention_max_distance=draw.randint(20, 130),
        ),
        image=dict(
            hidden_size=image_dim,
            num_attention_heads=image_heads,
            intermediate_size=draw.randint(10, 60),
            num_hidden_layers=draw.randint(2, 4),
            patch_size=image_patch,
            image_size=image_patch * image_side,
            hidden_act=draw.choice(["gelu", "quick_gelu"]),
        ),
        flow_shift=draw.choice([3.0, 5.0, 8.0]),
        vocab_size=draw.choice([420, 440, 447]),
        rules=draw.random() < 0.5,
    )
    return parts, two_images


def draw_files(draw, kind, parts):
    """How the model's files differ from the published ones: another scheduler, weights in fewer bits, shards."""
    usual = draw.random() < 0.6
    to_zero, order = draw.random() < 0.6, draw.choice([1, 2, 3])
    variant = dict(
        solver_order=order,
        # To noise level 0 the reference's bh1 is not a number, and so is a last step of order above 1; between the two
        # equal levels that the other way ends with, one of order 3.
        solver_type=draw.choice(["bh2" if to_zero else "bh1", "bh2"]),
        final_sigmas_type="zero" if to_zero else "sigma_min",
        lower_order_final=to_zero or order == 3 or draw.random() < 0.5,
        disable_corrector=draw.choice([[], [0], [1, 2]]),
    )
    # The DF pipelines hand over whole numbers as timesteps, which the reference's Euler refuses.
    parts["scheduler"] = None if usual else draw.choice([variant if kind.startswith("df") else "euler", variant])
    parts["dtype"] = draw.choice([None, None, torch.bfloat16, torch.float16])
    parts["shard_bytes"] = draw.choice([None, None, 20_000, 60_000])
    if kind in ("df", "df_video") and draw.random() < 0.1:
        parts["transformer"]["num_frame_per_block"] = draw.choice([3, 4])


def frames_of(latents):
    return 4 * latents - 3


def draw_film(draw, kind, parts, two_images):
    """A film that the reference makes without running into one of its defects."""
    side = lambda: 16 * seldom(draw, lambda: draw.choice([1, 2, 2, 3, 3, 4, 5]), lambda: draw.randint(6, 11))
    common = dict(
        kind=kind,
        # The longer ones are cut at 512 tokens.
        prompt=seldom(draw, lambda: prompt(draw, 1, 30), lambda: prompt(draw, 300, 900)),
        width=side(),
        height=side(),
        steps=seldom(draw, lambda: draw.randint(1, 8), lambda: draw.randint(9, 20)),
        # Off at 1 and below.
        guidance_scale=draw.choice([1.0, 0.0, 0.5] + [round(draw.uniform(1.1, 8.0), 2) for _ in range(6)]),
        # With 20 steps a shift of 30 is the most that leaves no timestep twice.
        shift=round(seldom(draw, lambda: draw.uniform(1.0, 12.0), lambda: draw.choice([0.1, 0.4, 20.0, 30.0])), 1),
        negative_prompt=draw.choice(["", prompt(draw, 1, 12)]),
        seed=draw.randint(0, 2**31),
    )
    if not kind.startswith("df"):
        images = {}
        if kind in ("i2v", "wan_i2v"):
            images = dict(image="first.png", end_image="last.png" if two_images else None)
        return Film(num_frames=frames_of(draw.randint(2 if two_images else 1, 5)), **common, **images)

    configured = parts["transformer"].get("num_frame_per_block", 1)
    given = draw.choice([None, None, 1, 2, 3, 4, 5]) if kind != "df_image" else draw.choice([None, 1])
    block = given or configured
    more = dict(
        fps=draw.choice([16, 24, 24, 30]),
        ar_step=draw.choice([0, 0, 1, 2, 3, 7, 30]),
        causal_block_size=given,
        addnoise_condition=draw.choice([0, draw.randint(1, 50), draw.randint(51, 999)]),
    )
    long = draw.random() < 0.5
    overlap = block * draw.randint(1, 2 if block > 1 else 3)
    base = overlap + block * draw.randint(1, 3)
    if kind == "df_image":
        more |= dict(image="first.png")
        # A shorter last segment crashes in the reference, and so does a last image with a longer overlap.
        if draw.random() < 0.5:
            more |= dict(end_image="last.png")
            overlap = 1 if long else overlap
            base = max(base, 2)
        total = base + (base - overlap) * draw.randint(1, 2) if long else draw.randint(2, 6)
    elif kind == "df_video":
        more |= dict(video="history.mp4")
        total = base + block * draw.randint(1, 4) if long else overlap + block * draw.randint(1, 3)
    else:
        most = seldom(draw, lambda: 6, lambda: 24)
        total = base + block * draw.randint(1, 6) if long else block * draw.randint(1, most // block)
    if long or kind == "df_video":
        more |= dict(overlap_history=frames_of(overlap))
    more |= dict(base_num_frames=frames_of(base if long else max(total, base)))
    return Film(num_frames=frames_of(total), **common, **more)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary", help="the longreel program, or - to run the reference alone")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--start", type=int, default=0, help="number of the first case")
    parser.add_argument("--only", choices=sorted(set(KINDS)))
    parser.add_argument("--keep", help="keep the cases that differ, with their models, in this folder")
    arguments = parser.parse_args()
    failures = 0
    for number in range(arguments.start, arguments.start + arguments.count):
        draw = random.Random(f"{arguments.seed} {number}")
        kind = arguments.only or draw.choice(KINDS)
        parts, two_images = draw_parts(draw, kind)
        draw_files(draw, kind, parts)
        film = draw_film(draw, kind, parts, two_images)
        name = f"random_{arguments.seed}_{number}_{kind}"
        with tempfile.TemporaryDirectory() as scratch:
            folder, model = os.path.join(scratch, name), os.path.join(scratch, "model")
            # A DF folder is the same for text, image and video.
            pipelines.build(model, "df" if kind.startswith("df") else kind, draw.randint(0, 10**6), **parts)
            amplification = films.write_case(folder, name, model, "{here}/model", film, with_frames=number % 3 == 0)
            shutil.move(model, os.path.join(folder, "model"))
            if arguments.binary == "-":
                passed, lines = True, [name]
            else:
                passed, lines = compare.run_case(os.path.abspath(arguments.binary), folder, limit=LIMIT)
            print(f"{lines[0]}  (amplifies {amplification:.2f} times)", *lines[1:], sep="\n", flush=True)
            if not passed:
                failures += 1
                print("   ", film, flush=True)
                if arguments.keep:
                    shutil.copytree(folder, os.path.join(arguments.keep, name), dirs_exist_ok=True)
    if arguments.binary == "-":
        print(f"{arguments.count} cases run by the reference alone; nothing was compared")
    else:
        print(f"{arguments.count - failures} of {arguments.count} cases agree with the reference")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
