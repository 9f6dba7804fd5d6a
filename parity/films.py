"""Records whole runs of the reference under `fixtures/models/` and `fixtures/films/`.

A case is a folder with

    case.json             model, arguments of `longreel`, what is compared; {fixtures} and {out} stand for folders
    noise.safetensors     the random numbers of the run (see --noise)
    expected.safetensors  final_latents [1, 16, T, h, w] before VAE denormalisation; frames [F, H, W, 3] in some
    *.png, *.mp4          conditions

Run `python parity/films.py [--models] [case ...]`; it needs ffmpeg for the film that is extended.
"""

import json
import os
import shutil
import sys

from safetensors.torch import save_file

import pictures
import pipelines
from pipelines import Film

HERE = os.path.dirname(os.path.abspath(__file__))
FIXTURES = os.path.join(HERE, "fixtures")
# The promise is 5e-5. Rounding stays near 2e-6 and the smallest slip (exact GELU for tanh) gives 2e-5 to 7e-5, so
# what ships is held to less than that.
LIMIT = 1.5e-5

# Small enough to ship, awkward enough to find slips: heads x width, rope splits, feed-forward and VAE widths
# are all uneven. Changes to the defaults of models.py.
VAE = dict(base_dim=4)
SMALL_VAE = dict(base_dim=3, dim_mult=[1, 2, 2, 2])
SMALL_TEXT = dict(num_layers=2, d_ff=37, num_heads=2, d_model=24, relative_attention_num_buckets=8)
MODELS = {
    "df": ("df", 1000, dict(transformer=dict(attention_head_dim=20, ffn_dim=83, inject_sample_info=True), vae=VAE)),
    "t2v": (
        "t2v",
        2000,
        dict(transformer=dict(num_attention_heads=2, attention_head_dim=14, text_dim=24, ffn_dim=51, num_layers=3),
             vae=SMALL_VAE, text=SMALL_TEXT, rules=False),
    ),
    "i2v": (
        "i2v",
        3000,
        dict(transformer=dict(num_attention_heads=2, attention_head_dim=16, text_dim=24, ffn_dim=45, in_channels=36,
                              image_dim=36, added_kv_proj_dim=32),
             vae=SMALL_VAE, text=SMALL_TEXT, flow_shift=5.0, rules=False),
    ),
    "wan_t2v": (
        "wan_t2v",
        4000,
        dict(transformer=dict(num_attention_heads=1, attention_head_dim=26, text_dim=24, ffn_dim=33),
             vae=dict(base_dim=2, dim_mult=[1, 2, 3, 4]), text=SMALL_TEXT, flow_shift=3.0, rules=False),
    ),
    "wan_flf2v": (
        "wan_i2v",
        5000,
        dict(transformer=dict(num_attention_heads=2, attention_head_dim=12, text_dim=24, ffn_dim=35, in_channels=36,
                              image_dim=36, added_kv_proj_dim=24, pos_embed_seq_len=20),
             vae=dict(base_dim=2, dim_mult=[1, 2, 3, 4]), text=SMALL_TEXT, flow_shift=3.0, rules=False),
    ),
}

RED = "A red circle moves slowly to the right on a blue background."
CAT = "A cat sits on the window sill &amp; watches the   rain; soft light"
SNOW = "雪落在山村里，烟囱里冒出烟。"
BAD = "Bright tones, overexposed, static, worst quality"


def film(kind, prompt, size, num_frames, steps, guidance_scale, shift, **more):
    return Film(kind, prompt, size[0], size[1], num_frames, steps, guidance_scale, shift, **more)


# name -> (model, film, frames recorded too)
CASES = {
    "df_text": ("df", film("df", RED, (80, 48), 13, 5, 6.0, 8.0, negative_prompt=BAD, base_num_frames=97), False),
    "df_text_frames": ("df", film("df", CAT, (48, 32), 9, 3, 3.5, 5.0, base_num_frames=9), True),
    "df_text_one_frame": ("df", film("df", RED, (32, 48), 1, 4, 6.0, 8.0, base_num_frames=97), False),
    "df_text_one_step": ("df", film("df", RED, (48, 32), 5, 1, 6.0, 8.0, base_num_frames=97), False),
    "df_text_no_guidance_fps_16": ("df", film("df", SNOW, (32, 80), 9, 6, 1.0, 3.0, fps=16, base_num_frames=97), False),
    "df_text_causal_blocks": (
        "df", film("df", RED, (48, 48), 21, 4, 5.0, 8.0, base_num_frames=97, causal_block_size=3), False),
    "df_text_async_single_frames": (
        "df", film("df", CAT, (32, 64), 17, 5, 1.0, 8.0, base_num_frames=97, ar_step=2), False),
    "df_text_async_blocks": (
        "df", film("df", RED, (48, 32), 21, 5, 4.0, 8.0, negative_prompt=BAD, base_num_frames=97, ar_step=2,
                   causal_block_size=2), False),
    "df_text_async_one_after_the_other": (
        "df", film("df", RED, (32, 32), 13, 3, 6.0, 8.0, base_num_frames=97, ar_step=5, causal_block_size=2), False),
    "df_long_short_last_segment": (
        "df", film("df", RED, (48, 32), 25, 4, 6.0, 8.0, base_num_frames=13, overlap_history=5,
                   addnoise_condition=20), False),
    "df_long_clean_history": (
        "df", film("df", CAT, (32, 48), 33, 4, 5.0, 8.0, base_num_frames=17, overlap_history=9, ar_step=1), False),
    "df_long_async_blocks": (
        "df", film("df", RED, (32, 48), 53, 4, 6.0, 8.0, negative_prompt=BAD, base_num_frames=21, overlap_history=5,
                   addnoise_condition=15, ar_step=2, causal_block_size=2), False),
    "df_image": ("df", film("df_image", RED, (80, 48), 13, 4, 5.0, 5.0, base_num_frames=97, image="first.png"), False),
    "df_image_async": (
        "df", film("df_image", CAT, (32, 64), 13, 5, 5.0, 3.0, base_num_frames=97, image="first.png", ar_step=2,
                   addnoise_condition=20), False),
    "df_image_long": (
        "df", film("df_image", RED, (48, 32), 29, 4, 5.0, 5.0, base_num_frames=13, overlap_history=5,
                   addnoise_condition=10, image="first.png"), False),
    "df_first_and_last": (
        "df", film("df_image", RED, (48, 32), 9, 4, 5.0, 5.0, base_num_frames=97, image="first.png",
                   end_image="last.png"), True),
    "df_first_and_last_async": (
        "df", film("df_image", RED, (32, 48), 13, 4, 5.0, 5.0, base_num_frames=97, image="first.png",
                   end_image="last.png", ar_step=2, addnoise_condition=20), False),
    "df_video": (
        "df", film("df_video", RED, (48, 64), 21, 4, 6.0, 8.0, base_num_frames=97, overlap_history=9,
                   video="history.mp4"), False),
    "df_video_long": (
        "df", film("df_video", CAT, (48, 32), 25, 4, 6.0, 8.0, base_num_frames=13, overlap_history=5,
                   addnoise_condition=20, video="history.mp4"), False),
    "df_video_long_async_blocks": (
        "df", film("df_video", RED, (32, 32), 37, 4, 6.0, 8.0, base_num_frames=21, overlap_history=5, ar_step=2,
                   causal_block_size=2, addnoise_condition=20, video="history.mp4"), False),
    "t2v": ("t2v", film("t2v", RED, (80, 48), 9, 5, 6.0, 8.0, negative_prompt=BAD), True),
    "t2v_no_guidance": ("t2v", film("t2v", SNOW, (32, 64), 13, 7, 1.0, 3.0), False),
    "i2v": ("i2v", film("i2v", RED, (80, 48), 9, 5, 5.0, 5.0, negative_prompt=BAD, image="first.png"), True),
    "i2v_portrait": ("i2v", film("i2v", CAT, (48, 80), 13, 3, 1.0, 3.0, image="first.png"), False),
    "wan_t2v": ("wan_t2v", film("wan_t2v", CAT, (64, 32), 13, 6, 5.0, 3.0, negative_prompt=BAD), False),
    "wan_first_and_last": (
        "wan_flf2v", film("wan_i2v", RED, (48, 64), 9, 4, 5.0, 16.0, image="first.png", end_image="last.png"), False),
}


def write_case(folder, name, model_path, model_argument, case, with_frames, place="{here}"):
    """Draws the conditions, runs the reference and writes the case. Returns how it amplifies a perturbation.

    `model_path` is where the model lies now, `model_argument` what the command is told; in the arguments the
    case's own files stand under `place`.
    """
    index = sum(name.encode())
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    here = dict(image=case.image, end_image=case.end_image, video=case.video)
    if case.image:
        pictures.picture(os.path.join(folder, case.image), index, case.width, case.height)
    if case.end_image:
        pictures.picture(os.path.join(folder, case.end_image), index + 1, case.width, case.height)
    if case.video:
        # Longer than the history, so that only its last frames may count.
        length = max(17, case.overlap_history + index % 5)
        pictures.gray_film(os.path.join(folder, case.video), index, length, case.width, case.height, case.fps)
    run = Film(**{**vars(case), **{key: path and os.path.join(folder, path) for key, path in here.items()}})
    told = Film(**{**vars(case), **{key: path and f"{place}/{path}" for key, path in here.items()}})

    pipeline = pipelines.load(model_path, case.kind)
    noise, latents, frames = pipelines.record(pipeline, run, with_frames)
    _, perturbed, _ = pipelines.record(pipeline, run, scale=1e-5)
    amplification = pipelines.relative_l2(perturbed, latents) / 1e-5

    save_file({key: value.contiguous() for key, value in noise.items()}, os.path.join(folder, "noise.safetensors"))
    expected = {"final_latents": latents} | ({} if frames is None else {"frames": frames})
    save_file(expected, os.path.join(folder, "expected.safetensors"))
    description = {
        "name": name,
        "kind": case.kind,
        "arguments": told.arguments(
            model_argument,
            f"{place}/noise.safetensors",
            "{out}/latents.safetensors",
            "{out}/frames.safetensors" if with_frames else None,
            "{out}/film.mp4",
        ),
        "compares": sorted(expected),
        "relative_l2_limit": LIMIT,
    }
    with open(os.path.join(folder, "case.json"), "w", encoding="utf-8") as file:
        json.dump(description, file, indent=1, ensure_ascii=False)
        file.write("\n")
    return amplification


def main(arguments):
    with_models = "--models" in arguments
    chosen = [argument for argument in arguments if not argument.startswith("--")]
    for name, (kind, seed, parts) in MODELS.items():
        folder = os.path.join(FIXTURES, "models", name)
        if with_models or not os.path.isdir(folder):
            shutil.rmtree(folder, ignore_errors=True)
            pipelines.build(folder, kind, seed, **parts)
    for name in chosen or CASES:
        model, case, with_frames = CASES[name]
        amplification = write_case(
            os.path.join(FIXTURES, "films", name),
            name,
            os.path.join(FIXTURES, "models", model),
            f"{{fixtures}}/models/{model}",
            case,
            with_frames,
            place=f"{{fixtures}}/films/{name}",
        )
        print(f"{name:40} amplifies a change of the noise {amplification:.2f} times", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
